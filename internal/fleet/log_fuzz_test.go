package fleet

import (
	"testing"

	"github.com/fleet-init/fleet/internal/unit"
)

func FuzzParseLogEntry(f *testing.F) {
	f.Add([]byte(`{"__REALTIME_TIMESTAMP":"1","__CURSOR":"s=1"}`))
	f.Add([]byte(`{"__REALTIME_TIMESTAMP":1}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if e, err := ParseLogEntry(line); err == nil && string(e.JSON) != string(line) {
			t.Errorf("%q became %q", line, e.JSON)
		}
	})
}

func FuzzParsePriority(f *testing.F) {
	for _, s := range []string{"err", "0..3", "warning..debug", "..", "9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePriority(s); err == nil {

			if err := (LogQuery{Units: []unit.Name{"a.service"}, Lines: AllLines, Priority: p}).Check(); err != nil {
				t.Errorf("%q: %v", s, err)
			}
		}
	})
}
