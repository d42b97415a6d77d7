// Package pki is the cluster's own certificate authority: keys, certificates with a role in their subject, requests for them, join tokens, and the
// certificate that a process holds and renews. It knows no store, no network and no clock: times are arguments. internal/authority decides who
// gets what; fleetd and fleetctl hold what they got. docs/decisions/0013-identity.md says what each role may do, and why.
package pki
