package fleettest

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// The units of the original's own tests, started by the original's fleetctl, go where those tests want them.
func TestOriginalUnitsGoWhereTheOriginalPutThem(t *testing.T) {
	t.Parallel()
	files := func(i int) map[string]string {
		return host.FleetFiles(3, fmt.Sprintf("%smetadata = hostname=smoke%d\n", usual, i))(i)
	}
	r := bootFiles(t, 3, files).formed()
	h := r.Host(1)
	o := &originals{rig: r, h: h, path: r.originalctl(h)}
	for _, part := range []struct {
		name string
		run  func(*originals)
	}{
		{"TestScheduleMachineOf", (*originals).machineOf},
		{"TestScheduleConflicts", (*originals).conflicts},
		{"TestScheduleOneWayConflict", (*originals).oneWay},
		{"TestScheduleMultipleConflicts", (*originals).multiple},
		{"TestScheduleReplace", (*originals).replace},
		{"TestScheduleCircularReplace", (*originals).circular},
		{"TestScheduleConditionMachineID", (*originals).machineID},
		{"TestScheduleGlobalUnits", (*originals).global},
		{"TestScheduleGlobalConflicts", (*originals).globalConflicts},
		{"TestTemplatesWithSpecifiersInMetadata", (*originals).metadata},
		{"TestInstallUnit", (*originals).install},
		{"TestListUnitFilesOrder", (*originals).order},
	} {
		r.sub(part.name, func(r *rig) {
			o := &originals{rig: r, h: h, path: o.path}
			part.run(o)
			o.clear()
		})
	}
}

// originals drives the cluster with the original's program and units.
type originals struct {
	*rig
	h    *host.Host
	path string
}

// unit fetches a unit of the original's tests, unchanged.
func (o *originals) unit(name string) {
	o.t.Helper()
	o.write(o.h, map[string]string{name: o.originalFile(filepath.Join("functional/fixtures/units", name))})
}

// start fetches units and starts them without waiting, as the original's tests do.
func (o *originals) start(names ...string) {
	o.t.Helper()
	for _, n := range names {
		o.unit(n)
	}
	o.do(append([]string{"start", "--no-block"}, names...)...)
}

func (o *originals) do(args ...string) string {
	o.t.Helper()
	out, text, code := o.try(o.h, o.path, args...)
	if code != 0 {
		o.t.Fatalf("the original's fleetctl %v: %d %s%s", args, code, out, text)
	}
	return out
}

// clear destroys all units and waits until no host runs one.
func (o *originals) clear() {
	o.t.Helper()
	var names []string
	for line := range strings.Lines(o.do("list-unit-files", "--no-legend", "--fields=unit")) {
		names = append(names, strings.TrimSpace(line))
	}
	o.do(append([]string{"destroy"}, names...)...)
	o.wait("no unit anywhere", func() error {
		at := o.places()
		return need(len(at) == 0, fmt.Sprintf("there run %v", at))
	})
}

// atRest waits until the cluster has come to rest, and tells which of these units run then.
func (o *originals) atRest(units ...string) (on map[string]string) {
	o.t.Helper()
	o.settled()
	on = map[string]string{}
	for u, hosts := range o.places() {
		if slices.Contains(units, u) {
			on[u] = strings.Join(hostNames(hosts), ",")
		}
	}
	return on
}

func (o *originals) machineOf() {
	var units []string
	for i := range 3 {
		units = append(units, fmt.Sprintf("ping.%d.service", i), fmt.Sprintf("pong.%d.service", i))
	}
	o.start(units...)
	pairs := func() map[string]*host.Host {
		at := o.once(units...)
		for i := range 3 {
			if a, b := at[units[2*i]], at[units[2*i+1]]; a.Name != b.Name {
				o.t.Errorf("%s is on %s, %s on %s", units[2*i], a.Name, units[2*i+1], b.Name)
			}
		}
		return at
	}
	// A pair goes together when its machine leaves; the leader of o.do stays.
	left := pairs()["ping.1.service"]
	for i := 0; left.Name == o.h.Name; i++ {
		left = pairs()[fmt.Sprintf("ping.%d.service", i)]
	}
	left.Must(o.t, "systemctl", "stop", "fleetd")
	o.wait("all pairs on the others", func() error {
		at := pairs()
		for u, h := range at {
			if h.Name == left.Name {
				return fmt.Errorf("%s is on %s", u, h.Name)
			}
		}
		return nil
	})
	left.Must(o.t, "systemctl", "start", "fleetd")
	o.machines(o.Hosts()...)
}

