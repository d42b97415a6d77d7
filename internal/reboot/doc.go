// Package reboot decides who in the cluster may reboot now. A group of hosts shares a semaphore: a value with a limit and the
// holders of permits, changed only by pure functions, kept under one key of the store and replaced by compare-and-swap. Windows
// say when a host may reboot at all. FleetLock's HTTP protocol is served over the same value, so that other hosts can share it.
//
// It reboots nothing and knows no systemd, no units and no etcd members: what it needs of the cluster comes in as facts. Called by
// fleetd (API, FleetLock) and update-engine.
package reboot
