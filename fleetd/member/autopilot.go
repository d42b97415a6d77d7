package member

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// View is what the leader sees of the members at one moment, and what it was told to reach.
type View struct {
	Size  int           // most voters
	Grace time.Duration // a member that has not answered for this long is replaced
	// Answers: a linearizable read has just succeeded. Nothing is changed otherwise.
	Answers  bool
	Members  []Seat
	StandBys []Waiting
	// Surplus is for how long there have been more voters than Size: one who makes such a state on purpose ends it, too.
	Surplus time.Duration
}

// Seat is one entry of the list of members.
type Seat struct {
	ID      uint64
	Name    string // the machine's; empty: unknown
	Zone    string // empty: unknown, which crowds nobody
	Learner bool
	Started bool // it has told its name
	Leads   bool // it is the one that plans
	Alive   bool // it answered just now
	Corrupt bool // its data is not that of the others
	// Gone is for how long it has not answered; 0 while it does.
	Gone time.Duration
}

// Waiting is a host that could have a seat and answers.
type Waiting struct {
	Peer string // its peer URL
	Name string
	Zone string
	// Passed over if there is another: it has just had a seat.
	Passed bool
}

// Step is one change of the list of members.
type Step struct {
	Do   StepKind
	ID   uint64 // to promote or remove
	Peer string // to add
}

// StepKind says what a Step does.
type StepKind string

const (
	Stay    StepKind = ""
	Add     StepKind = "add"     // as learner
	Promote StepKind = "promote" // a learner votes from now on
	Remove  StepKind = "remove"
)

const (
	// replacedAfter is how long a member may be silent whose namesake is waiting for a seat: the host was set up anew.
	replacedAfter = 10 * time.Second
	// surplusAfter leaves those who add a voter for another time to take that other out themselves.
	surplusAfter = 30 * time.Second
)

// Plan says which one change of the members is due, and why, or why none is possible that would be. It never proposes one after
// which the voters that answer would not be a quorum, and never the removal of the one that plans.
//
// A dead voter goes before its successor comes: etcd takes no new member while it could not spare one. That costs nothing, as two voters of
// two survive as many losses as two of three, and it is done only when there is somebody for the seat, or when the rest survives more
// without the dead.
func Plan(v View) (Step, string) {
	p := plan{v, nil, nil}
	for _, s := range v.Members {
		if s.Learner {
			p.learners = append(p.learners, s)
		} else {
			p.voters = append(p.voters, s)
		}
	}
	byID := func(a, b Seat) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortFunc(p.voters, byID)
	slices.SortFunc(p.learners, byID)
	if !v.Answers || !p.keeps(len(p.voters), living(p.voters)) {
		return Step{}, "the store does not answer"
	}
	for _, next := range []func() (Step, string){p.corrupt, p.promote, p.dead, p.surplus, p.fill, p.spread} {
		if s, why := next(); s.Do != Stay || why != "" {
			return s, why
		}
	}
	return Step{}, ""
}

type plan struct {
	View
	voters, learners []Seat
}

// keeps tells whether so many living voters of so many are a quorum.
func (plan) keeps(voters, living int) bool { return living >= voters/2+1 }

// spare is how many more living voters may be lost.
func spare(voters, alive int) int { return alive - (voters/2 + 1) }

func living(seats []Seat) (n int) {
	for _, s := range seats {
		if s.Alive {
			n++
		}
	}
	return n
}

// gone tells whether a member is to be replaced.
func (p plan) gone(s Seat) bool {
	if s.Alive {
		return false
	}
	return s.Gone >= p.Grace || s.Gone >= replacedAfter && s.Name != "" && p.namesakes(s.Name) == 1 &&
		slices.ContainsFunc(p.StandBys, func(b Waiting) bool { return b.Name == s.Name })
}

func (p plan) namesakes(name string) (n int) {
	for _, s := range p.Members {
		if s.Name == name {
			n++
		}
	}
	return n
}

// without tells whether the rest is a quorum when this voter is gone.
func (p plan) without(s Seat) bool {
	left := living(p.voters)
	if s.Alive {
		left--
	}
	return len(p.voters) > 1 && p.keeps(len(p.voters)-1, left)
}

// corrupt removes a member whose data is not that of the others. It comes back with theirs.
func (p plan) corrupt() (Step, string) {
	for _, s := range p.Members {
		if !s.Corrupt {
			continue
		}
		switch {
		case s.Leads:
			return Step{}, "this member's data differs from the others': another must lead first"
		case s.Learner || p.without(s):
			return Step{Do: Remove, ID: s.ID}, s.called() + " holds other data than the rest: it takes theirs and comes back"
		}
		return Step{}, s.called() + " holds other data than the rest, which need it: add hosts"
	}
	return Step{}, ""
}

// ready are the learners that can vote at once, the one that spreads the voters best first.
func (p plan) ready() []Seat {
	var list []Seat
	for _, s := range p.learners {
		if s.Started && s.Alive && !s.Corrupt {
			list = append(list, s)
		}
	}
	slices.SortStableFunc(list, func(a, b Seat) int { return cmp.Compare(p.crowd(a.Zone), p.crowd(b.Zone)) })
	return list
}

