package update

import (
	"fmt"
	"slices"
	"time"
)

// Next is the whole state machine: what the host is to do, given what it knows and what just happened. Facts that mean nothing
// in a phase (an answer that comes late, after a cancel) change nothing.
func Next(s State, f Fact) (State, Action) {
	s.Failed = slices.Clone(s.Failed)
	s, a := s.next(f)
	if a.Do == Check || a.Do == Release {
		a.Failed = slices.Clone(s.Failed)
	}
	return s, a
}

func (s State) next(f Fact) (State, Action) {
	switch f.Kind {
	case Started:
		return s.started(f)
	case Forget:
		s.Failed = slices.DeleteFunc(s.Failed, func(x Failure) bool { return f.Version == "" || x.Version == f.Version })
		return s, Action{}
	case RollbackNow:
		return s.rollback(f)
	case Cancel:
		return s.cancel()
	}
	switch s.Phase {
	case Idle:
		return s.idle(f)
	case Checking:
		return s.checking(f)
	case Staging:
		return s.staging(f)
	case Staged:
		return s.staged(f)
	case Asking:
		return s.asking(f)
	case Draining, Finalizing, Rebooting:
		return s.leaving(f)
	case Trial, Settling:
		return s.proving(f)
	case Blessing, Releasing:
		return s.ending(f)
	}
	return s, Action{}
}

// started is a start of the daemon: in the same boot the step under way is done again, in another boot the gate comes first.
func (s State) started(f Fact) (State, Action) {
	same := s.Boot == f.Boot && s.Phase != ""
	if s.Boot == "" && f.Spent != (Offer{}) {
		// What was remembered is lost; the other slot's boot entry is left to tell that its release did not prove itself.
		s = s.remember(f.Spent, "came back after its tries were spent, as its boot entry says", f.At)
	}
	ran := s.Running
	s.Boot, s.Policy, s.Running, s.Good = f.Boot, f.Policy, f.Version, f.Good
	if s.Seed == 0 {
		s.Seed = f.Seed
	}
	if same {
		return s.resume(f)
	}
	if s.Back != "" && f.Version != ran {
		// The slot was switched, and the power went before it could be noted.
		s = s.remember(Offer{Version: ran}, s.Back, f.At)
	}
	s.Back = ""
	if s.From != "" && f.Version != s.Target.Version {
		// The boot loader has gone back. A reboot of the running release by hand, before Target was ever started, cannot be told
		// from it and does not happen: Target boots next from Finalize on.
		if s.Outage {
			s.Why = fmt.Sprintf("%s came back while the cluster was out of order: not held against it", s.Target.Version)
		} else {
			reason := "came back after its tries were spent"
			if s.GateWhy != "" {
				reason += ": " + s.GateWhy
			}
			s = s.remember(s.Target, reason, f.At)
			s.Why = s.Target.Version + " " + reason
		}
		s.From, s.Target, s.GateWhy, s.Outage = "", Offer{}, "", false
	}
	s.Phase = Settling
	if !f.Good {
		s.Phase, s.Why = Trial, s.Running+" has to prove itself"
	}
	return s, Action{Do: Gate}
}

// resume does the step again that a crash or restart of the daemon cut off. Every step may be repeated.
func (s State) resume(f Fact) (State, Action) {
	switch s.Phase {
	case Checking:
		return s, Action{Do: Check}
	case Staging:
		return s, Action{Do: Stage, Target: s.Target}
	case Staged, Asking:
		s.RetryAt = f.At
	case Draining:
		return s, Action{Do: Drain}
	case Finalizing:
		if s.Back != "" {
			return s, Action{Do: RollBack}
		}
		return s, Action{Do: Finalize, Target: s.Target}
	case Rebooting:
		return s, Action{Do: Reboot}
	case Trial, Settling:
		return s, Action{Do: Gate}
	case Blessing:
		return s, Action{Do: Bless, DropOther: s.Policy.PreventLateFallback}
	case Releasing:
		return s, Action{Do: Release}
	}
	return s, Action{}
}

