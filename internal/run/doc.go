// Package run is what every daemon's main stands on: a group of tasks that end together, signals, what systemd wants to be told, and the
// version. It knows nothing of units, machines or stores; only main packages call it.
package run
