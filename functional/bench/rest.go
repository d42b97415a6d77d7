package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// rest measures what a cluster costs in which nothing happens.
func (b *bench) rest(ctx context.Context) error {
	fmt.Fprintf(b.out, "| units | fleetd CPU, all hosts | memory of one fleetd | writes to the store | raft entries |\n|--:|--:|--:|--:|--:|\n")
	etcd, err := store(ctx, b.first())
	if err != nil {
		return err
	}
	defer etcd.Close()
	for _, n := range append([]int{0}, b.sizes...) {
		if n > 0 {
			if _, err := b.ctl(ctx, append([]string{"start"}, names(n)...)...); err != nil {
				return err
			}
		}
		// What a start leaves to be done (the last reports, a collection of garbage) shall be over.
		if err := pause(ctx, b.window/4); err != nil {
			return err
		}
		before, err := etcd.Status(ctx, "http://store")
		if err != nil {
			return err
		}
		cpu, begin := b.cpu(), time.Now()
		if err := pause(ctx, b.window); err != nil {
			return err
		}
		took := time.Since(begin).Seconds()
		after, err := etcd.Status(ctx, "http://store")
		if err != nil {
			return err
		}
		fmt.Fprintf(b.out, "| %d | %.2f %% of a core | %d MB | %.2f/s | %.2f/s |\n", n, 100*(b.cpu()-cpu).Seconds()/took, b.memory(),
			float64(after.Header.Revision-before.Header.Revision)/took, float64(after.RaftIndex-before.RaftIndex)/took)
		if n > 0 {
			if err := b.clear(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// cpu is the processor time that the fleetds have used, to a hundredth of a second.
func (b *bench) cpu() time.Duration {
	var sum time.Duration
	for _, h := range b.cluster.Hosts() {
		for _, pid := range h.PIDs("fleetd") {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil {
				continue // it ended; a fresh one shows as less time, which nobody would believe
			}
			f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
			for _, i := range []int{14 - 3, 15 - 3} { // utime, stime
				ticks, _ := strconv.Atoi(f[i])
				sum += time.Duration(ticks) * 10 * time.Millisecond
			}
		}
	}
	return sum
}

// memory is the largest fleetd's resident memory in MB.
func (b *bench) memory() int {
	most := 0
	for _, h := range b.cluster.Hosts() {
		for _, pid := range h.PIDs("fleetd") {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
			if err != nil {
				continue
			}
			pages, _ := strconv.Atoi(strings.Fields(string(stat))[1])
			most = max(most, pages*os.Getpagesize()>>20)
		}
	}
	return most
}
