// Command fleetd is the daemon on every host: it carries the store's member, the engine that places units and the agent that
// runs them, and serves the API.
package main

import (
	"context"
	"fmt"
	"os"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "fleetd: "+err.Error())
		os.Exit(1)
	}
}
