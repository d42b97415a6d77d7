package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/registry"
)

// rig is a cluster under load, and the test that breaks it.
type rig struct {
	*host.Cluster
	t    *testing.T
	ctx  context.Context
	log  *Collector
	hist *History // the test's own part of it
	gone map[string]bool
}

const (
	// conf has a short lease, five voters, and a store that can be filled.
	conf = "agent_ttl = 4s\ncluster_size = 5\nstore_quota = 48\n"
	// stated is what docs/reliability.md promises with that: the lease, and what fleetctl status says of the exclusive units below (10.2 s).
	stated = 15 * time.Second
	// longest is for how long anything is waited for. It ends a test that hangs, and decides nothing else.
	longest = 5 * time.Minute
	// busy is what a machine that does much beside may add. How long it really took is printed.
	busy = 2 * time.Minute
)

// beatUnit is a unit that beats to the collector. more is lines of its [Service] section and sections after it.
func (r *rig) beatUnit(more string) string {
	return fmt.Sprintf("[Service]\nType=notify\nExecStart=/usr/bin/fleet-beat %s %%n\nTimeoutStopSec=2\n%s", r.log.l.Addr(), more)
}

// beat is the program fleet-beat.
func beat(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet-beat")
	cmd := exec.CommandContext(host.Context(t), "go", "build", "-trimpath", "-o", path, "./beat")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build ./beat: %v: %s", err, out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// begin boots the first host of a cluster whose hosts are in these zones.
func begin(t *testing.T, zones string) *rig {
	t.Helper()
	files := host.FleetFiles(len(zones), fmt.Sprintf("%sfleetlock_listen = 0.0.0.0:%d\n", conf, LockPort))
	beat := beat(t)
	c := host.ForTest(t, host.Options{Hosts: 1, Files: func(i int) map[string]string {
		f := files(i)
		f["/usr/bin/fleet-beat"] = beat
		if i <= len(zones) {
			f["/etc/fleet/fleet.conf"] += "metadata = zone=" + zones[i-1:i] + "\n"
		}
		return f
	}})
	r := &rig{Cluster: c, t: t, ctx: host.Context(t), hist: &History{}, gone: map[string]bool{}}
	var l net.Listener
	r.must(c.InNetwork(func() (err error) {
		l, err = net.Listen("tcp", c.Gateway()+":7070")
		return err
	}))
	r.log = Collect(l)
	t.Cleanup(func() { _ = r.log.Close() })
	r.machines(c.Hosts()...)
	return r
}

// sub runs one part as a subtest. After one that failed the rest would only say so again.
func (r *rig) sub(name string, f func(r *rig)) {
	r.t.Helper()
	begin := time.Now()
	ok := r.t.Run(name, func(t *testing.T) {
		own := *r
		own.t, own.ctx = t, host.Context(t)
		f(&own)
	})
	r.t.Logf("%s: %v", name, time.Since(begin).Round(100*time.Millisecond))
	if !ok {
		r.t.FailNow()
	}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) wait(what string, check func() error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, longest)
	defer cancel()
	r.must(host.WaitFor(ctx, what, func(context.Context) error { return check() }))
}

func need(ok bool, otherwise string) error {
	if ok {
		return nil
	}
	return errors.New(otherwise)
}

// all does something to hosts at the same time.
func (r *rig) all(hosts []*host.Host, f func(h *host.Host) error) {
	r.t.Helper()
	var running sync.WaitGroup
	errs := make([]error, len(hosts))
	for i, h := range hosts {
		running.Go(func() { errs[i] = f(h) })
	}
	running.Wait()
	r.must(errors.Join(errs...))
}

// living are the hosts that have not been replaced.
func (r *rig) living() []*host.Host {
	return slices.DeleteFunc(r.Hosts(), func(h *host.Host) bool { return r.gone[h.MachineID] })
}

// others are the living hosts but these.
func (r *rig) others(not ...*host.Host) []*host.Host {
	return slices.DeleteFunc(r.living(), func(h *host.Host) bool { return slices.Contains(not, h) })
}

func (r *rig) byID(id fleet.MachineID) *host.Host {
	for _, h := range r.Hosts() {
		if h.MachineID == string(id) {
			return h
		}
	}
	return nil
}

// tryCtl runs fleetctl on a host, in the folder where write puts units.
func (r *rig) tryCtl(h *host.Host, args ...string) (stdout, stderr string, err error) {
	cmd, err := h.Command(r.ctx, "sh", append([]string{"-c", `mkdir -p /root/units && cd /root/units && exec fleetctl "$@"`, "sh"}, args...)...)
	if err != nil {
		return "", "", err
	}
	var out, text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &text
	err = cmd.Run()
	return out.String(), text.String(), err
}

func (r *rig) ctl(h *host.Host, args ...string) string {
	r.t.Helper()
	out, text, err := r.tryCtl(h, args...)
	if err != nil {
		r.t.Fatalf("%s: fleetctl %s: %v\n%s%s", h.Name, strings.Join(args, " "), err, out, text)
	}
	return out
}