func (o *originals) conflicts() {
	var units []string
	for i := range 5 {
		units = append(units, fmt.Sprintf("conflict.%d.service", i))
	}
	o.start(units...)
	o.wait("one on each machine", func() error { return need(len(o.places()) == 3, fmt.Sprintf("%v", o.places())) })
	on := o.atRest(units...)
	hosts := map[string]bool{}
	for _, h := range on {
		hosts[h] = true
	}
	if len(on) != 3 || len(hosts) != 3 {
		o.t.Errorf("units that conflict are on %v", on)
	}
}

func (o *originals) oneWay() {
	// The one machine of the original's test: the others take nothing else.
	for _, n := range []string{"conflicts-with-hello.service", "hello.service"} {
		o.write(o.h, map[string]string{n: o.originalFile("functional/fixtures/units/"+n) + "\n[X-Fleet]\nMachineMetadata=hostname=smoke1\n"})
	}
	o.do("start", "--no-block", "conflicts-with-hello.service")
	o.once("conflicts-with-hello.service")
	o.do("start", "--no-block", "hello.service")
	if on := o.atRest("hello.service", "conflicts-with-hello.service"); len(on) != 1 || on["conflicts-with-hello.service"] == "" {
		o.t.Errorf("there run %v", on)
	}
	o.do("destroy", "conflicts-with-hello.service")
	o.once("hello.service")
}

func (o *originals) multiple() {
	units := []string{"conflict.multiple.0.service", "conflict.multiple.1.service", "conflict.multiple.2.service"}
	o.start(units...)
	hosts := map[string]bool{}
	for _, h := range o.once(units...) {
		hosts[h.Name] = true
	}
	if len(hosts) != 3 {
		o.t.Errorf("they are on %v", hosts)
	}
}

func (o *originals) replace() {
	// The original had two machines: so that its unit is least loaded where the kicked one is, all others get more.
	o.start("replace.0.service")
	old := o.once("replace.0.service")["replace.0.service"]
	o.start("replace.1.service", "replace.2.service")
	pair := o.once("replace.1.service", "replace.2.service")
	o.unit("replace-kick0.service")
	text := o.originalFile("functional/fixtures/units/replace-kick0.service") + "MachineMetadata=hostname=smoke" + old.Name[1:] + "\n"
	o.write(o.h, map[string]string{"replace-kick0.service": text})
	o.do("start", "--no-block", "replace-kick0.service")
	o.wait("the kicked unit elsewhere", func() error {
		at := o.once("replace.0.service", "replace-kick0.service", "replace.1.service", "replace.2.service")
		ok := at["replace-kick0.service"].Name == old.Name && at["replace.0.service"].Name != old.Name
		return need(ok, fmt.Sprintf("the replacer is on %s, the other on %s", at["replace-kick0.service"].Name, at["replace.0.service"].Name))
	})
	for u, h := range o.once("replace.1.service", "replace.2.service") {
		if pair[u].Name != h.Name {
			o.t.Errorf("%s, which nobody replaces, went from %s to %s", u, pair[u].Name, h.Name)
		}
	}
}

// circular: two that replace each other. The original's test expects one of them launched, but counts in a list that it made before it
// started the second; its engine left both alone (5.5), so both run, and so they do here.
func (o *originals) circular() {
	kick := o.originalFile("functional/fixtures/units/replace-kick0.service")
	o.write(o.h, map[string]string{
		"replace.0.service":     strings.ReplaceAll(kick, "Replaces=replace.0.service", "Replaces=replace-kick0.service"),
		"replace-kick0.service": kick,
	})
	o.do("start", "--no-block", "replace.0.service")
	before := o.once("replace.0.service")["replace.0.service"]
	run := o.running(before)["replace.0.service"]
	o.do("start", "--no-block", "replace-kick0.service")
	o.once("replace.0.service", "replace-kick0.service")
	o.settled()
	if o.running(before)["replace.0.service"] != run {
		o.t.Error("the first was moved or started anew")
	}
}

