package update

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func policy() Policy {
	return Policy{Interval: time.Hour, MaxBackoff: 4 * time.Hour, Retry: 5 * time.Minute, MaxAttempts: 3, Reboots: true}
}

func at(min int) time.Time {
	return time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC).Add(time.Duration(min) * time.Minute)
}

func offer(v string) Offer { return Offer{Version: v, Manifest: "sum-" + v} }

func held(v string) Offer { o := offer(v); o.Hold = "wave 3 begins at noon"; return o }

func start(boot, version string, good bool) Fact {
	return Fact{Kind: Started, Boot: boot, Version: version, Good: good, Policy: policy(), Seed: 7}
}

func offered(v ...string) Fact {
	f := Fact{Kind: Offered}
	for _, v := range v {
		f.Offers = append(f.Offers, offer(v))
	}
	return f
}

// play feeds facts, one a minute where they give no time, and tells what came of each.
func play(s State, facts ...Fact) (State, []string) {
	var out []string
	for i, f := range facts {
		if f.At.IsZero() {
			f.At = at(i)
		}
		var a Action
		s, a = Next(s, f)
		line := fmt.Sprintf("%s -> %s", f.Kind, s.Phase)
		if a.Do != Nothing {
			line += " / " + string(a.Do)
		}
		if a.Target.Version != "" && a.Do != AskPermit {
			line += " " + a.Target.Version
		}
		if a.DropOther {
			line += " and drop the other"
		}
		out = append(out, line)
	}
	return s, out
}

