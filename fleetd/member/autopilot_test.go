package member

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// scene writes a View as words: "1*@a" the voter 1 that leads, in zone a; "2" a voter; "3?" a learner; "-" behind: it never started; "!"
// silent for a moment, "!!" for longer than the grace, "!15s" for that long; "#" its data is wrong; "=name" its name.
// "+s@a" is a host s that stands by, in zone a.
func scene(t *testing.T, words string, size int) View {
	t.Helper()
	v := View{Size: size, Grace: 2 * time.Minute, Answers: true, Surplus: time.Minute}
	for w := range strings.FieldsSeq(words) {
		w, zone, _ := strings.Cut(w, "@")
		if name, ok := strings.CutPrefix(w, "+"); ok {
			v.StandBys = append(v.StandBys, Waiting{Peer: "http://" + name, Name: name, Zone: zone})
			continue
		}
		w, name, _ := strings.Cut(w, "=")
		s := Seat{ID: uint64(w[0] - '0'), Name: cmp.Or(name, "h"+w[:1]), Zone: zone, Alive: true, Started: true}
		s.Leads, s.Learner, s.Started, s.Corrupt = strings.Contains(w, "*"), strings.Contains(w, "?"), !strings.Contains(w, "-"), strings.Contains(w, "#")
		if at := strings.Index(w, "!"); at >= 0 {
			s.Alive, s.Gone = false, time.Second
			if w[at:] == "!!" {
				s.Gone = 3 * time.Minute
			} else if d, err := time.ParseDuration(w[at+1:]); err == nil {
				s.Gone = d
			}
		}
		v.Members = append(v.Members, s)
	}
	return v
}

func (s Step) String() string {
	switch s.Do {
	case Stay:
		return "stay"
	case Add:
		return "add " + strings.TrimPrefix(s.Peer, "http://")
	}
	return fmt.Sprintf("%s %d", s.Do, s.ID)
}

