// Package payload makes and applies the bytes of a release: a manifest that says what an image must be, and files of
// independent zstd frames of 1 MiB that make it so, from nothing (full) or from the image of the running slot (delta).
//
// It streams from a Source into a Target, checks every frame before it is decoded and again before it is written, keeps a
// journal so that a run that was cut off goes on where it was, and needs a few MiB of memory whatever the size of the image.
// It knows no keys, no boot loader and no policy: whether a manifest may be trusted is decided before it comes here. Called by
// update-engine's main.
//
// A payload file is the wire bytes of all frames one after the other, then a zstd skippable frame that holds the index. A
// file without deltas is therefore an ordinary zstd file that `zstd -d` unpacks.
package payload