func (r *rig) write(h *host.Host, units map[string]string) {
	r.t.Helper()
	files := map[string]string{}
	for name, text := range units {
		files["/root/units/"+name] = text
	}
	r.must(h.WriteFiles(r.ctx, files))
}

// machines waits until exactly these hosts are registered, as each of them sees it.
func (r *rig) machines(hosts ...*host.Host) {
	r.t.Helper()
	var want []string
	for _, h := range hosts {
		want = append(want, h.MachineID)
	}
	slices.Sort(want)
	for _, h := range hosts {
		r.wait(fmt.Sprintf("%s to list %d machines", h.Name, len(want)), func() error {
			c, err := client(h)
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.Machines(r.ctx)
			var got []string
			for _, m := range list {
				got = append(got, m.ID)
			}
			slices.Sort(got)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("it lists %d: %v", len(got), got)
			}
			return err
		})
	}
}

// registry calls f with the store as the first living host serves it that can.
func (r *rig) registry(f func(context.Context, *registry.Registry) error) error {
	err := errors.New("no host is on")
	for _, h := range r.living() {
		path, e := h.Path("/run/fleet/etcd.sock")
		if e != nil {
			continue
		}
		var c *clientv3.Client
		if c, err = clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + path}, DialTimeout: 2 * time.Second, Logger: nil}); err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
		err = f(ctx, registry.New(etcd.New(c), "/fleet/", slog.New(slog.DiscardHandler)))
		cancel()
		_ = c.Close()
		if err == nil {
			return nil
		}
	}
	return err
}

func (r *rig) snapshot() (s fleet.Snapshot, err error) {
	err = r.registry(func(ctx context.Context, reg *registry.Registry) error {
		s, err = reg.Snapshot(ctx)
		return err
	})
	return s, err
}

// members is what fleetctl members says. It exits with 1 when a member is not well.
func (r *rig) members(h *host.Host) (list fleet.StoreMembers, err error) {
	out, text, _ := r.tryCtl(h, "members", "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return list, fmt.Errorf("%s%s", out, text)
	}
	return list, nil
}

// roster is members, of a host that answers when it is asked again.
func (r *rig) roster(h *host.Host) (list fleet.StoreMembers) {
	r.t.Helper()
	r.wait("the members, as "+h.Name+" sees them", func() (err error) {
		list, err = r.members(h)
		return err
	})
	return list
}