func TestPlan(t *testing.T) {
	for _, row := range []struct {
		name, scene string
		size        int
		want, why   string
	}{
		{"alone, nobody waits", "1*", 3, "stay", ""},
		{"alone, one waits", "1* +a", 3, "add a", "free"},
		{"two hosts stay a voter and a learner", "1* 2?", 3, "stay", ""},
		{"the third makes three voters, first one", "1* 2? 3?", 3, "promote 2", "make 3 voters"},
		{"then the other", "1* 2 3?", 3, "promote 3", "makes 3 voters"},
		{"one of the two died in between: its seat is kept for a while", "1* 2 3?! +d", 3, "stay", ""},
		{"and then given away", "1* 2 3?!! +d", 3, "remove 3", "not answered"},
		{"a learner that does not answer does not count", "1* 2? 3?!", 3, "stay", ""},
		{"nor one that never started", "1* 2? 3?-", 3, "stay", ""},
		{"of three learners the two of other zones", "1*@a 2?@a 3?@b 4?@c", 3, "promote 3", ""},
		{"size one takes nobody", "1* 2? 3? +d", 1, "stay", ""},
		{"three are enough", "1* 2 3 +d", 3, "stay", ""},
		{"size five, three voters and one more: it gets a seat", "1* 2 3 +d", 5, "add d", "free"},
		{"and waits for another", "1* 2 3 4?", 5, "stay", ""},
		{"five", "1* 2 3 4? 5?", 5, "promote 4", "make 5 voters"},

		{"a voter is silent for a moment", "1* 2 3! +d", 3, "stay", ""},
		{"a voter is gone, one waits", "1* 2 3!! +d", 3, "remove 3", "not answered for 3m0s"},
		{"a voter is gone, nobody waits: it may come back", "1* 2 3!!", 3, "stay", ""},
		{"two of five are gone, nobody waits: three survive more than three of five", "1* 2 3 4!! 5!!", 5, "remove 4", ""},
		{"the second of them", "1* 2 3 5!!", 5, "remove 5", ""},
		{"one of five is gone, nobody waits", "1* 2 3 4 5!!", 5, "stay", ""},
		{"the seat of the one that was removed", "1* 2 +d", 3, "add d", "free"},
		{"the successor is there", "1* 2 4?", 3, "promote 4", ""},
		{"a voter is gone, a learner is there", "1* 2 3!! 4?", 3, "remove 3", ""},
		{"most are gone", "1* 2!! 3!! +d", 3, "stay", "does not answer"},
		{"set up anew under its name: not waited for", "1* 2 3!15s=c +c", 3, "remove 3", "c has not answered"},
		{"two of that name", "1* 2=c 3!15s=c +c", 3, "stay", ""},
		{"a learner is gone and its seat is wanted", "1* 2?!! 3? +d", 3, "remove 2", ""},
		{"a learner is gone, nobody wants its seat", "1* 2?!!", 3, "stay", ""},
		{"a learner that never came", "1* 2?-!!", 3, "remove 2", ""},
		{"no host is added while the voters could not spare one", "1* 2 3! +d", 5, "stay", "could not spare"},
		{"nor while another learner is on its way", "1* 2?-! +d", 3, "stay", "does not answer yet"},

		{"all voters in one zone, a host of another waits", "1*@a 2@a 3@a +c +d@b", 3, "add d", "zone"},
		{"it votes, beyond the size", "1*@a 2@a 3@a 4?@b", 3, "promote 4", "zone"},
		{"and one of the full zone goes", "1*@a 2@a 3@a 4@b", 3, "remove 3", "more than"},
		{"two and one is as good as two and one", "1*@a 2@a 3@b +d@b", 3, "stay", ""},
		{"two in a zone, the third has one", "1@a 2*@a 3@b +d@c", 3, "add d", "zone"},
		{"no exchange while a voter is silent", "1*@a 2@a 3!@a +d@b", 3, "stay", ""},
		{"unknown zones crowd nobody", "1* 2 3 +d@b", 3, "stay", ""},
		{"a free seat goes to the emptiest zone", "1*@a 2?@a +c@a +d@b", 3, "add d", ""},
		{"four of three, as an admin's promotion leaves it", "1* 2 3 4", 3, "remove 4", "cluster_size"},
		{"four of three, one dead", "1* 2!! 3 4", 3, "remove 2", ""},
		{"size was lowered", "1* 2 3 4 5", 3, "remove 5", "cluster_size"},

		{"wrong data of one", "1* 2 3#", 3, "remove 3", "other data"},
		{"wrong data of one of two", "1* 2# 3!", 3, "stay", "need it"},
		{"wrong data of the leader", "1*# 2 3", 3, "stay", "another must lead"},
	} {
		got, why := Plan(scene(t, row.scene, row.size))
		if got.String() != row.want || !strings.Contains(why, row.why) || row.why == "" && got.Do == Stay && why != "" {
			t.Errorf("%s: %s → %s (%s), want %s (%s)", row.name, row.scene, got, why, row.want, row.why)
		}
	}
	v := scene(t, "1* 2 3!! +d", 3)
	v.Answers = false
	if got, why := Plan(v); got.Do != Stay || why == "" {
		t.Errorf("without an answer of the store: %s", got)
	}
	v = scene(t, "1* 2 3 4", 3)
	v.Surplus = 0
	if got, _ := Plan(v); got.Do != Stay {
		t.Errorf("a promotion under way was answered by: %s", got)
	}
	v = scene(t, "1* +a +b", 3)
	v.StandBys[0].Passed = true
	if got, _ := Plan(v); got.String() != "add b" {
		t.Errorf("one that has just had a seat was preferred: %s", got)
	}
}

// world is a cluster without etcd: hosts that live and die, and the list of members.
type world struct {
	size  int
	hosts map[string]*wHost // by name
	names []string
	next  uint64
}

type wHost struct {
	zone  string
	up    bool
	since int // turns it has been down
	seat  *Seat
}

func (w *world) view() (View, bool) {
	v := View{Size: w.size, Grace: 3 * time.Minute, Answers: true, Surplus: time.Minute}
	voters, up := 0, 0
	var leader *Seat
	for _, n := range w.names {
		h := w.hosts[n]
		if h.seat == nil {
			if h.up {
				v.StandBys = append(v.StandBys, Waiting{Peer: "http://" + n, Name: n, Zone: h.zone})
			}
			continue
		}
		h.seat.Alive, h.seat.Gone, h.seat.Leads = h.up, time.Duration(h.since)*time.Minute, false
		h.seat.Started = h.seat.Started || h.up
		if !h.seat.Learner {
			voters++
			if h.up {
				up++
				leader = h.seat
			}
		}
	}
	if up < voters/2+1 {
		return v, false
	}
	leader.Leads = true
	for _, n := range w.names {
		if s := w.hosts[n].seat; s != nil {
			v.Members = append(v.Members, *s)
		}
	}
	return v, true
}

