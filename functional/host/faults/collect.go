package faults

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
)

// Collector takes the beats of all units. It lives outside the hosts, where no fault of theirs reaches it.
type Collector struct {
	l    net.Listener
	done sync.WaitGroup

	mu    sync.Mutex // what follows
	beats []Beat
	bad   error
	conns map[net.Conn]bool
}

// Collect takes beats from whoever connects, until Close.
func Collect(l net.Listener) *Collector {
	c := &Collector{l: l, conns: map[net.Conn]bool{}}
	c.done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			c.mu.Lock()
			c.conns[conn] = true
			c.mu.Unlock()
			c.done.Go(func() { c.take(conn) })
		}
	})
	return c
}

// take reads one sender's lines. A connection that breaks within a line belongs to a host that lost power.
func (c *Collector) take(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			break
		}
		var b Beat
		bad := json.Unmarshal(line, &b)
		c.mu.Lock()
		if bad != nil {
			c.bad = errors.Join(c.bad, fmt.Errorf("beat %q: %w", line, bad))
		} else {
			c.beats = append(c.beats, b)
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	delete(c.conns, conn)
	c.mu.Unlock()
}

// Beats returns all that was said until now. The error is that of lines that were no beats.
func (c *Collector) Beats() ([]Beat, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.beats), c.bad
}

// Runs are the lives that these beats tell of, of one unit; for the empty name of all.
func (c *Collector) Runs(unit string) []Run {
	beats, _ := c.Beats() // whoever ends the test asks for the error
	if unit != "" {
		beats = slices.DeleteFunc(beats, func(b Beat) bool { return b.Unit != unit })
	}
	return Runs(beats)
}

// Close ends it; what was said stays.
func (c *Collector) Close() error {
	err := c.l.Close()
	c.mu.Lock()
	for conn := range c.conns {
		_ = conn.Close() // its reader ends
	}
	c.mu.Unlock()
	c.done.Wait()
	return err
}
