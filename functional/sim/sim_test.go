package sim

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// seeds are those to run: 1 to 500, or what FLEET_SIM_SEEDS says as "from-to".
func seeds(t *testing.T) (from, to uint64) {
	v := os.Getenv("FLEET_SIM_SEEDS")
	if v == "" {
		if testing.Short() {
			return 1, 100
		}
		return 1, 500
	}
	a, b, _ := strings.Cut(v, "-")
	from, err := strconv.ParseUint(a, 10, 64)
	if err == nil {
		to, err = strconv.ParseUint(b, 10, 64)
	}
	if err != nil || from > to {
		t.Fatalf("FLEET_SIM_SEEDS=%s: want from-to, such as 1-100000", v)
	}
	return from, to
}

// each calls do for every seed, as many at once as there are processors, until do returns false.
func each(from, to uint64, do func(seed uint64) bool) {
	var next atomic.Uint64
	var enough atomic.Bool
	next.Store(from)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for !enough.Load() {
				seed := next.Add(1) - 1
				if seed > to {
					return
				}
				if !do(seed) {
					enough.Store(true)
				}
			}
		})
	}
	workers.Wait()
}

func TestSeeds(t *testing.T) {
	from, to := seeds(t)
	trace := os.Getenv("FLEET_SIM_TRACE") != ""
	var steps, bads atomic.Int64
	each(from, to, func(seed uint64) bool {
		s, bad := makeScript(seed, Options{})
		steps.Add(int64(len(s.steps)))
		if trace {
			t.Log(transcript(t, s))
		}
		if bad == nil {
			return true
		}
		t.Errorf("seed %d is bad after %d steps: %v\n%s", seed, len(s.steps), bad, explain(t, s, bad))
		return bads.Add(1) < 5 // what they show is most likely one thing
	})
	t.Logf("seeds %d to %d: %d steps", from, to, steps.Load())
}

// explain is what somebody needs to see, keep and mend a bad seed.
func explain(t *testing.T, s script, bad *Bad) string {
	small, smallBad := shrink(s, Options{}, bad)
	small.about = append(s.about, "# "+smallBad.Error())
	return fmt.Sprintf("These %d of its steps do it, too. Saved as functional/sim/testdata/NAME.txt they are a test from then on:\n\n%s",
		len(small.steps), transcript(t, small))
}

func transcript(t *testing.T, s script) string {
	text, _, err := play(s, Options{Trace: true})
	if err != nil {
		t.Error(err)
	}
	return text
}

func readScript(t *testing.T, path string) script {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseScript(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestTranscripts plays what was kept: bugs that there were, and ways that things can go.
func TestTranscripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			s := readScript(t, path)
			_, bad, err := play(s, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if bad != nil {
				t.Errorf("%v\n%s", bad, transcript(t, s))
			}
		})
	}
}

func TestSameSeedGivesTheSameTranscript(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		a, _ := makeScript(seed, Options{})
		b, _ := makeScript(seed, Options{})
		first := transcript(t, a)
		if diff := cmp.Diff(first, transcript(t, b)); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		read, err := parseScript(first)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, transcript(t, read)); diff != "" {
			t.Fatalf("seed %d, written down and read: %s", seed, diff)
		}
	}
}

// A run that goes wrong goes wrong again when its steps are played, and when all that does not matter is left out.
func TestBadSeedIsCutDown(t *testing.T) {
	var once sync.Once
	each(1, 1000, func(seed uint64) bool {
		s, bad := makeScript(seed, Options{Hasty: true})
		if bad == nil {
			return true
		}
		once.Do(func() {
			_, again, err := play(s, Options{Hasty: true})
			if diff := cmp.Diff(bad, again); diff != "" || err != nil {
				t.Errorf("seed %d, its steps played: %v %s", seed, err, diff)
			}
			small, smallBad := shrink(s, Options{Hasty: true}, bad)
			if class(smallBad) != class(bad) || len(small.steps) > 20 {
				t.Errorf("seed %d, cut down from %d steps to %d: %v instead of %v", seed, len(s.steps), len(small.steps), smallBad, bad)
			}
		})
		return false
	})
}

func TestWrongTranscriptSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"hosts 0":                         "want 1 to 9 hosts",
		"1.0 h1":                          "want a time, who, and what",
		"soon h1 crash":                   `parsing "soon"`,
		"1.0 h9 crash":                    "there is no host h9",
		"1.0 h1 dance":                    "a host cannot dance",
		"1.0 h1.agent dance":              "a task can go",
		"1.0 h1.agent go away":            "away is no outcome",
		"1.0 all dance":                   "all can run or settle",
		"1.0 all run long":                "invalid duration",
		"1.0 store dance":                 "the store can compact",
		"1.0 h1 submit a.service - dance": `what is "dance"`,
	} {
		s, err := parseScript(text)
		if err == nil {
			_, _, err = play(s, Options{})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
