// Package rollout decides how fast a release reaches the hosts of a channel: in waves by a seed that each host draws once, canaries
// first, and no further when hosts fail or come back. A rollout is a value in the store; the hosts decide for themselves by it and
// count themselves in, so that no leader is needed and an outage of the store stops nothing but the counting.
//
// It knows no slots and no bytes. Called by update-engine (may I, I took it, I proved it) and fleetctl (start, pause, resume).
package rollout
