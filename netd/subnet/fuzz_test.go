package subnet

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/network"
)

// FuzzTable reads a network tree that anybody has written into, and decides on a subnet: it never overlaps another machine's, and once it is written
// there is nothing more to do.
func FuzzTable(f *testing.F) {
	const value = `{"PublicIP":"192.168.0.9","PublicIPv6":null,"Fleet":{"Machine":"b"}}`
	f.Add("10.5.1.0-24", value, "10.5.2.0-24", `{"PublicIP":"192.168.0.1"}`, false)
	f.Add("10.5.0.0-16", value, "10.5.1.0-24", `{"PublicIP":"192.168.0.1","Fleet":{"Machine":"a"}}`, true)
	f.Add("10.5.1.0-24&fd05:0:0:1::-64", value, "x", `[`, true)
	f.Add("fd05:0:0:1::-64", `null`, "10.5.1.0-24", `{"Fleet":{"Machine":"a"}}`, false)
	c, _, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16","SubnetLen":24,"EnableIPv6":true,"IPv6Network":"fd05::/48","IPv6SubnetLen":64}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string, reserved bool) {
		const prefix = "/coreos.com/network"
		tree := newTable(prefix)
		var kvs []kv.KV
		for i, e := range [][2]string{{name1, value1}, {name2, value2}} {
			k := kv.KV{Key: prefix + "/subnets/" + e[0], Value: []byte(e[1]), Create: int64(i + 2), Mod: int64(i + 2), Lease: kv.LeaseID(i + 1)}
			if reserved {
				k.Lease = 0
			}
			kvs = append(kvs, k)
		}
		tree.load([][]kv.KV{kvs}, 10)
		for _, name := range []string{name1, name2} {
			_, lease := tree.leases[name]
			_, junk := tree.junk[name]
			if lease && junk && name1 != name2 || !lease && !junk {
				t.Fatalf("%q is a lease: %v, is junk: %v", name, lease, junk)
			}
		}
		id := identity{machine: "a", lease: 77}
		attrs := network.Lease{PublicIP: netip.MustParseAddr("192.168.0.1"), PublicIPv6: netip.MustParseAddr("fd99::1"), Extra: &network.Extra{Machine: "a"}}
		m, err := tree.decide(c, id, attrs)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		got, err := parseName(m.name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range tree.leases {
			if !id.mine(e, attrs) && e.Overlaps(got) && !m.keep {
				// A reservation or an older lease of its own may lie in another's way; it gives way only to an older one.
				if own, ok := tree.leases[m.name]; !ok || !own.older(e) {
					t.Errorf("%s overlaps %s of another", m.name, e.Name())
				}
			}
		}
		if m.keep {
			return
		}
		batch := kv.Batch{Rev: 11}
		for _, op := range m.ops {
			e := kv.Event{KV: kv.KV{Key: op.Key, Value: op.Value, Create: 11, Mod: 11, Lease: op.Lease}, Delete: op.Delete}
			if old, ok := tree.leases[tree.name(op.Key)]; ok && !op.Delete {
				e.Create = old.kv.Create
			}
			batch.Events = append(batch.Events, e)
		}
		tree.apply(batch)
		if again, err := tree.decide(c, id, attrs); err != nil || !again.keep || again.name != m.name {
			t.Errorf("after %s: %v, keep %v of %s", fmt.Sprint(m.ops), err, again.keep, again.name)
		}
	})
}