// promote makes voters. They come in odd numbers: an even number survives no more losses than one less, and is lost more often. Two hosts
// are a voter and a learner, the third makes three voters, in two steps that follow at once.
func (p plan) promote() (Step, string) {
	can, n := p.ready(), len(p.voters)
	if len(can) == 0 || !p.keeps(n+1, living(p.voters)+1) {
		return Step{}, ""
	}
	switch best := can[0]; {
	case n < p.Size && n%2 == 0:
		return Step{Do: Promote, ID: best.ID}, fmt.Sprintf("%s makes %d voters", best.called(), n+1)
	case n+2 <= p.Size && len(can) >= 2:
		return Step{Do: Promote, ID: best.ID}, fmt.Sprintf("%s and another make %d voters", best.called(), n+2)
	case n == p.Size && n == living(p.voters) && p.crowded(best.Zone):
		return Step{Do: Promote, ID: best.ID}, best.called() + " is of another zone than all voters"
	}
	return Step{}, ""
}

// dead removes members that do not come back.
func (p plan) dead() (Step, string) {
	var dead []Seat
	for _, s := range p.voters {
		if p.gone(s) && !s.Leads {
			dead = append(dead, s)
		}
	}
	n, left := len(p.voters), living(p.voters)
	for _, s := range dead {
		heir := len(p.ready()) > 0 || len(p.StandBys) > 0
		gains := spare(n-len(dead), left) > spare(n, left)
		if (heir || gains || n > p.Size) && p.without(s) {
			return Step{Do: Remove, ID: s.ID}, s.silent()
		}
	}
	for _, s := range p.learners {
		// The seat of one that is silent is needed by another; one that never came is no loss.
		if p.gone(s) && (len(p.StandBys) > 0 || !s.Started) {
			return Step{Do: Remove, ID: s.ID}, s.silent()
		}
	}
	return Step{}, ""
}

// surplus removes a voter when there are more than wanted: where there is another of its zone, and only while all answer.
func (p plan) surplus() (Step, string) {
	n := len(p.voters)
	if n <= p.Size || living(p.voters) < n {
		return Step{}, ""
	}
	var best *Seat
	for _, s := range p.voters {
		if !s.Leads && p.without(s) && (best == nil || p.crowd(s.Zone) >= p.crowd(best.Zone)) {
			best = &s
		}
	}
	// An even number is no state to stay in; what made it on purpose goes on at once.
	if best == nil || p.Surplus < surplusAfter && p.crowd(best.Zone) < 2 {
		return Step{}, ""
	}
	return Step{Do: Remove, ID: best.ID}, fmt.Sprintf("%d voters are more than the %d of cluster_size", n, p.Size)
}

// fill gives a free seat to a host that stands by.
func (p plan) fill() (Step, string) {
	if len(p.Members) >= p.Size {
		return Step{}, ""
	}
	return p.add("a seat is free")
}

// spread gives a seat beyond the size to a host of a zone without voters, when another zone has two or more: it will vote, and one of
// those goes. So no moment has less to spare than the time before.
func (p plan) spread() (Step, string) {
	if len(p.voters) != p.Size || living(p.voters) < p.Size || len(p.learners) > 0 {
		return Step{}, ""
	}
	// Only those who make it better count here.
	p.StandBys = slices.DeleteFunc(slices.Clone(p.StandBys), func(b Waiting) bool { return !p.crowded(b.Zone) })
	return p.add("its zone has less than its share of the voters")
}

// add gives a seat to the best of those who wait, if no other change is under way and etcd will take it.
func (p plan) add(why string) (Step, string) {
	b, ok := p.bestStandBy()
	switch n := len(p.voters); {
	case !ok:
		return Step{}, ""
	case living(p.learners) < len(p.learners):
		return Step{}, "a learner does not answer yet"
	case n > 1 && !p.keeps(n+1, living(p.voters)):
		return Step{}, "a voter does not answer, and the rest could not spare another"
	}
	return Step{Do: Add, Peer: b.Peer}, b.Name + ": " + why
}

// bestStandBy is one whose zone has the fewest seats.
func (p plan) bestStandBy() (Waiting, bool) {
	if len(p.StandBys) == 0 {
		return Waiting{}, false
	}
	return slices.MinFunc(p.StandBys, func(a, b Waiting) int {
		passed := func(s Waiting) int {
			if s.Passed {
				return 1
			}
			return 0
		}
		return cmp.Or(
			cmp.Compare(passed(a), passed(b)),
			cmp.Compare(p.seats(a.Zone), p.seats(b.Zone)),
			cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Peer, b.Peer))
	}), true
}

// crowd is how many voters a zone has; 0 for the unknown zone.
func (p plan) crowd(zone string) int { return in(p.voters, zone) }

// seats is how many members a zone has; 0 for the unknown zone.
func (p plan) seats(zone string) int { return in(p.Members, zone) }

func in(seats []Seat, zone string) (n int) {
	for _, s := range seats {
		if zone != "" && s.Zone == zone {
			n++
		}
	}
	return n
}

// crowded tells whether a voter of this zone in the place of another spreads them better.
func (p plan) crowded(zone string) bool {
	if zone == "" {
		return false
	}
	return slices.ContainsFunc(p.voters, func(s Seat) bool { return p.crowd(s.Zone) >= p.crowd(zone)+2 })
}

func (s Seat) called() string {
	if s.Name == "" {
		return hex(s.ID)
	}
	return s.Name
}

func (s Seat) silent() string {
	return fmt.Sprintf("%s has not answered for %s", s.called(), s.Gone.Round(time.Second))
}
