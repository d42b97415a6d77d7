package subnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/network"
)

// world is a memory store with keepers on it, in a bubble of fake time.
type world struct {
	t     *testing.T
	mem   *kv.Memory
	ctx   context.Context
	ticks context.CancelFunc
}

// gate is a store that can be cut off. What a machine writes through it, in whatever test, is held to what the door of the store lets a machine
// without a vote write: a lease that names it, where nothing is, or what names it, or what an operator or a flanneld left without naming anybody.
type gate struct {
	*kv.Memory
	t       *testing.T
	machine string
	down    atomic.Bool
	renews  atomic.Int32
}

func (g *gate) Range(ctx context.Context, p ...string) ([][]kv.KV, int64, error) {
	if g.down.Load() {
		return nil, 0, kv.ErrUnavailable
	}
	return g.Memory.Range(ctx, p...)
}

func (g *gate) Txn(ctx context.Context, guards []kv.Guard, ops []kv.Op) (int64, bool, error) {
	name := func(value []byte) string {
		var l struct{ Fleet struct{ Machine string } }
		if err := json.Unmarshal(value, &l); err != nil {
			g.t.Errorf("%s touches %s: %v", g.machine, value, err)
		}
		return l.Fleet.Machine
	}
	for _, op := range ops {
		there, _, err := g.Memory.Range(ctx, op.Key)
		if err != nil || !strings.HasPrefix(op.Key, "/net/subnets/") {
			g.t.Errorf("%s writes %s: %v", g.machine, op.Key, err)
			continue
		}
		if !op.Delete && name(op.Value) != g.machine {
			g.t.Errorf("%s writes a lease that does not name it: %s", g.machine, op.Value)
		}
		// What a lost race has changed is not touched: the transaction says so by the key's revision.
		for _, kv := range there[0] {
			if is := name(kv.Value); kv.Key == op.Key && is != "" && is != g.machine && guarded(guards, op.Key, kv.Mod) {
				g.t.Errorf("%s writes over what is %s's", g.machine, is)
			}
		}
	}
	return g.Memory.Txn(ctx, guards, ops)
}

// guarded tells whether a transaction under these guards would take place with the key at that revision.
func guarded(guards []kv.Guard, key string, mod int64) bool {
	return !slices.ContainsFunc(guards, func(g kv.Guard) bool {
		return g.Key == key && (g.Kind == kv.Missing || g.Kind == kv.ModIs && g.Rev != mod)
	})
}

func (g *gate) Renew(ctx context.Context, id kv.LeaseID) error {
	g.renews.Add(1)
	if g.down.Load() {
		return kv.ErrUnavailable
	}
	return g.Memory.Renew(ctx, id)
}

const testConfig = `{"Network":"10.3.0.0/22"}` // room for three machines

func newWorld(t *testing.T) *world {
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{t: t, mem: kv.NewMemory(time.Now), ctx: ctx, ticks: cancel}
	w.put("config", testConfig, 0)
	return w
}

// run calls the test in a bubble and ends all keepers after it.
func run(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f(w)
		w.ticks()
		synctest.Wait()
	})
}

