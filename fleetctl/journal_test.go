package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// fakeJournal is the journals of all machines of a test cluster. Its clock gains a second with each entry.
type fakeJournal struct {
	mu      sync.Mutex // guards the rest
	n       int64
	entries map[fleet.MachineID][]fleet.LogEntry
	more    chan struct{} // closed with each entry, then made anew
	silent  map[fleet.MachineID]bool
}

func newFakeJournal() *fakeJournal {
	return &fakeJournal{entries: map[fleet.MachineID][]fleet.LogEntry{}, more: make(chan struct{}), silent: map[fleet.MachineID]bool{}}
}

func (j *fakeJournal) add(m fleet.MachineID, name unit.Name, message string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.n++
	at := 1772366400 + j.n // 2026-03-01 12:00:00 UTC
	e, err := fleet.ParseLogEntry(fmt.Appendf(nil,
		`{"__REALTIME_TIMESTAMP":"%d000000","__CURSOR":"s=%x","_HOSTNAME":"host-%s","_SYSTEMD_UNIT":%q,"SYSLOG_IDENTIFIER":"app","_PID":"7","MESSAGE":%q}`,
		at, j.n, m.Short()[:1], name, message))
	if err != nil {
		panic(err)
	}
	j.entries[m] = append(j.entries[m], e)
	close(j.more)
	j.more = make(chan struct{})
}

func (j *fakeJournal) read(ctx context.Context, m fleet.Machine, q fleet.LogQuery, each func(fleet.LogEntry) error) error {
	for next := -1; ; {
		j.mu.Lock()
		more, silent := j.more, j.silent[m.ID]
		list := slices.Clone(j.entries[m.ID])
		j.mu.Unlock()
		if silent {
			return errors.New("its fleetd does not answer")
		}
		list = slices.DeleteFunc(list, func(e fleet.LogEntry) bool {
			return !slices.ContainsFunc(q.Units, func(n unit.Name) bool { return strings.Contains(string(e.JSON), `"`+string(n)+`"`) }) ||
				e.At.Before(q.Since) || q.After != "" && e.Cursor <= q.After
		})
		if next < 0 {
			next = 0
			if q.Lines >= 0 {
				next = max(0, len(list)-q.Lines)
			}
		}
		for ; next < len(list); next++ {
			if err := each(list[next]); err != nil {
				return err
			}
		}
		if !q.Follow {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fleetctl journal -f prints what comes, goes on when fleetd was restarted, and ends when it is interrupted.
func TestJournalFollowsAcrossARestartOfFleetd(t *testing.T) {
	c, env, dir := inProcess(t, map[string]string{"web.service": "[Service]\nExecStart=/bin/web\n"})
	var errs strings.Builder
	if code := run(t.Context(), []string{"start", dir + "/web.service"}, env, strings.NewReader(""), io.Discard, &errs); code != 0 {
		t.Fatal(code, errs.String())
	}
	c.journal.add(here, "web.service", "old")
	c.journal.add(here, "web.service", "one")
	ctx, cancel := context.WithCancel(t.Context())
	out, w := io.Pipe()
	code := make(chan int)
	go func() {
		code <- run(ctx, []string{"journal", "-f", "-n", "1", "-o", "cat", "web"}, env, strings.NewReader(""), w, &errs)
	}()
	lines := bufio.NewScanner(out)
	want := func(text string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != text {
			t.Errorf("got %q, want %q", lines.Text(), text)
		}
	}
	want("one")
	c.journal.add(here, "web.service", "two")
	want("two")
	c.restartServer(t)
	c.journal.add(here, "web.service", "three")
	want("three")
	cancel()
	if got := <-code; got != exitInterrupted || errs.String() != "The connection to fleetd is lost, trying again\n" {
		t.Errorf("exit code %d, %q", got, errs.String())
	}
}

func TestLineCount(t *testing.T) {
	for text, want := range map[string]string{"5": "5", "0": "0", "all": "all", "-1": "", "5x": "", "": ""} {
		n := 10
		v := lineCount{&n}
		if err := v.Set(text); (err == nil) != (want != "") || err == nil && v.String() != want {
			t.Errorf("%q: %v, %s", text, err, v.String())
		}
	}
}
