package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// TestMain is journalctl when the test runs itself as such: it does what the text of --unit says, and so needs no journal. The real
// one is run by functional/host.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "--output=json" {
		os.Exit(fake(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func fake(args []string) int {
	line := func(n int, message string) {
		fmt.Printf(`{"__REALTIME_TIMESTAMP":"%d","__CURSOR":"s=%d","MESSAGE":%q}`+"\n", n, n, message)
	}
	switch args[len(args)-1] {
	case "--unit=args.service", "--follow":
		line(1, strings.Join(args, " "))
		if args[len(args)-1] == "--follow" {
			select {}
		}
	case "--unit=fails.service":
		line(1, "first")
		fmt.Fprintln(os.Stderr, "Failed to seek to cursor: Invalid argument")
		return 1
	case "--unit=long.service":
		line(1, "before")
		line(2, strings.Repeat("x", maxEntry+1))
		fmt.Println("no JSON")
		line(3, "after")
	}
	return 0
}

func read(ctx context.Context, t *testing.T, q fleet.LogQuery, each func(fleet.LogEntry) error) error {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return New(self, "1f2e").Read(ctx, q, each)
}

func ask(name unit.Name) fleet.LogQuery {
	return fleet.LogQuery{Units: []unit.Name{name}, Lines: fleet.AllLines, Whole: true}
}

func TestEntriesThatAreTooLongAreToldOf(t *testing.T) {
	var got bytes.Buffer
	if err := read(t.Context(), t, ask("long.service"), func(e fleet.LogEntry) error {
		fmt.Fprintln(&got, string(e.JSON))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := `{"__REALTIME_TIMESTAMP":"1","__CURSOR":"s=1","MESSAGE":"before"}
{"__REALTIME_TIMESTAMP":"1","__CURSOR":"s=1","SYSLOG_IDENTIFIER":"fleetd","PRIORITY":"4","MESSAGE":"an entry of more than 1 MiB is left out here"}
{"__REALTIME_TIMESTAMP":"1","__CURSOR":"s=1","SYSLOG_IDENTIFIER":"fleetd","PRIORITY":"4","MESSAGE":"an entry that cannot be read is left out here"}
{"__REALTIME_TIMESTAMP":"3","__CURSOR":"s=3","MESSAGE":"after"}
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestFailureSaysWhatJournalctlSaid(t *testing.T) {
	n := 0
	err := read(t.Context(), t, ask("fails.service"), func(fleet.LogEntry) error { n++; return nil })
	if n != 1 || err == nil || err.Error() != "read the journal: journalctl: Failed to seek to cursor: Invalid argument" {
		t.Errorf("%d entries, %v", n, err)
	}
}

func TestMissingJournalctl(t *testing.T) {
	if err := New("/nonexistent/journalctl", "1f2e").Read(t.Context(), ask("a.service"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// A follower that goes ends the process, and Read with it.
func TestFollowEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := ask("a.service")
	q.Follow = true
	if err := read(ctx, t, q, func(fleet.LogEntry) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	gone := errors.New("gone")
	if err := read(t.Context(), t, q, func(fleet.LogEntry) error { return gone }); !errors.Is(err, gone) {
		t.Error(err)
	}
}

func TestArguments(t *testing.T) {
	base := "--output=json --quiet --no-pager --all"
	for name, row := range map[string]struct {
		q    fleet.LogQuery
		want string
	}{
		"last lines": {fleet.LogQuery{Lines: 10, Whole: true}, "--lines=10"},
		"everything": {fleet.LogQuery{Lines: fleet.AllLines, Whole: true}, ""},
		"everything and what comes": {fleet.LogQuery{Lines: fleet.AllLines, Whole: true, Follow: true},
			"--no-tail _MACHINE_ID=1f2e --merge --follow"},
		"only what comes": {fleet.LogQuery{Lines: 0, Whole: true, Follow: true}, "--lines=0 _MACHINE_ID=1f2e --merge --follow"},
		"since, priority, cursor": {fleet.LogQuery{Lines: fleet.AllLines, Whole: true, Since: time.UnixMicro(1700000000000025), Priority: "0..3", After: "s=1"},
			"--since=@1700000000.000025 --priority=0..3 --after-cursor=s=1"},
		"only what is printed": {fleet.LogQuery{Lines: 1}, "--output-fields=" + printed + " --lines=1"},
	} {
		row.q.Units = []unit.Name{"a.service", "b@1.service"}
		want := strings.TrimSpace(base + " --unit=a.service --unit=b@1.service " + row.want)
		if got := strings.Join(New("journalctl", "1f2e").args(row.q), " "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

// Nothing that was not checked reaches journalctl.
func TestUncheckedTextIsRefused(t *testing.T) {
	for _, q := range []fleet.LogQuery{
		{},
		{Units: []unit.Name{"*.service"}},
		{Units: []unit.Name{"--file=/etc/shadow.service"}},
		{Units: []unit.Name{"a.service"}, Priority: "0..3 --vacuum-size=1"},
		{Units: []unit.Name{"a.service"}, Priority: "err"},
		{Units: []unit.Name{"a.service"}, After: "s=1\n"},
		{Units: []unit.Name{"a.service"}, After: "--rotate"},
		{Units: []unit.Name{"a.service"}, Lines: -2},
	} {
		if err := New("/bin/false", "1f2e").Read(t.Context(), q, nil); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}
