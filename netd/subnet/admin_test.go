package subnet

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/fleet-init/fleet/internal/fleet"
)

func TestAnOperatorStoresTheConfiguration(t *testing.T) {
	run(t, func(w *world) {
		a := Admin{Store: w.mem, Prefix: "/net"}
		m := w.start("a", "1.0.0.1", View{})
		for text, want := range map[string]string{
			`{"Network":"10.9.0.0/31"}`:                 "invalid Network 10.9.0.0/31: too small to cut: use /28 or larger",
			`{"Network":"10.9.0.0/16","SubnetLenth":2}`: "invalid keys SubnetLenth: nothing reads them: correct or remove them",
		} {
			if err := a.SetConfig(w.ctx, []byte(text)); err == nil || err.Error() != want || !errors.Is(err, fleet.ErrInvalid) {
				t.Errorf("%s: %v", text, err)
			}
		}
		if text, err := a.Config(w.ctx); err != nil || string(text) != testConfig {
			t.Errorf("%s, %v", text, err)
		}
		if err := a.SetConfig(w.ctx, []byte(`{"Network":"10.9.0.0/22","SubnetMin":"10.9.2.0","SubnetMax":"10.9.2.0"}`)); err != nil {
			t.Error(err)
		}
		w.want("10.9.2.0-24@1.0.0.1 []", m.look())
		w.put("config", "", 0)
		if text, err := a.Config(w.ctx); err != nil || text != nil {
			t.Errorf("%s, %v", text, err)
		}
		if err := a.Reserve(w.ctx, netip.MustParsePrefix("10.3.1.0/24"), netip.Prefix{}, netip.MustParseAddr("1.0.0.1")); err == nil ||
			err.Error() != "no network configuration at key /net/config: store one first" {
			t.Error(err)
		}
	})
}

func TestAnOperatorReservesSubnets(t *testing.T) {
	run(t, func(w *world) {
		// With a backend that is named, a machine looks again only at what is its own.
		w.put("config", `{"Network":"10.3.0.0/22","Backend":{"Type":"vxlan"}}`, 0)
		op := Admin{Store: w.mem, Prefix: "/net"}
		a := w.start("a", "1.0.0.1", pinned("10.3.1.0/24"))
		reserve := func(subnet, to, want string) {
			t.Helper()
			err := op.Reserve(w.ctx, netip.MustParsePrefix(subnet), netip.Prefix{}, netip.MustParseAddr(to))
			if (err == nil) != (want == "") || err != nil && err.Error() != want {
				t.Errorf("%s to %s: %v", subnet, to, err)
			}
			synctest.Wait()
		}
		reserve("10.3.3.0/25", "1.0.0.2", "invalid subnet 10.3.3.0-25: want one of each family that is on: a /24 from 10.3.1.0 to 10.3.3.0")
		reserve("10.3.1.0/24", "1.0.0.2", "invalid subnet 10.3.1.0-24: lease 10.3.1.0-24 is 1.0.0.1's: reserve another, or end that lease first")
		// For one that is to come: nobody else gets it.
		reserve("10.3.3.0/24", "1.0.0.3", "")
		b := w.start("b", "1.0.0.2", View{})
		w.want("10.3.2.0-24@1.0.0.2 [10.3.1.0-24@1.0.0.1 10.3.3.0-24@1.0.0.3]", b.look())
		// Of its own subnet: it stays, and has no end.
		reserve("10.3.1.0/24", "1.0.0.1", "")
		w.want("10.3.1.0-24@1.0.0.1 [10.3.2.0-24@1.0.0.2 10.3.3.0-24@1.0.0.3]", a.look())
		if s := a.Status(); !s.Until.IsZero() {
			t.Errorf("it ends at %v", s.Until)
		}
		// Its owner comes, and goes again for days.
		w.start("c", "1.0.0.3", View{}).stop()
		a.stop()
		w.advance(72 * 3600e9)
		w.want("10.3.2.0-24@1.0.0.2 [10.3.1.0-24@1.0.0.1 10.3.3.0-24@1.0.0.3]", b.look())
		if err := op.Unreserve(w.ctx, netip.MustParsePrefix("10.3.2.0/24"), netip.Prefix{}); !errors.Is(err, fleet.ErrNotFound) {
			t.Errorf("a lease that is no reservation: %v", err)
		}
		if err := op.Unreserve(w.ctx, netip.MustParsePrefix("10.3.3.0/24"), netip.Prefix{}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		w.want("10.3.2.0-24@1.0.0.2 [10.3.1.0-24@1.0.0.1]", b.look())
		// One for a machine that runs elsewhere: it moves there.
		reserve("10.3.3.0/24", "1.0.0.2", "")
		w.want("10.3.3.0-24@1.0.0.2 [10.3.1.0-24@1.0.0.1]", b.look())
	})
}