// seats waits until so many vote and stand by, all well, and returns how many voters each zone has ("a2 b2 c1").
func (r *rig) seats(h *host.Host, voters, standBy int) (zones string) {
	r.t.Helper()
	r.wait(fmt.Sprintf("%d voters and %d that stand by", voters, standBy), func() error {
		list, err := r.members(h)
		if err != nil {
			return err
		}
		n, by := map[string]int{}, map[string]int{}
		for _, m := range list.Members {
			n[m.Role]++
			if m.Role == "voter" {
				by[m.Zone]++
			}
			if m.Health != "ok" {
				return fmt.Errorf("%s: %s", m.Name, m.Health)
			}
			if m.Role == "voter" && m.Zone == "" { // a busy host may lose its registration for a moment
				return fmt.Errorf("%s is not registered, so its zone is not known", m.Name)
			}
		}
		var words []string
		for _, z := range slices.Sorted(keys(by)) {
			words = append(words, fmt.Sprintf("%s%d", z, by[z]))
		}
		zones = strings.Join(words, " ")
		return need(n["voter"] == voters && n["stand-by"] == standBy && n["learner"] == 0, fmt.Sprintf("%v %s%s", n, list.Waits, list.Lost))
	})
	return zones
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// storeLeader is the host whose member leads the store.
func (r *rig) storeLeader() (found *host.Host) {
	r.t.Helper()
	r.wait("a leader of the store", func() error {
		for _, h := range r.living() {
			list, err := r.members(h)
			if err != nil {
				continue
			}
			for _, m := range list.Members {
				if found = r.byID(m.Machine); m.Leader && found != nil {
					return nil
				}
			}
		}
		return errors.New("there is none")
	})
	return found
}

// engineLeader is the host whose engine leads.
func (r *rig) engineLeader() (found *host.Host) {
	r.t.Helper()
	r.wait("a leader", func() error {
		return r.registry(func(ctx context.Context, reg *registry.Registry) error {
			id, _, ok, err := reg.Leader(ctx)
			found = r.byID(id)
			return errors.Join(err, need(ok && found != nil, "there is none"))
		})
	})
	return found
}

// running are the units that a host's systemd has as active and that lie in fleet's folder.
func (r *rig) running(h *host.Host) (names []string, err error) {
	out, err := h.Sh(r.ctx, `cd /run/fleet/units 2>/dev/null && set -- * && [ -e "$1" ] || exit 0
		systemctl show --property=Id,ActiveState -- "$@"`)
	for block := range strings.SplitSeq(out, "\n\n") {
		if id, active := "", strings.Contains(block, "ActiveState=active"); active {
			for line := range strings.Lines(block) {
				if w, ok := strings.CutPrefix(strings.TrimSpace(line), "Id="); ok {
					id = w
				}
			}
			names = append(names, id)
		}
	}
	return names, err
}

// rest waits until nothing is left to do after what was broken is whole again, and writes down how long that took: the store holds nothing that a
// plan would change or that waits, and every host runs what is placed on it and nothing else.
func (r *rig) rest(what string) fleet.Snapshot {
	r.t.Helper()
	begin := time.Now()
	r.machines(r.living()...)
	var s fleet.Snapshot
	r.wait("the cluster to have nothing left to do", func() (err error) {
		if s, err = r.snapshot(); err != nil {
			return err
		}
		// The clerks' units change all the time.
		open := slices.DeleteFunc(engine.Plan(s), func(d fleet.Decision) bool { return strings.HasPrefix(string(d.Unit), "reg-") })
		if len(open) > 0 {
			return fmt.Errorf("%d decisions are open, such as %+v", len(open), open[0])
		}
		for _, h := range r.living() {
			if err := r.carriesOnly(h, s); err != nil {
				return err
			}
		}
		return nil
	})
	r.hist.Rests = append(r.hist.Rests, Rest{What: what, Took: time.Since(begin), Bound: stated + busy})
	return s
}

// carriesOnly compares what a host runs with what is placed on it. The clerks' units are never started.
func (r *rig) carriesOnly(h *host.Host, s fleet.Snapshot) error {
	var want []string
	for k, p := range s.Placements {
		if strings.HasPrefix(string(k.Unit), "reg-") {
			continue
		}
		if p.Handover {
			return fmt.Errorf("%s on %s is being handed over", k.Unit, k.Machine.Short())
		}
		if string(k.Machine) == h.MachineID && p.Target == fleet.Launched {
			want = append(want, string(k.Unit))
		}
	}
	got, err := r.running(h)
	if err != nil {
		return err
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s runs %v, placed are %v", h.Name, got, want)
	}
	return nil
}

// home is the host where a unit is placed.
func (r *rig) home(unit string) *host.Host {
	r.t.Helper()
	var found *host.Host
	r.wait("a place for "+unit, func() error {
		s, err := r.snapshot()
		for k := range s.Placements {
			if string(k.Unit) == unit {
				found = r.byID(k.Machine)
			}
		}
		return errors.Join(err, need(found != nil, "it has none"))
	})
	return found
}

// down is a time in which hosts have no power, for the judge.
func (r *rig) down(hosts []*host.Host, f func()) {
	r.t.Helper()
	first := len(r.hist.Acts)
	for _, h := range hosts {
		r.hist.Acts = append(r.hist.Acts, Act{Kind: Down, Machine: h.MachineID, From: Now()})
	}
	r.all(hosts, func(h *host.Host) error { return h.PowerOff(r.ctx) })
	// They beat no more. From here on a run's end needs another reason.
	for i := range hosts {
		r.hist.Acts[first+i].To = Now()
	}
	f()
}

// ordered lets a user's command stop units that match.
func (r *rig) ordered(unit string, f func()) {
	a := Act{Kind: Ordered, Unit: unit, From: Now()}
	f()
	a.To = Now()
	r.hist.Acts = append(r.hist.Acts, a)
}

// heard waits until each unit has said a word on each machine where it is placed, at this moment or later.
func (r *rig) heard(s fleet.Snapshot, since Moment) {
	r.t.Helper()
	for key, p := range s.Placements {
		if p.Target != fleet.Launched || r.gone[string(key.Machine)] {
			continue // global units stay placed on machines that are gone
		}
		r.wait(fmt.Sprintf("a word of %s on %s", key.Unit, key.Machine.Short()), func() error {
			return need(slices.ContainsFunc(r.log.Runs(string(key.Unit)), func(x Run) bool {
				return x.Machine == string(key.Machine) && x.Last >= since
			}), "it says nothing")
		})
	}
}

// judge ends the log when every unit has said a word after the last fault, and prints the verdicts.
func (r *rig) judge(k *Clerks) {
	r.t.Helper()
	var err error
	r.hist.Writes, r.hist.Permits, err = k.Dismiss()
	r.must(err)
	s := r.rest("the end")
	r.hist.Close = Now()
	r.heard(s, r.hist.Close)
	r.hist.Found = map[string]string{}
	through := r.living()[0]
	for _, w := range r.hist.Writes {
		if _, known := r.hist.Found[w.Key]; known {
			continue
		}
		read := Write{Client: 99, Key: w.Key, Read: true, Call: Now()}
		r.wait("the record of "+w.Key, func() (err error) {
			read.Value, err = ReadRecord(r.ctx, through, w.Key)
			return err
		})
		read.Return = Now()
		r.hist.Found[w.Key] = read.Value
		r.hist.Writes = append(r.hist.Writes, read)
	}
	r.hist.Beats, err = r.log.Beats()
	r.must(err)
	var out bytes.Buffer
	if Print(&out, Verdicts(*r.hist)) > 0 {
		r.t.Error("promises were broken")
	}
	r.t.Logf("%d beats\n%s", len(r.hist.Beats), &out)
}
