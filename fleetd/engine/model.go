package engine

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// machine is one host as the planner sees it: registered (here), or known only because placements on it exist.
type machine struct {
	id       fleet.MachineID
	rank     int // position among all machines by ID, and its bit in every set; -1 until it was numbered
	here     bool
	leaving  bool
	cordon   bool
	rev      int64
	admitted int64 // registration that an admission is stored for, or was decided for
	ttl      time.Duration
	goneAt   time.Time // since when it is not here
	left     bool      // it said that it leaves before it went
	seen     bool      // it was here since this planner began, or had something to move then
	holds    int       // units whose holder it is

	// What the store said of leases: see doubt.go.
	answered   time.Time // when it was first asked after this machine was missed
	late, ends time.Time // it is here, and its lease was found short then; it has renewed if the lease lives after ends
	kept       bool      // it is missed, and nothing is moved away from it for now
	keep       bool      // it is to be

	metadata map[string]string

	on        []entry  // all placements, handovers too
	globs     []held   // the Conflicts of the units placed there
	ports     []taken  // the ports that the units placed there publish
	replacers []*place // full placements of units with Replaces
	load      int      // full placements
	pending   int      // writes that the watch has not confirmed
}

// open machines take new units.
func (m *machine) open() bool { return m.here && !m.leaving && !m.cordon }

// entry is a placement on a machine. The stem stands here so that a conflict check over a hundred units touches one run of
// memory, not a hundred names.
type entry struct {
	stem uint32
	p    *place
}

// held is one Conflicts glob that a unit brought to a machine.
type held struct {
	glob
	p *place
}

// port is one of a machine's ports, by what it can be published as once.
type port struct {
	number   uint16
	protocol string
}

func (p port) String() string { return strconv.Itoa(int(p.number)) + "/" + p.protocol }

// taken is one port that a unit publishes on a machine.
type taken struct {
	port
	p *place
}

// record is one unit: its record in the registry (exists), or a name that only placements know.
type record struct {
	name     unit.Name
	stem     uint32
	exists   bool
	template bool
	hash     unit.Hash
	target   fleet.TargetState
	rev      int64
	needs    *needs
	stop     time.Duration // how long it may take to stop, if it is exclusive
	holder   *holder

	places  []*place
	at      map[*machine]*place // the same, by machine, once there are many (global units)
	pending int                 // writes that the watch has not confirmed
	planned uint64              // the turn those writes are of

	queued   uint8  // phases it stands in the queue for
	deferred bool   // came up while writes were pending; to be looked at when they are confirmed
	waits    *class // where it waits for a machine
	heaped   *class // whose heap of waiting units holds it
	class    *class
	classGen uint64 // State.globGen that class was found at
	moved    uint64 // the turn it was last moved in, and how often: the net under a planner that would run in circles
	moves    int
}

// wanted units shall be placed.
func (u *record) wanted() bool {
	return u.exists && !u.template && u.target != fleet.Inactive && u.target != ""
}

// on returns the unit's placement on m, full or handover.
func (u *record) on(m *machine) *place {
	if u.at != nil {
		return u.at[m]
	}
	for _, p := range u.places {
		if p.m == m {
			return p
		}
	}
	return nil
}

// full returns the unit's placement that is no handover. If there were two by some accident, it is the one whose machine
// serves best: here before gone, staying before leaving, then the lowest ID.
func (u *record) full() *place {
	var best *place
	for _, p := range u.places {
		if !p.handover && (best == nil || better(p.m, best.m)) {
			best = p
		}
	}
	return best
}

func better(a, b *machine) bool {
	if a.here != b.here {
		return a.here
	}
	if a.leaving != b.leaving {
		return b.leaving
	}
	return a.id < b.id
}

// copies returns all placements, the one that serves best first: indexes keep them in no order.
func (u *record) copies() []*place {
	ps := slices.Clone(u.places)
	slices.SortFunc(ps, func(a, b *place) int {
		if better(a.m, b.m) {
			return -1
		}
		return 1
	})
	return ps
}

// handovers returns the old copies, the one that serves best first.
func (u *record) handovers() []*place {
	return slices.DeleteFunc(u.copies(), func(p *place) bool { return !p.handover })
}

// place is one placement.
type place struct {
	u     *record
	m     *machine
	index int // in m.on
	image
	seen seen
}

// image is what the registry holds of a placement.
type image struct {
	hash     unit.Hash
	target   fleet.TargetState
	handover bool
	rev      int64
}

// same tells whether two images differ in nothing but their revision.
func (a image) same(b image) bool {
	b.rev = a.rev
	return a == b
}

