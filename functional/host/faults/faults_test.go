package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/registry"
)

// many is how many units are started while something breaks.
const many = 300

// One cluster from its first host to its last fault, under load all the time. What breaks are promises of docs/reliability.md; what each part
// shows beside them stands in it. At the end come a few rounds of random faults; with FLEET_FAULTS, which says for how many minutes, there is nothing
// but those. FLEET_FAULTS_SEED says which; a seed draws the same faults again.
func TestPromisesUnderFaults(t *testing.T) {
	minutes, seed := setting(t, "FLEET_FAULTS", 0), setting(t, "FLEET_FAULTS_SEED", 1)
	r := begin(t, "aaabbc")
	r.sub("one, three and five hosts vote, spread over zones", grows)
	r.workload()
	k := Employ(r.Cluster, 2, seed)
	t.Cleanup(func() { _, _, _ = k.Dismiss() })
	if minutes == 0 {
		for _, part := range parts() {
			r.sub(part.name, part.f)
		}
	}
	r.sub("random faults", func(r *rig) { r.mixed(rand.New(rand.NewPCG(seed, 0)), time.Duration(minutes)*time.Minute) })
	r.judge(k)
}

type part struct {
	name string
	f    func(r *rig)
}

func parts() []part {
	return []part{
		{"fleetd is upgraded, host by host", upgraded},
		{"the store's leader is killed while 300 units start", leaderKilled},
		{"the store's leader has a slow disk", slowDisk},
		{"clocks are wrong", wrongClocks},
		{"a host is not heard, and hears nobody", oneWay},
		{"what a unit wishes when its host is cut off", disconnected},
		{"fleetd is paused where an exclusive unit runs", paused},
		{"most voters are paused", (*rig).noQuorum},
		{"half of all machines vanish", brake},
		{"all hosts lose power", (*rig).blackout},
		{"a host is replaced by another of its name", replaced},
		{"the store is full", (*rig).filled},
	}
}

// setting is a number in the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	word := os.Getenv(name)
	if word == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(word, 10, 32)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// workload starts units of all sorts.
func (r *rig) workload() {
	r.t.Helper()
	first := r.Host(1)
	tied := "[X-Fleet]\nMachineID=" + r.Host(4).MachineID + "\n"
	text := map[string]string{
		"free@.service": r.beatUnit(""), "all.service": r.beatUnit("[X-Fleet]\nGlobal=true\n"), "x@.service": r.beatUnit("[X-Fleet]\nExclusive=yes\n"),
		"d-run.service": r.beatUnit(tied), "d-stop.service": r.beatUnit(tied + "OnDisconnect=stop\n"), "d-freeze.service": r.beatUnit(tied + "OnDisconnect=freeze\n"),
	}
	r.write(first, text)
	units := slices.Concat(instances("free", 8), instances("x", 2), []string{"all.service", "d-run.service", "d-stop.service", "d-freeze.service"})
	// A host that has just got a seat may have been too busy to renew its lease in time: then its guard ends, and fleetctl says that the exclusive unit could
	// not start. It does under the next lease.
	r.wait("all units to start", func() error {
		_, text, err := r.tryCtl(first, append([]string{"start"}, units...)...)
		return need(err == nil, text)
	})
	r.hist.Exclusive, r.hist.Leaving = instances("x", 2), []string{"d-stop.service"}
	r.heard(r.rest("the start"), 0)
}

func grows(r *rig) {
	first := r.Host(1)
	if zones := r.seats(first, 1, 0); zones != "a1" {
		r.t.Errorf("voters are %s", zones)
	}
	r.must(r.AddN(r.ctx, 2))
	if zones := r.seats(first, 3, 0); zones != "a3" {
		r.t.Errorf("voters are %s", zones)
	}
	r.must(r.AddN(r.ctx, 2))
	if zones := r.seats(first, 5, 0); zones != "a3 b2" {
		r.t.Errorf("voters are %s", zones)
	}
	// The sixth is in a zone without a voter: it takes a seat from the zone with the most.
	r.must(r.AddN(r.ctx, 1))
	r.wait("a voter in each zone", func() error {
		zones := r.seats(first, 5, 1)
		return need(zones == "a2 b2 c1", "voters are "+zones)
	})
	r.machines(r.Hosts()...)
}

