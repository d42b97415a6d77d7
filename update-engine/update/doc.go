// Package update decides, step by step, what a host does about releases: when to look for one, which to take, when to ask for the
// right to reboot, when a boot has proven itself, and what is never tried again. Next is a pure function: the world comes in as
// facts with their time, what to do goes out as one action, and all that is remembered, counters included, is in the state, which
// main keeps on disk outside both slots. It never touches disk, network or clock.
//
// The picture of it in docs/update.md is drawn by a test from Next itself.
package update
