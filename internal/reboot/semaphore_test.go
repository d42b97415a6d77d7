package reboot

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func noon() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

// cluster makes machines from words: "m1" is up, "m2!" down, "m3*" votes, "m4=r1" is in domain r1.
func cluster(words string) Cluster {
	c := Cluster{At: noon(), Machines: map[string]Machine{}}
	for w := range strings.FieldsSeq(words) {
		id, domain, _ := strings.Cut(w, "=")
		name := strings.TrimRight(id, "!*")
		c.Machines[name] = Machine{Domain: domain, Up: !strings.Contains(id, "!"), Voter: strings.Contains(id, "*")}
	}
	return c
}

func holders(ids ...string) []Holder {
	var out []Holder
	for _, id := range ids {
		id, domain, _ := strings.Cut(id, "=")
		out = append(out, Holder{ID: id, Boot: id + "-1", Domain: domain, Since: noon().Add(-time.Hour)})
	}
	return out
}

func TestTake(t *testing.T) {
	for _, tt := range []struct {
		name     string
		sem      Semaphore
		cluster  string
		ask      string
		homeless []string
		want     string
	}{
		{"the first of all", Semaphore{}, "m1* m2* m3*", "m1", nil, "yes"},
		{"one at a time unless told", Semaphore{Holders: holders("m2")}, "m1* m2* m3*", "m1", nil, "semaphore_full: 1 of 1 permits are taken, by m2"},
		{"who has one gets it again", Semaphore{Holders: holders("m1")}, "m1* m2* m3*", "m1", nil, "yes"},
		{"two at a time", Semaphore{Max: 2, Holders: holders("m4")}, "m1 m2 m3 m4", "m1", nil, "yes"},
		{"percent of the machines, rounded down", Semaphore{Percent: 40, Holders: holders("m4")}, "m1 m2 m3 m4", "m1", nil, "semaphore_full: 1 of 1 permits are taken, by m4"},
		{"percent of the machines", Semaphore{Percent: 50, Holders: holders("m4")}, "m1 m2 m3 m4", "m1", nil, "yes"},
		{"a small percentage is one machine", Semaphore{Percent: 1}, "m1 m2 m3 m4", "m1", nil, "yes"},
		{"a machine that is down counts", Semaphore{}, "m1 m2! m3", "m1", nil, "machines_down: m2 down; with 1 permits no more may go"},
		{"with room for the one that is down", Semaphore{Max: 2}, "m1 m2! m3", "m1", nil, "yes"},
		{"a holder that is down counts once", Semaphore{Max: 2, Holders: holders("m2")}, "m1 m2! m3", "m1", nil, "yes"},
		{"the same rack", Semaphore{Max: 3, Domain: "rack", Holders: holders("m2=r1")}, "m1=r1 m2=r1 m3=r2", "m1", nil, "domain_busy: m2 reboots in the same rack r1"},
		{"another rack", Semaphore{Max: 3, Domain: "rack", Holders: holders("m2=r1")}, "m1=r1 m2=r1 m3=r2", "m3", nil, "yes"},
		{"no rack", Semaphore{Max: 3, Domain: "rack", Holders: holders("m2=r1")}, "m1 m2=r1 m3=r2", "m1", nil, "yes"},
		{"the second of three voters", Semaphore{Max: 3, Holders: holders("m2")}, "m1* m2* m3* m4", "m1", nil, "quorum: 1 of 3 voters would be left, 2 are needed"},
		{"a voter is down", Semaphore{Max: 3}, "m1* m2*! m3* m4", "m1", nil, "quorum: 1 of 3 voters would be left, 2 are needed"},
		{"two of five voters", Semaphore{Max: 3, Holders: holders("m2")}, "m1* m2* m3* m4* m5*", "m1", nil, "yes"},
		{"who does not vote", Semaphore{Max: 3, Holders: holders("m2")}, "m1* m2* m3* m4", "m4", nil, "yes"},
		{"alone", Semaphore{}, "m1*", "m1", nil, "yes"},
		{"the only voter of two", Semaphore{}, "m1* m2", "m1", nil, "quorum: the store has 1 voters and stands still while m1 reboots: add machines or set cluster_size to 3, or allow it with fleetctl reboot set-outage yes"},
		{"the only voter of two, with consent", Semaphore{Outage: true}, "m1* m2", "m1", nil, "yes"},
		{"a unit has nowhere to go", Semaphore{}, "m1 m2 m3", "m1", []string{"db.service (m2: conflicts with db2.service)"}, "homeless_units: no other machine takes db.service (m2: conflicts with db2.service): make room, or allow it with fleetctl reboot set-homeless yes"},
		{"a unit has nowhere to go, with consent", Semaphore{Homeless: true}, "m1 m2 m3", "m1", []string{"db.service"}, "yes"},
		{"the only failover of an exclusive unit", Semaphore{}, "m1 m2 m3", "m1", []string{"elsewhere: db.service on m2 (m3: conflicts with db2.service)"}, "exclusive_failover: it is the only failover of db.service on m2 (m3: conflicts with db2.service): make room on another machine, or allow it with fleetctl reboot set-homeless yes"},
		{"the only failover of an exclusive unit, with consent", Semaphore{Homeless: true}, "m1 m2 m3", "m1", []string{"elsewhere: db.service on m2"}, "yes"},
		{"a unit of a host that is alone", Semaphore{}, "m1*", "m1", []string{"db.service"}, "yes"},
		{"a stranger is only counted", Semaphore{}, "m1* m2* m3*", "zincati", nil, "yes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := cluster(tt.cluster)
			c.Homeless = tt.homeless
			if rest, ok := strings.CutPrefix(strings.Join(tt.homeless, ","), "elsewhere: "); ok {
				c.Homeless, c.Stranded = nil, []string{rest}
			}
			before := fmt.Sprint(tt.sem)
			s, r := tt.sem.Take(Holder{ID: tt.ask, Boot: tt.ask + "-1"}, c)
			got := "yes"
			if r != nil {
				got = r.Kind + ": " + r.Reason
			} else if s.find(tt.ask) < 0 {
				got = "yes, and no holder"
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if fmt.Sprint(tt.sem) != before {
				t.Error("the value it was asked of has changed")
			}
		})
	}
}

