package main

import (
	"context"

	"github.com/fleet-init/fleet/internal/api"
)

// watcher follows units on the watch stream. It is opened before a change is sent, so that nothing is missed.
type watcher struct {
	app    *app
	names  []string
	stream *api.Stream
	world  *api.World
}

// watch opens the stream and reads the world as it is.
func (a *app) watch(ctx context.Context, names []string) (*watcher, error) {
	w := &watcher{app: a, names: names}
	return w, w.open(ctx)
}

func (w *watcher) open(ctx context.Context) error {
	s, err := w.app.client.Watch(ctx, 0, w.names...)
	if err != nil {
		return err
	}
	world := api.NewWorld()
	for {
		e, err := s.Next()
		if err != nil {
			s.Close()
			return err
		}
		world.Apply(e)
		if e.Sync {
			w.stream, w.world = s, world
			return nil
		}
	}
}

func (w *watcher) close() {
	if w.stream != nil {
		w.stream.Close()
	}
}

// follow reads the stream into a channel until it fails; the failure is the last thing in it. join ends the reading; after that
// the stream is closed.
func (w *watcher) follow(ctx context.Context) (events <-chan told, join func()) {
	ctx, cancel := context.WithCancel(ctx)
	ch := make(chan told, 256)
	stream := w.stream
	go func() {
		defer close(ch)
		for {
			e, err := stream.Next()
			select {
			case ch <- told{e, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return ch, func() {
		cancel()
		stream.Close()
		for range ch {
		}
	}
}

type told struct {
	event api.Event
	err   error
}