func (s State) idle(f Fact) (State, Action) {
	switch f.Kind {
	case Tick:
		if s.Policy.Interval > 0 && !f.At.Before(s.CheckAt) {
			s.Phase = Checking
			return s, Action{Do: Check}
		}
	case CheckNow:
		s.Phase, s.Want = Checking, f.Version
		return s, Action{Do: Check}
	case RebootNow:
		return s.wait(f)
	}
	return s, Action{}
}

// wait waits for the right to reboot as the host is: no release is staged.
func (s State) wait(f Fact) (State, Action) {
	s.Phase, s.Target, s.Want, s.Why = Asking, Offer{}, "", "a reboot is asked for by hand; asking for a permit"
	s, s.RetryAt = s.after(f.At, s.Policy.Retry)
	return s, Action{Do: AskPermit}
}

// asking is wait, until there is a permit. Nothing else is begun meanwhile: Cancel ends it.
func (s State) asking(f Fact) (State, Action) {
	switch f.Kind {
	case Tick:
		if !f.At.Before(s.RetryAt) {
			return s.wait(f)
		}
	case RebootNow:
		return s.wait(f)
	case Granted, Denied:
		return s.answered(f)
	}
	return s, Action{}
}

func (s State) checking(f Fact) (State, Action) {
	switch f.Kind {
	case RebootNow:
		return s.wait(f)
	case CheckNow:
		s.Want = f.Version
	case CheckFailed:
		// 1, 2, 4 … minutes: a mirror that is back is found soon, one that is down is not stormed by every host at once.
		wait := min(time.Minute<<min(s.Checks, 20), max(s.Policy.MaxBackoff, time.Minute))
		s.Checks++
		s, s.CheckAt = s.after(f.At, wait)
		s.Phase, s.Want, s.Why = Idle, "", "check failed: "+f.Why
	case Offered:
		s = s.checked(f)
		target, why, ok := Choose(s, f.Offers)
		if !ok {
			s.Phase, s.Want, s.Why = Idle, "", why
			return s, Action{}
		}
		return s.take(target)
	}
	return s, Action{}
}

// checked notes a check that got an answer.
func (s State) checked(f Fact) State {
	s.Checks, s.LastGood = 0, f.At
	s, s.CheckAt = s.after(f.At, s.Policy.Interval)
	return s
}

func (s State) take(target Offer) (State, Action) {
	if target != s.Target {
		s.Attempts = 0
	}
	s.Phase, s.Target, s.Done, s.Frames, s.Why = Staging, target, 0, 0, ""
	return s, Action{Do: Stage, Target: target}
}

func (s State) staging(f Fact) (State, Action) {
	switch f.Kind {
	case Progressed:
		s.Done, s.Frames = f.Done, f.Frames
	case StagedOK:
		s.Phase, s.Attempts = Staged, 0
		return s.ask(f)
	case StageFailed:
		s.Attempts++
		s.Phase, s.Why = Idle, fmt.Sprintf("staging %s failed (%d): %s", s.Target.Version, s.Attempts, f.Why)
		s, s.CheckAt = s.after(f.At, s.Policy.Retry)
		if f.Final || s.Attempts >= max(s.Policy.MaxAttempts, 1) {
			s = s.remember(s.Target, "could not be staged: "+f.Why, f.At)
			s.Target, s.Attempts, s.Want = Offer{}, 0, ""
		}
	}
	return s, Action{}
}

// ask asks for the right to reboot, unless that is left to people.
func (s State) ask(f Fact) (State, Action) {
	s, s.RetryAt = s.after(f.At, s.Policy.Retry)
	if !s.Policy.Reboots {
		s.Why = s.Target.Version + " is staged; the reboot strategy is off: update-engine apply --reboot starts it"
		return s, Action{}
	}
	s.Why = s.Target.Version + " is staged; asking for a reboot permit"
	return s, Action{Do: AskPermit, Target: s.Target}
}

