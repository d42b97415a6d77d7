package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/fleet-init/fleet/functional/host/faults"
)

const (
	every = 200 * time.Millisecond
	// most lines are kept while nobody takes them: an hour.
	most = 18000
	// last is how long the last words may take; then the process ends without.
	last = time.Second
)

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("want the collector's address and the unit's name")
	}
	id, err := []byte(os.Getenv("BEAT_MACHINE")), error(nil)
	if len(id) == 0 {
		if id, err = os.ReadFile("/etc/machine-id"); err != nil {
			return err
		}
	}
	b := faults.Beat{Unit: args[1], Machine: string(bytes.TrimSpace(id)), Run: os.Getenv("INVOCATION_ID")}
	if word := os.Getenv("FLEET_FENCING_TOKEN"); word != "" {
		if b.Token, err = strconv.ParseInt(word, 10, 64); err != nil {
			return fmt.Errorf("FLEET_FENCING_TOKEN: %w", err)
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	lines, done := make(chan []byte, most), make(chan struct{})
	say := func() error {
		b.Count, b.At = b.Count+1, faults.Now()
		line, err := json.Marshal(b)
		if err != nil {
			return err
		}
		select {
		case lines <- append(line, '\n'):
		default: // nobody has taken any for an hour
		}
		return nil
	}
	if err := say(); err != nil {
		return err
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	go send(args[0], lines, done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := say(); err != nil {
				return err
			}
		case <-stop:
			b.End = true
			err := say()
			close(lines)
			select {
			case <-done:
			case <-time.After(last):
			}
			return err
		}
	}
}

// send sends lines in order, over a new connection whenever the old one broke. A line that was being sent then is sent again: the same beat twice does no harm.
func send(addr string, lines <-chan []byte, done chan<- struct{}) {
	defer close(done)
	var c net.Conn
	for line := range lines {
		for {
			if c == nil {
				var err error
				if c, err = net.DialTimeout("tcp", addr, 2*time.Second); err != nil {
					c = nil
					time.Sleep(every)
					continue
				}
			}
			_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second)) // fails on a broken one, as Write will
			if _, err := c.Write(line); err == nil {
				break
			}
			_ = c.Close()
			c = nil
		}
	}
	if c != nil {
		_ = c.Close()
	}
}
