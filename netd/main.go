// Command netd gives a host its subnet and joins all hosts' subnets into one network; see docs/network.md.
package main

import (
	"context"
	"fmt"
	"os"
)

func main() {
	if err := dispatch(context.Background(), os.Args[1:], os.Environ(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "netd:", err)
		os.Exit(exitCode(err))
	}
}