func TestGivingBack(t *testing.T) {
	s := Semaphore{Holders: append(holders("m1"), Holder{ID: "z1"})}
	for _, tt := range []struct {
		name string
		do   func() (Semaphore, error)
		left string
		err  error
	}{
		{"back in another boot", func() (Semaphore, error) { return s.Steady("m1", "m1-2") }, "z1", nil},
		{"says it is back and never left", func() (Semaphore, error) { return s.Steady("m1", "m1-1") }, "m1, z1", ErrSameBoot},
		{"a stranger says our machine is back", func() (Semaphore, error) { return s.Steady("m1", "") }, "m1, z1", ErrSameBoot},
		{"a FleetLock client is back", func() (Semaphore, error) { return s.Steady("z1", "") }, "m1", nil},
		{"had none", func() (Semaphore, error) { return s.Steady("m2", "x") }, "m1, z1", nil},
		{"will not reboot", func() (Semaphore, error) { return s.Abort("m1", "m1-1") }, "z1", nil},
		{"will not reboot and had none", func() (Semaphore, error) { return s.Abort("m2", "m1-1") }, "m1, z1", nil},
		{"taken away", func() (Semaphore, error) { return s.Unlock("m1") }, "z1", nil},
		{"nothing to take away", func() (Semaphore, error) { return s.Unlock("m2") }, "m1, z1", ErrNotHolder},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.do()
			if diff := cmp.Diff(tt.left, got.names()); diff != "" || !errors.Is(err, tt.err) {
				t.Errorf("%v, want %v\n%s", err, tt.err, diff)
			}
		})
	}
	if got, err := s.Abort("m1", "m1-2"); err == nil || len(got.Holders) != 2 {
		t.Error("a machine that has rebooted gave its permit back without the gate")
	}
	again, _ := s.Take(Holder{ID: "m1", Boot: "m1-2"}, cluster("m1 m2"))
	if got, err := again.Steady("m1", "m1-2"); err == nil || len(got.Holders) != 2 {
		t.Error("it asked anew from its second boot and gave the permit back in it")
	}
	same, _ := s.Take(Holder{ID: "m1"}, cluster("m1 m2"))
	if same.Holders[0].Boot != "m1-1" {
		t.Error("a FleetLock client changed our machine's boot ID")
	}
}

func TestLimits(t *testing.T) {
	s := Semaphore{Percent: 10, Holders: holders("m1", "m2")}
	s, err := s.SetMax(1)
	if err != nil || s.Limit(100) != 1 {
		t.Error(s.Limit(100), err)
	}
	if s, err = s.SetPercent(25); err != nil || s.Limit(100) != 25 {
		t.Error(s.Limit(100), err)
	}
	for _, n := range []int{0, -1, 101} {
		if _, err := s.SetPercent(n); err == nil {
			t.Errorf("percent %d was taken", n)
		}
	}
	for _, n := range []int{0, -1} {
		if _, err := s.SetMax(n); err == nil {
			t.Errorf("max %d was taken", n)
		}
	}
}