func lines(text string) []string {
	var out []string
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

// settled is a host that runs 1.0.0 and has nothing to do.
func settled(t *testing.T) State {
	t.Helper()
	s, _ := play(State{}, start("b1", "1.0.0", true), Fact{Kind: GatePassed}, Fact{Kind: Released})
	if s.Phase != Idle {
		t.Fatal(s.Phase)
	}
	return s
}

func kinds(k ...Kind) []Fact {
	var out []Fact
	for _, k := range k {
		out = append(out, Fact{Kind: k})
	}
	return out
}

func TestTranscripts(t *testing.T) {
	taken := append([]Fact{{Kind: CheckNow}, offered("1.0.0", "2.0.0")}, kinds(StagedOK, Granted, Drained, Finalized)...)
	for _, tt := range []struct {
		name  string
		facts []Fact
		want  string
		check func(State) string
	}{
		{"a good release is taken, proves itself and the permit goes back",
			append(slices.Clone(taken), append([]Fact{start("b2", "2.0.0", false)}, kinds(GatePassed, Blessed, Released)...)...), `
			check now -> checking / check
			offered -> staging / stage 2.0.0
			staged -> staged / ask permit
			granted -> draining / drain
			drained -> finalizing / finalize 2.0.0
			finalized -> rebooting / reboot
			started -> trial / gate
			gate passed -> blessing / bless
			blessed -> releasing / release
			released -> idle`, func(s State) string { return s.Why + " " + s.From + s.Target.Version }},
		{"a bad release comes back and is not taken again",
			append(slices.Clone(taken), start("b2", "2.0.0", false), Fact{Kind: GateFailed, Why: "web@1 is not up"}, start("b3", "2.0.0", false),
				Fact{Kind: GateFailed, Why: "web@1 is not up"}, start("b4", "1.0.0", true), Fact{Kind: GatePassed}, Fact{Kind: Released},
				Fact{Kind: CheckNow}, offered("2.0.0"), Fact{Kind: CheckNow}, offered("2.0.0", "2.0.1")), `
			check now -> checking / check
			offered -> staging / stage 2.0.0
			staged -> staged / ask permit
			granted -> draining / drain
			drained -> finalizing / finalize 2.0.0
			finalized -> rebooting / reboot
			started -> trial / gate
			gate failed -> trial / reset
			started -> trial / gate
			gate failed -> trial / reset
			started -> settling / gate
			gate passed -> releasing / release
			released -> idle
			check now -> checking / check
			offered -> idle
			check now -> checking / check
			offered -> staging / stage 2.0.1`, func(s State) string { return s.Failed[0].Reason }},
		{"a cluster that is out of order is not held against the release",
			append(slices.Clone(taken), start("b2", "2.0.0", false), Fact{Kind: GateFailed, Why: "the store has no quorum", Outage: true},
				start("b3", "1.0.0", true), Fact{Kind: GatePassed}, Fact{Kind: Released}, Fact{Kind: CheckNow}, offered("2.0.0")), `
			check now -> checking / check
			offered -> staging / stage 2.0.0
			staged -> staged / ask permit
			granted -> draining / drain
			drained -> finalizing / finalize 2.0.0
			finalized -> rebooting / reboot
			started -> trial / gate
			gate failed -> trial / gate
			started -> settling / gate
			gate passed -> releasing / release
			released -> idle
			check now -> checking / check
			offered -> staging / stage 2.0.0`, nil},
		{"a daemon that is restarted does the step again",
			[]Fact{{Kind: CheckNow}, start("b1", "1.0.0", true), offered("2.0.0"), start("b1", "1.0.0", true), {Kind: StagedOK}, start("b1", "1.0.0", true),
				{Kind: Granted}, start("b1", "1.0.0", true), {Kind: Drained}, start("b1", "1.0.0", true), {Kind: Finalized}, start("b1", "1.0.0", true),
				start("b2", "2.0.0", false), start("b2", "2.0.0", false), {Kind: GatePassed}, start("b2", "2.0.0", false), {Kind: Blessed}, start("b2", "2.0.0", true)}, `
			check now -> checking / check
			started -> checking / check
			offered -> staging / stage 2.0.0
			started -> staging / stage 2.0.0
			staged -> staged / ask permit
			started -> staged
			granted -> draining / drain
			started -> draining / drain
			drained -> finalizing / finalize 2.0.0
			started -> finalizing / finalize 2.0.0
			finalized -> rebooting / reboot
			started -> rebooting / reboot
			started -> trial / gate
			started -> trial / gate
			gate passed -> blessing / bless
			started -> blessing / bless
			blessed -> releasing / release
			started -> releasing / release`, nil},
		{"no permit: asked again, and the newer release that comes meanwhile is taken instead",
			[]Fact{{Kind: CheckNow}, offered("2.0.0"), {Kind: StagedOK}, {Kind: Denied, Why: "m2 reboots"}, {Kind: Tick, At: at(4)}, {Kind: Tick, At: at(15)},
				{Kind: Denied, Until: at(50), At: at(16)}, {Kind: Tick, At: at(40)}, {Kind: Tick, At: at(52)}, {Kind: Tick, At: at(90)}, {Kind: Tick, At: at(90)},
				{Kind: Offered, Offers: []Offer{offer("2.0.0"), offer("2.1.0")}, At: at(91)}}, `
			check now -> checking / check
			offered -> staging / stage 2.0.0
			staged -> staged / ask permit
			denied -> staged
			tick -> staged
			tick -> staged / ask permit
			denied -> staged
			tick -> staged
			tick -> staged / ask permit
			tick -> staged / ask permit
			tick -> staged / check 2.0.0
			offered -> staging / stage 2.1.0`, nil},
		{"a staged release whose rollout was stopped is cleared",
			[]Fact{{Kind: CheckNow}, offered("2.0.0"), {Kind: StagedOK}, {Kind: CheckNow}, {Kind: Offered, Offers: []Offer{held("2.0.0")}}}, `
			check now -> checking / check
			offered -> staging / stage 2.0.0
			staged -> staged / ask permit
			check now -> staged / check 2.0.0
			offered -> idle / clear 2.0.0`, func(s State) string { return s.Why }},
		{"a staged release that is withdrawn is cleared",
			[]Fact{{Kind: CheckNow}, offered("2.0.0"), {Kind: StagedOK}, {Kind: CheckNow}, offered("1.0.0")}, `
			check now -> checking / check
			offered -> staging / stage 2.0.0
			staged -> staged / ask permit
			check now -> staged / check 2.0.0
			offered -> idle / clear 2.0.0`, nil},
		{"the window closes while the units leave",
			[]Fact{{Kind: CheckNow}, offered("2.0.0"), {Kind: StagedOK}, {Kind: Granted}, {Kind: Drained, Shut: true}, {Kind: Tick, At: at(20)}}, `
			check now -> checking / check
			offered -> staging / stage 2.0.0
			staged -> staged / ask permit
			granted -> draining / drain
			drained -> staged / release
			tick -> staged / ask permit`, nil},
		{"units that do not leave give the permit back",
			[]Fact{{Kind: CheckNow}, offered("2.0.0"), {Kind: StagedOK}, {Kind: Granted}, {Kind: DrainFailed, Why: "db is stuck"}}, `
			check now -> checking / check
			offered -> staging / stage 2.0.0
			staged -> staged / ask permit
			granted -> draining / drain
			drain failed -> staged / release`, func(s State) string { return s.Why }},
		{"a release that cannot be staged is given up after three attempts",
			[]Fact{{Kind: CheckNow}, offered("2.0.0"), {Kind: StageFailed, Why: "disk"}, {Kind: Tick, At: at(20)}, offered("2.0.0"), {Kind: StageFailed},
				{Kind: Tick, At: at(40)}, offered("2.0.0"), {Kind: StageFailed, Why: "disk"}, {Kind: Tick, At: at(60)}, offered("2.0.0")}, `
			check now -> checking / check
			offered -> staging / stage 2.0.0
			stage failed -> idle
			tick -> checking / check
			offered -> staging / stage 2.0.0
			stage failed -> idle
			tick -> checking / check
			offered -> staging / stage 2.0.0
			stage failed -> idle
			tick -> checking / check
			offered -> idle`, func(s State) string { return s.Failed[0].Reason }},
		{"cancel is honoured until the reboot",
			[]Fact{{Kind: CheckNow}, offered("2.0.0"), {Kind: Cancel}, {Kind: StagedOK}, {Kind: CheckNow}, offered("2.0.0"), {Kind: StagedOK}, {Kind: Granted},
				{Kind: Cancel}, {Kind: Drained}}, `
			check now -> checking / check
			offered -> staging / stage 2.0.0
			cancel -> idle / clear 2.0.0
			staged -> idle
			check now -> checking / check
			offered -> staging / stage 2.0.0
			staged -> staged / ask permit
			granted -> draining / drain
			cancel -> idle / clear 2.0.0
			drained -> idle`, nil},
		{"cancel of a roll back or of a check touches no slot",
			[]Fact{{Kind: RollbackNow}, {Kind: Cancel}, {Kind: CheckNow}, {Kind: Cancel}, offered("2.0.0")}, `
			rollback now -> finalizing / roll back
			cancel -> idle / release
			check now -> checking / check
			cancel -> idle
			offered -> idle`, nil},
		{"a reboot that does not happen is asked for again",
			append(slices.Clone(taken), Fact{Kind: Tick, At: at(10)}, Fact{Kind: Tick, At: at(30)}), `
			check now -> checking / check
			offered -> staging / stage 2.0.0
			staged -> staged / ask permit
			granted -> draining / drain
			drained -> finalizing / finalize 2.0.0
			finalized -> rebooting / reboot
			tick -> rebooting
			tick -> rebooting / reboot`, nil},
		{"roll back by hand is remembered",
			[]Fact{{Kind: RollbackNow, Why: "slow"}, {Kind: Finalized}, start("b2", "0.9.0", true), {Kind: GatePassed}, {Kind: Released}, {Kind: CheckNow},
				offered("1.0.0")}, `
			rollback now -> finalizing / roll back
			finalized -> rebooting / reboot
			started -> settling / gate
			gate passed -> releasing / release
			released -> idle
			check now -> checking / check
			offered -> idle`, func(s State) string { return s.Why }},
		{"a roll back that is not possible refuses nothing",
			[]Fact{{Kind: RollbackNow, Why: "slow"}, {Kind: FinalizeFailed, Why: "slot b holds nothing that boots"}, {Kind: Released}}, `
			rollback now -> finalizing / roll back
			finalize failed -> idle / release
			released -> idle`, func(s State) string { return fmt.Sprint(s.Why, s.Failed) }},
		{"a roll back that is called off refuses nothing",
			[]Fact{{Kind: RollbackNow, Why: "slow"}, {Kind: Cancel}}, `
			rollback now -> finalizing / roll back
			cancel -> idle / release`, func(s State) string { return fmt.Sprint(s.Why, s.Failed) }},
		{"the power goes while the slot is switched back",
			[]Fact{{Kind: RollbackNow, Why: "slow"}, start("b2", "0.9.0", true)}, `
			rollback now -> finalizing / roll back
			started -> settling / gate`, func(s State) string { return s.Failed[0].Version + " " + s.Failed[0].Reason }},
		{"the power goes before the slot is switched back",
			[]Fact{{Kind: RollbackNow, Why: "slow"}, start("b2", "1.0.0", true)}, `
			rollback now -> finalizing / roll back
			started -> settling / gate`, func(s State) string { return fmt.Sprint(s.Back, s.Failed) }},
		{"a reboot by hand without a release waits for its permit, and boots the same",
			[]Fact{{Kind: RebootNow}, {Kind: Denied, Why: "m2 has it", At: at(1)}, {Kind: Tick, At: at(30)}, start("b1", "1.0.0", true), {Kind: Tick, At: at(31)}, {Kind: Granted},
				{Kind: Drained}, {Kind: Finalized}, start("b2", "1.0.0", true), {Kind: GatePassed}, {Kind: Released}}, `
			reboot now -> asking / ask permit
			denied -> asking
			tick -> asking / ask permit
			started -> asking
			tick -> asking / ask permit
			granted -> draining / drain
			drained -> finalizing / finalize
			finalized -> rebooting / reboot
			started -> settling / gate
			gate passed -> releasing / release
			released -> idle`, func(s State) string { return fmt.Sprint(s.From, s.Failed) }},
		{"a reboot by hand whose units do not leave is asked for again, until it is called off",
			[]Fact{{Kind: CheckNow}, {Kind: RebootNow}, {Kind: Granted}, {Kind: DrainFailed, Why: "db is stuck"}, {Kind: Released}, {Kind: Tick, At: at(30)}, {Kind: Granted}, {Kind: Cancel},
				{Kind: Released}}, `
			check now -> checking / check
			reboot now -> asking / ask permit
			granted -> draining / drain
			drain failed -> asking / release
			released -> asking
			tick -> asking / ask permit
			granted -> draining / drain
			cancel -> idle / release
			released -> idle`, nil},
		{"a proven release that is unwell after a reboot stays",
			[]Fact{start("b2", "1.0.0", true), {Kind: GateFailed, Why: "web"}, {Kind: GatePassed}}, `
			started -> settling / gate
			gate failed -> settling / gate
			gate passed -> releasing / release`, nil},
		{"a host whose state was lost proves its slot",
			[]Fact{start("b2", "2.0.0", false), {Kind: GatePassed}, {Kind: Tick, At: at(3)}, {Kind: Blessed}, {Kind: Tick, At: at(9)}, {Kind: Released}}, `
			started -> trial / gate
			gate passed -> blessing / bless
			tick -> blessing / bless
			blessed -> releasing / release
			tick -> releasing / release
			released -> idle`, nil},
		{"a wave that has not come holds the release back",
			[]Fact{{Kind: CheckNow}, {Kind: Offered, Offers: []Offer{held("2.0.0")}}, {Kind: CheckNow, Version: "2.0.0"},
				{Kind: Offered, Offers: []Offer{held("2.0.0")}}}, `
			check now -> checking / check
			offered -> idle
			check now -> checking / check
			offered -> staging / stage 2.0.0`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, got := play(settled(t), tt.facts...)
			if diff := cmp.Diff(lines(tt.want), got); diff != "" {
				t.Error(diff)
			}
			if tt.check != nil {
				told := map[string]string{
					"a staged release whose rollout was stopped is cleared":                       "2.0.0 was staged and is no longer offered: 2.0.0 is not for this host yet: wave 3 begins at noon",
					"a good release is taken, proves itself and the permit goes back":             "2.0.0 has proven itself ",
					"a bad release comes back and is not taken again":                             "came back after its tries were spent: web@1 is not up",
					"units that do not leave give the permit back":                                "the units did not leave: db is stuck",
					"a release that cannot be staged is given up after three attempts":            "could not be staged: disk",
					"a roll back that is not possible refuses nothing":                            "could not make the other slot boot next: slot b holds nothing that boots[]",
					"a roll back that is called off refuses nothing":                              "cancelled[]",
					"the power goes while the slot is switched back":                              "1.0.0 rolled back by hand: slow",
					"the power goes before the slot is switched back":                             "[]",
					"a reboot by hand without a release waits for its permit, and boots the same": "[]",
					"roll back by hand is remembered":                                             "1.0.0 has failed here before; update-engine check --take=1.0.0 takes it all the same",
				}[tt.name]
				if diff := cmp.Diff(told, tt.check(s)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestPreventLateFallback(t *testing.T) {
	f := start("b2", "2.0.0", false)
	f.Policy.PreventLateFallback = true
	_, got := play(State{}, f, Fact{Kind: GatePassed})
	if diff := cmp.Diff([]string{"started -> trial / gate", "gate passed -> blessing / bless and drop the other"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestStrategyOffLeavesTheRebootToPeople(t *testing.T) {
	s := settled(t)
	s.Policy.Reboots = false
	_, got := play(s, Fact{Kind: CheckNow}, offered("2.0.0"), Fact{Kind: StagedOK}, Fact{Kind: Tick, At: at(30)}, Fact{Kind: RebootNow})
	want := []string{"check now -> checking / check", "offered -> staging / stage 2.0.0", "staged -> staged", "tick -> staged", "reboot now -> staged / ask permit"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestChecksBackOffAndAreSpread(t *testing.T) {
	s := settled(t)
	var got []string
	now := at(100)
	for range 11 {
		s, _ = Next(s, Fact{Kind: CheckNow, At: now})
		s, _ = Next(s, Fact{Kind: CheckFailed, Why: "no route", At: now})
		d := s.CheckAt.Sub(now)
		base := d.Truncate(time.Minute)
		for _, b := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 240} {
			if b *= time.Minute; d >= b && d < b+b/10+time.Second {
				base = b
			}
		}
		got = append(got, base.String())
	}
	if diff := cmp.Diff(strings.Fields("1m0s 2m0s 4m0s 8m0s 16m0s 32m0s 1h4m0s 2h8m0s 4h0m0s 4h0m0s 4h0m0s"), got); diff != "" {
		t.Error(diff)
	}
	seen := map[time.Time]bool{}
	for seed := range uint64(100) {
		s.Seed = seed
		x, _ := play(s, Fact{Kind: CheckNow}, offered())
		seen[x.CheckAt] = true
	}
	if len(seen) < 90 {
		t.Errorf("100 hosts check at %d moments", len(seen))
	}
}

func TestChoose(t *testing.T) {
	stop := func(v string) Offer { o := offer(v); o.Stop = true; return o }
	from := func(v, min string) Offer { o := offer(v); o.MinFrom = min; return o }
	failed := func(v ...string) func(*State) {
		return func(s *State) {
			for _, v := range v {
				s.Failed = append(s.Failed, Failure{Version: v, Manifest: "sum-" + v, Reason: "it broke"})
			}
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*State)
		offers []Offer
		want   string
	}{
		{"nothing is offered", nil, nil, "none: up to date"},
		{"the newest, by semantic version", nil, []Offer{offer("1.9.0"), offer("1.10.0"), offer("1.2.0")}, "1.10.0"},
		{"a pre-release is older than its release", nil, []Offer{offer("2.0.0-rc.1"), offer("2.0.0")}, "2.0.0"},
		{"the running one and older ones are nothing new", nil, []Offer{offer("1.0.0"), offer("0.9.0")}, "none: up to date"},
		{"older with consent", func(s *State) { s.Policy.Downgrade = true }, []Offer{offer("0.8.0"), offer("0.9.0")}, "0.9.0"},
		{"newer comes before older, with consent or not", func(s *State) { s.Policy.Downgrade = true }, []Offer{offer("0.9.0"), offer("1.1.0")}, "1.1.0"},
		{"what failed is passed over", failed("2.0.0"), []Offer{offer("2.0.0"), offer("1.5.0")}, "1.5.0"},
		{"only what failed", failed("2.0.0"), []Offer{offer("2.0.0")}, "none: 2.0.0 has failed here before; update-engine check --take=2.0.0 takes it all the same"},
		{"the failed version published anew", failed("2.0.0"), []Offer{{Version: "2.0.0", Manifest: "repaired"}}, "2.0.0"},
		{"a mandatory stop comes first", nil, []Offer{offer("3.0.0"), stop("2.0.0"), stop("2.5.0")}, "2.0.0"},
		{"a stop that is behind us does not count", nil, []Offer{offer("3.0.0"), stop("1.0.0"), stop("0.5.0")}, "3.0.0"},
		{"nothing goes past a stop that failed", failed("2.0.0"), []Offer{offer("3.0.0"), stop("2.0.0")}, "none: 2.0.0 is a mandatory stop and has failed here before: it broke"},
		{"a floor above us without a stop before it", nil, []Offer{from("3.0.0", "2.0.0")},
			"none: 3.0.0 can be reached from 2.0.0 on, 1.0.0 is running: the channel lacks a release in between"},
		{"what is held back is passed over", nil, []Offer{held("2.0.0"), offer("1.5.0")}, "1.5.0"},
		{"only what is held back", nil, []Offer{held("2.0.0")}, "none: 2.0.0 is not for this host yet: wave 3 begins at noon"},
		{"nothing goes past a stop that is held back", nil, []Offer{offer("3.0.0"), func() Offer { o := held("2.0.0"); o.Stop = true; return o }()},
			"none: 2.0.0 is a mandatory stop and not for this host yet: wave 3 begins at noon"},
		{"a floor that we have", nil, []Offer{from("3.0.0", "1.0.0")}, "3.0.0"},
		{"asked for by name, though it failed", func(s *State) { failed("2.0.0")(s); s.Want = "2.0.0" }, []Offer{offer("2.0.0"), offer("3.0.0")}, "2.0.0"},
		{"asked for by name, older", func(s *State) { s.Want = "0.9.0" }, []Offer{offer("0.9.0"), offer("3.0.0")}, "0.9.0"},
		{"asked for by name and floor above us", func(s *State) { s.Want = "3.0.0" }, []Offer{from("3.0.0", "2.0.0")},
			"none: 3.0.0 can be reached from 2.0.0 on, 1.0.0 is running: the channel lacks a release in between"},
		{"asked for by name, not there", func(s *State) { s.Want = "4.0.0" }, []Offer{offer("3.0.0")}, "none: 4.0.0 was asked for and is not offered"},
		{"asked for what runs", func(s *State) { s.Want = "1.0.0" }, []Offer{offer("1.0.0")}, "none: up to date"},
		{"a version that is none is passed over", nil, []Offer{offer("next"), offer("1.1.0")}, "1.1.0"},
		{"we run no version", func(s *State) { s.Running = "devel" }, []Offer{offer("1.1.0")}, `none: the running version "devel" is no semantic version`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := settled(t)
			if tt.change != nil {
				tt.change(&s)
			}
			o, why, ok := Choose(s, tt.offers)
			got := o.Version
			if !ok {
				got = "none: " + why
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestForget(t *testing.T) {
	s := settled(t)
	s.Failed = []Failure{{Version: "2.0.0"}, {Version: "2.1.0"}}
	one, _ := Next(s, Fact{Kind: Forget, Version: "2.0.0"})
	all, _ := Next(s, Fact{Kind: Forget})
	if len(one.Failed) != 1 || len(all.Failed) != 0 || len(s.Failed) != 2 {
		t.Errorf("%v, %v, %v", one.Failed, all.Failed, s.Failed)
	}
	for i := range 100 {
		s = s.remember(offer(fmt.Sprintf("%d.0.0", i)), "bad", at(i))
	}
	if len(s.Failed) != maxFailed || s.Failed[maxFailed-1].Version != "99.0.0" {
		t.Errorf("%d remembered, last %s", len(s.Failed), s.Failed[len(s.Failed)-1].Version)
	}
}

func TestRollbackWhereThereIsNothingToGoBackTo(t *testing.T) {
	s, got := play(settled(t), Fact{Kind: CheckNow}, offered("2.0.0"), Fact{Kind: RollbackNow}, Fact{Kind: StagedOK}, Fact{Kind: RollbackNow})
	if got[2] != "rollback now -> staging" || got[4] != "rollback now -> staged" || !strings.Contains(s.Why, "nothing to roll back to") {
		t.Errorf("%v, %s", got, s.Why)
	}
}

// everyFact gives one of each kind, and of those with a switch both.
func everyFact() []Fact {
	out := kinds(Tick, Progressed, StagedOK, StageFailed, Granted, Denied, Drained, DrainFailed, Finalized, FinalizeFailed, GatePassed,
		GateFailed, Blessed, Released, CheckNow, RebootNow, Cancel, RollbackNow, Forget, CheckFailed)
	out = append(out, offered("1.0.0"), offered("2.0.0"), offered("3.0.0"), Fact{Kind: Drained, Shut: true}, Fact{Kind: GateFailed, Outage: true},
		Fact{Kind: StageFailed, Final: true})
	for i := range out {
		out[i].At = at(5000)
	}
	return out
}

// TestNextKeepsItsPromises plays random facts for a long time and checks each action against what must have come before it.
func TestNextKeepsItsPromises(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		s := settled(t)
		granted, proven := false, map[string]bool{"1.0.0": true}
		var log []string
		for step := range 150 {
			f := everyFact()[r.IntN(len(everyFact()))]
			switch r.IntN(20) {
			case 0:
				v := s.Running
				if s.From != "" && r.IntN(2) == 0 {
					v = s.Target.Version
				}
				f = start(fmt.Sprint("b", step), v, proven[v])
			case 1:
				f = start(s.Boot, s.Running, s.Good)
			}
			f.At = at(6000 + 30*step)
			before := s
			var a Action
			s, a = Next(s, f)
			log = append(log, fmt.Sprintf("%s: %s -> %s / %s %s", f.Kind, before.Phase, s.Phase, a.Do, a.Target.Version))
			bad := ""
			switch a.Do {
			case Finalize:
				if !granted && f.Kind != Started {
					bad = "finalized without a permit"
				}
			case Stage:
				if _, failed := s.failure(a.Target); failed && s.Want == "" {
					bad = "took again what had failed"
				}
				if !s.Good {
					bad = "wrote over the way back while on trial"
				}
			case Reset:
				if s.Good {
					bad = "reset a proven release"
				}
			case Bless:
				proven[s.Running] = true
			}
			if f.Kind == Granted && (before.Phase == Staged || before.Phase == Asking) {
				granted = true
			}
			if a.Do == Release || a.Do == Clear {
				granted = false
			}
			if s.Phase == "" || len(s.Failed) > maxFailed {
				bad = "a broken state"
			}
			if bad != "" {
				t.Fatalf("seed %d: %s\n%s", seed, bad, strings.Join(log, "\n"))
			}
		}
	}
}

// TestPicture draws the machine from Next into docs/update.md. With FLEET_WRITE_DOCS=1 it writes the file.
func TestPicture(t *testing.T) {
	base := settled(t)
	base.Target, base.Done, base.RetryAt = offer("2.0.0"), 1, at(1)
	edges := map[string][]string{}
	var order []string
	empty := base
	empty.Target = Offer{}
	back := empty
	back.Back = "slow"
	for _, from := range []struct {
		phase Phase
		state State
	}{{Idle, base}, {Checking, base}, {Staging, base}, {Staged, base}, {Draining, base}, {Finalizing, base}, {Rebooting, base}, {Asking, empty}, {Draining, empty}, {Finalizing, empty},
		{Finalizing, back}, {Trial, base}, {Settling, base}, {Blessing, base}, {Releasing, base}} {
		p, facts := from.phase, everyFact()
		if p == Staged {
			facts = append([]Fact{{Kind: Tick, At: base.RetryAt.Add(-time.Nanosecond)}}, facts...) // it is time to check, not to ask
		}
		for _, f := range facts {
			s := from.state
			s.Phase, s.Good = p, p != Trial && p != Blessing
			if f.Kind == Tick && f.At.Before(base.RetryAt) {
				s.CheckAt = f.At
			}
			got, a := Next(s, f)
			if got.Phase == p && a.Do == Nothing {
				continue
			}
			what := string(f.Kind)
			switch {
			case f.Shut:
				what += ", window closed"
			case f.Outage:
				what += ", outage"
			case f.Kind == Offered && f.Offers[0].Version == "1.0.0":
				what += " nothing new"
			case f.Kind == Offered && p == Staged && f.Offers[0].Version == "2.0.0":
				continue
			case f.Final, f.Kind == Offered && p == Checking && f.Offers[0].Version == "3.0.0":
				continue
			case f.Kind == Offered && p == Staged:
				what += " a newer one"
			}
			if a.Do != Nothing {
				what += " / " + string(a.Do)
			}
			key := fmt.Sprintf("%s --> %s", p, got.Phase)
			if edges[key] == nil {
				order = append(order, key)
			}
			if !slices.Contains(edges[key], what) {
				edges[key] = append(edges[key], what)
			}
		}
	}
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> trial: start, slot not proven / gate\n    [*] --> settling: start, slot proven / gate\n")
	for _, key := range order {
		for _, what := range edges[key] {
			fmt.Fprintf(&b, "    %s: %s\n", key, what)
		}
	}
	b.WriteString("```\n")
	const path, begin, end = "../../docs/update.md", "<!-- machine -->\n", "<!-- /machine -->"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(doc), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has lost its marks %q", path, begin)
	}
	want := head + begin + b.String() + end + tail
	if os.Getenv("FLEET_WRITE_DOCS") == "1" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(string(doc), want); diff != "" {
		t.Errorf("%s shows another machine; FLEET_WRITE_DOCS=1 go test ./update-engine/update writes it anew:\n%s", path, diff)
	}
}

func TestStagedHostBothChecksAndAsks(t *testing.T) {
	s := State{Phase: Staged, Running: "1.0.0", Good: true, Target: Offer{Version: "2.0.0"}, Policy: Policy{Interval: time.Second, Retry: time.Second, Reboots: true}}
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	did := map[Do]int{}
	for range 20 { // ticks so rare that both are due at each
		at = at.Add(time.Minute)
		var a Action
		s, a = Next(s, Fact{Kind: Tick, At: at})
		did[a.Do]++
	}
	if did[Check] != 10 || did[AskPermit] != 10 {
		t.Errorf("%v: one of them never gets its turn", did)
	}
}
