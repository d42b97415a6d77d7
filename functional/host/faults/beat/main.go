// Command beat is what units run in tests of faults: it says to a collector outside the host, a few times a second, that it lives. Usage:
//
//	fleet-beat COLLECTOR UNIT
//
// Each beat is stamped before it is sent, and kept until it is sent: no cut makes a gap. It tells systemd that it is ready once the first
// beat is stamped (Type=notify), so that a unit is never active before its log says so.
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fleet-beat:", err)
		os.Exit(1)
	}
}
