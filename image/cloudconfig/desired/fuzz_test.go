package desired

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzPlan plans with a state that a full disk or anybody has spoiled: a host that is to be nothing and has nothing of what the state names gets
// no file, the plan is the same twice, and the state that it leads to names nothing that was not there before.
func FuzzPlan(f *testing.F) {
	f.Add([]byte(`{"v":1,"files":{"/etc/a":{"hash":"x","before":{"mode":420,"owner":"root"}}},"enabled":["a.service"],"passwords":{"core":"x"}}`))
	f.Add([]byte(`{"files":{"":{},"../x":{"before":null}},"enabled":["",""]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var was State
		if json.Unmarshal(b, &was) != nil {
			return
		}
		steps, next := Plan(Desired{}, was, Seen{Files: map[string]There{}, Users: map[string]bool{}, Enabled: map[string]bool{}})
		again, _ := Plan(Desired{}, was, Seen{Files: map[string]There{}, Users: map[string]bool{}, Enabled: map[string]bool{}})
		if diff := cmp.Diff(steps, again); diff != "" {
			t.Error(diff)
		}
		for p := range next.Files {
			if _, ok := was.Files[p]; !ok {
				t.Errorf("%q is ours now", p)
			}
		}
	})
}
