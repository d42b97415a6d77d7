package sim

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/fleet-init/fleet/internal/kv"
)

// guards are the conditions that writes stand under. Without any one of them some seed must go wrong: else the guard is not
// needed, or the simulation does not notice. The guard of a commit on the placement's revision is missing here: as long as the one
// on the leader holds nobody else writes placements, so it is a second line.
var guards = []struct {
	name  string
	first uint64 // a seed near which it shows
	rule  string // that is broken
	left  func(kind string, g kv.Guard) bool
}{
	{"commit: the writer leads", 10, "not leader", func(kind string, g kv.Guard) bool {
		return kind == "engine" && g.Key == prefix+"leader" && g.Kind == kv.CreateIs
	}},
	{"campaign: nobody leads", 1320, "", func(kind string, g kv.Guard) bool {
		return kind == "engine" && g.Key == prefix+"leader" && g.Kind == kv.Missing
	}},
	{"commit: the unit is as planned on", 1, "unwanted", func(kind string, g kv.Guard) bool {
		return kind == "engine" && under("units/", g)
	}},
	{"commit: the machine is as planned on", 244, "gone machine", func(kind string, g kv.Guard) bool {
		return kind == "engine" && under("machines/", g)
	}},
	{"collect: the text was not taken into use", 1040, "lost text", func(kind string, g kv.Guard) bool {
		return kind == "collect" && under("files/", g)
	}},
	{"submit: the unit is as read", 10, "", func(kind string, g kv.Guard) bool {
		return kind[0] == 'u' && under("units/", g) && g.Kind != kv.Exists
	}},
	{"register: nobody is", 680, "restless", func(kind string, g kv.Guard) bool {
		return kind == "presence" && under("machines/", g)
	}},
	{"set: the settings are as read", 128, "wish", func(kind string, g kv.Guard) bool {
		return kind[0] == 'u' && under("machine-settings/", g)
	}},
}

func under(kind string, g kv.Guard) bool { return strings.HasPrefix(g.Key, prefix+kind) }

// shows asks whether a run with o breaks a rule, within so many seeds that luck is no excuse.
func shows(t *testing.T, first uint64, rule string, o Options) {
	var found atomic.Bool
	each(first, first+3000, func(seed uint64) bool {
		_, bad := makeScript(seed, o)
		if bad == nil || rule != "" && bad.Rule != rule {
			return true
		}
		if !found.Swap(true) {
			t.Logf("seed %d: %v", seed, bad)
		}
		return false
	})
	if !found.Load() {
		t.Errorf("3000 seeds show nothing wrong without it")
	}
}

func TestNoGuardCanBeLeftOut(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			shows(t, g.first, g.rule, Options{LeaveOut: g.left})
		})
	}
}

func TestAgentMustWaitForItsAdmission(t *testing.T) { shows(t, 1, "cleared", Options{Hasty: true}) }