// seen is what is kept of an observation: enough to tell whether a handover is over.
type seen struct {
	hash    unit.Hash
	loaded  bool // it has reached target state loaded
	started bool // and launched
	failed  bool // it has failed, or cannot be loaded
	order   int64
}

func see(o fleet.Observation) seen {
	return seen{hash: o.Hash, loaded: o.Running(o.Hash, fleet.Loaded), started: o.Running(o.Hash, fleet.Launched), order: o.Order,
		failed: o.Active == "failed" || o.Load != "loaded"}
}

func (s seen) running(i image) bool {
	// Before the agent has seen this very placement, what runs there may be a copy that it was told to stop.
	if s.hash != i.hash || i.rev == 0 || s.order < i.rev {
		return false
	}
	if i.target == fleet.Launched {
		return s.started
	}
	return s.loaded
}

// needs is unit.Needs made ready for checking. Units with equal needs share one: a million units have few different ones.
type needs struct {
	key       string
	refs      int
	machineID string
	peers     []unit.Name
	metadata  []wish
	conflicts []glob
	replaces  []glob
	ports     []port // that it publishes
	global    bool
	exclusive bool
}

// wish is one metadata key and the values it may have.
type wish struct {
	key    string
	values []string
}

// glob is a pattern with the stem that every name it matches must have; stem 0: names of any stem.
type glob struct {
	pattern unit.Glob
	stem    uint32
}

func (g glob) matches(u *record) bool {
	return (g.stem == 0 || g.stem == u.stem) && g.pattern.Match(u.name)
}

func globsOf(patterns []unit.Glob) []glob {
	gs := make([]glob, 0, len(patterns))
	for _, p := range patterns {
		gs = append(gs, glob{pattern: p, stem: globStem(p)})
	}
	return gs
}

// stemOf hashes the part of a name that all instances of a template share: up to its first @, else all of it. It is never 0.
func stemOf(name string) uint32 {
	if i := strings.IndexByte(name, '@'); i >= 0 {
		name = name[:i+1]
	}
	h := uint32(2166136261) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	return max(h, 1)
}

// globStem is the stem of all names that a glob can match, or 0 when they may differ in it: "web@*" has one, "web*" has not.
func globStem(g unit.Glob) uint32 {
	if name, ok := g.Literal(); ok {
		return stemOf(string(name))
	}
	before, _, found := strings.Cut(string(g), "@")
	if !found || strings.ContainsAny(before, `*?[\`) {
		return 0
	}
	return stemOf(before + "@")
}

// makeNeeds prepares n. A global unit's MachineOf and Replaces are dropped: nobody can submit them together, and a unit that runs
// everywhere neither follows nor pushes another.
func makeNeeds(n unit.Needs) *needs {
	out := &needs{machineID: n.MachineID, conflicts: globsOf(n.Conflicts), global: n.Global, exclusive: n.Exclusive}
	if !n.Global {
		out.peers, out.replaces = n.MachineOf, globsOf(n.Replaces)
	}
	for _, p := range n.Publish {
		out.ports = append(out.ports, port{p.Host, p.Protocol})
	}
	for k, vs := range n.Metadata {
		out.metadata = append(out.metadata, wish{k, slices.Clone(vs)})
	}
	slices.SortFunc(out.metadata, func(a, b wish) int { return strings.Compare(a.key, b.key) })
	return out
}

// needsKey writes needs down so that equal ones read the same.
func needsKey(n unit.Needs) string {
	if !n.Exclusive && n.MachineID == "" && len(n.MachineOf)+len(n.Metadata)+len(n.Conflicts)+len(n.Replaces)+len(n.Publish) == 0 {
		if n.Global {
			return "g"
		}
		return ""
	}
	var b strings.Builder
	word := func(tag byte, s string) {
		b.WriteByte(tag)
		b.WriteString(strconv.Itoa(len(s)))
		b.WriteByte(':')
		b.WriteString(s)
	}
	if n.Global {
		b.WriteByte('g')
	}
	if n.Exclusive {
		b.WriteByte('e')
	}
	word('i', n.MachineID)
	for _, p := range n.MachineOf {
		word('o', string(p))
	}
	keys := make([]string, 0, len(n.Metadata))
	for k := range n.Metadata {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		word('k', k)
		for _, v := range n.Metadata[k] {
			word('v', v)
		}
	}
	for _, c := range n.Conflicts {
		word('c', string(c))
	}
	for _, r := range n.Replaces {
		word('r', string(r))
	}
	for _, p := range n.Publish {
		word('p', port{p.Host, p.Protocol}.String())
	}
	return b.String()
}
