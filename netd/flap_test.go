package main

import (
	"fmt"
	"testing"

	"github.com/fleet-init/fleet/internal/kv"
)

// A store that comes and goes, and changes whenever it is there, neither cuts what is connected nor keeps a host from what is new.
func TestAFlappingStore(t *testing.T) {
	t.Parallel()
	c, a, b, exchange := connected(t, `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)
	for i := range 8 {
		c.etcd.Cut(true)
		exchange("while the store is away")
		c.etcd.Cut(false)
		op := kv.Op{Key: "/coreos.com/network/subnets/10.5.77.0-24", Delete: true}
		if i%2 == 0 {
			op.Delete, op.Value = false, fmt.Appendf(nil, `{"PublicIP":"192.168.77.77","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:%02x"}}`, i)
		}
		c.soon("the store", func() error {
			_, _, err := c.etcd.Store.Txn(t.Context(), nil, []kv.Op{op})
			return err
		})
		exchange("while it is there")
	}
	c.put("subnets/10.5.78.0-24", `{"PublicIP":"192.168.77.78","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:78"}}`)
	for _, h := range []*host{a, b} {
		c.soon(h.Name+" to know what there is", func() error {
			s := h.status()
			for _, p := range s.Peers {
				if p.Subnet == "10.5.78.0-24" && s.Store.Contact && s.Lease.Held {
					return nil
				}
			}
			return fmt.Errorf("%+v", s)
		})
		if n := h.status().Repairs; n != 0 {
			t.Errorf("%s: %d repairs, want none", h.Name, n)
		}
	}
	exchange("at the end")
}
