// Command cluster is behind build.sh up, down, enter, kill, boot and ctl: one cluster of hosts on this machine that stays when the
// command ends. build.sh builds fleet, names the folders in the environment and calls it; it is not installed.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "build.sh: "+err.Error())
		os.Exit(1)
	}
}
