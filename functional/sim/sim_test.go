package sim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// seeds are those to run: 1 to 500, or what FLEET_SIM_SEEDS says as "from-to".
func seeds(t *testing.T) (from, to uint64) {
	v := os.Getenv("FLEET_SIM_SEEDS")
	if v == "" {
		return 1, 500
	}
	a, b, _ := strings.Cut(v, "-")
	from, err := strconv.ParseUint(a, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	to, err = strconv.ParseUint(b, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return from, to
}

func TestSeeds(t *testing.T) {
	from, to := seeds(t)
	n := 0
	for seed := from; seed <= to; seed++ {
		s, bad := makeScript(seed, Options{})
		n += len(s.steps)
		if bad != nil {
			text, _, err := play(s, Options{Trace: true})
			os.WriteFile(fmt.Sprintf("/tmp/sim-%d.txt", seed), []byte(text), 0o644)
			t.Errorf("seed %d (%d steps): %v %v", seed, len(s.steps), bad, err)
		}
	}
	t.Logf("%d steps", n)
}
