package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// journals are the journals of a fixture's machines: what stands in them, and what follows from a channel.
type journals struct {
	mu     sync.Mutex // guards the rest
	past   map[fleet.MachineID][]fleet.LogEntry
	coming map[fleet.MachineID]chan fleet.LogEntry
	broken map[fleet.MachineID]error
	asked  []string
}

func newJournals() *journals {
	return &journals{past: map[fleet.MachineID][]fleet.LogEntry{}, coming: map[fleet.MachineID]chan fleet.LogEntry{}, broken: map[fleet.MachineID]error{}}
}

func entry(at int64, of unit.Name, message string) fleet.LogEntry {
	e, err := fleet.ParseLogEntry(fmt.Appendf(nil, `{"__REALTIME_TIMESTAMP":"%d","__CURSOR":"s=%x","_SYSTEMD_UNIT":"%s","SYSLOG_IDENTIFIER":"web","_PID":"7","_HOSTNAME":"h","MESSAGE":"%s"}`,
		at*1e6, at, of, message))
	if err != nil {
		panic(err)
	}
	return e
}

func (j *journals) read(ctx context.Context, m fleet.Machine, q fleet.LogQuery, each func(fleet.LogEntry) error) error {
	j.mu.Lock()
	list, coming, broken := j.past[m.ID], j.coming[m.ID], j.broken[m.ID]
	j.asked = append(j.asked, fmt.Sprintf("%s %v lines=%d after=%s follow=%v", m.ID.Short(), q.Units, q.Lines, q.After, q.Follow))
	j.mu.Unlock()
	if broken != nil {
		return broken
	}
	list = slices.DeleteFunc(slices.Clone(list), func(e fleet.LogEntry) bool {
		return !slices.ContainsFunc(q.Units, func(n unit.Name) bool { return strings.Contains(string(e.JSON), `"`+string(n)+`"`) })
	})
	if !q.Follow {
		if q.Lines >= 0 {
			list = list[max(0, len(list)-q.Lines):]
		}
		for _, e := range list {
			if err := each(e); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-coming:
			if !ok {
				return errors.New("its fleetd was stopped")
			}
			if err := each(e); err != nil {
				return err
			}
		}
	}
}

// logFixture has two units on two machines, with logs.
func logFixture(t *testing.T) (*fixture, *journals) {
	f, j := newFixture(t), newJournals()
	f.handler = NewHandler(Config{Registry: f.reg, Version: "1.2.3", Journal: j.read,
		Explain: func(fleet.Snapshot, ...unit.Name) []fleet.Explanation { return nil }})
	f.machine(m1, "10.0.0.1", nil)
	f.machine(m2, "10.0.0.2", nil)
	f.submit(fleet.Launched, "a.service", "b.service")
	f.submit(fleet.Inactive, "idle.service")
	f.place("a.service", m1)
	f.place("b.service", m2)
	f.report("b.service", m2, running())
	j.past[m1] = []fleet.LogEntry{entry(1, "a.service", "one"), entry(3, "a.service", "three")}
	j.past[m2] = []fleet.LogEntry{entry(2, "b.service", "two"), entry(4, "b.service", "four")}
	j.coming[m1], j.coming[m2] = make(chan fleet.LogEntry), make(chan fleet.LogEntry)
	return f, j
}

func TestJournalMergesMachinesByTime(t *testing.T) {
	f, j := logFixture(t)
	for _, row := range []struct{ query, want string }{
		{"unit=a.service&unit=b.service&output=cat", "one\ntwo\nthree\nfour\n"},
		{"unit=a.service&unit=b.service&output=cat&lines=all", "one\ntwo\nthree\nfour\n"},
		{"unit=a.service&unit=b.service&output=cat&lines=3", "two\nthree\nfour\n"},
		{"unit=a.service&output=cat&lines=1", "three\n"},
		{"unit=a.service&output=cat&lines=0", ""},
		{"unit=b.service&machine=" + string(m2) + "&output=cat&lines=1", "four\n"},
		{"unit=a.service&lines=1", string(entry(3, "a.service", "three").JSON) + "\n"},
		{"unit=a.service&output=short-iso", "1970-01-01T00:00:01+0000 h web[7]: one\n1970-01-01T00:00:03+0000 h web[7]: three\n"},
	} {
		if w := f.do("GET", "/fleet/v1/journal?"+row.query, ""); w.Code != 200 || w.Body.String() != row.want {
			t.Errorf("%s: %d %q, want %q", row.query, w.Code, w.Body, row.want)
		}
	}
	j.asked = nil
	f.do("GET", "/fleet/v1/journal?unit=a.service&unit=b.service&unit=a.service", "")
	slices.Sort(j.asked)
	want := []string{"1f2e3d4c [a.service] lines=10 after= follow=false", "2f2e3d4c [b.service] lines=10 after= follow=false"}
	if diff := cmp.Diff(want, j.asked); diff != "" {
		t.Error(diff)
	}
}

