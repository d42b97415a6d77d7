package update

import (
	"fmt"

	"github.com/coreos/go-semver/semver"
)

// Choose picks the release to take from those offered: the newest that is newer than the running one, but none beyond a mandatory
// stop, none that came back before, and none that cannot be reached from here. ok=false: why says why none.
func Choose(s State, offers []Offer) (target Offer, why string, ok bool) {
	running, err := semver.NewVersion(s.Running)
	if err != nil {
		return Offer{}, fmt.Sprintf("the running version %q is no semantic version", s.Running), false
	}
	if s.Want != "" {
		for _, o := range offers {
			if o.Version == s.Want {
				return reach(running, o)
			}
		}
		return Offer{}, fmt.Sprintf("%s was asked for and is not offered", s.Want), false
	}
	var best, stop *semver.Version
	why = "up to date"
	var bestOffer, stopOffer Offer
	for _, o := range offers {
		v, err := semver.NewVersion(o.Version)
		if err != nil || *v == *running {
			continue
		}
		up := running.LessThan(*v)
		if !up && !s.Policy.Downgrade {
			continue
		}
		if up && o.Stop && (stop == nil || v.LessThan(*stop)) {
			stop, stopOffer = v, o
		}
		if _, bad := s.failure(o); bad {
			why = fmt.Sprintf("%s has failed here before; update-engine check --take=%s takes it all the same", o.Version, o.Version)
			continue
		}
		if o.Hold != "" {
			why = fmt.Sprintf("%s is not for this host yet: %s", o.Version, o.Hold)
			continue
		}
		if best == nil || best.LessThan(*v) {
			best, bestOffer = v, o
		}
	}
	if stop != nil {
		if f, bad := s.failure(stopOffer); bad {
			return Offer{}, fmt.Sprintf("%s is a mandatory stop and has failed here before: %s", f.Version, f.Reason), false
		}
		if stopOffer.Hold != "" {
			return Offer{}, fmt.Sprintf("%s is a mandatory stop and not for this host yet: %s", stopOffer.Version, stopOffer.Hold), false
		}
		return reach(running, stopOffer)
	}
	if best == nil {
		return Offer{}, why, false
	}
	// A downgrade is the answer only where the channel has nothing newer.
	return reach(running, bestOffer)
}

func reach(running *semver.Version, o Offer) (Offer, string, bool) {
	if o.MinFrom != "" {
		least, err := semver.NewVersion(o.MinFrom)
		if err != nil || running.LessThan(*least) {
			return Offer{}, fmt.Sprintf("%s can be reached from %s on, %s is running: the channel lacks a release in between",
				o.Version, o.MinFrom, running), false
		}
	}
	if o.Version == running.String() {
		return Offer{}, "up to date", false
	}
	o.Hold = "" // whoever asked for it by name need not wait
	return o, "", true
}

func (s State) failure(o Offer) (Failure, bool) {
	for _, f := range s.Failed {
		// The same version published anew under another manifest is another release: it may be the repaired one.
		if f.Version == o.Version && (f.Manifest == "" || f.Manifest == o.Manifest) {
			return f, true
		}
	}
	return Failure{}, false
}
