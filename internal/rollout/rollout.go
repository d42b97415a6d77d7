package rollout

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// ErrInvalid: a setting that makes no sense.
var ErrInvalid = errors.New("invalid rollout")

// Wave says which share of the hosts may have begun at a time after the start; between two waves the share grows evenly.
type Wave struct {
	After   time.Duration
	Percent float64
}

// Pace names a preset.
type Pace string

const (
	Slow      Pace = "slow"      // two weeks
	Normal    Pace = "normal"    // six days
	Fast      Pace = "fast"      // a day
	Emergency Pace = "emergency" // three hours
)

// Waves are the waves of a pace; nil for a word that is none. The numbers are Bottlerocket's, which has long run with them.
func Waves(p Pace) []Wave {
	const day = 24 * time.Hour
	switch p {
	case Slow:
		return []Wave{{2 * time.Hour, 1}, {12 * time.Hour, 5}, {2 * day, 15}, {5 * day, 40}, {8 * day, 60}, {11 * day, 90}, {13 * day, 100}}
	case Normal:
		return []Wave{{time.Hour, 1}, {4 * time.Hour, 5}, {day, 15}, {2 * day, 40}, {4 * day, 60}, {5 * day, 90}, {6 * day, 100}}
	case Fast:
		return []Wave{{time.Hour, 3}, {4 * time.Hour, 12}, {10 * time.Hour, 40}, {18 * time.Hour, 80}, {day, 100}}
	case Emergency:
		return []Wave{{30 * time.Minute, 5}, {time.Hour, 25}, {90 * time.Minute, 50}, {2 * time.Hour, 90}, {3 * time.Hour, 100}}
	}
	return nil
}

// Rollout is one release on its way through one channel.
type Rollout struct {
	Version string    `json:"version"`
	Start   time.Time `json:"start"`
	Pace    Pace      `json:"pace"`
	Hosts   int       `json:"hosts"` // of the channel, when it was started
	// AtLeast lets this share of the hosts begin now, whatever the waves say.
	AtLeast float64 `json:"at_least,omitempty"`
	// Canary is a group of hosts that go first; the others wait until CanaryGood of them have proven it.
	Canary     string `json:"canary,omitempty"`
	CanaryGood int    `json:"canary_good,omitempty"`

	Paused  string `json:"paused,omitempty"`  // an operator's reason
	Stopped string `json:"stopped,omitempty"` // its own reason; only Resume takes it away

	// Refused are the releases, with blanks between them, whose rollouts were stopped or paused when another took their place. They stay
	// in the channel, and nobody takes them.
	Refused string `json:"refused,omitempty"`

	Took       int `json:"took"` // have begun
	Proved     int `json:"proved"`
	CameBack   int `json:"came_back"`
	CanaryDone int `json:"canary_done"`
}

// New starts a rollout.
func New(version string, pace Pace, hosts int, at time.Time) (Rollout, error) {
	if Waves(pace) == nil || version == "" || hosts < 1 {
		return Rollout{}, fmt.Errorf("%w: version %q, pace %q, %d hosts: want a version, one of slow, normal, fast, emergency, and at least one host",
			ErrInvalid, version, pace, hosts)
	}
	return Rollout{Version: version, Start: at, Pace: pace, Hosts: hosts}, nil
}

// Replace is the rollout of another release after this one: what had stopped stays stopped.
func (r Rollout) Replace(n Rollout) Rollout {
	refused := strings.Fields(r.Refused)
	if r.Stopped != "" || r.Paused != "" {
		refused = append(refused, r.Version)
	}
	refused = slices.DeleteFunc(refused, func(v string) bool { return v == n.Version })
	n.Refused = strings.Join(refused[max(0, len(refused)-maxRefused):], " ")
	return n
}

// maxRefused bounds the memory; the oldest is forgotten first.
const maxRefused = 16

// Refuses says that a release's own rollout was stopped, and another has begun since.
func (r Rollout) Refuses(version string) bool {
	return slices.Contains(strings.Fields(r.Refused), version)
}

