package reboot

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

var (
	// ErrSameBoot: the holder says that it is back, and its boot is the one it asked from.
	ErrSameBoot = errors.New("the machine has not rebooted since it got the permit")
	// ErrNotHolder: the machine holds no permit of that group.
	ErrNotHolder = errors.New("holds no permit")
)

// Semaphore is one group's record. The zero Semaphore is a group that nobody has set up: one machine at a time.
type Semaphore struct {
	Max     int `json:"max,omitempty"`     // permits at a time; 0 = 1, unless Percent says
	Percent int `json:"percent,omitempty"` // of the machines instead, rounded down, at least 1; 0 = Max counts
	// Domain is a metadata key: at most one machine of each of its values holds a permit. "" = no such rule.
	Domain string `json:"domain,omitempty"`
	// Outage lets a machine reboot although the store loses its quorum meanwhile, where there are too few voters to avoid it.
	Outage bool `json:"outage,omitempty"`
	// Homeless lets a machine reboot although units of it run nowhere meanwhile, or exclusive ones elsewhere have no failover.
	Homeless bool     `json:"homeless,omitempty"`
	Holders  []Holder `json:"holders,omitempty"` // by ID
}

// Holder is a machine with a permit. It keeps it until it is back and healthy, says that it will not reboot, or an operator
// takes it away: a machine that died on its way is what the others must stop for.
type Holder struct {
	ID     string    `json:"id"`
	Boot   string    `json:"boot,omitempty"` // boot ID it asked from; "" = a FleetLock client, which has none
	Domain string    `json:"domain,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
}

// Machine is what must be known of one machine.
type Machine struct {
	Domain string // value of the group's Domain key
	Up     bool
	Voter  bool // of the store
	// Going: it holds a permit of another group. It counts as gone for the quorum, which all groups share.
	Going bool
}

// Cluster is what a permit is decided on.
type Cluster struct {
	At       time.Time
	Machines map[string]Machine // all that belong to the cluster, down ones too
	// Homeless are units on the asking machine that no other machine would take now, each with why.
	Homeless []string
	// Stranded are exclusive units of other machines that only the asking one would take if theirs died, each with why.
	Stranded []string
}

// Refusal is why there is no permit now. Kind is one of few words, for metrics and FleetLock.
type Refusal struct {
	Kind   string
	Reason string
}

// The kinds of refusals.
const (
	Full     = "semaphore_full"
	InDomain = "domain_busy"
	Unready  = "machines_down"
	Quorum   = "quorum"
	Homeless = "homeless_units"
	Failover = "exclusive_failover"
	Closed   = "window_closed"
	Gone     = "permit_gone"
)

func (r *Refusal) Error() string { return r.Reason }

// Limit is how many permits there are in a group of n machines.
func (s Semaphore) Limit(n int) int {
	if s.Percent > 0 {
		return max(1, n*s.Percent/100)
	}
	return max(1, s.Max)
}

func (s Semaphore) find(id string) int {
	return slices.IndexFunc(s.Holders, func(h Holder) bool { return h.ID == id })
}

// Take gives a permit, or says why not. Who has one gets it again. The asker need not be in the cluster: a FleetLock client is
// only counted.
func (s Semaphore) Take(ask Holder, c Cluster) (Semaphore, *Refusal) {
	s.Holders = slices.Clone(s.Holders)
	if i := s.find(ask.ID); i >= 0 {
		if ask.Boot != s.Holders[i].Boot && ask.Boot != "" {
			// It came back and wants to go once more before it gave the permit back. A FleetLock client that gives the ID of
			// one of ours changes nothing.
			s.Holders[i].Boot, s.Holders[i].Reason = ask.Boot, ask.Reason
		}
		return s, nil
	}
	if r := s.refuse(ask, c); r != nil {
		return s, r
	}
	ask.Since = c.At
	ask.Domain = c.Machines[ask.ID].Domain
	s.Holders = append(s.Holders, ask)
	slices.SortFunc(s.Holders, func(a, b Holder) int { return strings.Compare(a.ID, b.ID) })
	return s, nil
}

func (s Semaphore) refuse(ask Holder, c Cluster) *Refusal {
	limit := s.Limit(len(c.Machines))
	held := s.names()
	if len(s.Holders) >= limit {
		return &Refusal{Full, fmt.Sprintf("%d of %d permits are taken, by %s", len(s.Holders), limit, held)}
	}
	var down []string
	for id, m := range c.Machines {
		if !m.Up && id != ask.ID && s.find(id) < 0 {
			down = append(down, id)
		}
	}
	slices.Sort(down)
	if len(s.Holders)+len(down) >= limit {
		return &Refusal{Unready, fmt.Sprintf("%s down; with %d permits no more may go", strings.Join(down, ", "), limit)}
	}
	own, member := c.Machines[ask.ID]
	if s.Domain != "" && own.Domain != "" {
		for _, h := range s.Holders {
			if h.Domain == own.Domain {
				return &Refusal{InDomain, fmt.Sprintf("%s reboots in the same %s %s", h.ID, s.Domain, own.Domain)}
			}
		}
	}
	if member && own.Voter {
		if r := s.quorum(ask, c); r != nil {
			return r
		}
	}
	// On a host that is alone units have no other home whatever one does.
	if len(c.Homeless) > 0 && len(c.Machines) > 1 && !s.Homeless {
		return &Refusal{Homeless, fmt.Sprintf("no other machine takes %s: make room, or allow it with fleetctl reboot set-homeless yes",
			strings.Join(c.Homeless, ", "))}
	}
	if len(c.Stranded) > 0 && len(c.Machines) > 1 && !s.Homeless {
		return &Refusal{Failover, fmt.Sprintf("it is the only failover of %s: make room on another machine, or allow it with fleetctl reboot set-homeless yes",
			strings.Join(c.Stranded, ", "))}
	}
	return nil
}

// Still says to a holder that is about to go why it must not any more: what it was granted on may have changed while its units
// left. nil = it may go.
func (s Semaphore) Still(id string, c Cluster) *Refusal {
	i := s.find(id)
	if i < 0 {
		return &Refusal{Gone, "the permit was taken away"}
	}
	s.Holders = slices.Delete(slices.Clone(s.Holders), i, i+1)
	c.Homeless = nil // they have been moved, or are where they were when it was granted
	return s.refuse(Holder{ID: id}, c)
}

func (s Semaphore) names() string {
	var out []string
	for _, h := range s.Holders {
		out = append(out, h.ID)
	}
	return strings.Join(out, ", ")
}

// quorum counts the voters that would be left. A holder counts as gone from the moment of its permit.
func (s Semaphore) quorum(ask Holder, c Cluster) *Refusal {
	voters, left := 0, 0
	for id, m := range c.Machines {
		if !m.Voter {
			continue
		}
		voters++
		if m.Up && !m.Going && id != ask.ID && s.find(id) < 0 {
			left++
		}
	}
	need := voters/2 + 1
	switch {
	case left >= need, len(c.Machines) == 1, s.Outage:
		// A host that is alone has no quorum to keep; its units go down with it either way.
		return nil
	case voters <= 2:
		return &Refusal{Quorum, fmt.Sprintf("the store has %d voters and stands still while %s reboots: add machines or set cluster_size to 3, "+
			"or allow it with fleetctl reboot set-outage yes", voters, ask.ID)}
	}
	return &Refusal{Quorum, fmt.Sprintf("%d of %d voters would be left, %d are needed", left, voters, need)}
}

// Steady gives the permit back after the reboot: boot is the boot that passed the gate. No permit is fine, so that it may be
// called at every start.
func (s Semaphore) Steady(id, boot string) (Semaphore, error) {
	i := s.find(id)
	if i < 0 {
		return s, nil
	}
	if h := s.Holders[i]; h.Boot != "" && (h.Boot == boot || boot == "") {
		return s, fmt.Errorf("%s: %w", id, ErrSameBoot)
	}
	return s.drop(i), nil
}

// Abort gives the permit back without a reboot, in the boot that asked. After a reboot only Steady does.
func (s Semaphore) Abort(id, boot string) (Semaphore, error) {
	i := s.find(id)
	if i < 0 {
		return s, nil
	}
	if s.Holders[i].Boot != boot {
		return s, fmt.Errorf("%s has rebooted since it got the permit: it gives it back when it is healthy", id)
	}
	return s.drop(i), nil
}

// Unlock takes a permit away: an operator's word that the machine is no longer on its way.
func (s Semaphore) Unlock(id string) (Semaphore, error) {
	i := s.find(id)
	if i < 0 {
		return s, fmt.Errorf("%s: %w", id, ErrNotHolder)
	}
	return s.drop(i), nil
}

// Lock gives a permit because an operator says so, whatever else holds.
func (s Semaphore) Lock(h Holder, at time.Time) Semaphore {
	if s.find(h.ID) >= 0 {
		return s
	}
	h.Since = at
	s.Holders = append(slices.Clone(s.Holders), h)
	slices.SortFunc(s.Holders, func(a, b Holder) int { return strings.Compare(a.ID, b.ID) })
	return s
}

func (s Semaphore) drop(i int) Semaphore {
	s.Holders = slices.Delete(slices.Clone(s.Holders), i, i+1)
	return s
}

// SetMax sets how many may go at a time. Fewer than are gone is fine: no new one goes until enough are back.
func (s Semaphore) SetMax(n int) (Semaphore, error) {
	if n < 1 {
		return s, fmt.Errorf("max %d: want at least 1; to stop all reboots close the window or cordon", n)
	}
	s.Max, s.Percent = n, 0
	return s, nil
}

// SetPercent sets how many of a hundred may go at a time.
func (s Semaphore) SetPercent(n int) (Semaphore, error) {
	if n < 1 || n > 100 {
		return s, fmt.Errorf("percent %d: want 1 to 100", n)
	}
	s.Percent = n
	return s, nil
}

// Lost are the holders that are down for longer than patience after they got the permit: they raise an alarm and keep it.
func (s Semaphore) Lost(c Cluster, patience time.Duration) []Holder {
	var out []Holder
	for _, h := range s.Holders {
		if m, known := c.Machines[h.ID]; known && !m.Up && c.At.Sub(h.Since) > patience {
			out = append(out, h)
		}
	}
	return out
}
