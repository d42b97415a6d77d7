package document

import (
	"os/exec"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The settings that a document may name are those of the daemons, told by their own --help.
func TestSettingsAreTheDaemons(t *testing.T) {
	for daemon, keys := range map[string][]string{"fleetd": FleetdKeys(), "update-engine": UpdateKeys()} {
		out, err := exec.Command("go", "run", "../../../"+daemon, "--help").CombinedOutput()
		if err != nil {
			t.Fatalf("%s --help: %v\n%s", daemon, err, out)
		}
		var want []string
		for _, m := range regexp.MustCompile(`(?m)^  --([a-z-]+)`).FindAllSubmatch(out, -1) {
			want = append(want, regexp.MustCompile("-").ReplaceAllString(string(m[1]), "_"))
		}
		got := slices.DeleteFunc(slices.Clone(keys), func(k string) bool {
			return slices.Contains([]string{"verify_units", "authorized_keys_file", "enable_grpc"}, k)
		})
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-its own, +the document's):\n%s", daemon, diff)
		}
	}
}
