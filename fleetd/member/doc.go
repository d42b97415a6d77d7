// Package member gives this host the store: the etcd member that fleetd carries, from its first start through joining,
// voting or standing by to a clean stop, or the connection to an etcd elsewhere. Whatever the role, it keeps one unix socket
// where every etcd client of the host finds the store, and one client for fleetd itself. It never reads or writes a key
// that has a meaning. fleetd's main runs it under all else. docs/decisions/0003-member.md has the reasons.
package member
