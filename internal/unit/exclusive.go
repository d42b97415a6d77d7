package unit

import (
	"strconv"
	"strings"
	"time"
)

// Disconnect is what becomes of a unit on a host that has been cut off for longer than its lease: OnDisconnect= in [X-Fleet].
type Disconnect string

// The three words of OnDisconnect. The empty word means run.
const (
	RunOn  Disconnect = "run"    // it goes on; the cluster runs another copy meanwhile
	Halt   Disconnect = "stop"   // systemd stops it
	Freeze Disconnect = "freeze" // its processes get no processor until the host is back
)

// Stop is how long stopping an exclusive unit may take.
type Stop struct {
	// Class is the number of seconds, one of StopClasses, that the time-outs of one stop add up to at most.
	Class int
	// Each is the TimeoutStopSec that the unit gets, so that they do.
	Each time.Duration
}

// StopClasses are the lengths, in seconds, that stops of exclusive units are rounded up to. Each has a target of systemd's,
// units/fleet-fence-N.target, that resets the host when a stop takes longer.
func StopClasses() []int { return []int{3, 10, 30, 90} }

// killTime is what is left, when all time-outs of a stop are over, for SIGKILL to work before the host is reset.
const killTime = 2 * time.Second

// Budget is after what time nothing of the unit runs any more, counted from when systemd begins to stop it: it has ended, was killed, or its
// host was reset.
func (s Stop) Budget() time.Duration { return time.Duration(s.Class)*time.Second + killTime }

// defaultStop is systemd's TimeoutStopSec where nobody sets one.
const defaultStop = 90 * time.Second

// Stop reads how long stopping a service may take: TimeoutStopSec (the last one set, in the file or an effective drop-in) for each ExecStop,
// for the end of its processes after SIGTERM, and for each ExecStopPost. What is longer than the longest class is cut down to it.
func (f *File) Stop() Stop {
	each, steps := defaultStop, map[string]int{}
	options := f.Options
	for _, d := range f.Effective() {
		options = append(options[:len(options):len(options)], d.Options...)
	}
	for _, o := range options {
		if o.Section != "Service" {
			continue
		}
		value := strings.Trim(joined(o.Value), space)
		switch o.Name {
		case "TimeoutStopSec", "TimeoutSec":
			d, ok := ParseSpan(value)
			if value == "" || !ok {
				continue // systemd passes over what it cannot read
			}
			each = d
		case "ExecStop", "ExecStopPost":
			if steps[o.Name]++; value == "" {
				steps[o.Name] = 0 // takes back those before
			}
		}
	}
	n := time.Duration(1 + steps["ExecStop"] + steps["ExecStopPost"])
	if each <= 0 {
		each = 1 << 40 * time.Nanosecond // 0 is systemd's word for no limit
	}
	for _, c := range StopClasses() {
		if class := time.Duration(c) * time.Second; each <= class/n {
			return Stop{Class: c, Each: each}
		}
	}
	longest := StopClasses()[len(StopClasses())-1]
	return Stop{Class: longest, Each: (time.Duration(longest) * time.Second / n).Truncate(time.Millisecond)}
}

// spans are systemd's words for units of time.
func spans(word string) time.Duration {
	switch word {
	case "usec", "us", "µs":
		return time.Microsecond
	case "msec", "ms":
		return time.Millisecond
	case "seconds", "second", "sec", "s", "":
		return time.Second
	case "minutes", "minute", "min", "m":
		return time.Minute
	case "hours", "hour", "hr", "h":
		return time.Hour
	case "days", "day", "d":
		return 24 * time.Hour
	case "weeks", "week", "w":
		return 7 * 24 * time.Hour
	}
	return 0
}

// ParseSpan reads a time span as systemd does: "90", "1min 30s", "1500ms", "infinity" (0, as systemd's own for no limit). Months and
// years, which no stop takes, are not read.
func ParseSpan(s string) (time.Duration, bool) {
	if s == "infinity" {
		return 0, true
	}
	var sum float64
	rest, found := strings.Trim(s, space), false
	for rest != "" {
		end := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if end < 0 {
			end = len(rest)
		}
		number, err := strconv.ParseFloat(rest[:end], 64)
		if err != nil {
			return 0, false
		}
		rest = strings.TrimLeft(rest[end:], space)
		next := strings.IndexAny(rest, "0123456789. \t\n\r")
		if next < 0 {
			next = len(rest)
		}
		of := spans(rest[:next])
		if of == 0 {
			return 0, false
		}
		sum += number * float64(of)
		rest, found = strings.TrimLeft(rest[next:], space), true
	}
	if !found || sum > float64(100*365*24*time.Hour) {
		return 0, false
	}
	return time.Duration(sum), true
}

func (r *reader) exclusive(key, value string) *ParseError {
	switch strings.ToLower(value) {
	case "true", "yes", "1", "on", "t":
		r.needs.Exclusive = true
	case "false", "no", "0", "off", "f", "":
		r.needs.Exclusive = false
	default:
		return fault(0, key+" "+quote(value)+" is neither yes nor no", "write "+key+"=yes or "+key+"=no")
	}
	return nil
}

func (r *reader) disconnect(key, value string) *ParseError {
	switch d := Disconnect(value); d {
	case "", RunOn:
		r.needs.OnDisconnect = ""
	case Halt, Freeze:
		r.needs.OnDisconnect = d
	default:
		return fault(0, key+" "+quote(value)+" is unknown", "write "+key+"=run, "+key+"=stop or "+key+"=freeze")
	}
	return nil
}

// checkExclusive finds what does not go together with Exclusive=yes or OnDisconnect.
func (f *File) checkExclusive(n Needs, name Name) error {
	switch {
	case n.Exclusive && n.Global:
		return f.clash("Exclusive", "Global", "Exclusive and Global cannot be used together", "a unit runs at most once, or everywhere: delete one of them")
	case n.Exclusive && name.Type() != "service":
		return f.clash("Exclusive", "Exclusive", "Exclusive=yes in a "+name.Type()+" unit", "only a service can be exclusive")
	case n.Exclusive && n.OnDisconnect == Freeze:
		return f.clash("Exclusive", "OnDisconnect", "Exclusive and OnDisconnect=freeze cannot be used together",
			"an exclusive unit is always stopped, by systemd: delete OnDisconnect")
	case n.Exclusive && f.leavesProcesses():
		return f.clash("Exclusive", "Exclusive", "Exclusive=yes in a unit whose stop leaves processes behind", "delete KillMode= and SendSIGKILL= from [Service]: what is left would run twice")
	case n.OnDisconnect != "" && name.Type() != "service":
		return f.clash("OnDisconnect", "OnDisconnect", "OnDisconnect="+string(n.OnDisconnect)+" in a "+name.Type()+" unit", "only a service can be stopped or frozen so")
	}
	return nil
}

// leavesProcesses tells whether a stop of the service may leave processes alive.
func (f *File) leavesProcesses() bool {
	last := map[string]string{}
	for _, o := range f.Options {
		if o.Section == "Service" {
			last[o.Name] = strings.ToLower(strings.Trim(joined(o.Value), space))
		}
	}
	kill := last["SendSIGKILL"]
	return last["KillMode"] == "none" || last["KillMode"] == "process" || kill == "no" || kill == "false" || kill == "0" || kill == "off"
}
