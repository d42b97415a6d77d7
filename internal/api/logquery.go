package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

const (
	// defaultLines is how many entries come when neither a number nor a time is given, as with fleet.
	defaultLines = 10
	// maxLines is the largest number of last entries that fleetd collects; with lines=all they are passed on as they are read.
	maxLines = 100_000
	// maxUnits keeps a question short enough for a program's arguments.
	maxUnits = 1000
)

// logQuery reads what a request asks of a journal. now is what relative times count from.
func logQuery(v url.Values, now time.Time) (fleet.LogQuery, error) {
	q := fleet.LogQuery{Lines: defaultLines, After: v.Get("after")}
	for _, name := range v["unit"] {
		if !slices.Contains(q.Units, unit.Name(name)) {
			q.Units = append(q.Units, unit.Name(name))
		}
	}
	if len(q.Units) > maxUnits {
		return q, refuse(http.StatusBadRequest, fmt.Sprintf("%d units in one question: at most %d", len(q.Units), maxUnits))
	}
	var err error
	if s := v.Get("since"); s != "" {
		q.Lines = fleet.AllLines
		if q.Since, err = ParseTime(s, now); err != nil {
			return q, err
		}
	}
	switch s := v.Get("lines"); s {
	case "":
	case "all":
		q.Lines = fleet.AllLines
	default:
		q.Lines, err = strconv.Atoi(s)
		if err != nil || q.Lines < 0 || q.Lines > maxLines {
			return q, &fleet.InvalidError{What: fmt.Sprintf("lines %q", s), Hint: fmt.Sprintf("give a number from 0 to %d, or all", maxLines)}
		}
	}
	if s := v.Get("priority"); s != "" {
		if q.Priority, err = fleet.ParsePriority(s); err != nil {
			return q, err
		}
	}
	if q.Follow, err = flag(v, "follow"); err != nil {
		return q, err
	}
	if q.Whole, err = flag(v, "whole"); err != nil {
		return q, err
	}
	return q, q.Check()
}

// flag reads a parameter that is on when it is there, also without a value.
func flag(v url.Values, name string) (bool, error) {
	if !v.Has(name) {
		return false, nil
	}
	switch v.Get(name) {
	case "", "1", "true":
		return true, nil
	case "0", "false":
		return false, nil
	}
	return false, &fleet.InvalidError{What: fmt.Sprintf("%s %q", name, v.Get(name)), Hint: "give true or false"}
}

// logValues is the reverse of logQuery.
func logValues(q fleet.LogQuery) url.Values {
	v := url.Values{}
	for _, n := range q.Units {
		v.Add("unit", string(n))
	}
	v.Set("lines", "all")
	if q.Lines >= 0 {
		v.Set("lines", strconv.Itoa(q.Lines))
	}
	if !q.Since.IsZero() {
		v.Set("since", fmt.Sprintf("@%d.%06d", q.Since.Unix(), q.Since.Nanosecond()/1000))
	}
	for name, value := range map[string]string{"priority": q.Priority, "after": q.After} {
		if value != "" {
			v.Set(name, value)
		}
	}
	for name, on := range map[string]bool{"follow": q.Follow, "whole": q.Whole} {
		if on {
			v.Set(name, "true")
		}
	}
	return v
}

// ParseTime reads a point in time as journalctl's --since does: "2026-03-01 12:00:05", "2026-03-01", "12:00", "today",
// "yesterday", "@1772366405.5", "-90s", "2h ago", and RFC 3339. What is not said is taken from now, also the zone.
func ParseTime(s string, now time.Time) (time.Time, error) {
	bad := &fleet.InvalidError{What: fmt.Sprintf("time %q", s), Hint: `use a time such as "2026-03-01 12:00:00", today, "2h ago" or -90s`}
	y, m, d := now.Date()
	midnight := time.Date(y, m, d, 0, 0, 0, 0, now.Location())
	text := strings.TrimSpace(s)
	switch text {
	case "now":
		return now, nil
	case "today":
		return midnight, nil
	case "yesterday":
		return midnight.AddDate(0, 0, -1), nil
	case "tomorrow":
		return midnight.AddDate(0, 0, 1), nil
	}
	if digits, ok := strings.CutPrefix(text, "@"); ok {
		return unixTime(digits, bad)
	}
	span, past := strings.CutPrefix(text, "-")
	if !past {
		span, past = strings.CutSuffix(text, " ago")
	}
	ahead := false
	if !past {
		span, ahead = strings.CutPrefix(text, "+")
	}
	if past || ahead {
		length, err := parseSpan(span)
		if err != nil {
			return time.Time{}, bad
		}
		if past {
			length = -length
		}
		return now.Add(length), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999", "2006-01-02 15:04:05 MST", "2006-01-02 15:04", "2006-01-02", "2006-01-02T15:04:05"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			return midnight.Add(t.Sub(t.Truncate(24 * time.Hour))), nil
		}
	}
	return time.Time{}, bad
}

// unixTime reads seconds with up to six digits behind the point, without the rounding of floating point.
func unixTime(s string, bad error) (time.Time, error) {
	whole, part, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || sec < 0 || sec > 1<<40 || len(part) > 6 {
		return time.Time{}, bad
	}
	micro := int64(0)
	if part != "" {
		if micro, err = strconv.ParseInt((part + "000000")[:6], 10, 64); err != nil || micro < 0 {
			return time.Time{}, bad
		}
	}
	return time.Unix(sec, micro*1000), nil
}

// parseSpan reads systemd's time spans: "90s", "1h 30min", "2 days", "5" (seconds).
func parseSpan(s string) (time.Duration, error) {
	units := map[string]time.Duration{
		"": time.Second, "us": time.Microsecond, "usec": time.Microsecond, "ms": time.Millisecond, "msec": time.Millisecond,
		"s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
		"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
		"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
		"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
		"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
		// systemd counts months of 30.44 days and years of 365.25.
		"M": 2629800 * time.Second, "month": 2629800 * time.Second, "months": 2629800 * time.Second,
		"y": 31557600 * time.Second, "year": 31557600 * time.Second, "years": 31557600 * time.Second,
	}
	sum, rest := time.Duration(0), strings.TrimSpace(s)
	if rest == "" {
		return 0, fmt.Errorf("empty time span")
	}
	for rest != "" {
		i := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if i < 0 {
			i = len(rest)
		}
		n, err := strconv.ParseFloat(rest[:i], 64)
		rest = strings.TrimLeft(rest[i:], " ")
		j := strings.IndexFunc(rest, func(r rune) bool { return r == ' ' || r >= '0' && r <= '9' })
		if j < 0 {
			j = len(rest)
		}
		length, known := units[rest[:j]]
		if err != nil || !known || n*float64(length) > float64(1<<62) {
			return 0, fmt.Errorf("invalid time span %q", s)
		}
		sum += time.Duration(n * float64(length))
		rest = strings.TrimLeft(rest[j:], " ")
	}
	return sum, nil
}