func TestJournalTellsOfAMachineThatCannotBeAsked(t *testing.T) {
	f, j := logFixture(t)
	j.broken[m1] = errors.New("its fleetd does not answer")
	w := f.do("GET", "/fleet/v1/journal?unit=a.service&unit=b.service&lines=1", "")
	want := string(entry(4, "b.service", "four").JSON) + "\n" + `{"error":{"code":500,"message":"machine 1f2e3d4c.../10.0.0.1: its fleetd does not answer"}}` + "\n"
	if w.Body.String() != want {
		t.Errorf("got %s want %s", w.Body, want)
	}
	w = f.do("GET", "/fleet/v1/journal?unit=a.service&output=short", "")
	if w.Body.String() != "-- machine 1f2e3d4c.../10.0.0.1: its fleetd does not answer --\n" {
		t.Errorf("%q", w.Body)
	}
}

func TestJournalRefuses(t *testing.T) {
	f, _ := logFixture(t)
	for query, want := range map[string]struct {
		code int
		text string
	}{
		"":                              {400, "name at least one unit"},
		"unit=nope.service":             {404, "unit nope.service does not exist"},
		"unit=--file%3Dx":               {400, "unit name"},
		"unit=idle.service":             {409, "idle.service on no machine"},
		"unit=a.service&machine=ffff":   {404, "is not registered"},
		"unit=a.service&lines=-1":       {400, "give a number from 0"},
		"unit=a.service&lines=1000000":  {400, "give a number from 0"},
		"unit=a.service&since=soon":     {400, "use a time"},
		"unit=a.service&priority=grave": {400, "use one of emerg"},
		"unit=a.service&output=loud":    {400, "use one of short"},
		"unit=a.service&follow=perhaps": {400, "give true or false"},
		"unit=a.service&after=s%3D1":    {400, "use since"},
		"unit=a.service&after=--x%0A":   {400, "cursor"},
		manyUnits(1001):                 {400, "at most 1000"},
	} {
		w := f.do("GET", "/fleet/v1/journal?"+query, "")
		if w.Code != want.code || !strings.Contains(w.Body.String(), want.text) {
			t.Errorf("%.40s: %d %s, want %d %s", query, w.Code, w.Body, want.code, want.text)
		}
	}
	f.want("POST", "/fleet/v1/journal?unit=a.service", "", 405, `{"error":{"code":405,"message":"POST is not possible here"}}`)
}

// A unit that no machine has now is looked for on all: one of them had it.
func TestJournalOfAUnitThatIsNowhere(t *testing.T) {
	f, j := logFixture(t)
	j.past[m2] = append(j.past[m2], entry(5, "idle.service", "bye"))
	for query, want := range map[string]string{
		"unit=idle.service&output=cat":                        "bye\n",
		"unit=idle.service&unit=a.service&output=cat":         "one\nthree\nbye\n",
		"unit=idle.service&output=cat&machine=" + string(m2):  "bye\n",
		"unit=idle.service&output=cat&machine=" + string(m1):  "",
		"unit=idle.service&unit=a.service&output=cat&lines=1": "bye\n",
	} {
		if w := f.do("GET", "/fleet/v1/journal?"+query, ""); w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %q, want %q", query, w.Code, w.Body, want)
		}
	}
}

// Without the store a host still has its own units' logs, and says that there may be more.
func TestJournalWithoutTheStore(t *testing.T) {
	f, j := logFixture(t)
	var notYet error
	f.handler = NewHandler(Config{Registry: f.reg, Version: "1.2.3", Journal: j.read, Ready: func() error { return notYet },
		Own: func(names []unit.Name) (fleet.Machine, []unit.Name) {
			return fleet.Machine{ID: m1}, slices.DeleteFunc(slices.Clone(names), func(n unit.Name) bool { return n != "a.service" })
		},
	})
	notYet = errNotYet
	for query, want := range map[string]struct {
		code int
		text string
	}{
		"unit=a.service&output=cat":                        {200, "one\nthree\n-- only the log of machine 1f2e3d4c: fleetd is not ready: this machine is not registered: etcd has no leader --\n"},
		"unit=a.service&unit=b.service&output=cat&lines=1": {200, "three\n-- only the log"},
		"unit=a.service&output=cat&machine=" + string(m1):  {200, "one\nthree\n-- only the log"},
		"unit=a.service&output=cat&machine=" + string(m2):  {503, "fleetd is not ready: this machine is not registered"},
		"unit=b.service":             {503, "fleetd is not ready"},
		"unit=sshd.service":          {503, "fleetd is not ready"},
		"unit=a.service&output=loud": {400, "use one of short"},
	} {
		if w := f.do("GET", "/fleet/v1/journal?"+query, ""); w.Code != want.code || !strings.Contains(w.Body.String(), want.text) {
			t.Errorf("%s: %d %q, want %d %q", query, w.Code, w.Body, want.code, want.text)
		}
	}
	notYet = nil
	if w := f.do("GET", "/fleet/v1/journal?unit=b.service&output=cat", ""); w.Body.String() != "two\nfour\n" {
		t.Errorf("with the store again: %q", w.Body)
	}
}

