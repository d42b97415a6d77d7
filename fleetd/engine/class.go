package engine

import (
	"encoding/binary"
	"slices"

	"github.com/fleet-init/fleet/internal/unit"
)

// class holds what was learned about all units that every machine treats alike: equal needs, and matched by the same Conflicts of
// others. What one of them was told, the next need not ask.
type class struct {
	private bool // of one unit only: its answers hold for no other
	mask    set  // machines that may take a unit of the class; those missing are known not to
	epoch   int  // numbering of the machines that mask belongs to
	read    int  // how much of State.freed mask has been told
	failed  uint64
	waiting []*record // heap by name; holds units that have left, see record.waits
	live    int       // units that wait here
}

type classKey struct {
	needs   *needs
	matched string // the globs that match the unit's name
}

// maxClasses bounds what is remembered: a class is little more than a bit per machine.
const maxClasses = 4096

// maxFreed bounds the list of machines freed since the classes last looked.
const maxFreed = 1 << 16

// classOf finds u's class, again only when Conflicts or Replaces that nobody had before have come or gone.
func (s *State) classOf(u *record) *class {
	if u.class != nil && u.classGen == s.globGen {
		return u.class
	}
	u.classGen = s.globGen
	if s.replaceGlobs.matched(u) != "" {
		// Whether a replacer pushes u away depends on who else is in the circle, not on u's class.
		u.class = &class{private: true}
		return u.class
	}
	key := classKey{u.needs, s.conflictGlobs.matched(u)}
	c := s.classes[key]
	if c == nil {
		if len(s.classes) >= maxClasses {
			clear(s.classes) // units keep theirs; the next to come learn anew
		}
		c = &class{epoch: -1}
		s.classes[key] = c
	}
	u.class = c
	return c
}

// refresh tells c which machines have become freer since it last asked.
func (s *State) refresh(c *class) {
	if c.epoch != s.epoch || c.mask == nil {
		if len(c.mask) != len(newSet(len(s.order))) {
			c.mask = newSet(len(s.order))
		}
		c.mask.fill()
		c.epoch, c.read = s.epoch, len(s.freed)
		return
	}
	for _, rank := range s.freed[c.read:] {
		c.mask.add(int(rank))
	}
	c.read = len(s.freed)
}

// free notes that m may now take units it refused before.
func (s *State) free(m *machine) {
	s.widened++
	if m.rank < 0 {
		return // it is numbered before the next turn, and then everyone looks anew
	}
	if len(s.freed) >= maxFreed {
		s.freed = s.freed[:0]
		s.epoch++
	}
	s.freed = append(s.freed, int32(m.rank))
}

// wait notes that u wants a machine and found none.
func (s *State) wait(u *record) {
	c := s.classOf(u)
	if !c.private && (u.needs.machineID != "" || len(u.needs.peers) > 0 || len(u.places) > 1 || u.holder != nil) {
		// It did not ask all machines as its class would, or it asked also where its old copies are.
		c = u.waits
		if c == nil || !c.private {
			c = &class{private: true}
		}
	}
	if u.waits == c {
		return
	}
	s.rest(u)
	u.waits = c
	if c.live++; c.live == 1 {
		s.waiting[c] = struct{}{}
	}
	if u.heaped != c {
		u.heaped = c
		pushName(&c.waiting, u)
	}
}

// rest notes that u waits no longer.
func (s *State) rest(u *record) {
	c := u.waits
	if c == nil {
		return
	}
	u.waits = nil
	if c.live--; c.live == 0 {
		delete(s.waiting, c)
	}
}

// next returns the first unit, by name, that waits in c.
func (c *class) next() *record {
	for len(c.waiting) > 0 {
		u := c.waiting[0]
		if u.waits == c {
			return u
		}
		popName(&c.waiting)
		if u.heaped == c {
			u.heaped = nil
		}
	}
	return nil
}

// wake lets units that wait try again after machines became freer: of each class the first; when it is placed, the next.
func (s *State) wake() {
	s.woken = s.widened
	for c := range s.waiting {
		if u := c.next(); u != nil {
			s.push(move, u)
		}
	}
}

// globIndex finds which of all units' globs match a name, without trying each.
type globIndex struct {
	stems map[uint32][]*globUse // by stem; 0: those of any stem
	uses  map[unit.Glob]*globUse
	last  uint64
}

// globUse is one distinct glob.
type globUse struct {
	glob
	id   uint64
	refs int
}

func newGlobIndex() *globIndex {
	return &globIndex{stems: map[uint32][]*globUse{}, uses: map[unit.Glob]*globUse{}}
}

// add takes in one more use of g and tells whether it is new.
func (x *globIndex) add(g glob) bool {
	if use := x.uses[g.pattern]; use != nil {
		use.refs++
		return false
	}
	x.last++
	use := &globUse{glob: g, id: x.last, refs: 1}
	x.uses[g.pattern] = use
	x.stems[g.stem] = append(x.stems[g.stem], use)
	return true
}

// remove takes one use of g away and tells whether it was the last.
func (x *globIndex) remove(g glob) bool {
	use := x.uses[g.pattern]
	if use.refs--; use.refs > 0 {
		return false
	}
	delete(x.uses, g.pattern)
	rest := slices.DeleteFunc(x.stems[g.stem], func(o *globUse) bool { return o == use })
	if len(rest) == 0 {
		delete(x.stems, g.stem)
	} else {
		x.stems[g.stem] = rest
	}
	return true
}

// matched lists the globs that match u's name, as a string that can be compared.
func (x *globIndex) matched(u *record) string {
	var ids []uint64
	for _, stem := range [2]uint32{0, u.stem} {
		for _, use := range x.stems[stem] {
			if use.pattern.Match(u.name) {
				ids = append(ids, use.id)
			}
		}
	}
	if len(ids) == 0 {
		return ""
	}
	slices.Sort(ids)
	var b []byte
	for _, id := range ids {
		b = binary.AppendUvarint(b, id)
	}
	return string(b)
}
