package sim

import "testing"

// Without any one of these an exclusive unit comes to be alive twice.
func TestNothingThatKeepsUnitsExclusiveCanBeLeftOut(t *testing.T) {
	for _, m := range []struct {
		name  string
		first uint64 // a seed near which it shows
		left  Options
	}{
		{"process 1 stops what is bound to a guard that ended", 1, Options{NoGuard: true}},
		{"a keep-alive counts from when it was sent", 1, Options{FeedAnswered: true}},
		{"a host that is back hears what it must not run before it feeds its guard", 1, Options{FeedUnadmitted: true}},
		{"a unit is let go only when it has stopped", 1, Options{LetGoEarly: true}},
		{"the leader waits for a machine that is gone", 1, Options{NoWait: true}},
	} {
		t.Run(m.name, func(t *testing.T) {
			m.left.Focus = true
			shows(t, m.first, "alive twice", m.left)
		})
	}
}