func (s State) staged(f Fact) (State, Action) {
	switch f.Kind {
	case Tick:
		ask := !f.At.Before(s.RetryAt)
		// Whichever has been due for longer: neither must keep the other from its turn.
		if s.Policy.Interval > 0 && !f.At.Before(s.CheckAt) && (!ask || !s.RetryAt.Before(s.CheckAt)) {
			// Hours may pass until the window opens: a newer release, or the withdrawal of this one, must not wait for it.
			s, s.CheckAt = s.after(f.At, s.Policy.Interval)
			return s, Action{Do: Check, Target: s.Target}
		}
		if ask {
			return s.ask(f)
		}
	case CheckNow:
		s.Want = f.Version
		return s, Action{Do: Check, Target: s.Target}
	case RebootNow:
		s.Why = "reboot asked for by hand"
		return s, Action{Do: AskPermit, Target: s.Target}
	case Offered:
		s = s.checked(f)
		target, why, ok := Choose(s, f.Offers)
		switch {
		case ok && target == s.Target:
		case ok:
			return s.take(target)
		default:
			a := Action{Do: Clear, Target: s.Target}
			s.Phase, s.Why = Idle, s.Target.Version+" was staged and is no longer offered: "+why
			s.Target, s.Want = Offer{}, ""
			return s, a
		}
	case CheckFailed:
		s.Why = "check failed: " + f.Why
	case Granted, Denied:
		return s.answered(f)
	}
	return s, Action{}
}

// answered goes, or waits for the next time to ask.
func (s State) answered(f Fact) (State, Action) {
	if f.Kind == Granted {
		s.Phase, s.Why = Draining, "permit held; moving units elsewhere"
		return s, Action{Do: Drain}
	}
	s.Why = "a reboot is asked for by hand; no reboot permit: " + f.Why
	if s.Phase == Staged {
		s.Why = s.Target.Version + " is staged; no reboot permit: " + f.Why
	}
	s, s.RetryAt = s.after(f.At, s.Policy.Retry)
	if f.Until.After(s.RetryAt) {
		s, s.RetryAt = s.after(f.Until, 0)
	}
	return s, Action{}
}

// leaving is from the permit to the reboot.
func (s State) leaving(f Fact) (State, Action) {
	switch {
	case s.Phase == Draining && f.Kind == Drained && !f.Shut:
		s.Phase, s.Why = Finalizing, ""
		return s, Action{Do: Finalize, Target: s.Target}
	case s.Phase == Draining && (f.Kind == DrainFailed || f.Kind == Drained):
		why := "the units did not leave: " + f.Why
		if f.Shut {
			why = "the reboot window closed while the units left"
		}
		return s.giveBack(f, why)
	case s.Phase == Finalizing && f.Kind == FinalizeFailed:
		return s.giveBack(f, "could not make the other slot boot next: "+f.Why)
	case s.Phase == Finalizing && f.Kind == Finalized:
		s.Phase, s.Why = Rebooting, "rebooting"
		if s.Back != "" {
			// Only now: as long as the other slot may be one that cannot boot, this release is not refused.
			s = s.remember(Offer{Version: s.Running}, s.Back, f.At)
			s.Back = ""
		}
		if s.Target != (Offer{}) {
			s.From, s.GateWhy, s.Outage = s.Running, "", false
			s.Why = "rebooting into " + s.Target.Version
		}
		s, s.RetryAt = s.after(f.At, rebootPatience)
		return s, Action{Do: Reboot}
	case s.Phase == Rebooting && f.Kind == Tick && !f.At.Before(s.RetryAt):
		// We still live: the reboot was swallowed (an inhibitor, a hanging shutdown).
		s, s.RetryAt = s.after(f.At, rebootPatience)
		s.Why = "the reboot did not happen; asking again"
		return s, Action{Do: Reboot}
	}
	return s, Action{}
}

const rebootPatience = 10 * time.Minute

// giveBack returns to Staged without the permit; the host keeps what it has written. Without anything staged it goes on asking; a roll back that
// is not possible is given up.
func (s State) giveBack(f Fact, why string) (State, Action) {
	s.Phase, s.Why = Staged, why
	switch {
	case s.Back != "":
		s.Phase, s.Back = Idle, ""
	case s.Target == (Offer{}):
		s.Phase = Asking
	}
	s, s.RetryAt = s.after(f.At, s.Policy.Retry)
	return s, Action{Do: Release}
}

