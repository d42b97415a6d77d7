package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/fleet-init/fleet/fleetd/guard"
	daemon "github.com/fleet-init/fleet/internal/run"
)

// run guards until it is told to end, or nobody feeds it.
func run(ctx context.Context, getenv func(string) string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	notify := daemon.NewNotifier(getenv, os.Getpid())
	return guard.Run(ctx, guard.Config{Path: guard.File, Now: guard.Now, Notify: notify.Say})
}
