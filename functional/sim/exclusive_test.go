package sim

import (
	"testing"

	"github.com/fleet-init/fleet/internal/kv"
)

// Without any one of these an exclusive unit comes to be alive twice.
func TestNothingThatKeepsUnitsExclusiveCanBeLeftOut(t *testing.T) {
	for _, m := range []struct {
		name  string
		first uint64 // a seed near which it shows
		left  Options
	}{
		{"process 1 stops what is bound to a guard that ended", 1, Options{NoGuard: true}},
		{"a keep-alive counts from when it was sent", 1280, Options{FeedAnswered: true}},
		// A leader that lags behind is held up twice: by the store, which has the machine's registration, and by the machine, which feeds its
		// guard only after that leader knows of it. The second is for a machine that was back and is gone again.
		{"a leader that lags behind takes nothing from a machine that is back", 1, Options{FeedUnadmitted: true, LeaveOut: func(kind string, g kv.Guard) bool {
			return kind == "engine" && under("machines/", g) && g.Kind == kv.Missing
		}}},
		{"a unit is let go only when it has stopped", 1, Options{LetGoEarly: true}},
		{"the leader waits for a machine that is gone", 1, Options{NoWait: true}},
	} {
		t.Run(m.name, func(t *testing.T) {
			m.left.Focus = true
			shows(t, m.first, "alive twice", m.left)
		})
	}
}
