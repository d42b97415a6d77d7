package member

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fleet-init/fleet/internal/pause"
)

// awaitOriginal waits while another host runs as the member whose data is found here. That is so on a copied disk: started beside the
// original, the copy would give the cluster its own address for the original's, and two would vote with one voice. A copy has another
// address than the one remembered; so has a host that moved, but then nobody answers at the old one, or another member does.
// ok=false: ctx ended first.
func (m *Member) awaitOriginal(ctx context.Context, st state, client netip.AddrPort) (ok bool) {
	if st.ID == "" || st.Self == "" || st.Self == client.String() {
		return true
	}
	for try := 0; ; try++ {
		id, err := m.memberAt(ctx, st.Self)
		if err != nil || hex(id) != st.ID {
			return true
		}
		m.doing("not starting", fmt.Errorf("its data is a copy of that of the host at %s, which runs: "+
			"to make this a host of its own, stop fleetd here, remove %s and /etc/machine-id, run systemd-machine-id-setup and start fleetd; "+
			"to put it in the other's place, stop that one", st.Self, m.cfg.Dir))
		if !pause.For(ctx, backoff(try)) {
			return false
		}
	}
}

// memberAt asks which member serves a client address.
func (m *Member) memberAt(ctx context.Context, addr string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := reach(ctx, addr); err != nil {
		return 0, err
	}
	c, err := m.dial(urls([]string{addr}))
	if err != nil {
		return 0, err
	}
	resp, err := c.Status(ctx, urls([]string{addr})[0])
	if err := errors.Join(err, c.Close()); err != nil {
		return 0, err
	}
	return resp.Header.MemberId, nil
}

// remember notes who this member is and where, for a start on a copy of this disk.
func (v *voting) remember() {
	next := *v.st
	next.ID = hex(uint64(v.e.Server.MemberID()))
	if v.self.IsValid() {
		next.Self = netip.AddrPortFrom(v.self.Addr(), v.m.cfg.ClientPort).String()
	}
	if next.ID == v.st.ID && next.Self == v.st.Self {
		return
	}
	if err := next.save(v.m.cfg.Dir); err != nil {
		v.m.forgetful("this member's address", err)
		return
	}
	*v.st = next
}
