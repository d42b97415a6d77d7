package unit

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStop(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name, service string
		want          Stop
	}{
		{"systemd's own limit where the unit sets none", "", Stop{90, 90 * s}},
		{"a short stop", "TimeoutStopSec=2\n", Stop{3, 2 * s}},
		{"a stop that fills its class", "TimeoutStopSec=10\n", Stop{10, 10 * s}},
		{"a little more is the next class", "TimeoutStopSec=10500ms\n", Stop{30, 10500 * time.Millisecond}},
		{"each ExecStop may take as long", "TimeoutStopSec=4\nExecStop=/a\nExecStop=/b\nExecStopPost=/c\n", Stop{30, 4 * s}},
		{"an empty ExecStop takes those before back", "TimeoutStopSec=4\nExecStop=/a\nExecStop=\n", Stop{10, 4 * s}},
		{"too long is cut", "TimeoutStopSec=5min\nExecStop=/a\n", Stop{90, 45 * s}},
		{"no limit is cut", "TimeoutStopSec=infinity\n", Stop{90, 90 * s}},
		{"0 is no limit", "TimeoutSec=0\n", Stop{90, 90 * s}},
		{"the last of both counts", "TimeoutSec=3\nTimeoutStopSec=9\n", Stop{10, 9 * s}},
		{"what cannot be read is passed over", "TimeoutStopSec=9\nTimeoutStopSec=soon\n", Stop{10, 9 * s}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := mustParse(t, "[Service]\nExecStart=/a\n"+tt.service)
			if diff := cmp.Diff(tt.want, f.Stop()); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("a drop-in counts more", func(t *testing.T) {
		f := mustParse(t, "[Service]\nTimeoutStopSec=60\n").With([]DropIn{{Of: "a.service", Name: "b.conf",
			Options: []Option{{Section: "Service", Name: "TimeoutStopSec", Value: "1"}}}})
		if diff := cmp.Diff(Stop{3, s}, f.Stop()); diff != "" {
			t.Error(diff)
		}
	})
	if got := (Stop{Class: 30}).Budget(); got != 32*s {
		t.Error(got)
	}
}

func TestParseSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90": 90 * time.Second, "1min 30s": 90 * time.Second, "1min30": 90 * time.Second, " 1.5 h ": 90 * time.Minute, "20ms": 20 * time.Millisecond,
		"infinity": 0, "2 d": 48 * time.Hour, "1w": 168 * time.Hour, "3us": 3 * time.Microsecond,
	} {
		if got, ok := ParseSpan(text); !ok || got != want {
			t.Errorf("%q: %v %v, want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "soon", "1 fortnight", "-3", "1..2", "s", "99999999999999999999w"} {
		if got, ok := ParseSpan(text); ok {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzParseSpan(f *testing.F) {
	for _, s := range []string{"90", "1min 30s", "infinity", "1e9", ".", "5 .5s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := ParseSpan(s); d < 0 || !ok && d != 0 {
			t.Fatalf("%q: %v %v", s, d, ok)
		}
		stop := mustParse(t, "[Service]\n").With([]DropIn{{Of: "a.service", Name: "a.conf", Options: []Option{{Section: "Service", Name: "TimeoutStopSec", Value: s}}}}).Stop()
		if stop.Each <= 0 || stop.Each > time.Duration(stop.Class)*time.Second {
			t.Fatalf("%q: %+v", s, stop)
		}
	})
}

func TestExclusiveUnitsAreChecked(t *testing.T) {
	for _, tt := range []struct{ name, unit, in, err string }{
		{"exclusive", "a.service", "Exclusive=yes", ""},
		{"exclusive, and stopped in words", "a.service", "Exclusive=yes\nOnDisconnect=stop", ""},
		{"exclusive, and leaves processes", "a.service", "Exclusive=yes\n[Service]\nKillMode=process", "leaves processes behind"},
		{"exclusive, and kills nothing", "a.service", "Exclusive=yes\n[Service]\nSendSIGKILL=no", "leaves processes behind"},
		{"exclusive, with another kill mode", "a.service", "Exclusive=yes\n[Service]\nKillMode=mixed", ""},
		{"frozen", "a.service", "OnDisconnect=freeze", ""},
		{"exclusive everywhere", "a.service", "Exclusive=yes\nGlobal=yes", "Exclusive and Global cannot be used together"},
		{"exclusive and frozen", "a.service", "Exclusive=yes\nOnDisconnect=freeze", "always stopped"},
		{"an exclusive timer", "a.timer", "Exclusive=yes", "only a service"},
		{"a socket that stops", "a.socket", "OnDisconnect=stop", "only a service"},
		{"neither yes nor no", "a.service", "Exclusive=maybe", "neither yes nor no"},
		{"another word", "a.service", "OnDisconnect=die", "OnDisconnect=run"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkErr(t, Validate(mustParse(t, "[X-Fleet]\n"+tt.in), Name(tt.unit)), tt.err)
		})
	}
}
