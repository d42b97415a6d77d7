package sim

import "testing"

// What keeps a store that was set back, and clocks that are set, from doing harm: without any one of these seeds go wrong.
func TestNothingThatBearsARestoreCanBeLeftOut(t *testing.T) {
	for _, m := range []struct {
		name  string
		first uint64 // a seed near which it shows
		rule  string
		left  Options
	}{
		{"hosts wait until somebody has confirmed a restored plan", 2, "unconfirmed", Options{Obedient: true}},
		{"exclusive units wait until none can run that the backup knows nothing of", 706, "alive twice", Options{Focus: true, NoSettle: true}},
		{"tokens are higher than all of the lost time", 138, "old token", Options{Focus: true, NoFloor: true}},
		{"who was there and who led is forgotten", 41316, "lost text", Options{KeepStale: true}},
		{"leases are counted by a clock that nobody sets", 2849, "alive twice", Options{Focus: true, WallClock: true}},
	} {
		t.Run(m.name, func(t *testing.T) {
			m.left.Restores = true
			shows(t, m.first, m.rule, m.left)
		})
	}
}

// The same seeds with all of it in place.
func TestSeedsOfRestoresWithNothingLeftOut(t *testing.T) {
	each(1, 60, func(seed uint64) bool {
		s, bad := makeScript(seed, Options{Focus: seed%2 == 0, Restores: true})
		if bad != nil {
			t.Errorf("seed %d is bad after %d steps: %v", seed, len(s.steps), bad)
		}
		return bad == nil
	})
}
