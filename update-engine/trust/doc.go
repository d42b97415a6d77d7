// Package trust says which files of a release directory may be believed: The Update Framework's roles over plain static files.
// A host starts from the root metadata that its image carries; from there everything must be signed by enough of the right keys,
// not expired, and not older than what the host has seen before. Nothing that fails is returned, so nothing unsigned can be
// acted upon; a host without root metadata believes nothing.
//
// The directory, as any web server or a USB stick can hold it:
//
//	metadata/N.root.json  metadata/N.targets.json  metadata/N.snapshot.json  metadata/timestamp.json
//	targets/<path>/<sha256>.<name>   what is signed: channels and manifests
//	payloads/...                     what the manifests name by hash; not this package's affair
//
// The root and targets keys can stay offline; the online key only says what is the newest, again and again before it expires.
// The package writes no slot and knows no release. Called by update-engine's main.
package trust