// The stream goes on with what comes, finds a unit on the machine it moves to, and ends with its client.
func TestJournalFollows(t *testing.T) {
	f, j := logFixture(t)
	c := f.serve()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string)
	done := make(chan error)
	go func() {
		print, _ := NewLogPrinter("cat", time.UTC)
		done <- c.Journal(ctx, fleet.LogQuery{Units: []unit.Name{"a.service"}, Lines: 1, Follow: true}, nil,
			func(e fleet.LogEntry) error { got <- string(print(e)); return nil },
			func(err error) { got <- err.Error() })
	}()
	want := func(text string) {
		t.Helper()
		if s := <-got; s != text {
			t.Errorf("got %q, want %q", s, text)
		}
	}
	want("three\n")
	j.coming[m1] <- entry(5, "a.service", "five")
	want("five\n")
	f.report("a.service", m2, running())
	j.coming[m2] <- entry(6, "a.service", "six on two")
	want("six on two\n")
	// A machine that goes is told of, and asked again from where it was.
	close(j.coming[m1])
	want("machine 1f2e3d4c.../10.0.0.1: its fleetd was stopped")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if diff := cmp.Diff([]string{
		"1f2e3d4c [a.service] lines=1 after= follow=false", "1f2e3d4c [a.service] lines=-1 after=s=3 follow=true",
		"2f2e3d4c [a.service] lines=-1 after= follow=true",
	}, j.asked); diff != "" {
		t.Error(diff)
	}
}

func TestFollowBeginsWhereTheHistoryEnded(t *testing.T) {
	begin := time.Unix(100, 0)
	for name, row := range map[string]struct {
		p     place
		lines int
		first bool
		want  fleet.LogQuery
	}{
		"after the last entry":                 {place{after: "s=1"}, 10, true, fleet.LogQuery{Lines: -1, After: "s=1"}},
		"an empty history: all that has come":  {place{}, 10, true, fleet.LogQuery{Lines: -1}},
		"no history wanted: from now on":       {place{}, 0, true, fleet.LogQuery{}},
		"history unknown: since we were asked": {place{failed: true}, 10, true, fleet.LogQuery{Lines: -1, Since: begin}},
		"came later: since we were asked":      {place{}, 0, false, fleet.LogQuery{Lines: -1, Since: begin}},
		"lost: after the last entry":           {place{after: "s=2"}, 0, false, fleet.LogQuery{Lines: -1, After: "s=2"}},
	} {
		f := &follower{logs: &logs{q: fleet.LogQuery{Lines: row.lines}, begin: begin}}
		if diff := cmp.Diff(row.want, f.from(&row.p, row.first)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A machine that was gone is followed again when it is back, from the last entry known.
func TestFollowComesBack(t *testing.T) {
	f, j := logFixture(t)
	out, err := newLogWriter(httptest.NewRecorder(), "cat")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := f.snapshot()
	m := gone.Machines[m1]
	delete(gone.Machines, m1)
	fo := &follower{logs: &logs{view: newView(gone), read: j.read, q: fleet.LogQuery{Units: []unit.Name{"a.service"}, Follow: true}, out: out},
		in: make(chan live, 8), followed: map[fleet.Key]bool{{Machine: m1, Unit: "a.service"}: true}, told: map[fleet.MachineID]string{}}
	p := &place{machine: m1, units: []unit.Name{"a.service"}, after: "s=9"}
	if err := fo.take(ctx, live{from: p, again: true}); err != nil || len(fo.away) != 1 {
		t.Fatal(err, fo.away)
	}
	fo.moved(ctx, nil)
	fo.moved(ctx, []fleet.Change{{Machine: &m}})
	j.coming[m1] <- entry(10, "a.service", "back")
	if item := <-fo.in; item.from != p || item.entry == nil || len(fo.away) != 0 {
		t.Errorf("%+v", item)
	}
	cancel()
	fo.tasks.Wait()
	if diff := cmp.Diff([]string{"1f2e3d4c [a.service] lines=-1 after=s=9 follow=true"}, j.asked); diff != "" {
		t.Error(diff)
	}
}

func TestMergeIsASortedUnion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sources := rapid.SliceOfN(rapid.SliceOfN(rapid.Int64Range(0, 50), 0, 20), 0, 5).Draw(t, "sources")
		var all, got []int64
		for _, s := range sources {
			slices.Sort(s)
			all = append(all, s...)
		}
		slices.Sort(all)
		failed, err := merge(context.Background(), len(sources), func(_ context.Context, i int, each func(fleet.LogEntry) error) error {
			for _, at := range sources[i] {
				if err := each(fleet.LogEntry{At: time.Unix(at, 0)}); err != nil {
					return err
				}
			}
			return fmt.Errorf("source %d", i)
		}, func(_ int, e fleet.LogEntry) error { got = append(got, e.At.Unix()); return nil })
		if err != nil || !slices.Equal(all, got) {
			t.Fatalf("%v: %v, want %v", err, got, all)
		}
		for i, e := range failed {
			if e.Error() != fmt.Sprintf("source %d", i) {
				t.Fatal(failed)
			}
		}
	})
}