// upgraded gives each host another file for fleetd, and starts it, while clerks are at work.
func upgraded(r *rig) {
	for _, h := range r.living() {
		// /usr is read-only: the new file is mounted over the old one, and gone with the next boot.
		_, err := h.Sh(r.ctx, "cp /usr/bin/fleetd /var/fleetd && echo upgraded >>/var/fleetd && mount --bind /var/fleetd /usr/bin/fleetd && systemctl restart fleetd.service")
		r.must(err)
		r.machines(r.living()...)
		if out, err := h.Sh(r.ctx, "cmp /var/fleetd /proc/$(systemctl show --value --property=MainPID fleetd.service)/exe"); err != nil {
			r.t.Errorf("%s runs another file: %s: %v", h.Name, out, err)
		}
	}
	r.rest("a rolling upgrade")
}

func leaderKilled(r *rig) {
	lead := r.storeLeader()
	from := r.others(lead)[0]
	r.write(from, map[string]string{"many@.service": "[Service]\nExecStartPre=/bin/sleep 1\nExecStart=/bin/sleep infinity\n"})
	units := instances("many", many)
	said := make(chan error, 1)
	go func() {
		out, text, err := r.tryCtl(from, append([]string{"start"}, units...)...)
		if err != nil {
			err = fmt.Errorf("fleetctl start: %w: %s%s", err, host.Tail(out, 3), text)
		}
		said <- err
	}()
	r.wait("a first part of them", func() error {
		out, err := from.Sh(r.ctx, "ls /run/fleet/units | grep -c many@ || :")
		if err == nil && strings.TrimSpace(out) == "0" {
			err = fmt.Errorf("there is none")
		}
		return err
	})
	r.must(lead.Signal(r.ctx, "fleetd.service", "KILL"))
	if err := <-said; err != nil { // a request may take longer than fleetctl waits for one, until there is another leader
		r.t.Log(err)
		r.wait("fleetctl start to succeed", func() error {
			_, text, err := r.tryCtl(from, append([]string{"start"}, units...)...)
			return need(err == nil, text)
		})
	}
	s := r.rest("the store's leader is killed while 300 units start")
	n := 0
	for k := range s.Placements {
		if strings.HasPrefix(string(k.Unit), "many@") {
			n++
		}
	}
	if n != many {
		r.t.Errorf("%d of %d are placed", n, many)
	}
	r.ctl(from, append([]string{"destroy"}, units...)...)
	r.rest("300 units are destroyed")
}

func slowDisk(r *rig) {
	lead := r.storeLeader()
	undo := r.slow(lead)
	from := r.others(lead)[0]
	r.write(from, map[string]string{"slow@.service": r.beatUnit("")})
	// A request may take longer than fleetctl waits for one, until the others have chosen another leader.
	r.wait("fleetctl start to succeed", func() error {
		_, text, err := r.tryCtl(from, append([]string{"start"}, instances("slow", 10)...)...)
		return need(err == nil, text)
	})
	// The host itself may be lost while it lasts: it hears of nothing before its own disk has it.
	for _, u := range instances("slow", 10) {
		r.wait(u+" to run", func() error { return need(len(r.log.Runs(u)) > 0, "it does not") })
	}
	r.must(undo())
	r.rest("a slow disk")
	r.ordered("slow@*", func() {
		r.ctl(from, append([]string{"destroy"}, instances("slow", 10)...)...)
		r.rest("ten units are destroyed")
	})
}

// wrongClocks: one host is a day ahead, one a day behind. They go on working, are lost, and come back; then their clocks are right.
func wrongClocks(r *rig) {
	hosts := r.others(r.storeLeader())
	wrong := hosts[:2]
	undo := []func() error{r.clock(wrong[0], day), r.clock(wrong[1], -day)}
	from := hosts[2]
	var tied []string
	for _, h := range wrong {
		tied = append(tied, "c-"+h.Name+".service")
		r.write(from, map[string]string{tied[len(tied)-1]: r.beatUnit("[X-Fleet]\nMachineID=" + h.MachineID + "\n")})
	}
	r.ctl(from, append([]string{"start"}, tied...)...)
	r.must(errors.Join(wrong[0].Cut(r.ctx), wrong[1].Cut(r.ctx)))
	r.machines(r.others(wrong...)...)
	r.must(errors.Join(wrong[0].Heal(r.ctx), wrong[1].Heal(r.ctx))) // not at once: both undo the cut between them
	// The certificates of this cluster are an hour old at most: to a host that is a day behind they are not valid yet, and new connections fail there.
	for _, f := range undo {
		r.must(f())
	}
	r.rest("clocks are wrong")
	r.ordered("c-*", func() { r.ctl(from, append([]string{"destroy"}, tied...)...) })
}

