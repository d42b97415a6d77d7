// Package systemd is the adapter to systemd: it reads states, takes unit files in and out, queues jobs and tells what
// changed. It decides nothing; fleetd's agent calls it. New speaks D-Bus, NewFake is a small systemd in memory, and one suite runs
// against both.
//
// It speaks D-Bus through godbus and not go-systemd's dbus package, which drops signals when its reader is slow, holds a lock
// around each StartUnit call, so that they go one at a time, and asks for properties on every signal. docs/decisions/0002-systemd.md has the
// measurements behind this package.
package systemd
