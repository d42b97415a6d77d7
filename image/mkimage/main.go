// Command mkimage makes the OS image: a root tree from Debian's packages and ours, /usr of it as a read-only file system with its verity
// tree, a signed or unsigned UKI bound to that, and a disk with an ESP, two slots and a state partition. It needs root for mmdebstrap only,
// no mounts, no loop devices and no network beyond the package source; the same inputs give the same bytes.
//
// ./build.sh image runs it. What is on the disk is agreed with update-engine in docs/decisions/0021.
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}
