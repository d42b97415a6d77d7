// Command update-engine keeps the host's operating system up to date: it writes new releases into the slot that does not run,
// boots them on trial, keeps them if the host proves healthy, and asks the cluster before it reboots. The same program makes and
// mirrors the directories that releases come from.
package main

import (
	"context"
	"fmt"
	"os"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "update-engine: "+err.Error())
		os.Exit(1)
	}
}
