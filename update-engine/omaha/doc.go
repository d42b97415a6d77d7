// Package omaha speaks Google's Omaha protocol v3 as Container Linux, Flatcar and Nebraska do, both ways: a client that asks such
// a server which release to take and tells it how that went, and a handler that answers such clients.
//
// Omaha signs nothing. What it says is where the release would be and which one; what may be written is decided by trust alone.
// The package knows no slots, states or keys: values to XML and back. Called by update-engine's main and by fleetd.
//
// Unknown attributes and elements are passed over in both directions, as the protocol wants.
package omaha
