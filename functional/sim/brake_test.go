package sim

import "testing"

// A third of the machines vanish in one moment: nothing of theirs is moved. Without the question the units of the first that are missed are.
func TestNothingMovesWhenManyVanishAtOnce(t *testing.T) {
	shows(t, 1, "moved", Options{AtOnce: true, NoQuestion: true})
	each(1, 60, func(seed uint64) bool {
		s, bad := makeScript(seed, Options{AtOnce: true})
		if bad != nil {
			t.Errorf("seed %d is bad after %d steps: %v", seed, len(s.steps), bad)
		}
		return bad == nil
	})
}