func oneWay(r *rig) {
	lead := r.storeLeader()
	h := r.others(lead, r.Host(4))[0]
	r.must(h.CutTo(r.ctx))
	r.machines(r.others(h)...)
	r.must(h.Heal(r.ctx))
	r.rest("a host is not heard")
	for _, o := range r.others(lead) {
		r.must(o.CutTo(r.ctx, lead))
	}
	r.machines(r.others(lead)...)
	r.must(lead.Heal(r.ctx))
	r.rest("the store's leader hears nobody")
}

// disconnected: three units that are tied to one host, which is cut off for longer than its lease.
func disconnected(r *rig) {
	h := r.Host(4)
	last := func(unit string) Run {
		runs := r.log.Runs(unit)
		return runs[len(runs)-1]
	}
	run, stop, freeze := last("d-run.service"), last("d-stop.service"), last("d-freeze.service")
	r.must(h.Cut(r.ctx))
	r.wait("the end of d-stop.service", func() error { return need(last("d-stop.service").Ended, "it runs") })
	r.wait("d-freeze.service to be frozen", func() error {
		out, err := h.Run(r.ctx, "systemctl", "show", "--value", "--property=FreezerState", "d-freeze.service")
		return need(err == nil && strings.TrimSpace(out) == "frozen", "it is "+out)
	})
	cut := Now()
	r.wait("d-run.service to go on", func() error { return need(last("d-run.service").Last > cut, "it is silent") })
	if now := last("d-freeze.service"); now.Last > cut {
		r.t.Error("d-freeze.service is frozen, and goes on")
	}
	r.must(h.Heal(r.ctx))
	r.wait("d-freeze.service to go on", func() error { return need(last("d-freeze.service").Last > cut, "it is silent") })
	r.wait("another run of d-stop.service", func() error { return need(last("d-stop.service").ID != stop.ID, "it does not run") })
	r.rest("a host is cut off")
	if now := last("d-run.service"); now.ID != run.ID || last("d-freeze.service").ID != freeze.ID {
		r.t.Errorf("d-run.service and d-freeze.service were started again")
	}
}

func paused(r *rig) {
	h := r.home("x@1.service")
	r.must(h.Signal(r.ctx, "fleetd.service", "STOP"))
	r.wait("x@1.service elsewhere", func() error {
		runs := r.log.Runs("x@1.service")
		last := runs[len(runs)-1]
		return need(last.Machine != h.MachineID && !last.Ended, "it is not")
	})
	r.must(r.goOn(h))
	r.rest("fleetd is paused")
}

