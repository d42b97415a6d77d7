package update

import "time"

// Phase is where in an update the host is.
type Phase string

const (
	Idle       Phase = "idle"       // nothing to do until the next check
	Checking   Phase = "checking"   // asking what releases there are
	Staging    Phase = "staging"    // writing the release into the other slot
	Staged     Phase = "staged"     // written and verified; waiting for the right to reboot
	Asking     Phase = "asking"     // waiting for the right to reboot without a new release, because a person says so
	Draining   Phase = "draining"   // permit held; units move elsewhere
	Finalizing Phase = "finalizing" // making the other slot boot next
	Rebooting  Phase = "rebooting"  // the reboot is under way
	Trial      Phase = "trial"      // running a release that has yet to prove itself
	Settling   Phase = "settling"   // running a proven release after a reboot, until it is healthy
	Blessing   Phase = "blessing"   // gate passed, marking the slot good
	Releasing  Phase = "releasing"  // giving the permit back
)

// Do is what main shall do next.
type Do string

const (
	Nothing   Do = ""
	Check     Do = "check"      // answer: Offered or CheckFailed
	Stage     Do = "stage"      // clear the other slot, write Target into it, verify; Progressed, Staged or StageFailed
	AskPermit Do = "ask permit" // window, semaphore, users; Granted or Denied. No Target: for a reboot without a new release
	Drain     Do = "drain"      // Drained (with whether the window is still open) or DrainFailed
	Finalize  Do = "finalize"   // make Target boot next, if there is one; Finalized or FinalizeFailed
	Reboot    Do = "reboot"     // nothing comes back but a start in another boot
	Gate      Do = "gate"       // GatePassed or GateFailed
	Bless     Do = "bless"      // mark the running slot good; Blessed or, to try again, a Tick
	Release   Do = "release"    // give the permit back; Released or, to try again, a Tick
	Clear     Do = "clear"      // make the other slot unbootable, stop writing to it, give a permit back
	Reset     Do = "reset"      // the gate failed: reboot at once, the boot loader counts the try
	RollBack  Do = "roll back"  // make the other slot boot next for good; Finalized or FinalizeFailed
)

// Action is what Next wants.
type Action struct {
	Do     Do
	Target Offer // of Stage, AskPermit, Finalize, Clear; of Check while it is staged
	// Failed, of Check and Release: what is remembered, for who counts it.
	Failed []Failure
	// DropOther: bless and take the bootability of the older slot, so that nobody can fall back to it later.
	DropOther bool
}

// Offer is one release of the channel.
type Offer struct {
	Version  string `json:"version"`
	Manifest string `json:"manifest"` // its hash
	MinFrom  string `json:"min_from,omitempty"`
	Stop     bool   `json:"stop,omitempty"` // may not be jumped over
	Hold     string `json:"-"`              // why this host may not have it yet; "" = it may
}

// Failure is a release that shall not be taken again.
type Failure struct {
	Version  string    `json:"version"`
	Manifest string    `json:"manifest,omitempty"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
}

// Policy is what the configuration says. It is not remembered: each start says it anew.
type Policy struct {
	Interval            time.Duration // between checks; 0 = no checks but by hand
	MaxBackoff          time.Duration // the longest wait after failed checks
	Retry               time.Duration // between questions for a permit, and after a failed staging
	MaxAttempts         int           // stagings of one release before it is given up
	Reboots             bool          // false = strategy off: a staged release waits for an operator's reboot command
	Downgrade           bool
	PreventLateFallback bool
}

// State is all that is remembered. The zero State is a host that knows nothing yet.
type State struct {
	Phase    Phase     `json:"phase,omitempty"`
	Boot     string    `json:"boot,omitempty"` // boot ID of the last start
	Running  string    `json:"running,omitempty"`
	Good     bool      `json:"good,omitempty"` // the running slot has proven itself
	Target   Offer     `json:"target,omitzero"`
	From     string    `json:"from,omitempty"` // what ran when Target was finalized; set while it is on trial
	Back     string    `json:"back,omitempty"` // why a person has this host go back to the other slot; set until that is done
	Want     string    `json:"want,omitempty"` // version an operator asked for: failure memory and direction do not count
	Attempts int       `json:"attempts,omitempty"`
	Checks   int       `json:"checks,omitempty"` // failed in a row
	CheckAt  time.Time `json:"check_at,omitzero"`
	RetryAt  time.Time `json:"retry_at,omitzero"`
	LastGood time.Time `json:"last_good_check,omitzero"`
	Done     int       `json:"done,omitempty"` // frames of Target
	Frames   int       `json:"frames,omitempty"`
	Failed   []Failure `json:"failed,omitempty"` // newest last
	GateWhy  string    `json:"gate_why,omitempty"`
	Outage   bool      `json:"outage,omitempty"` // the gate was last not reached for reasons outside this host
	Why      string    `json:"why,omitempty"`    // what is waited for, or what happened last, for people
	Seed     uint64    `json:"seed"`
	Policy   Policy    `json:"-"`
}

// Kind is what a Fact says.
type Kind string

const (
	Started        Kind = "started" // the daemon: Boot, Version, Good, Policy, Seed, Spent
	Tick           Kind = "tick"
	Offered        Kind = "offered"      // Offers, newest or not
	CheckFailed    Kind = "check failed" // Why
	Progressed     Kind = "progressed"   // Done, Frames
	StagedOK       Kind = "staged"
	StageFailed    Kind = "stage failed" // Why; Final = trying again is of no use
	Granted        Kind = "granted"
	Denied         Kind = "denied" // Why; Until = when to ask again, if known
	Drained        Kind = "drained"
	DrainFailed    Kind = "drain failed" // Why
	Finalized      Kind = "finalized"
	FinalizeFailed Kind = "finalize failed" // Why
	GatePassed     Kind = "gate passed"
	GateFailed     Kind = "gate failed" // Why; Outage
	Blessed        Kind = "blessed"
	Released       Kind = "released"
	CheckNow       Kind = "check now" // by hand; Version = take this one whatever happened before
	RebootNow      Kind = "reboot now"
	Cancel         Kind = "cancel"
	RollbackNow    Kind = "rollback now"
	Forget         Kind = "forget" // Version, "" = all: it may be taken again
)

// Fact is something that happened, at a time.
type Fact struct {
	Kind    Kind
	At      time.Time
	Boot    string
	Version string
	Good    bool
	Policy  Policy
	Seed    uint64
	Spent   Offer // the release in the other slot, when all its starts are used up
	Offers  []Offer
	Why     string
	Final   bool
	Outage  bool
	Shut    bool // Drained, but the window has closed meanwhile
	Until   time.Time
	Done    int
	Frames  int
}
