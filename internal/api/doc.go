// Package api is both ends of the wire between a fleetd and its users: fleet's HTTP API v1 as its clients know it, the
// requests added to it (batch, watch, explain), and the Go client that fleetctl uses.
//
// It translates and checks, and holds nothing of the cluster: every answer is made of one snapshot that the Registry
// gives, so that the rows of one answer agree with each other. It decides nothing either; what becomes of a unit
// is asked of the function it was given. fleetd mounts NewHandler on its sockets; fleetctl calls Dial.
//
// What was added to fleet's API shows only to those who ask for it: a client of fleet v1 gets the bytes it always got.
package api
