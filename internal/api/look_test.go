package api

import (
	"bufio"
	"net/http"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
)

// A look is what a watch begins with, of the units named and all machines, and then it ends.
func TestLookIsTheBeginOfAWatch(t *testing.T) {
	f := newFixture(t)
	f.machine(m1, "10.0.0.2", nil)
	f.machine(m2, "10.0.0.3", nil)
	f.submit(fleet.Launched, "a.service", "b.service")
	f.place("a.service", m2)
	f.report("a.service", m2, running())
	f.place("b.service", m1)
	c := f.serve()
	w, err := c.Look(t.Context(), "a.service", "unknown.service")
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Machines) != 2 || len(w.Units) != 1 || w.Units["a.service"].MachineID != string(m2) || w.States[m2]["a.service"].SystemdActiveState != "active" || len(w.States) != 1 {
		t.Errorf("of one it sees %+v", w)
	}
	if w, err = c.Look(t.Context()); err != nil || len(w.Units) != 2 {
		t.Errorf("of all it sees %+v, %v", w, err)
	}
	for _, path := range []string{"watch?once", "watch?once=1&unit=a.service"} {
		resp, err := http.Get(c.base + "/fleet/v1/" + path)
		if err != nil {
			t.Fatal(err)
		}
		lines, last := bufio.NewScanner(resp.Body), ""
		for lines.Scan() {
			last = lines.Text()
		}
		resp.Body.Close()
		if lines.Err() != nil || !strings.Contains(last, `"sync":true`) {
			t.Errorf("%s ends with %q, %v", path, last, lines.Err())
		}
	}
}
