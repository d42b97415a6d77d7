// Package run is what every daemon's main stands on: a group of tasks that end together, the loop that wakes a room to
// Observe, Plan and Do, signals, what systemd wants to be told, and the version. It knows nothing of units, machines or
// stores; only main packages call it.
package run