// proving is the first minutes of every boot.
func (s State) proving(f Fact) (State, Action) {
	switch f.Kind {
	case GatePassed:
		s.GateWhy, s.Outage = "", false
		if s.Phase == Settling {
			s.Phase = Releasing
			return s, Action{Do: Release}
		}
		s.Phase = Blessing
		return s, Action{Do: Bless, DropOther: s.Policy.PreventLateFallback}
	case GateFailed:
		s.GateWhy, s.Outage = f.Why, f.Outage
		s.Why = "not healthy: " + f.Why
		if s.Phase == Settling || f.Outage {
			// A proven release is not the cause, and no release is the cause of an outage of the cluster: going back or round
			// would only add to it.
			return s, Action{Do: Gate}
		}
		return s, Action{Do: Reset}
	}
	return s, Action{}
}

// ending marks the slot good and gives the permit back, in that order: a permit that cannot be given back does not make the
// release worse.
func (s State) ending(f Fact) (State, Action) {
	switch {
	case s.Phase == Blessing && f.Kind == Blessed:
		s.Phase, s.Good = Releasing, true
		s.Why = s.Running + " has proven itself"
		if s.From != "" {
			s.From, s.Target, s.Want = "", Offer{}, ""
		}
		return s, Action{Do: Release}
	case s.Phase == Releasing && f.Kind == Released:
		s.Phase = Idle
		s, s.CheckAt = s.after(f.At, min(s.Policy.Interval, firstCheck))
	case s.Phase == Blessing && f.Kind == Tick && !f.At.Before(s.RetryAt):
		s, s.RetryAt = s.after(f.At, time.Minute)
		return s, Action{Do: Bless, DropOther: s.Policy.PreventLateFallback}
	case s.Phase == Releasing && f.Kind == Tick && !f.At.Before(s.RetryAt):
		s, s.RetryAt = s.after(f.At, time.Minute)
		return s, Action{Do: Release}
	}
	return s, Action{}
}

// firstCheck is how soon after a start a host looks for releases: late enough that a start of all hosts is no storm.
const firstCheck = 7 * time.Minute

// rollback goes back to the other slot because a person says so; what runs now is not taken again by itself.
func (s State) rollback(f Fact) (State, Action) {
	switch s.Phase {
	case Idle, Checking, Staged, Asking, Settling, Trial, Releasing, Blessing:
	default:
		s.Why = "cannot roll back while " + string(s.Phase) + ": cancel first"
		return s, Action{}
	}
	if s.Phase == Staged {
		// The other slot holds the staged release, not the old one.
		s.Why = "the older release was overwritten by " + s.Target.Version + ": nothing to roll back to"
		return s, Action{}
	}
	s.Phase, s.Target, s.From, s.Want = Finalizing, Offer{}, "", ""
	s.Back, s.Why = "rolled back by hand: "+f.Why, "rolling back by hand"
	return s, Action{Do: RollBack}
}

// cancel gives up what is under way. From Rebooting on it is too late. Only where the other slot has been written is there
// something to clear: otherwise it holds the way back.
func (s State) cancel() (State, Action) {
	a := Action{Do: Clear, Target: s.Target}
	switch {
	case s.Phase == Checking:
		a = Action{}
	case s.Phase == Asking, (s.Phase == Draining || s.Phase == Finalizing) && s.Target == (Offer{}): // a reboot as it is, or a roll back
		a = Action{Do: Release}
	case s.Phase != Staging && s.Phase != Staged && s.Phase != Draining && s.Phase != Finalizing:
		return s, Action{}
	}
	s.Phase, s.Why = Idle, "cancelled"
	s.Target, s.Want, s.Attempts, s.Back = Offer{}, "", 0, ""
	return s, a
}

// maxFailed bounds the memory; the oldest is forgotten first.
const maxFailed = 32

func (s State) remember(o Offer, reason string, at time.Time) State {
	s.Failed = slices.DeleteFunc(s.Failed, func(f Failure) bool { return f.Version == o.Version && f.Manifest == o.Manifest })
	s.Failed = append(s.Failed, Failure{o.Version, o.Manifest, reason, at})
	s.Failed = s.Failed[max(0, len(s.Failed)-maxFailed):]
	return s
}

// after is a time in d or up to a tenth later, drawn from the seed in the state.
func (s State) after(at time.Time, d time.Duration) (State, time.Time) {
	s.Seed += 0x9E3779B97F4A7C15 // splitmix64
	z := s.Seed
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	z ^= z >> 31
	return s, at.Add(d + time.Duration(z%uint64(d/10+time.Second)))
}
