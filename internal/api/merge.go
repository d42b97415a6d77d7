package api

import (
	"context"
	"sync"

	"github.com/fleet-init/fleet/internal/fleet"
)

// reader reads source number i in order, as Config.Journal does.
type reader func(ctx context.Context, i int, each func(fleet.LogEntry) error) error

// merge reads n sources at once and calls each with their entries by time; entries of the same time by source. A source that fails has
// its error at its place in failed and does not stop the others. An error of each stops all and is returned.
func merge(ctx context.Context, n int, read reader, each func(i int, e fleet.LogEntry) error) (failed []error, err error) {
	ctx, stop := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer stop()
	failed = make([]error, n)
	sources := make([]chan fleet.LogEntry, n)
	for i := range sources {
		ch := make(chan fleet.LogEntry, 16) // so that a process or a host need not be waited for line by line
		sources[i] = ch
		tasks.Go(func() {
			defer close(ch)
			failed[i] = read(ctx, i, func(e fleet.LogEntry) error {
				select {
				case ch <- e:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		})
	}
	heads := make([]*fleet.LogEntry, n)
	open := make([]bool, n)
	for i := range heads {
		heads[i], open[i] = next(sources[i])
	}
	for {
		first := -1
		for i, h := range heads {
			if open[i] && (first < 0 || h.At.Before(heads[first].At)) {
				first = i
			}
		}
		if first < 0 {
			return failed, ctx.Err() // closed channels: the errors are written
		}
		if err := each(first, *heads[first]); err != nil {
			return nil, err
		}
		heads[first], open[first] = next(sources[first])
	}
}

func next(ch <-chan fleet.LogEntry) (*fleet.LogEntry, bool) {
	e, ok := <-ch
	return &e, ok
}

// maxTail bounds the memory that one question for last entries takes.
const maxTail = 64 << 20

// lastEntries keeps the last n of what it is given, or fewer if they are large.
type lastEntries struct {
	n    int
	size int
	list []fleet.LogEntry
}

func (l *lastEntries) add(e fleet.LogEntry) {
	l.list = append(l.list, e)
	l.size += len(e.JSON)
	for len(l.list) > l.n || l.size > maxTail && len(l.list) > 1 {
		l.size -= len(l.list[0].JSON)
		l.list[0] = fleet.LogEntry{}
		l.list = l.list[1:]
	}
}
