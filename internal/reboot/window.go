package reboot

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is a span of time that comes back each day or on some days of the week, by the clock of a zone. It may go over
// midnight. Where the clock is put forward over its beginning it begins an hour later, as the wall clock shows.
type Window struct {
	Days   []time.Weekday // none = every day
	Hour   int
	Minute int
	Length time.Duration
	Zone   *time.Location
}

// Windows are the times at which a host may reboot; none = always.
type Windows []Window

// ParseWindow reads "[days] HH:MM +length [zone]": "22:00 +4h", "Sat,Sun 06:00 +12h", "Mon-Fri 01:30 +90m Europe/Berlin". Without
// a zone it is the host's.
func ParseWindow(s string) (Window, error) {
	bad := func(why string) (Window, error) {
		return Window{}, fmt.Errorf(`reboot window %q: %s; want "[days] HH:MM +length [zone]", as in "Mon-Fri 22:00 +4h Europe/Berlin"`, s, why)
	}
	w := Window{Zone: time.Local}
	f := strings.Fields(s)
	if len(f) > 0 && !strings.Contains(f[0], ":") {
		days, err := parseDays(f[0])
		if err != nil {
			return bad(err.Error())
		}
		w.Days, f = days, f[1:]
	}
	if len(f) < 2 || len(f) > 3 {
		return bad("parts are missing or too many")
	}
	at, err := time.Parse("15:04", f[0])
	if err != nil {
		return bad("bad time " + f[0])
	}
	w.Hour, w.Minute = at.Hour(), at.Minute()
	text, plus := strings.CutPrefix(f[1], "+")
	if w.Length, err = time.ParseDuration(text); err != nil || !plus || w.Length <= 0 {
		return bad("bad length " + f[1])
	}
	// A window longer than the time until it comes again is always open: surely a mistake.
	most := 24 * time.Hour
	if len(w.Days) > 0 {
		most = 7 * 24 * time.Hour
	}
	if w.Length >= most {
		return bad(fmt.Sprintf("it never closes, use less than %v", most))
	}
	if len(f) == 3 {
		if w.Zone, err = time.LoadLocation(f[2]); err != nil {
			return bad("unknown time zone " + f[2])
		}
	}
	return w, nil
}

func parseDays(s string) ([]time.Weekday, error) {
	day := func(s string) (time.Weekday, error) {
		for d := time.Sunday; d <= time.Saturday; d++ {
			if len(s) >= 3 && strings.HasPrefix(strings.ToLower(d.String()), strings.ToLower(s)) {
				return d, nil
			}
		}
		return 0, fmt.Errorf("unknown day %s", s)
	}
	var out []time.Weekday
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := day(from)
		if err != nil {
			return nil, err
		}
		b := a
		if isRange {
			if b, err = day(to); err != nil {
				return nil, err
			}
		}
		for d := a; ; d = (d + 1) % 7 {
			if !slices.Contains(out, d) {
				out = append(out, d)
			}
			if d == b {
				break
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// at is the window's span that begins on the day of t (by the zone's calendar) plus days.
func (w Window) at(t time.Time, days int) (from, to time.Time, ok bool) {
	y, m, d := t.In(w.Zone).Date()
	from = time.Date(y, m, d+days, w.Hour, w.Minute, 0, 0, w.Zone)
	// The weekday of the calendar day: the beginning may have been moved by the clock change.
	day := time.Date(y, m, d+days, 12, 0, 0, 0, w.Zone).Weekday()
	return from, from.Add(w.Length), len(w.Days) == 0 || slices.Contains(w.Days, day)
}

// Open says whether t is in a window, its last moment included, and until when; without windows for ever (the zero time).
func (ws Windows) Open(t time.Time) (until time.Time, open bool) {
	for _, w := range ws {
		for days := -7; days <= 0; days++ {
			if from, to, ok := w.at(t, days); ok && !t.Before(from) && !t.After(to) && to.After(until) {
				until, open = to, true
			}
		}
	}
	return until, open || len(ws) == 0
}

// Next is when the next window begins after t; the zero time without windows.
func (ws Windows) Next(t time.Time) time.Time {
	var next time.Time
	for _, w := range ws {
		for days := 0; days <= 8; days++ {
			if from, _, ok := w.at(t, days); ok && from.After(t) && (next.IsZero() || from.Before(next)) {
				next = from
			}
		}
	}
	return next
}

// Check is the refusal while no window is open, or nil. need is how long the reboot's preparation may take: a window that
// closes sooner counts as closed.
func (ws Windows) Check(t time.Time, need time.Duration) *Refusal {
	until, open := ws.Open(t)
	if open && (len(ws) == 0 || !t.Add(need).After(until)) {
		return nil
	}
	next := ws.Next(t)
	return &Refusal{Closed, "the reboot window opens " + next.Format("Mon 2006-01-02 15:04 MST")}
}
