// Package faults breaks hosts under load and says which of fleet's promises held. Units write a heartbeat to a log outside all hosts (fleet-beat,
// Collector), clients change units' records and reboot permits through every host (Clerk), the test writes down what it broke (History.Acts), and Verdicts
// judges all of it at the end, one line per promise.
//
// The judge knows nothing of fleet's code, and is itself tested with histories that it must call broken. Hosts are booted by package host;
// what it lacks for faults of processes and disks stands here: clocks that jump (Clock), disks that are slow (SlowDisk).
package faults
