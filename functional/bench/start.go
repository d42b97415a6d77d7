package main

import (
	"context"
	"fmt"
	"time"
)

// one measures a single unit: the client's start, placement, systemd, report, and the client's end.
func (b *bench) one(ctx context.Context) error {
	var ours, bare, empty []time.Duration
	for range max(b.runs, 5) {
		took, err := b.ctl(ctx, "start", "load@1.service")
		if err != nil {
			return err
		}
		ours = append(ours, took)
		if err := b.clear(ctx, 1); err != nil {
			return err
		}
		if took, err = b.bareStart(ctx, 1); err != nil {
			return err
		}
		bare = append(bare, took)
		if took, err = b.ctl(ctx, "version"); err != nil {
			return err
		}
		empty = append(empty, took)
	}
	fmt.Fprintf(b.out, "| fleetctl start, one unit | of that the client's own start (fleetctl version) | bare systemd |\n|--:|--:|--:|\n| %s | %s | %s |\n",
		spread(ours), spread(empty), spread(bare))
	return nil
}

// start measures many units, ours and bare systemd in turn, so that a slow moment of the machine hits both.
func (b *bench) start(ctx context.Context) error {
	fmt.Fprintf(b.out, "| units | fleetctl start | bare systemd | ratio | destroy |\n|--:|--:|--:|--:|--:|\n")
	for _, n := range b.sizes {
		var ours, bare, gone []time.Duration
		for range b.runs {
			took, err := b.bareStart(ctx, n)
			if err != nil {
				return err
			}
			bare = append(bare, took)
			if took, err = b.ctl(ctx, append([]string{"start"}, names(n)...)...); err != nil {
				return err
			}
			ours = append(ours, took)
			begin := time.Now()
			if err := b.clear(ctx, n); err != nil {
				return err
			}
			gone = append(gone, time.Since(begin))
		}
		// Sorted by spread; the ratio is that of the medians.
		fmt.Fprintf(b.out, "| %d | %s | %s | %.2f | %s |\n", n, spread(ours), spread(bare),
			median(ours).Seconds()/median(bare).Seconds(), spread(gone))
	}
	return nil
}

// list measures list-units beside the client's own start.
func (b *bench) list(ctx context.Context) error {
	fmt.Fprintf(b.out, "| units | list-units | of that the client's own start |\n|--:|--:|--:|\n")
	for _, n := range append([]int{0}, b.sizes...) {
		if n > 0 {
			if _, err := b.ctl(ctx, append([]string{"start"}, names(n)...)...); err != nil {
				return err
			}
		}
		var took, empty []time.Duration
		for range 9 {
			t, err := b.ctl(ctx, "list-units")
			if err != nil {
				return err
			}
			took = append(took, t)
			if t, err = b.ctl(ctx, "version"); err != nil {
				return err
			}
			empty = append(empty, t)
		}
		fmt.Fprintf(b.out, "| %d | %s | %s |\n", n, spread(took), spread(empty))
		if n > 0 {
			if err := b.clear(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}
