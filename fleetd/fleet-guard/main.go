// Command fleet-guard is what exclusive units are bound to: it ends, and systemd stops them, when fleetd has not renewed this host's lease
// in time. It is a program of its own so that fleetd can be restarted and upgraded beside it.
package main

import (
	"context"
	"fmt"
	"os"
)

func main() {
	if err := run(context.Background(), os.Getenv); err != nil {
		fmt.Fprintln(os.Stderr, "fleet-guard: "+err.Error())
		os.Exit(1)
	}
}
