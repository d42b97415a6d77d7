package main

import (
	"context"
	"fmt"
	"time"
)

// wide measures the lists of a cluster that knows many units. They are loaded and not started: a list costs the same, and the hosts need no
// process for each. fleetd is warm, as one that runs for a while is: it has answered the same question before.
func (b *bench) wide(ctx context.Context) error {
	fmt.Fprintf(b.out, "| units loaded | list-units | list-unit-files | of that the client's own start |\n|--:|--:|--:|--:|\n")
	// Names by xargs: one argument of a shell has room for a few thousand of them.
	all := fmt.Sprintf("cd /root && seq -f 'load@%%.0f.service' 1 %d | xargs -n 2000 fleetctl ", b.many)
	if _, err := b.first().Sh(ctx, all+"load >/dev/null"); err != nil {
		return err
	}
	var states, files, empty []time.Duration
	for i := range 10 {
		for _, list := range []struct {
			command string
			took    *[]time.Duration
		}{{"list-units", &states}, {"list-unit-files", &files}, {"version", &empty}} {
			took, err := b.ctl(ctx, list.command)
			if err != nil {
				return err
			}
			if i > 0 {
				*list.took = append(*list.took, took)
			}
		}
	}
	fmt.Fprintf(b.out, "| %d | %s | %s | %s |\n", b.many, spread(states), spread(files), spread(empty))
	_, err := b.first().Sh(ctx, all+"destroy >/dev/null")
	return err
}
