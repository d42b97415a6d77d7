package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
)

// What journalctl 252 printed for these three entries, --utc, written by a program over the journal's socket.
func TestModesPrintWhatJournalctlPrints(t *testing.T) {
	entries := []string{
		`{"__REALTIME_TIMESTAMP":"1795233191524812","__MONOTONIC_TIMESTAMP":"4722624054","__CURSOR":"s=9a;i=9ab","_SOURCE_REALTIME_TIMESTAMP":"1795233191523233","MESSAGE":"hello","SYSLOG_IDENTIFIER":"web","_PID":"31658","_HOSTNAME":"vm","UNIT":"web@1.service"}`,
		`{"__REALTIME_TIMESTAMP":"1795233191525214","__MONOTONIC_TIMESTAMP":"4722624455","__CURSOR":"s=9a;i=9ac","_SOURCE_REALTIME_TIMESTAMP":"1795233191523252","MESSAGE":[98,105,110,255,10,120],"SYSLOG_IDENTIFIER":"web","_PID":"31658","_HOSTNAME":"vm"}`,
		`{"__REALTIME_TIMESTAMP":"1795233191525232","__MONOTONIC_TIMESTAMP":"4722624473","__CURSOR":"s=9a;i=9ad","_COMM":"sh","MESSAGE":"\u001b[31mred\u001b[0m\r\nsecond line\n","_HOSTNAME":"vm","TAG":["a","b"]}`,
	}
	for mode, want := range map[string]string{
		"short":             "Nov 21 03:53:11 vm web[31658]: hello|Nov 21 03:53:11 vm web[31658]: [6B blob data]|Nov 21 03:53:11 vm sh: red|                       second line|",
		"short-full":        "Sat 2026-11-21 03:53:11 UTC vm web[31658]: hello|",
		"short-iso":         "2026-11-21T03:53:11+0000 vm web[31658]: hello|",
		"short-iso-precise": "2026-11-21T03:53:11.523233+0000 vm web[31658]: hello|",
		"short-precise":     "Nov 21 03:53:11.523233 vm web[31658]: hello|",
		"short-monotonic":   "[ 4722.624054] vm web[31658]: hello|",
		"short-unix":        "1795233191.523233 vm web[31658]: hello|",
		"with-unit":         "Sat 2026-11-21 03:53:11 UTC vm web@1.service[31658]: hello|",
		"cat":               "hello|bin\xff|x|",
		"json":              entries[0] + "|" + entries[1],
		"json-sse":          "data: " + entries[0] + "||data: ",
		"json-seq":          "\x1e" + entries[0] + "|",
		"json-pretty":       "{|\t\"__REALTIME_TIMESTAMP\": \"1795233191524812\",|",
		"verbose": "Sat 2026-11-21 03:53:11.523233 UTC [s=9a;i=9ab]|    MESSAGE=hello|    SYSLOG_IDENTIFIER=web|    UNIT=web@1.service|" +
			"    _HOSTNAME=vm|    _PID=31658|    _SOURCE_REALTIME_TIMESTAMP=1795233191523233|" +
			"Sat 2026-11-21 03:53:11.523252 UTC [s=9a;i=9ac]|    MESSAGE=[6B blob data]|",
		"export": "MESSAGE=hello|SYSLOG_IDENTIFIER=web|UNIT=web@1.service|_HOSTNAME=vm|_PID=31658|_SOURCE_REALTIME_TIMESTAMP=1795233191523233|" +
			"__CURSOR=s=9a;i=9ab|__MONOTONIC_TIMESTAMP=4722624054|__REALTIME_TIMESTAMP=1795233191524812||MESSAGE|\x06\x00\x00\x00\x00\x00\x00\x00bin\xff|x|",
	} {
		print, err := NewLogPrinter(mode, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for _, line := range entries {
			e, err := fleet.ParseLogEntry([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			got.Write(print(e))
		}
		want = strings.ReplaceAll(want, "|", "\n")
		if head := got.String()[:min(len(want), got.Len())]; head != want {
			t.Errorf("%s:\n got %q\nwant %q", mode, head, want)
		}
	}
	if len(LogModes()) != 15 {
		t.Error("a mode without a row here")
	}
}

func TestLogFieldsOfAllShapes(t *testing.T) {
	f := parse(fleet.LogEntry{JSON: []byte(`{"A":"text","B":[104,105],"C":null,"D":["x",[121],null],"E":3}`)})
	got := fmt.Sprintf("%q %q %q %q %q %q", f.all("A"), f.all("B"), f.all("C"), f.all("D"), f.all("E"), f.all("F"))
	if want := `["text"] ["hi"] [] ["x" "y"] [] []`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := Size(6) + " " + Size(1536) + " " + Size(3<<20) + " " + Size(5<<30); got != "6B 1.5K 3.0M 5.0G" {
		t.Error(got)
	}
}

func TestParseTime(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	now := time.Date(2026, 3, 1, 12, 30, 0, 0, zone)
	for text, want := range map[string]string{
		"now": "2026-03-01T12:30:00+01:00", "today": "2026-03-01T00:00:00+01:00", "yesterday": "2026-02-28T00:00:00+01:00",
		"tomorrow": "2026-03-02T00:00:00+01:00", "2026-02-03 04:05:06": "2026-02-03T04:05:06+01:00",
		"2026-02-03 04:05:06.25": "2026-02-03T04:05:06.25+01:00", "2026-02-03 04:05:06 UTC": "2026-02-03T04:05:06Z",
		"2026-02-03 04:05": "2026-02-03T04:05:00+01:00", "2026-02-03": "2026-02-03T00:00:00+01:00",
		"2026-02-03T04:05:06Z": "2026-02-03T04:05:06Z", "04:05": "2026-03-01T04:05:00+01:00", "04:05:06": "2026-03-01T04:05:06+01:00",
		"-90s": "2026-03-01T12:28:30+01:00", "-1h 30min": "2026-03-01T11:00:00+01:00", "2 days ago": "2026-02-27T12:30:00+01:00",
		"-1h30min": "2026-03-01T11:00:00+01:00", "-5": "2026-03-01T12:29:55+01:00", "+1.5h": "2026-03-01T14:00:00+01:00", "-1w": "2026-02-22T12:30:00+01:00",
	} {
		got, err := ParseTime(text, now)
		if err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %s %v, want %s", text, got.Format(time.RFC3339Nano), err, want)
		}
	}
	got, err := ParseTime("@1700000000.25", now)
	if err != nil || got.UnixMicro() != 1700000000250000 {
		t.Error(got, err)
	}
	for _, text := range []string{"", "soon", "-", "-h", "-1 fortnight", "@", "@1.1234567", "@-5", "@99999999999999999", "2026-13-01", "1 ago 2", "-1..5s", "-99999999999y"} {
		if got, err := ParseTime(text, now); err == nil {
			t.Errorf("%q is taken as %v", text, got)
		}
	}
}

func TestParsePriority(t *testing.T) {
	got := map[string]string{}
	for _, s := range []string{"err", "7", "err..info", "6..3", "emerg", "", "8", "err..", "bad"} {
		p, err := fleet.ParsePriority(s)
		if err != nil {
			p = "invalid"
		}
		got[s] = p
	}
	want := map[string]string{"err": "0..3", "7": "0..7", "err..info": "3..6", "6..3": "3..6", "emerg": "0..0", "": "invalid", "8": "invalid", "err..": "invalid", "bad": "invalid"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzReadEntries(f *testing.F) {
	f.Add(`{"__REALTIME_TIMESTAMP":"1","MESSAGE":"x"}` + "\n" + `{"error":{"code":1,"message":"m"}}` + "\n")
	f.Add("{}\n\n[")
	f.Fuzz(func(t *testing.T, s string) {
		print, err := NewLogPrinter("export", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		_ = readEntries(strings.NewReader(s), func(e fleet.LogEntry) error { print(e); n++; return nil }, func(error) { n++ })
		if n > strings.Count(s, "\n")+1 {
			t.Error(n)
		}
	})
}
