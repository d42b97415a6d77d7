package faults

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Moment is a reading of the kernel's monotonic clock, since boot. All hosts of a test share the kernel, so moments of different hosts compare.
type Moment time.Duration

// Now reads that clock.
func Now() Moment {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // fails for clocks that do not exist only
	return Moment(ts.Nano())
}

func (m Moment) String() string { return time.Duration(m).Round(time.Millisecond).String() }

// Beat is what one run of a unit says of itself, a few times a second. The moment is taken before it is sent.
type Beat struct {
	Unit    string `json:"unit"`
	Machine string `json:"machine"` // its ID
	Run     string `json:"run"`     // systemd's invocation ID
	Token   int64  `json:"token"`   // fencing token; 0: the unit has none
	Count   int64  `json:"count"`   // 1, 2, 3 … within the run
	At      Moment `json:"at"`
	End     bool   `json:"end,omitempty"` // the run was told to stop, and this is its last word
}

// Act is something that the test did which excuses what units do meanwhile.
type Act struct {
	Kind    Kind
	Unit    string // of Ordered: a name, or a prefix that ends in "*"
	Machine string // of Down: its ID
	From    Moment
	To      Moment // 0: until the end
}

// Kind is what an Act was.
type Kind string

const (
	Ordered Kind = "ordered" // a user said that the unit is to stop, to be replaced or destroyed
	Down    Kind = "down"    // the machine lost power, was reset, or is being shut down
)

// Rest is one time that the cluster took to be at rest after the last fault was over.
type Rest struct {
	What  string
	Took  time.Duration
	Bound time.Duration // what docs/reliability.md promises, with the load that the test itself makes
}

// History is all that is judged.
type History struct {
	Beats     []Beat
	Exclusive []string // units that may have one live run at any moment
	// Leaving are units that may be stopped by trouble alone, by their own wish (OnDisconnect=stop). Exclusive ones need not be named.
	Leaving []string
	Acts    []Act
	Close   Moment // the end: runs that beat later than this are alive
	Writes  []Write
	Found   map[string]string // at the end, what each key of Writes holds; a key that is missing is lost
	Permits []Permit
	Rests   []Rest
}

// Run is one life of a unit on one machine, as far as its beats tell.
type Run struct {
	Unit, Machine, ID string
	Token             int64
	First, Last       Moment
	Ended             bool // by order of systemd; otherwise it fell silent, or is alive
	Tokens            bool // its token changed while it ran
}

// Runs puts beats together, by their first moment.
func Runs(beats []Beat) []Run {
	at := map[[3]string]int{}
	var runs []Run
	for _, b := range beats {
		key := [3]string{b.Unit, b.Machine, b.Run}
		i, known := at[key]
		if !known {
			i = len(runs)
			at[key] = i
			runs = append(runs, Run{Unit: b.Unit, Machine: b.Machine, ID: b.Run, Token: b.Token, First: b.At, Last: b.At})
		}
		r := &runs[i]
		r.First, r.Last = min(r.First, b.At), max(r.Last, b.At)
		r.Ended = r.Ended || b.End
		r.Tokens = r.Tokens || b.Token != r.Token
	}
	slices.SortStableFunc(runs, func(a, b Run) int { return int(max(-1, min(1, a.First-b.First))) })
	return runs
}

func (h History) runsOf(unit string, runs []Run) (own []Run) {
	for _, r := range runs {
		if r.Unit == unit {
			own = append(own, r)
		}
	}
	return own
}

// covers tells whether an act concerns this unit.
func (a Act) covers(unit string) bool {
	prefix, all := strings.CutSuffix(a.Unit, "*")
	return a.Unit == unit || all && strings.HasPrefix(unit, prefix)
}

func (a Act) lasts(at Moment) bool { return a.From <= at && (a.To == 0 || at <= a.To) }
