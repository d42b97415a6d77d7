// Package authority decides who gets which certificate, over the store that all voters share: the CA and its rotation, join tokens, seats of voters. It is
// asked by the fleetds of voters, on behalf of whoever proved something to them; pki makes the certificates. Keys under its prefix:
//
//	ca              the CA with its key, the authorities to be believed, how far a rotation is
//	seats           the machines that may hold a voter's certificate
//	tokens/<id>     a join token: hash of its secret, role, uses, end
//	issued/<who>    the newest certificate of a machine (its ID) or a person (name@role): of which CA it is and when it ends
//	held/<key>      the newest certificate of a key, by the key's hash: whose it is, by which token it came, when it ends
//	revoked/<what>  certificates that count for nothing: those of a key, or all that somebody got up to a moment
package authority
