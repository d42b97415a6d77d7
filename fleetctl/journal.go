package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/unit"
)

// journal prints the log of units from every machine that has them, merged by time. It speaks to fleetd only; the machines' fleetds
// read the journals.
func journal(ctx context.Context, a *app, args []string) int {
	if len(args) == 0 {
		return a.fail("A unit must be given: fleetctl journal web.service")
	}
	list, ok := a.words(args, "Error")
	if !ok {
		return exitFailed
	}
	print, err := api.NewLogPrinter(a.opts.output, time.Local)
	if err != nil {
		return a.usage(err, "journal")
	}
	q, err := a.logQuery(time.Now())
	if err != nil {
		return a.usage(err, "journal")
	}
	for _, u := range list {
		q.Units = append(q.Units, u.name)
	}
	machines, code := a.chosenMachines(ctx)
	if code != exitOK {
		return code
	}
	r := &logReader{app: a, q: q, machines: machines, print: print}
	return r.run(ctx)
}

// logQuery makes the question of the flags. Times are the user's: his clock, his zone.
func (a *app) logQuery(now time.Time) (fleet.LogQuery, error) {
	q := fleet.LogQuery{Lines: a.opts.lines, Follow: a.opts.follow}
	if a.opts.output != "short" && a.opts.output != "cat" {
		q.Whole = true
	}
	var err error
	if a.opts.since != "" {
		if q.Since, err = api.ParseTime(a.opts.since, now); err != nil {
			return q, fmt.Errorf("--since: %w", err)
		}
		if !slices.Contains(a.given, "lines") {
			q.Lines = fleet.AllLines
		}
	}
	if a.opts.priority != "" {
		if q.Priority, err = fleet.ParsePriority(a.opts.priority); err != nil {
			return q, fmt.Errorf("--priority: %w", err)
		}
	}
	return q, nil
}

// lineCount is the value of --lines: a number, or all.
type lineCount struct{ n *int }

func (v lineCount) Type() string { return "number" }
func (v lineCount) String() string {
	if *v.n == fleet.AllLines {
		return "all"
	}
	return fmt.Sprint(*v.n)
}
func (v lineCount) Set(s string) error {
	if s == "all" {
		*v.n = fleet.AllLines
		return nil
	}
	if _, err := fmt.Sscanf(s+"\n", "%d\n", v.n); err != nil || *v.n < 0 {
		return errors.New("use a number of lines, or all")
	}
	return nil
}

// chosenMachines turns --machine into IDs; none when it is not given.
func (a *app) chosenMachines(ctx context.Context) ([]string, int) {
	if a.opts.machine == "" {
		return nil, exitOK
	}
	all, err := a.client.Machines(ctx)
	if err != nil {
		return nil, a.refused("Error retrieving list of active machines", err)
	}
	var ids []string
	for _, word := range strings.Split(a.opts.machine, ",") {
		m, err := findMachine(all, word)
		if err != nil {
			return nil, a.fail("Unable to proceed: %v", err)
		}
		ids = append(ids, m.ID)
	}
	return ids, exitOK
}

// findMachine finds a machine by the begin of its ID, by its address or its host name.
func findMachine(all []api.Machine, word string) (api.Machine, error) {
	word = strings.TrimSuffix(word, "...") // as lists show it
	var found []api.Machine
	for _, m := range all {
		if m.ID == word || m.PrimaryIP == word || m.Name == word {
			return m, nil
		}
		if word != "" && strings.HasPrefix(m.ID, word) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return api.Machine{}, fmt.Errorf("no machine is called %q: fleetctl list-machines shows what there is", word)
	}
	return api.Machine{}, fmt.Errorf("machine %q could be %s or %s: give more of the ID", word, found[0].ID, found[1].ID)
}

// logReader prints one answer, and when it is lost while following, the one that goes on after it.
type logReader struct {
	*app
	q        fleet.LogQuery
	machines []string
	print    api.LogPrinter
	last     time.Time // of the newest entry printed
	code     int
}

func (r *logReader) run(ctx context.Context) int {
	err := r.read(ctx)
	for lost := time.Now(); ctx.Err() == nil && r.q.Follow && isLost(err) && !r.last.IsZero() && time.Since(lost) < lostFor; {
		r.warn("The connection to fleetd is lost, trying again")
		for isLost(err) && ctx.Err() == nil && time.Since(lost) < lostFor {
			// The journals count in microseconds. What has the newest entry's time on another machine may be missing here.
			r.q.Since, r.q.Lines = r.last.Add(time.Microsecond), fleet.AllLines
			before := r.last
			if err = r.read(ctx); r.last != before {
				lost = time.Now()
				break
			}
			pause.For(ctx, askAgain)
		}
	}
	switch {
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.Is(err, fleet.ErrConflict):
		return r.fail("Unit does not appear to be running: %v", err)
	case err != nil:
		return r.refused("Error reading logs", err)
	}
	return r.code
}

func isLost(err error) bool {
	var conn *api.ConnectError
	return errors.As(err, &conn)
}

func (r *logReader) read(ctx context.Context) error {
	return r.client.Journal(ctx, r.q, r.machines, func(e fleet.LogEntry) error {
		r.last = e.At
		if _, err := r.out.Write(r.print(e)); err != nil {
			return err
		}
		if r.q.Follow {
			return r.out.Flush()
		}
		return nil
	}, func(err error) {
		r.warn("Warning: %v", err)
		r.code = exitFailed
	})
}

// lastLines writes the newest log lines of a unit on one machine, as systemctl status does. What keeps them away is told and is no
// failure of the command.
func (a *app) lastLines(ctx context.Context, name, machine string, lines int, write func(line []byte)) {
	print, err := api.NewLogPrinter("short", time.Local)
	if err != nil || lines == 0 {
		return
	}
	q := fleet.LogQuery{Units: []unit.Name{unit.Name(name)}, Lines: lines}
	told := func(err error) { a.warn("Warning: log lines of %s are missing: %v", name, err) }
	err = a.client.Journal(ctx, q, []string{machine}, func(e fleet.LogEntry) error {
		write(print(e))
		return nil
	}, told)
	if err != nil && ctx.Err() == nil {
		told(err)
	}
}