// Share is which percentage of the hosts may have begun at t.
func (r Rollout) Share(t time.Time) float64 {
	since := t.Sub(r.Start)
	last := Wave{}
	share := 0.0
	for _, w := range Waves(r.Pace) {
		if since < w.After {
			share = last.Percent + (w.Percent-last.Percent)*float64(since-last.After)/float64(w.After-last.After)
			break
		}
		last, share = w, w.Percent
	}
	return max(share, r.AtLeast, 0)
}

// when is the time at which a share is reached.
func (r Rollout) when(percent float64) time.Time {
	last := Wave{}
	for _, w := range Waves(r.Pace) {
		if percent <= w.Percent {
			return r.Start.Add(last.After + time.Duration(float64(w.After-last.After)*(percent-last.Percent)/(w.Percent-last.Percent)))
		}
		last = w
	}
	return r.Start.Add(last.After)
}

// unproven is the share of the hosts that may be under way while hardly any has proven the release.
const unproven = 1.0 / 100

// Allows says whether a host may begin, or why not yet. seed is the host's place in the line, 0 to 1.
func (r Rollout) Allows(seed float64, group string, t time.Time) (why string, ok bool) {
	switch {
	case r.Stopped != "":
		return fmt.Sprintf("the rollout of %s has stopped: %s", r.Version, r.Stopped), false
	case r.Paused != "":
		return fmt.Sprintf("the rollout of %s is paused: %s", r.Version, r.Paused), false
	case t.Before(r.Start):
		return fmt.Sprintf("the rollout of %s begins %s", r.Version, r.Start.UTC().Format(time.RFC3339)), false
	case r.Canary != "" && group == r.Canary:
		return "", true
	case r.Canary != "" && r.CanaryDone < r.CanaryGood:
		return fmt.Sprintf("%d of %d hosts of the canary group %s have proven %s", r.CanaryDone, r.CanaryGood, r.Canary, r.Version), false
	}
	if share := r.Share(t); seed*100 > share {
		return fmt.Sprintf("%.1f %% of the hosts may have %s now; this one's turn is %s", share, r.Version, r.when(seed*100).UTC().Format(time.RFC3339)), false
	}
	// However fast the waves: as long as no host has come through, few may be under way. Each that comes through makes room for two.
	way := r.Took - r.Proved - r.CameBack
	if room := max(1, int(math.Floor(unproven*float64(r.Hosts)))) + 2*r.Proved; way >= room {
		return fmt.Sprintf("%d hosts are under way with %s and %d have proven it: more go when those are back", way, r.Version, r.Proved), false
	}
	return "", true
}

// Report is what a host says of itself.
type Report string

const (
	Took     Report = "took"      // has begun
	Proved   Report = "proved"    // runs it and is well
	CameBack Report = "came back" // or could not be staged
	GaveUp   Report = "gave up"   // began, and was called off before it booted
)

// The rollout stops by itself when so many have come back, and these are at least that share of all that are through.
const (
	stopAt    = 3
	stopShare = 0.05
)

// Count is the rollout after a host's report; before is what the host said last of this release, "" = nothing.
func (r Rollout) Count(before, now Report, canary bool) Rollout {
	if before == now {
		return r
	}
	if before == "" && now != GaveUp {
		r.Took++
	}
	add := func(what Report, n int) {
		switch what {
		case Proved:
			r.Proved += n
			if canary {
				r.CanaryDone += n
			}
		case CameBack:
			r.CameBack += n
		case GaveUp:
			r.Took -= n
		}
	}
	if before == GaveUp {
		add(GaveUp, -1)
	} else {
		add(before, -1)
	}
	if now != GaveUp || before != "" {
		add(now, 1)
	}
	through := r.Proved + r.CameBack
	// In a small channel three hosts are a large part of it: there the first that comes back stops the rollout.
	need := min(stopAt, max(1, r.Hosts/20))
	if r.Stopped == "" && (r.CameBack >= need && float64(r.CameBack) >= stopShare*float64(through) || canary && now == CameBack) {
		r.Stopped = fmt.Sprintf("%d of %d hosts that are through came back", r.CameBack, through)
	}
	return r
}

// Resume goes on after a pause or a stop: what has come back until now is an operator's to judge and no longer counts.
func (r Rollout) Resume() Rollout {
	r.Paused, r.Stopped = "", ""
	r.Took -= r.CameBack
	r.CameBack = 0
	return r
}
