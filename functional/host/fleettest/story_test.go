package fleettest

import (
	"fmt"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

const examples = "/usr/share/doc/fleet/examples/"

// The promise of the first page, in the words of the first page.
func TestThreeInstancesOnThreeHostsOutliveOneOfThem(t *testing.T) {
	t.Parallel()
	r := boot(t, 3, usual)
	r.ctl(r.Host(1), "submit", examples+"web@.service")
	r.ctl(r.Host(1), "start", "web@1.service", "web@2.service", "web@3.service")
	at := r.once("web@1.service", "web@2.service", "web@3.service")
	on := map[string]bool{}
	for i := 1; i <= 3; i++ {
		r.answers(at[web(i)], i)
		on[at[web(i)].Name] = true
	}
	if len(on) != 3 {
		t.Fatalf("three instances are not on three hosts: %v", on)
	}

	lost := at[web(2)]
	before := map[*host.Host]map[string]string{}
	for _, h := range r.others(lost) {
		before[h] = r.running(h)
	}
	r.must(lost.PowerOff(r.ctx))
	moved := r.once(web(1), web(2), web(3))
	if moved[web(2)] == lost {
		t.Fatal("it runs on a host that is off")
	}
	r.answers(moved[web(2)], 2)
	r.machines(r.others(lost)...)
	for h, units := range before {
		r.same(h, units)
	}

	// The host that comes back finds its unit moved for good: nothing runs back.
	for _, h := range r.others(lost) {
		before[h] = r.running(h)
	}
	r.must(lost.Boot(r.ctx))
	r.machines(r.Hosts()...)
	r.settled()
	for h, units := range before {
		r.same(h, units)
	}
	if n := r.running(lost); len(n) != 0 {
		t.Errorf("%s got %v back", lost.Name, n)
	}
	// It is of use again.
	r.ctl(lost, "start", "web@4.service")
	if h := r.once(web(4))[web(4)]; h.Name != lost.Name {
		t.Errorf("the new instance is on %s, not on the empty host %s", h.Name, lost.Name)
	}
}

func web(i int) string { return fmt.Sprintf("web@%d.service", i) }

// answers waits until an instance of web@.service says its name and its host's over HTTP.
func (r *rig) answers(h *host.Host, i int) {
	r.t.Helper()
	r.wait(fmt.Sprintf("%s on %s to answer", web(i), h.Name), func() error {
		page, err := r.answer(h, 8000+i)
		if want := fmt.Sprintf("%s on %s", web(i), h.Name); err == nil && page != want {
			err = fmt.Errorf("it says %q", page)
		}
		return err
	})
}
