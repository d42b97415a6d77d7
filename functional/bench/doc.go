// Command bench measures fleet on real hosts beside the limit it works against, in one run: the same unit files started by
// bare systemd on the same hosts, over the same kind of connection. build.sh bench runs it; docs/performance.md keeps the tables.
//
// It prints figures and asserts nothing. Machines differ and are noisy: read the ratios.
package main