func TestLastEntriesAreBounded(t *testing.T) {
	l := &lastEntries{n: 3}
	for i := range 5 {
		l.add(fleet.LogEntry{JSON: make([]byte, i)})
	}
	if len(l.list) != 3 || l.size != 2+3+4 {
		t.Error(len(l.list), l.size)
	}
	l.add(fleet.LogEntry{JSON: make([]byte, maxTail+1)})
	if len(l.list) != 1 {
		t.Error(len(l.list))
	}
}

// hostFixture is one fleetd as another host sees it.
func hostFixture(t *testing.T, read func(context.Context, fleet.LogQuery, func(fleet.LogEntry) error) error) (*HostClient, netip.AddrPort) {
	srv := httptest.NewServer(NewHostHandler(HostConfig{
		Version: "1.2.3", Journal: read,
		Unknown: func(_ context.Context, names []unit.Name) (list []unit.Name, _ error) {
			for _, n := range names {
				if n != "a.service" {
					list = append(list, n)
				}
			}
			return list, nil
		},
	}))
	c := NewHostClient(nil)
	t.Cleanup(func() { c.Close(); srv.Close() })
	return c, netip.MustParseAddrPort(srv.Listener.Addr().String())
}

func TestHostsReadEachOthersJournal(t *testing.T) {
	want := fleet.LogQuery{Units: []unit.Name{"a.service"}, Lines: 7, Since: time.UnixMicro(1700000000000025), Priority: "0..3", After: "s=1f;i=2", Follow: true, Whole: true}
	c, addr := hostFixture(t, func(_ context.Context, q fleet.LogQuery, each func(fleet.LogEntry) error) error {
		if diff := cmp.Diff(want, q); diff != "" {
			t.Error(diff)
		}
		if err := each(entry(1, "a.service", "one")); err != nil {
			return err
		}
		return errors.New("read the journal: disk gone")
	})
	var got []fleet.LogEntry
	err := c.Journal(t.Context(), addr, want, func(e fleet.LogEntry) error { got = append(got, e); return nil })
	if err == nil || err.Error() != "read the journal: disk gone" || len(got) != 1 || string(got[0].JSON) != string(entry(1, "a.service", "one").JSON) {
		t.Errorf("%v, %+v", err, got)
	}
}

func TestHostsShowOnlyUnitsOfTheCluster(t *testing.T) {
	c, addr := hostFixture(t, nil)
	err := c.Journal(t.Context(), addr, fleet.LogQuery{Units: []unit.Name{"a.service", "sshd.service"}}, nil)
	if !errors.Is(err, fleet.ErrNotFound) || err.Error() != "[sshd.service]: no unit of this cluster" {
		t.Error(err)
	}
	for _, path := range []string{"/fleet/v1/units", "/fleet/v1/journal?unit=a.service", "/metrics", "/"} {
		resp, err := http.Get("http://" + addr.String() + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 404 {
			t.Errorf("%s is answered to other hosts: %s", path, resp.Status)
		}
	}
}

// An answer that is cut off is not a short one.
func TestHostAnswerThatBreaksOff(t *testing.T) {
	c, addr := hostFixture(t, func(_ context.Context, _ fleet.LogQuery, each func(fleet.LogEntry) error) error {
		_ = each(entry(1, "a.service", "one"))
		panic(http.ErrAbortHandler)
	})
	err := c.Journal(t.Context(), addr, fleet.LogQuery{Units: []unit.Name{"a.service"}}, func(fleet.LogEntry) error { return nil })
	if err == nil || !strings.HasPrefix(err.Error(), "its answer breaks off: ") {
		t.Error(err)
	}
}

func TestHostThatIsNotThere(t *testing.T) {
	c := NewHostClient(nil)
	err := c.Journal(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"), fleet.LogQuery{Units: []unit.Name{"a.service"}}, nil)
	if err == nil || err.Error() != "its fleetd does not answer: dial tcp 127.0.0.1:1: connect: connection refused" {
		t.Error(err)
	}
}

func manyUnits(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "unit=a%d.service&", i)
	}
	return b.String()
}
