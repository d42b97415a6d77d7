package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/peers"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// Status is what the commands show, and --json prints.
type Status struct {
	update.State
	Slots slot.State `json:"slots"`
}

// command is what the commands send.
type command struct {
	Kind    update.Kind `json:"kind"`
	Version string      `json:"version,omitempty"`
	Why     string      `json:"why,omitempty"`
	From    string      `json:"from,omitempty"` // URL of a directory to take it from
}

// control serves the commands on a unix socket that only root may open.
type control struct {
	daemon *daemon
	slots  slot.Slots
	from   func(url string)
	// history is what has happened here, oldest first; nil: nobody keeps it.
	history func() []rollout.Event
	share   *peers.Share // nil: this host does not hand frames on

	mu      sync.Mutex // guards waiting
	waiting map[chan update.State]bool
}

func newControl(d *daemon, s slot.Slots, from func(string)) *control {
	c := &control{daemon: d, slots: s, from: from, waiting: map[chan update.State]bool{}}
	d.changed = c.changed
	return c
}

// changed tells every watcher the newest state; one that is slow sees only the last.
func (c *control) changed(s update.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ch := range c.waiting {
		select {
		case <-ch:
		default:
		}
		ch <- s
	}
}

func (c *control) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		s, err := c.daemon.ask(r.Context(), update.Fact{Kind: look})
		c.answer(w, s, err)
	})
	mux.HandleFunc("POST /command", func(w http.ResponseWriter, r *http.Request) {
		var cmd command
		if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&cmd); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		switch cmd.Kind {
		case update.CheckNow, update.RebootNow, update.Cancel, update.RollbackNow, update.Forget, update.GatePassed:
		default:
			http.Error(w, fmt.Sprintf("unknown command %q", cmd.Kind), http.StatusBadRequest)
			return
		}
		if cmd.From != "" {
			if err := checkMirror(cmd.From); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			c.from(cmd.From)
		}
		s, err := c.daemon.ask(r.Context(), update.Fact{Kind: cmd.Kind, Version: cmd.Version, Why: cmd.Why})
		c.answer(w, s, err)
	})
	mux.HandleFunc("GET /watch", c.watch)
	mux.HandleFunc("GET /history", func(w http.ResponseWriter, _ *http.Request) {
		list := []rollout.Event{}
		if c.history != nil {
			list = append(list, c.history()...)
		}
		_ = json.NewEncoder(w).Encode(list) // as in answer
	})
	mux.HandleFunc("GET /metrics", c.metrics)
	return mux
}

func (c *control) answer(w http.ResponseWriter, s update.State, err error) {
	if err == nil {
		var st slot.State
		if st, err = c.slots.State(); err == nil {
			w.Header().Set("Content-Type", "application/json")
			// A client that is gone does not need the answer.
			_ = json.NewEncoder(w).Encode(Status{s, st})
			return
		}
	}
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}

// watch sends a state a line, the present one first.
func (c *control) watch(w http.ResponseWriter, r *http.Request) {
	ch := make(chan update.State, 1)
	c.mu.Lock()
	c.waiting[ch] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, ch)
		c.mu.Unlock()
	}()
	s, err := c.daemon.ask(r.Context(), update.Fact{Kind: look})
	for err == nil {
		if err = json.NewEncoder(w).Encode(s); err != nil {
			return
		}
		if err = http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case s = <-ch:
		}
	}
}

// listen opens the socket. One that a killed daemon has left is in the way; a daemon that lives holds the state folder's lock.
func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen for commands: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// serve answers until ctx ends.
func (c *control) serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{Handler: c.handler(), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// call is the other end: it asks the daemon behind socket.
func call(ctx context.Context, socket, method, path string, body any) (io.ReadCloser, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}, DisableKeepAlives: true}}
	var b bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&b).Encode(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://update-engine"+path, &b)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon at %s: %w: is update-engine.service running, and are you root?", socket, err)
	}
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return nil, errors.Join(fmt.Errorf("the daemon answers: %s", bytes.TrimSpace(text)), err, resp.Body.Close())
	}
	return resp.Body, nil
}