// brake: three of six hosts lose power at once, and with them no majority of the voters. Nothing of theirs moves.
func brake(r *rig) {
	list := r.roster(r.Host(1))
	var dead, voters []*host.Host
	for _, m := range list.Members {
		switch h := r.byID(m.Machine); m.Role {
		case "voter":
			voters = append(voters, h)
		default:
			dead = append(dead, h)
		}
	}
	// Neither the one that leads nor the store's leader: their successors begin at about the time when the first lease ends.
	leads, store := r.engineLeader(), r.storeLeader()
	dead = append(dead, slices.DeleteFunc(voters, func(h *host.Host) bool { return h == leads || h == store })[:2]...)
	alive := r.others(dead...)
	names := func(hosts []*host.Host) (ids []string) {
		for _, h := range hosts {
			ids = append(ids, h.MachineID)
		}
		return ids
	}
	on := func() (units []string) {
		s, err := r.snapshot()
		r.must(err)
		for k, p := range s.Placements {
			if slices.Contains(names(dead), string(k.Machine)) && !p.Handover && strings.HasPrefix(string(k.Unit), "free@") {
				units = append(units, string(k.Unit))
			}
		}
		slices.Sort(units)
		return units
	}
	held := on()
	r.down(dead, func() {
		atOnce := r.endTogether(dead)
		r.wait("the alarm", func() error {
			_, text, err := r.tryCtl(alive[0], "list-machines")
			return need(err == nil && strings.Contains(text, "machines vanished at once") && strings.Contains(text, "fleetctl resume"), text)
		})
		now := on()
		atOnce = atOnce && r.storeLeader() == store // a new one begins all leases anew
		r.t.Logf("at once %v: %v is %v", atOnce, held, now)
		if atOnce && !slices.Equal(now, held) {
			r.t.Errorf("before the brake was pulled %v became %v", held, now)
		}
		held = now
		// Time for several plans: a unit that is started now is the proof that they were made.
		r.write(alive[0], map[string]string{"late.service": r.beatUnit("")})
		r.ctl(alive[0], "start", "late.service")
		if now := on(); !slices.Equal(now, held) {
			r.t.Errorf("under the brake %v became %v", held, now)
		}
		if out := r.ctl(alive[0], "resume"); !strings.Contains(out, "missing machines") {
			r.t.Errorf("resume says %q", out)
		}
		r.wait("the units of the dead elsewhere", func() error {
			for _, u := range instances("free", 8) {
				if !slices.ContainsFunc(r.log.Runs(u), func(x Run) bool {
					return slices.Contains(names(alive), x.Machine) && !x.Ended
				}) {
					return fmt.Errorf("%s is not", u)
				}
			}
			return nil
		})
		if _, text, _ := r.tryCtl(alive[0], "list-machines"); strings.Contains(text, "Alarm") {
			r.t.Errorf("after resume it says %s", text)
		}
		r.all(dead, func(h *host.Host) error { return h.Boot(r.ctx) })
	})
	r.ordered("late.service", func() { r.ctl(alive[0], "destroy", "late.service") })
	r.rest("half of all machines vanish")
}

// endTogether tells whether the leases of hosts that are lost end close enough to each other to be told from those of hosts that are alive. They do when
// everybody renewed in time, and the power went at once: on a machine with other things to do that is not for a test to say.
func (r *rig) endTogether(lost []*host.Host) bool {
	var lives map[fleet.MachineID]time.Duration
	r.must(r.registry(func(ctx context.Context, reg *registry.Registry) (err error) {
		lives, err = reg.Lives(ctx)
		return err
	}))
	var ends []time.Duration
	for _, h := range lost {
		if left, there := lives[fleet.MachineID(h.MachineID)]; there && left >= 0 {
			ends = append(ends, left)
		}
	}
	// The store rounds down to seconds: a second here is less than two, half of conf's agent_ttl.
	return len(ends) == len(lost) && slices.Max(ends)-slices.Min(ends) <= time.Second
}

// replaced: a host dies for good, and another with its name, and nothing else of it, joins.
func replaced(r *rig) {
	first := r.Host(1)
	list := r.roster(first)
	var old *host.Host
	for _, m := range list.Members {
		if h := r.byID(m.Machine); m.Role == "voter" && h != first && h != r.Host(4) {
			old = h
		}
	}
	r.down([]*host.Host{old}, func() {})
	r.gone[old.MachineID] = true
	h, err := r.New(r.ctx)
	r.must(err)
	settings, err := old.ReadFile(r.ctx, "/etc/fleet/fleet.conf")
	r.must(err)
	r.must(h.WriteFiles(r.ctx, map[string]string{"/etc/hostname": old.Name + "\n", "/etc/fleet/fleet.conf": settings}))
	r.must(h.Boot(r.ctx))
	r.machines(r.living()...)
	r.seats(first, 5, 1)
	r.wait("one member called "+old.Name, func() error {
		list, err := r.members(first)
		if err != nil {
			return err
		}
		var found []fleet.MachineID
		for _, m := range list.Members {
			if m.Name == old.Name {
				found = append(found, m.Machine)
			}
		}
		return need(len(found) == 1 && string(found[0]) == h.MachineID, fmt.Sprintf("they are %v", found))
	})
	r.rest("a host is replaced")
}