func (o *originals) machineID() {
	o.unit("pin@.service")
	want := map[string]string{}
	for _, h := range o.Hosts() {
		// In full, and the first eight characters, which its code took too.
		full, begin := "pin@"+h.MachineID+".service", "pin@"+h.MachineID[:8]+".service"
		o.do("start", full, begin)
		want[full], want[begin] = h.Name, h.Name
	}
	for u, name := range want {
		if h := o.once(u)[u]; h.Name != name {
			o.t.Errorf("%s is on %s, not on %s", u, h.Name, name)
		}
	}
}

func (o *originals) global() {
	o.start("hello.service", "goodbye.service")
	o.once("hello.service", "goodbye.service")
	o.start("global.service")
	o.everywhere("global.service")
	// Its test asks with a flag that its fleetctl does not know, and expects 0.
	o.do("status", "--no-block", "global.service")
	if out := o.ctl(o.h, "status", "global.service"); strings.Count(out, "active (running)") != 3 {
		o.t.Errorf("ours tells of %s", out)
	}
	before := map[string]string{}
	for _, h := range o.Hosts() {
		before[h.Name] = o.running(h)["global.service"]
	}
	o.ctl(o.h, "restart", "global.service")
	o.everywhere("global.service")
	for _, h := range o.Hosts() {
		if o.running(h)["global.service"] == before[h.Name] {
			o.t.Errorf("restart did not restart it on %s", h.Name)
		}
	}
}

func (o *originals) globalConflicts() {
	o.start("conflict-global.0.service")
	o.everywhere("conflict-global.0.service")
	o.start("conflict-global.1.service")
	if on := o.atRest("conflict-global.1.service"); len(on) != 0 {
		o.t.Errorf("the second runs on %v", on)
	}
	o.everywhere("conflict-global.0.service")
	// Where the first does not want to run, the second does.
	o.do("unload", "conflict-global.0.service")
	o.everywhere("conflict-global.1.service")
	// By name, not by who came first.
	o.do("start", "--no-block", "conflict-global.0.service")
	o.everywhere("conflict-global.0.service")
	if on := o.atRest("conflict-global.1.service"); len(on) != 0 {
		o.t.Errorf("the second by name runs on %v", on)
	}
}

func (o *originals) metadata() {
	o.unit("metadata@.service")
	o.do("submit", "metadata@.service")
	for i := 3; i >= 1; i-- {
		u := fmt.Sprintf("metadata@smoke%d.service", i)
		o.do("start", u)
		if h := o.once(u)[u]; h.Name != fmt.Sprintf("h%d", i) {
			o.t.Errorf("%s is on %s", u, h.Name)
		}
	}
	if out, text, code := o.try(o.h, o.path, "start", "--block-attempts=2", "metadata@invalid.service"); code != 1 {
		o.t.Errorf("a unit that fits nowhere: %d %s%s", code, out, text)
	}
	if out := o.atRest("metadata@invalid.service"); len(out) != 0 {
		o.t.Errorf("it runs: %v", out)
	}
}

// install: a unit wanted by another in [Install] is started with it.
func (o *originals) install() {
	for _, n := range []string{"hello.service", "discovery.service"} {
		o.unit(n)
		o.do("load", n)
	}
	o.do("start", "hello.service")
	at := o.once("hello.service", "discovery.service")
	if at["hello.service"].Name != at["discovery.service"].Name {
		o.t.Errorf("they are on %v", at)
	}
}

func (o *originals) order() {
	o.unit("hello@.service")
	var want []string
	for i := 20; i >= 1; i-- {
		want = append(want, fmt.Sprintf("hello@%02d.service", i))
	}
	o.do(append([]string{"submit"}, want...)...)
	slices.Sort(want)
	got := strings.Fields(o.do("list-unit-files", "--no-legend", "--fields=unit"))
	if !slices.Equal(got, want) {
		o.t.Errorf("the list is %v", got)
	}
}
