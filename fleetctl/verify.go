package main

import "context"

// verify was fleet's check of a unit's signature, gone before its 1.0. It says so, and fails as fleet's did: a script must not take the
// silence for a check.
func verify(_ context.Context, a *app, _ []string) int {
	a.warn("fleetctl: verify does nothing: units are not signed; who may submit one is decided by who reaches fleetd")
	return exitUsage
}
