package engine

import (
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// State is the planner in memory: a cluster, and which of its units have to be looked at. It is filled from a snapshot, told of
// every change after that (Apply), and gives decisions (Turn) whose cost goes with what changed.
//
// Turn takes its own decisions for done. The watch brings the written placements, which confirms them; what Commit refused
// must be told with Refused. Until one of the two has happened, the unit is not planned again: its revisions are not known, and a
// second decision could place it twice. One goroutine at a time may use a State.
type State struct {
	machines  map[fleet.MachineID]*machine
	units     map[unit.Name]*record
	needs     map[string]*needs
	followers map[unit.Name][]*record // by peer: the units with that MachineOf
	replacers map[*record]struct{}    // units with Replaces
	globals   map[*record]struct{}
	unplaced  map[fleet.Key]seen // observations where there is no placement: the unit may come back there

	order    []*machine // by ID; the ranks
	renumber bool
	shelves  *shelves
	texts    []string // "least loaded (n units)", by n

	conflictGlobs *globIndex
	replaceGlobs  *globIndex
	globGen       uint64 // goes up when a glob is first used or last used
	sortedGen     uint64 // globGen at which the waiting units were sorted into classes

	classes map[classKey]*class
	waiting map[*class]struct{}
	freed   []int32 // ranks of machines that may take more than before, oldest first
	epoch   int     // goes up when ranks change or freed starts anew
	widened uint64  // how often a machine was freed
	woken   uint64  // widened when units that wait were last woken

	queue   queue
	turn    uint64
	touched []*write
	writing map[pair]*write
	held    int  // items put off in this turn because of unconfirmed writes
	circles bool // who replaces whom may have changed
	admit   map[*machine]struct{}
	holding map[*record]struct{} // units with a holder
	frees   []*record            // whose holder this turn deletes
	now     time.Time
	brake   *fleet.Brake
	loading bool

	away     map[*machine]struct{} // machines that are not here
	suspects map[*machine]struct{} // machines that are late
	keeps    bool                  // some machine is kept
	askAt    time.Time             // when the store is to be asked again, if so
}

// pair is fleet.Key without its strings.
type pair struct {
	u *record
	m *machine
}

// write is a placement that a turn changed: how it was before, so that a refusal can be undone.
type write struct {
	pair
	had      bool
	was      image
	turn     uint64
	reason   string
	deferred bool // the pair came up meanwhile
}

// NewState fills a planner from a snapshot; every unit is looked at in its first turn. The snapshot is not kept.
func NewState(snap fleet.Snapshot) *State {
	s := &State{
		machines:      make(map[fleet.MachineID]*machine, len(snap.Machines)),
		units:         make(map[unit.Name]*record, len(snap.Units)),
		needs:         map[string]*needs{},
		followers:     map[unit.Name][]*record{},
		replacers:     map[*record]struct{}{},
		globals:       map[*record]struct{}{},
		unplaced:      map[fleet.Key]seen{},
		shelves:       newShelves(0),
		conflictGlobs: newGlobIndex(),
		replaceGlobs:  newGlobIndex(),
		classes:       map[classKey]*class{},
		waiting:       map[*class]struct{}{},
		writing:       map[pair]*write{},
		admit:         map[*machine]struct{}{},
		holding:       map[*record]struct{}{},
		away:          map[*machine]struct{}{},
		suspects:      map[*machine]struct{}{},
		now:           snap.At,
		brake:         snap.Brake,
		loading:       true,
	}
	for _, m := range snap.Machines {
		s.SetMachine(m)
	}
	for _, u := range snap.Units {
		s.SetUnit(u)
	}
	for _, p := range snap.Placements {
		s.SetPlacement(p)
	}
	for _, o := range snap.Observed {
		s.SetObservation(o)
	}
	for _, h := range snap.Holders {
		s.SetHolder(h)
	}
	for id, at := range snap.Gone {
		if m := s.machines[id]; m != nil {
			m.goneAt = at
		}
	}
	for m := range s.away {
		m.seen = m.moves()
	}
	s.loading = false
	for _, u := range s.units {
		s.push(check, u)
	}
	return s
}

// Apply takes in what a watch delivered by now. A machine that is gone counts as gone from then on, never earlier.
func (s *State) Apply(now time.Time, changes []fleet.Change) {
	s.SetTime(now)
	for _, c := range changes {
		switch {
		case c.Machine != nil && c.Deleted:
			s.RemoveMachine(c.Machine.ID)
		case c.Machine != nil:
			s.SetMachine(*c.Machine)
		case c.Unit != nil && c.Deleted:
			s.RemoveUnit(c.Unit.Name)
		case c.Unit != nil:
			s.SetUnit(*c.Unit)
		case c.Placement != nil && c.Deleted:
			s.RemovePlacement(fleet.Key{Machine: c.Placement.Machine, Unit: c.Placement.Unit})
		case c.Placement != nil:
			s.SetPlacement(*c.Placement)
		case c.Observation != nil && c.Deleted:
			s.RemoveObservation(fleet.Key{Machine: c.Observation.Machine, Unit: c.Observation.Unit})
		case c.Observation != nil:
			s.SetObservation(*c.Observation)
		case c.Holder != nil && c.Deleted:
			s.RemoveHolder(c.Holder.Unit)
		case c.Holder != nil:
			s.SetHolder(*c.Holder)
		case c.Brake != nil:
			s.SetBrake(nil)
			if !c.Deleted {
				s.SetBrake(c.Brake)
			}
		}
	}
}

// SetMachine adds a machine or changes it.
func (s *State) SetMachine(f fleet.Machine) {
	m := s.machine(f.ID)
	same := m.here && m.rev == f.Rev && m.leaving == f.Leaving && m.cordon == f.Cordon && m.ttl == f.TTL && sameMetadata(m.metadata, f.Metadata)
	if m.rev != f.Rev || f.Admitted == f.Rev {
		m.admitted = f.Admitted
	}
	s.unshelve(m)
	if !m.here || m.rev != f.Rev {
		m.answered, m.kept = time.Time{}, false
		s.trust(m)
	}
	m.here, m.rev, m.leaving, m.cordon, m.metadata, m.ttl = true, f.Rev, f.Leaving, f.Cordon, f.Metadata, f.TTL
	delete(s.away, m)
	if m.rank < 0 {
		s.renumber = true
	}
	s.shelve(m)
	if m.admitted != m.rev {
		s.admit[m] = struct{}{}
	}
	if same {
		return
	}
	s.reconsider(m)
}

func sameMetadata(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// RemoveMachine notes that a machine is gone. Its placements stay known.
func (s *State) RemoveMachine(id fleet.MachineID) {
	m := s.machines[id]
	if m == nil {
		return
	}
	if m.here {
		m.goneAt, m.left, m.seen = s.now, m.leaving, true
	}
	s.unshelve(m)
	m.here, m.leaving, m.cordon, m.rev, m.admitted, m.metadata = false, false, false, 0, 0, nil
	delete(s.admit, m)
	s.away[m] = struct{}{}
	s.trust(m)
	s.pushAllOn(m)
}

// SetUnit adds a unit or changes it.
func (s *State) SetUnit(f fleet.Unit) {
	u := s.record(f.Name)
	was := u.wanted()
	if !u.exists && len(s.followers[u.name]) > 0 {
		s.circles = true
	}
	s.changeNeeds(u, s.internNeeds(f.Needs))
	u.exists, u.hash, u.target, u.rev, u.stop = true, f.Hash, intern(f.Target), f.Rev, f.Stop
	s.changed(u, was)
}

// RemoveUnit notes that a unit was destroyed. Its placements are withdrawn in the next turn.
func (s *State) RemoveUnit(name unit.Name) {
	u := s.units[name]
	if u == nil {
		return
	}
	was := u.wanted()
	if len(s.followers[u.name]) > 0 {
		s.circles = true
	}
	u.exists, u.hash, u.target, u.rev = false, "", "", 0
	s.changeNeeds(u, s.internNeeds(unit.Needs{}))
	s.changed(u, was)
}

func intern(t fleet.TargetState) fleet.TargetState {
	switch t {
	case fleet.Launched:
		return fleet.Launched
	case fleet.Loaded:
		return fleet.Loaded
	}
	return fleet.Inactive
}

func (s *State) changed(u *record, wasWanted bool) {
	if s.loading {
		return
	}
	s.rest(u) // it may be of another class now
	s.push(check, u)
	if wasWanted != u.wanted() {
		s.pushFollowers(u)
		for _, p := range u.places {
			s.freeFor(p.m)
			if !wasWanted {
				s.pushAllOn(p.m) // who came while it was not wanted did not mind it
			}
		}
	}
}

// SetPlacement takes in a placement as it is stored.
func (s *State) SetPlacement(f fleet.Placement) {
	u, m := s.record(f.Unit), s.machine(f.Machine)
	hash := f.Hash
	if hash == u.hash {
		hash = u.hash // one string instead of two
	}
	s.stored(u, m, &image{hash: hash, target: intern(f.Target), handover: f.Handover || intern(f.Target) == fleet.Inactive, rev: f.Rev})
}

// RemovePlacement notes that no placement is stored there any more.
func (s *State) RemovePlacement(k fleet.Key) {
	u, m := s.units[k.Unit], s.machines[k.Machine]
	if u != nil && m != nil {
		s.stored(u, m, nil)
	}
}

// stored sets a pair to what the registry holds. Mostly that is what a turn decided already.
func (s *State) stored(u *record, m *machine, now *image) {
	w := s.writing[pair{u, m}]
	if w != nil {
		s.confirm(w)
	}
	p := u.on(m)
	switch {
	case p == nil && now == nil:
		s.tidy(u)
		return
	case p != nil && now != nil && p.same(*now):
		p.rev = now.rev
		return
	}
	s.restore(u, m, now)
}

// restore changes a pair from outside of a turn: whoever it may concern is looked at again.
func (s *State) restore(u *record, m *machine, now *image) {
	p := u.on(m)
	switch {
	case p == nil && now != nil:
		s.attach(u, m, *now)
	case p != nil && now == nil:
		s.detach(p)
	case p != nil:
		s.change(p, *now)
	}
	if s.loading {
		return
	}
	s.push(check, u)
	s.pushFollowers(u)
	s.reconsider(m)
}

// confirm ends a write that the watch has brought back, or Commit refused.
func (s *State) confirm(w *write) {
	delete(s.writing, w.pair)
	w.m.pending--
	if w.u.pending--; w.u.pending == 0 && w.u.deferred {
		w.u.deferred = false
		s.push(check, w.u)
	}
	if w.deferred {
		s.pushSpread(w.u, w.m)
	}
}

// Refused undoes decisions of a turn that Commit did not write. They are planned again in the next turn, so let the watch catch up
// before that: what was planned on has changed.
func (s *State) Refused(ds []fleet.Decision) {
	for _, d := range ds {
		m := s.machines[d.Machine]
		if m == nil {
			continue
		}
		if d.Kind == fleet.Admit {
			if m.here && m.rev == d.MachineRev && m.admitted == d.MachineRev {
				m.admitted = 0
				s.admit[m] = struct{}{}
			}
			continue
		}
		u := s.units[d.Unit]
		if u == nil {
			continue
		}
		if d.Kind == fleet.Free {
			if u.holder != nil && u.holder.rev == d.HolderRev {
				u.holder.freed = false
				s.push(check, u)
			}
			continue
		}
		w := s.writing[pair{u, m}]
		if w == nil {
			continue // the watch has told already how it stands
		}
		s.confirm(w)
		if w.had {
			s.restore(u, m, &w.was)
		} else {
			s.restore(u, m, nil)
		}
	}
}

// SetObservation takes in what a machine says of a unit.
func (s *State) SetObservation(f fleet.Observation) {
	u, m := s.units[f.Unit], s.machines[f.Machine]
	if u != nil && m != nil {
		if p := u.on(m); p != nil {
			p.seen = see(f)
			if p.seen.hash == p.hash {
				p.seen.hash = p.hash
			}
			if len(u.places) > 1 && !s.loading {
				s.push(check, u) // a handover may be over
			}
			return
		}
	}
	s.unplaced[fleet.Key{Machine: f.Machine, Unit: f.Unit}] = see(f)
}

// RemoveObservation notes that a machine says nothing of a unit any more.
func (s *State) RemoveObservation(k fleet.Key) {
	delete(s.unplaced, k)
	u, m := s.units[k.Unit], s.machines[k.Machine]
	if u == nil || m == nil {
		return
	}
	if p := u.on(m); p != nil {
		p.seen = seen{}
	}
}

// number gives every machine its rank, after one has come that was never here before.
func (s *State) number() {
	s.renumber = false
	s.order = s.order[:0]
	for id, m := range s.machines {
		switch {
		case m.here:
			s.order = append(s.order, m)
		case len(m.on) == 0 && m.pending == 0 && m.holds == 0 && !s.vanished(m):
			delete(s.machines, id)
			delete(s.away, m)
		default:
			m.rank = -1
		}
	}
	slices.SortFunc(s.order, func(a, b *machine) int { return strings.Compare(string(a.id), string(b.id)) })
	s.shelves = newShelves(len(s.order))
	for i, m := range s.order {
		m.rank = i
		s.shelve(m)
	}
	s.freed = s.freed[:0]
	s.epoch++
	s.widened++
}