func (w *world) put(key, value string, lease kv.LeaseID) {
	w.t.Helper()
	op := kv.Op{Key: "/net/" + key, Value: []byte(value), Lease: lease, Delete: value == ""}
	if _, ok, err := w.mem.Txn(w.ctx, nil, []kv.Op{op}); err != nil || !ok {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

// advance lets time pass in steps, with the store's leases ending when they must.
func (w *world) advance(d time.Duration) {
	for ; d > 0; d -= time.Minute {
		time.Sleep(min(d, time.Minute)) // fake time
		w.mem.Tick()
		synctest.Wait()
	}
}

// machine is one keeper and what a daemon would know from it.
type machine struct {
	*Keeper
	w     *world
	ip    netip.Addr
	gate  *gate
	view  View
	end   context.CancelFunc
	done  chan error
	fulls int
}

func (w *world) start(name, ip string, previous View) *machine {
	m := &machine{w: w, ip: netip.MustParseAddr(ip), gate: &gate{Memory: w.mem, t: w.t, machine: name}, done: make(chan error, 1)}
	m.Keeper = NewKeeper(Options{Store: m.gate, Prefix: "/net", Machine: name, Previous: previous, TTL: 24 * time.Hour,
		Margin: time.Hour, Grace: 5 * time.Minute, Log: slog.New(slog.DiscardHandler),
		Describe: func(network.Config, []network.Lease) (network.Lease, error) {
			return network.Lease{PublicIP: m.ip, BackendType: "vxlan", Extra: &network.Extra{Machine: name}}, nil
		}})
	ctx, end := context.WithCancel(w.ctx)
	m.end = end
	go func() { m.done <- m.Run(ctx) }()
	synctest.Wait()
	return m
}

func (m *machine) stop() View {
	m.look()
	m.end()
	<-m.done
	return m.view
}

// look takes what the keeper has to say and prints what this machine knows.
func (m *machine) look() string {
	synctest.Wait()
	c := m.Take()
	if c.Full {
		m.view = c.View
		m.fulls++
	} else {
		maps.Copy(m.view.Peers, c.Set)
		for n := range c.Gone {
			delete(m.view.Peers, n)
		}
	}
	var peers []string
	for n, l := range m.view.Peers {
		peers = append(peers, fmt.Sprintf("%s@%s", n, l.PublicIP))
	}
	slices.Sort(peers)
	return fmt.Sprintf("%s@%s [%s]", m.view.Own.Name(), m.view.Own.PublicIP, strings.Join(peers, " "))
}

func (w *world) want(want, got string) {
	w.t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		w.t.Error(d)
	}
}

// pinned gives a machine a lease for a subnet by its last known state.
func pinned(s string) View {
	return View{Own: network.Lease{V4: netip.MustParsePrefix(s)}}
}

func TestThreeMachinesShareTheNetwork(t *testing.T) {
	run(t, func(w *world) {
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		b := w.start("b", "1.0.0.2", pinned("10.3.2.0/24"))
		c := w.start("c", "1.0.0.3", View{})
		w.want("10.3.1.0-24@1.0.0.1 [10.3.2.0-24@1.0.0.2 10.3.3.0-24@1.0.0.3]", a.look())
		w.want("10.3.3.0-24@1.0.0.3 [10.3.1.0-24@1.0.0.1 10.3.2.0-24@1.0.0.2]", c.look())
		d := w.start("d", "1.0.0.4", View{})
		if err := <-d.done; !errors.Is(err, ErrExhausted) {
			t.Errorf("a fourth machine got %v", err)
		}
		// A machine that dies keeps its subnet until its lease ends, then the next one gets it.
		b.stop()
		w.advance(12 * time.Hour)
		w.want("10.3.1.0-24@1.0.0.1 [10.3.2.0-24@1.0.0.2 10.3.3.0-24@1.0.0.3]", a.look())
		w.advance(12 * time.Hour)
		w.want("10.3.1.0-24@1.0.0.1 [10.3.3.0-24@1.0.0.3]", a.look())
		d = w.start("d", "1.0.0.4", View{})
		w.want("10.3.2.0-24@1.0.0.4 [10.3.1.0-24@1.0.0.1 10.3.3.0-24@1.0.0.3]", d.look())
		w.want("10.3.1.0-24@1.0.0.1 [10.3.2.0-24@1.0.0.4 10.3.3.0-24@1.0.0.3]", a.look())
	})
}

func TestARestartWritesNothing(t *testing.T) {
	run(t, func(w *world) {
		view := w.start("a", "1.0.0.1", View{}).stop()
		rev := w.mem.Rev()
		a := w.start("a", "1.0.0.1", view)
		w.want(view.Own.Name()+"@1.0.0.1 []", a.look())
		if w.mem.Rev() != rev {
			t.Errorf("revision %d, want %d", w.mem.Rev(), rev)
		}
		w.advance(48 * time.Hour) // and the lease it took over is renewed
		w.want(view.Own.Name()+"@1.0.0.1 []", a.look())
		if a.fulls != 1 {
			t.Errorf("%d full changes, want 1: renewing is no change", a.fulls)
		}
	})
}

// A lease is renewed a few times in its life, whatever the margin.
func TestRenewals(t *testing.T) {
	for _, row := range []struct {
		ttl, margin time.Duration
		want        int32 // in three lives of the lease
	}{{24 * time.Hour, time.Hour, 9}, {24 * time.Hour, 20 * time.Hour, 18}, {30 * time.Minute, time.Hour, 9}} {
		run(t, func(w *world) {
			g := &gate{Memory: w.mem, t: w.t, machine: "a"}
			k := NewKeeper(Options{Store: g, Prefix: "/net", Machine: "a", TTL: row.ttl, Margin: row.margin, Log: slog.New(slog.DiscardHandler),
				Describe: func(network.Config, []network.Lease) (network.Lease, error) {
					return network.Lease{PublicIP: netip.MustParseAddr("1.0.0.1"), Extra: &network.Extra{Machine: "a"}}, nil
				}})
			go k.Run(w.ctx)
			w.advance(3*row.ttl + time.Minute)
			if got := g.renews.Load(); got < row.want-1 || got > row.want+1 {
				t.Errorf("%s, margin %s: %d renewals, want %d", row.ttl, row.margin, got, row.want)
			}
		})
	}
}

func TestFlannelsLeaseOfThisAddressIsTakenOver(t *testing.T) {
	run(t, func(w *world) {
		id, _, _ := w.mem.Grant(w.ctx, 24*time.Hour)
		w.put("subnets/10.3.2.0-24", `{"PublicIP":"1.0.0.1","PublicIPv6":null,"BackendType":"vxlan"}`, id)
		w.put("subnets/10.3.3.0-24", `{"PublicIP":"1.0.0.9","PublicIPv6":null,"BackendType":"vxlan"}`, id)
		a := w.start("a", "1.0.0.1", View{})
		w.want("10.3.2.0-24@1.0.0.1 [10.3.3.0-24@1.0.0.9]", a.look())
		w.advance(25 * time.Hour) // flannel's lease ended, ours did not
		w.want("10.3.2.0-24@1.0.0.1 []", a.look())
	})
}

func TestAReservationStaysOne(t *testing.T) {
	run(t, func(w *world) {
		w.put("subnets/10.3.3.0-24", `{"PublicIP":"1.0.0.1"}`, 0)
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		w.want("10.3.3.0-24@1.0.0.1 []", a.look())
		a.stop()
		w.advance(50 * time.Hour)
		kvs, _, err := w.mem.Range(w.ctx, "/net/subnets/")
		if err != nil || len(kvs[0]) != 1 || kvs[0][0].Lease != 0 {
			t.Errorf("reservation is gone or on a lease: %v, %v", kvs, err)
		}
	})
}

func TestTwoMachinesWithOneAddress(t *testing.T) {
	run(t, func(w *world) {
		w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		b := w.start("b", "1.0.0.1", View{})
		err := <-b.done
		want := "address published by another machine: a has 1.0.0.1 in lease 10.3.1.0-24: give this host another address (--public-ip, --iface), or delete key /net/subnets/10.3.1.0-24 if that machine is gone"
		if err == nil || err.Error() != want {
			t.Errorf("got %v\nwant %s", err, want)
		}
	})
}

func TestWrongConfigEndsAStartAndLeavesARunningMachine(t *testing.T) {
	run(t, func(w *world) {
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		before := a.look()
		w.put("config", `{"Network":"10.3.0.0/33"}`, 0)
		w.want(before, a.look())
		if s := a.Status(); !strings.Contains(s.Err, `key /net/config: invalid Network "10.3.0.0/33"`) {
			t.Errorf("status says %q", s.Err)
		}
		b := w.start("b", "1.0.0.2", View{})
		if err := <-b.done; err == nil || !strings.Contains(err.Error(), "invalid Network") {
			t.Errorf("start with a wrong configuration: %v", err)
		}
		w.put("config", "", 0)
		w.want(before, a.look())
		w.put("config", testConfig, 0)
		w.want(before, a.look())
		if s := a.Status(); s.Err != "" {
			t.Errorf("status still says %q", s.Err)
		}
	})
}

func TestWithoutAConfigAMachineWaits(t *testing.T) {
	run(t, func(w *world) {
		w.put("config", "", 0)
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		w.want("@invalid IP []", a.look())
		if s := a.Status(); s.Err != `no network configuration at key /net/config: put one there, like {"Network": "10.5.0.0/16"}` {
			t.Errorf("status says %q", s.Err)
		}
		w.put("config", testConfig, 0)
		w.want("10.3.1.0-24@1.0.0.1 []", a.look())
	})
}

func TestConfigChanges(t *testing.T) {
	run(t, func(w *world) {
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		a.look()
		w.put("config", `{"Network":"10.3.0.0/22","Backend":{"Type":"host-gw"}}`, 0)
		w.want("10.3.1.0-24@1.0.0.1 []", a.look())
		w.want("host-gw", a.view.Config.Backend.Type)
		w.put("config", `{"Network":"10.3.0.0/22","SubnetMin":"10.3.2.0","SubnetMax":"10.3.2.0"}`, 0)
		w.want("10.3.2.0-24@1.0.0.1 []", a.look())
		kvs, _, _ := w.mem.Range(w.ctx, "/net/subnets/")
		if len(kvs[0]) != 1 {
			t.Errorf("old lease not given back: %v", kvs)
		}
		// Turning on IPv6 beside leases that have none is what flannel dies of.
		w.put("config", `{"Network":"10.3.0.0/22","EnableIPv6":true,"IPv6Network":"fd00::/62"}`, 0)
		got := a.look()
		if !strings.HasPrefix(got, "10.3.2.0-24&fd00:0:0:") {
			t.Errorf("got %s", got)
		}
	})
}

func TestOwnLeaseDeletedLostOrOverwritten(t *testing.T) {
	run(t, func(w *world) {
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		w.put("subnets/10.3.1.0-24", "", 0)
		w.want("10.3.1.0-24@1.0.0.1 []", a.look())
		w.mem.Revoke(w.ctx, a.id.lease)
		w.want("10.3.1.0-24@1.0.0.1 []", a.look())
		// A flanneld writes without looking (its renewal does): that subnet is now another machine's, ours must move.
		id, _, _ := w.mem.Grant(w.ctx, 24*time.Hour)
		w.put("subnets/10.3.1.0-24", `{"PublicIP":"1.0.0.9","PublicIPv6":null}`, id)
		got := a.look()
		if !strings.HasSuffix(got, "@1.0.0.1 [10.3.1.0-24@1.0.0.9]") || strings.HasPrefix(got, "10.3.1.0") {
			t.Errorf("got %s", got)
		}
	})
}

func TestAddressOfTheHostChanges(t *testing.T) {
	run(t, func(w *world) {
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		b := w.start("b", "1.0.0.2", pinned("10.3.2.0/24"))
		a.look()
		a.ip = netip.MustParseAddr("1.0.0.7")
		a.Redescribe()
		w.want("10.3.1.0-24@1.0.0.7 [10.3.2.0-24@1.0.0.2]", a.look())
		w.want("10.3.2.0-24@1.0.0.2 [10.3.1.0-24@1.0.0.7]", b.look())
	})
}

func TestJunkKeysHurtNobody(t *testing.T) {
	run(t, func(w *world) {
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		w.start("b", "1.0.0.2", pinned("10.3.2.0/24"))
		before := a.look()
		w.put("subnets/hello", "world", 0)
		w.put("subnets/10.3.3.0-24", "{", 0)
		w.want(before, a.look())
		if n := a.Status().Junk; n != 2 {
			t.Errorf("%d junk keys, want 2", n)
		}
		w.put("subnets/10.3.2.0-24", "{", 0) // a known peer whose value broke is still reached
		if got := a.view.Peers["10.3.2.0-24"]; got.PublicIP.String() != "1.0.0.2" {
			t.Errorf("peer lost: %v", got)
		}
		w.put("subnets/hello", "", 0)
		if n := a.Status().Junk; n > 2 {
			t.Errorf("%d junk keys", n)
		}
	})
}

func TestCompactedWatchReadsAnew(t *testing.T) {
	run(t, func(w *world) {
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		a.look()
		id, _, _ := w.mem.Grant(w.ctx, 100*time.Hour)
		w.put("subnets/10.3.2.0-24", `{"PublicIP":"1.0.0.2","PublicIPv6":null}`, id)
		a.look()
		a.gate.down.Store(true) // while it cannot read, a peer changes its address and the history is cut
		w.advance(2 * time.Minute)
		w.put("subnets/10.3.2.0-24", `{"PublicIP":"1.0.0.8","PublicIPv6":null}`, id)
		w.mem.Compact(w.mem.Rev())
		a.gate.down.Store(false)
		w.advance(time.Minute)
		w.want("10.3.1.0-24@1.0.0.1 [10.3.2.0-24@1.0.0.8]", a.look())
	})
}

func TestPeersThatVanishWithTheStoreAreStillReachedForAWhile(t *testing.T) {
	run(t, func(w *world) {
		w.put("config", `{"Network":"10.3.0.0/16"}`, 0)
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		var ids []kv.LeaseID
		for i := range 4 {
			id, _, _ := w.mem.Grant(w.ctx, 100*time.Hour)
			ids = append(ids, id)
			w.put(fmt.Sprintf("subnets/10.3.%d.0-24", 10+i), fmt.Sprintf(`{"PublicIP":"1.0.0.%d","PublicIPv6":null}`, 10+i), id)
		}
		before := a.look()
		a.gate.down.Store(true)
		w.advance(2 * time.Minute)
		for _, id := range ids {
			w.mem.Revoke(w.ctx, id)
		}
		w.mem.Revoke(w.ctx, a.id.lease)
		w.put("subnets/10.3.99.0-24", `{"PublicIP":"1.0.0.99","PublicIPv6":null}`, 0)
		a.gate.down.Store(false)
		w.advance(time.Minute)
		w.want(strings.Replace(before, "]", " 10.3.99.0-24@1.0.0.99]", 1), a.look())
		if s := a.Status(); s.Stale != 4 || !s.Contact {
			t.Errorf("status %+v", s)
		}
		// One comes back elsewhere: what is held of its subnet goes at once.
		w.put("subnets/10.3.10.0-25", `{"PublicIP":"1.0.0.50","PublicIPv6":null}`, 0)
		if got := a.look(); strings.Contains(got, "10.3.10.0-24") || !strings.Contains(got, "10.3.10.0-25") {
			t.Errorf("got %s", got)
		}
		w.advance(6 * time.Minute)
		w.want("10.3.1.0-24@1.0.0.1 [10.3.10.0-25@1.0.0.50 10.3.99.0-24@1.0.0.99]", a.look())
	})
}

func TestTheYoungerOfTwoOverlappingLeasesGivesWay(t *testing.T) {
	run(t, func(w *world) {
		a := w.start("a", "1.0.0.1", pinned("10.3.2.0/24"))
		// Somebody with another length wrote an overlapping key in the same moment, and was first.
		a.stop()
		w.mem.Revoke(w.ctx, a.id.lease)
		w.put("subnets/10.3.2.0-25", `{"PublicIP":"1.0.0.9","PublicIPv6":null}`, 0)
		w.put("subnets/10.3.2.0-24", string(encodeLease(network.Lease{PublicIP: a.ip, Extra: &network.Extra{Machine: "a"}})), 0)
		w.put("subnets/10.3.2.0-24", "", 0)
		id, _, _ := w.mem.Grant(w.ctx, 24*time.Hour)
		w.put("subnets/10.3.2.0-24", string(encodeLease(network.Lease{PublicIP: a.ip, Extra: &network.Extra{Machine: "a"}})), id)
		b := w.start("a", "1.0.0.1", a.view)
		if got := b.look(); strings.HasPrefix(got, "10.3.2.0") || strings.Contains(got, "10.3.2.0-24") {
			t.Errorf("got %s", got)
		}
	})
}

func TestRelease(t *testing.T) {
	run(t, func(w *world) {
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		a.stop()
		if err := a.Release(w.ctx); err != nil {
			t.Fatal(err)
		}
		if kvs, _, _ := w.mem.Range(w.ctx, "/net/subnets/"); len(kvs[0]) != 0 {
			t.Errorf("left: %v", kvs)
		}
	})
}

// The last known state goes through a file.
func TestViewSurvivesJSON(t *testing.T) {
	run(t, func(w *world) {
		w.start("b", "1.0.0.2", View{})
		view := w.start("a", "1.0.0.1", View{}).stop()
		b, err := json.Marshal(view)
		if err != nil {
			t.Fatal(err)
		}
		var got View
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		eq := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
		if d := cmp.Diff(view, got, eq, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
			t.Error(d)
		}
	})
}
