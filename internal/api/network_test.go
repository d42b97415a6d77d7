package api

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

func TestNetworkAsksEveryMachine(t *testing.T) {
	f := newFixture(t)
	f.machine(m1, "10.0.0.1", nil)
	f.machine(m2, "10.0.0.2", nil)
	f.handler = NewHandler(Config{Registry: f.reg, Version: "1.2.3",
		Explain: func(fleet.Snapshot, ...unit.Name) []fleet.Explanation { return nil },
		Network: func(_ context.Context, m fleet.Machine, all bool) (fleet.HostNetwork, error) {
			if m.ID == m2 {
				return fleet.HostNetwork{}, errors.New("its netd does not answer")
			}
			return fleet.HostNetwork{Ready: true, Subnet: "10.5.1.0/24", MTU: 1450, Known: 1, Peers: []fleet.NetworkPeer{
				{Subnet: "10.5.2.0/24", Machine: m2, PublicIP: "10.0.0.2", Trouble: fmt.Sprintf("does not answer, all=%v", all)}}}, nil
		}})
	w := f.do("GET", "/fleet/v1/network", "")
	want := `{"hosts":[{"machineID":"` + string(m1) + `","primaryIP":"10.0.0.1","ready":true,"subnet":"10.5.1.0/24","mtu":1450,"known":1,"reached":0,` +
		`"peers":[{"subnet":"10.5.2.0/24","machineID":"` + string(m2) + `","publicIP":"10.0.0.2","trouble":"does not answer, all=true"}]},` +
		`{"machineID":"` + string(m2) + `","primaryIP":"10.0.0.2","trouble":"its netd does not answer","ready":false,"known":0,"reached":0}]}`
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != want {
		t.Errorf("%d\n%s\nwant\n%s", w.Code, got, want)
	}
}

// In a cluster where every pair would be too much, only what is wrong is asked for.
func TestNetworkOfManyMachinesAsksForTroubleOnly(t *testing.T) {
	f := newFixture(t)
	for i := range wholeMatrix + 1 {
		f.machine(fleet.MachineID(fmt.Sprintf("%032x", i+1)), fmt.Sprintf("10.0.1.%d", i+1), nil)
	}
	f.handler = NewHandler(Config{Registry: f.reg, Version: "1.2.3",
		Explain: func(fleet.Snapshot, ...unit.Name) []fleet.Explanation { return nil },
		Network: func(_ context.Context, m fleet.Machine, all bool) (fleet.HostNetwork, error) {
			return fleet.HostNetwork{Ready: !all}, nil
		}})
	if w := f.do("GET", "/fleet/v1/network", ""); strings.Count(w.Body.String(), `"ready":true`) != wholeMatrix+1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestNetworkWithoutNetd(t *testing.T) {
	f := newFixture(t)
	if w := f.do("GET", "/fleet/v1/network", ""); w.Code != 404 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestNetworkBetweenHosts(t *testing.T) {
	var broken error
	srv := httptest.NewServer(NewHostHandler(HostConfig{Version: "1.2.3", Network: func(_ context.Context, all bool) (fleet.HostNetwork, error) {
		return fleet.HostNetwork{Ready: all, Slowest: time.Millisecond}, broken
	}}))
	defer srv.Close()
	addr := netip.MustParseAddrPort(srv.Listener.Addr().String())
	c := NewHostClient(nil)
	defer c.Close()
	for _, all := range []bool{true, false} {
		n, err := c.Network(t.Context(), addr, all)
		if diff := cmp.Diff(fleet.HostNetwork{Ready: all, Slowest: time.Millisecond}, n); diff != "" || err != nil {
			t.Error(diff, err)
		}
	}
	broken = errors.New("its netd does not answer")
	if _, err := c.Network(t.Context(), addr, true); err == nil || err.Error() != "its netd does not answer" {
		t.Error(err)
	}
	srv.Close()
	if _, err := c.Network(t.Context(), addr, true); err == nil || !strings.HasPrefix(err.Error(), "its fleetd does not answer: ") {
		t.Error(err)
	}
}