func TestHolderThatDiedRaisesAnAlarmAndKeepsItsPermit(t *testing.T) {
	s := Semaphore{Holders: holders("m1", "m2", "gone")}
	c := cluster("m1! m2 m3")
	if diff := cmp.Diff(holders("m1"), s.Lost(c, 30*time.Minute)); diff != "" {
		t.Error(diff)
	}
	if lost := s.Lost(c, 2*time.Hour); lost != nil {
		t.Errorf("lost before its time: %v", lost)
	}
	if _, r := s.Take(Holder{ID: "m3", Boot: "b"}, c); r == nil || r.Kind != Full {
		t.Errorf("its permit was given to another: %v", r)
	}
}

// TestRandomClustersNeverLoseWhatTheyMustKeep reboots at random whatever gets a permit.
func TestRandomClustersNeverLoseWhatTheyMustKeep(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		n, voters := 3+r.IntN(8), 3+2*r.IntN(2)
		s := Semaphore{Max: 1 + r.IntN(4), Domain: "rack"}
		if r.IntN(2) == 0 {
			s.Percent = 1 + r.IntN(60)
		}
		c := Cluster{At: noon(), Machines: map[string]Machine{}}
		boot := map[string]int{}
		for i := range n {
			c.Machines[fmt.Sprint("m", i)] = Machine{Domain: fmt.Sprint("r", i%4), Up: true, Voter: i < voters}
		}
		n = len(c.Machines)
		voters = min(voters, n)
		went := 0
		for range 200 {
			id := fmt.Sprint("m", r.IntN(n))
			m := c.Machines[id]
			switch held := s.find(id) >= 0; {
			case held && m.Up && r.IntN(2) == 0:
				m.Up = false
				boot[id]++
			case held && !m.Up:
				m.Up = true
			case held:
				s, _ = s.Steady(id, fmt.Sprint(boot[id]))
			default:
				next, refusal := s.Take(Holder{ID: id, Boot: fmt.Sprint(boot[id])}, c)
				if s = next; refusal == nil {
					went++
				}
			}
			c.Machines[id] = m
			up, domains := 0, map[string]int{}
			for id, m := range c.Machines {
				if m.Voter && m.Up && s.find(id) < 0 {
					up++
				}
				if s.find(id) >= 0 {
					domains[m.Domain]++
				}
			}
			if len(s.Holders) > s.Limit(n) || up < voters/2+1 {
				t.Fatalf("seed %d: %d holders of %d, %d of %d voters", seed, len(s.Holders), s.Limit(n), up, voters)
			}
			for d, k := range domains {
				if k > 1 {
					t.Fatalf("seed %d: %d in domain %s", seed, k, d)
				}
			}
		}
		for id, m := range c.Machines {
			m.Up = true
			c.Machines[id] = m
			s, _ = s.Steady(id, "after all")
		}
		if _, refusal := s.Take(Holder{ID: "m0", Boot: "x"}, c); refusal != nil || went == 0 {
			t.Errorf("seed %d: %d permits, and when all are back: %v", seed, went, refusal)
		}
	}
}

