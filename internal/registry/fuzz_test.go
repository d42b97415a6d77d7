package registry

import (
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// FuzzRecords puts anything where a record of any kind is: it never hides the others, and never stops anybody who reads.
func FuzzRecords(f *testing.F) {
	for _, v := range []string{`{"v":1}`, `{"v":2}`, `{"v":1,"machine":"x","wait":-1}`, `{"v":1,"hash":"0","target":"launched","since":"2030-01-01T00:00:00Z"}`,
		`{"v":1,"fleet":[["Exclusive","yes"],["MachineOf","%i"]]}`, `{"v":1,"ip":"::1","metadata":{"a":null}}`, "", "null", "[", "{\"v\":1e99}"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		x := newFixture(t)
		p := x.register(m1)
		x.submit(otherText, fleet.Launched, "good.service")
		for _, key := range []string{machines + "/" + string(m2), settings + "/" + string(m1), admitted + "/" + string(m1), units + "/bad.service",
			placements + "/" + string(m1) + "/bad.service", observed + "/" + string(m1) + "/bad.service", holders + "/bad.service", brake, leader, files + "/x"} {
			x.put(key, value)
		}
		s := x.snapshot()
		if _, ok := s.Units["good.service"]; !ok {
			t.Error("a bad record hides a good one")
		}
		if _, ok := s.Machines[m1]; !ok {
			t.Error("a bad record hides a machine")
		}
		o, err := x.Orders(t.Context(), p)
		if err != nil {
			t.Error(err)
		}
		if _, ok := o.Placements["bad.service"]; !ok && o.Admitted {
			t.Error("a placement that cannot be read, and the agent is to clear away")
		}
		w := &watcher{r: x.Registry, roster: x.newRoster(), decoder: x.newDecoder()}
		for _, kind := range []string{machines, settings, admitted, units, placements, observed, holders} {
			w.change(kv.Event{KV: kv.KV{Key: x.prefix + kind + "/a/b", Value: []byte(value), Create: 1, Mod: 2}})
		}
		w.change(kv.Event{KV: kv.KV{Key: x.prefix + brake, Value: []byte(value), Mod: 3}})
	})
}