func (w *world) do(s Step) {
	for _, n := range w.names {
		h := w.hosts[n]
		switch {
		case s.Do == Add && "http://"+n == s.Peer:
			w.next++
			h.seat = &Seat{ID: w.next, Name: n, Zone: h.zone, Learner: true}
		case h.seat == nil || h.seat.ID != s.ID || s.Do == Add:
		case s.Do == Promote:
			h.seat.Learner = false
		case s.Do == Remove:
			h.seat = nil
		}
	}
}

func (w *world) tick() {
	for _, h := range w.hosts {
		h.since++
		if h.up {
			h.since = 0
		}
	}
}

func (w *world) String() string {
	var b strings.Builder
	for _, n := range w.names {
		h := w.hosts[n]
		fmt.Fprintf(&b, "%s@%s up=%v seat=%+v\n", n, h.zone, h.up, h.seat)
	}
	return b.String()
}

// Whatever dies and comes back in whatever order: no step ever leaves less than a quorum of those that answer, none takes the leader
// out, and once things are quiet the plan comes to an end, with all the seats filled that can be.
func TestPlanNeverBreaksTheQuorumAndComesToAnEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{size: rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "size"), hosts: map[string]*wHost{}}
		zones := rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b", "c"}), 1, 8).Draw(t, "zones")
		for i, z := range zones {
			n := fmt.Sprintf("h%d", i)
			w.names = append(w.names, n)
			w.hosts[n] = &wHost{zone: z, up: true}
		}
		w.do(Step{Do: Add, Peer: "http://h0"})
		w.hosts["h0"].seat.Learner = false
		turn := func() (Step, bool) {
			v, quorum := w.view()
			if !quorum {
				return Step{}, false
			}
			before := len(v.Members)
			s, why := Plan(v)
			w.check(t, v, s, why)
			w.do(s)
			if after, ok := w.view(); !ok {
				t.Fatalf("%s (%s) lost the quorum:\n%v", s, why, w)
			} else if d := len(after.Members) - before; d < -1 || d > 1 {
				t.Fatalf("%s changed %d members", s, d)
			}
			return s, true
		}
		for range rapid.IntRange(0, 60).Draw(t, "turns") {
			h := w.hosts[rapid.SampledFrom(w.names).Draw(t, "host")]
			h.up = !h.up
			for range rapid.IntRange(0, 5).Draw(t, "minutes") {
				w.tick()
				turn()
			}
		}
		for range 5 { // quiet: whoever is down is gone for good
			w.tick()
		}
		for range 60 {
			s, quorum := turn()
			if !quorum {
				return // lost for good; nothing may be done then
			}
			if s.Do == Stay {
				w.settled(t)
				return
			}
		}
		t.Fatalf("no end:\n%v", w)
	})
}

// check holds one step against what must never be.
func (w *world) check(t *rapid.T, v View, s Step, why string) {
	if s.Do != Stay && why == "" {
		t.Fatalf("%s without a reason", s)
	}
	for _, m := range v.Members {
		if s.Do == Remove && m.ID == s.ID && m.Leads {
			t.Fatalf("%s (%s) takes the leader out", s, why)
		}
	}
}

// settled holds a state without a plan against what could be.
func (w *world) settled(t *rapid.T) {
	voters, up, hosts, zones := 0, 0, 0, map[string]int{}
	for _, h := range w.hosts {
		if h.up {
			hosts++
		}
		if h.seat != nil && !h.seat.Learner {
			voters++
			zones[h.zone]++
			if h.up {
				up++
			}
		}
	}
	want := min(w.size, hosts-1+hosts%2) // the largest odd number there are hosts for
	if spare(voters, up) < spare(want, want) {
		t.Fatalf("%d of %d voters answer, %d could:\n%v", up, voters, want, w)
	}
	if voters > w.size {
		t.Fatalf("%d voters are more than %d", voters, w.size)
	}
	most := slices.Max([]int{zones["a"], zones["b"], zones["c"], 0})
	for _, h := range w.hosts {
		if h.seat == nil && h.up && h.zone != "" && up == voters && voters == w.size && zones[h.zone]+2 <= most {
			t.Fatalf("zone %s has %d voters, another %d:\n%v", h.zone, zones[h.zone], most, w)
		}
	}
}