func TestWindows(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		windows, at, want string
	}{
		{"", "2026-11-21 12:00", "open"},
		{"22:00 +4h", "2026-11-21 23:59", "open until 2026-11-22 02:00"},
		{"22:00 +4h", "2026-11-22 01:00", "open until 2026-11-22 02:00"},
		{"22:00 +4h", "2026-11-22 02:00", "open until 2026-11-22 02:00"}, // the end is inside, as locksmith has it
		{"22:00 +4h", "2026-11-22 02:01", "opens 2026-11-22 22:00"},
		{"22:00 +4h", "2026-11-22 21:59", "opens 2026-11-22 22:00"},
		{"Thu 04:00 +1h", "2026-11-21 12:00", "opens 2026-11-26 04:00"},
		{"thursday 04:00 +1h", "2026-11-26 04:30", "open until 2026-11-26 05:00"},
		{"Sat 12:00 +48h", "2026-11-23 11:00", "open until 2026-11-23 12:00"},
		{"Mon-Fri 01:00 +1h", "2026-11-21 01:30", "opens 2026-11-23 01:00"},
		{"Fri-Mon 01:00 +1h", "2026-11-22 01:30", "open until 2026-11-22 02:00"},
		{"Mon,Sat 01:00 +1h", "2026-11-21 01:30", "open until 2026-11-21 02:00"},
		{"22:00 +1h;23:00 +2h", "2026-11-21 23:00", "open until 2026-11-22 01:00"},
		{"01:00 +1h;Wed 20:00 +1h", "2026-11-25 19:00", "opens 2026-11-25 20:00"},
		{"22:00 +1h America/New_York", "2026-11-21 23:00", "opens 2026-11-22 04:00"}, // 22:00 there is 04:00 in Berlin
		{"02:30 +1h", "2026-03-29 03:45", "open until 2026-03-29 04:30"},             // 02:30 does not exist that night
	} {
		t.Run(tt.windows+" at "+tt.at, func(t *testing.T) {
			var ws Windows
			for s := range strings.SplitSeq(tt.windows, ";") {
				if s == "" {
					continue
				}
				w, err := ParseWindow(s)
				if err != nil {
					t.Fatal(err)
				}
				if w.Zone == time.Local {
					w.Zone = berlin
				}
				ws = append(ws, w)
			}
			at, err := time.ParseInLocation("2006-01-02 15:04", tt.at, berlin)
			if err != nil {
				t.Fatal(err)
			}
			const layout = "2006-01-02 15:04"
			got := "open"
			if until, open := ws.Open(at); !open {
				got = "opens " + ws.Next(at).In(berlin).Format(layout)
			} else if !until.IsZero() {
				got += " until " + until.In(berlin).Format(layout)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if _, open := ws.Open(at); open != (ws.Check(at, 0) == nil) {
				t.Error("Check says something else")
			}
		})
	}
}

func TestWindowThatClosesTooSoonIsClosed(t *testing.T) {
	w, err := ParseWindow("12:00 +1h UTC")
	if err != nil {
		t.Fatal(err)
	}
	if r := (Windows{w}).Check(noon().Add(50*time.Minute), 20*time.Minute); r == nil || r.Reason != "the reboot window opens Sun 2026-11-22 12:00 UTC" {
		t.Error(r)
	}
	if r := (Windows{w}).Check(noon().Add(30*time.Minute), 20*time.Minute); r != nil {
		t.Error(r)
	}
}

func TestBadWindows(t *testing.T) {
	for _, s := range []string{"", "22:00", "22:00 4h", "25:00 +1h", "Foo 22:00 +1h", "T 22:00 +1h", "22:00 +24h", "Mon 22:00 +168h", "22:00 +-1h",
		"22:00 +1h Nowhere/Land", "22:00 +1h UTC more", "Mon-Foo 22:00 +1h"} {
		if _, err := ParseWindow(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func FuzzParseWindow(f *testing.F) {
	f.Add("Mon-Fri 22:00 +4h Europe/Berlin")
	f.Add("22:00 +4h")
	f.Fuzz(func(t *testing.T, s string) {
		w, err := ParseWindow(s)
		if err != nil {
			return
		}
		ws := Windows{w}
		next := ws.Next(noon())
		if _, open := ws.Open(next); next.IsZero() || !open {
			t.Errorf("%q: not open at its next opening %v", s, next)
		}
	})
}

func TestHolderAsksAgainBeforeItGoes(t *testing.T) {
	s := Semaphore{Holders: holders("m1")}
	for _, tt := range []struct{ name, cluster, ask, want string }{
		{"nothing has changed", "m1* m2* m3*", "m1", ""},
		{"a voter died while the units left", "m1* m2*! m3* m4", "m1", "machines_down: m2 down; with 1 permits no more may go"},
		{"the permit was taken away", "m1* m2* m3*", "m2", "permit_gone: the permit was taken away"},
	} {
		c := cluster(tt.cluster)
		c.Homeless = []string{"db.service"}
		got := ""
		if r := s.Still(tt.ask, c); r != nil {
			got = r.Kind + ": " + r.Reason
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
	if s.names() != "m1" {
		t.Error("asking has changed the value")
	}
}

func TestOperatorsLock(t *testing.T) {
	s := Semaphore{Holders: holders("m2")}.Lock(Holder{ID: "m1", Reason: "by hand"}, noon()).Lock(Holder{ID: "m2", Reason: "by hand"}, noon())
	if s.names() != "m1, m2" || s.Holders[0].Since != noon() || s.Holders[1].Reason == "by hand" {
		t.Errorf("%+v", s)
	}
}
