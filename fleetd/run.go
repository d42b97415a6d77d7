package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/fleet-init/fleet/internal/conf"
	daemon "github.com/fleet-init/fleet/internal/run"
)

// run is fleetd from its configuration to its end.
func run(_ context.Context, args, env []string, stdout, stderr io.Writer) error {
	c, res, err := parseConfig(args, env, os.ReadFile)
	switch {
	case err != nil:
		return err
	case res.Version:
		fmt.Fprintln(stdout, "fleetd version "+daemon.Version())
		return nil
	case res.Help:
		fmt.Fprint(stdout, conf.Usage(c.program()))
		return nil
	}
	for _, w := range res.Warnings {
		fmt.Fprintln(stderr, w)
	}
	return nil
}
