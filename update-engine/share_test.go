package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pki"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// credential writes a certificate into a folder, as fleetd keeps it.
func credential(t testing.TB, ca pki.CA, id pki.Identity) (*pki.Holder, string) {
	t.Helper()
	dir := t.TempDir()
	h, err := pki.OpenHolder(dir, time.Now)
	must(t, err)
	key, err := h.Key()
	must(t, err)
	text, err := pki.NewRequest(key, nil)
	must(t, err)
	r, err := pki.ParseRequest(text)
	must(t, err)
	cert, err := ca.Issue(r, id, time.Now())
	must(t, err)
	must(t, h.Set(pki.Credential{Key: key, Chain: []*x509.Certificate{cert, ca.Cert}, Bundle: []*x509.Certificate{ca.Cert}}))
	return h, dir
}

// others is a crowd.
type others struct {
	reports []rollout.Host
	own     fleet.Machine
	err     error
}

func (o *others) Sharing(context.Context) ([]rollout.Host, error) { return o.reports, o.err }
func (o *others) Own(context.Context) (fleet.Machine, error)      { return o.own, o.err }

func TestHostsStageAReleaseFromEachOtherOverTLS(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0")
	asked := 0
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			asked++
		}
		http.FileServerFS(os.DirFS(p.dir)).ServeHTTP(w, r)
	}))
	defer web.Close()
	ca, err := pki.NewCA(time.Now())
	must(t, err)
	var all others
	stage := func(digit string) {
		id := strings.Repeat(digit, 32)
		m := newMachine(t, p, web.URL)
		m.cfg.PeerCache = 1 << 30
		_, m.cfg.PKIDir = credential(t, ca, pki.Identity{Role: pki.Host, Name: id})
		h := &host{cfg: m.cfg, log: slog.New(slog.DiscardHandler), slots: slot.Slots{Boot: m.slots, Images: m.slots, Running: slot.A}, running: "1.0.0", now: time.Now, client: http.DefaultClient}
		h.share = newSharing(m.cfg, h, fleet.MachineID(id), &all)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() { end <- h.share.serveOn(ctx, l, m.cfg) }()
		t.Cleanup(func() { cancel(); must(t, <-end) })
		all.reports = append(all.reports, rollout.Host{Machine: id, Channel: rolloutOf(m.cfg), Peer: l.Addr().String()})
		offers, err := h.offers(t.Context(), "")
		must(t, err)
		if f := h.stage(t.Context(), offers[0], func(update.Fact) {}); f.Kind != update.StagedOK {
			t.Fatalf("%s: %+v", id, f)
		}
	}
	stage("1")
	alone := asked
	stage("2")
	if asked >= 2*alone {
		t.Errorf("the origin was asked %d times by one host and %d times by two", alone, asked)
	}

	// Who has no certificate, or a person's, or another cluster's, gets nothing.
	other, err := pki.NewCA(time.Now())
	must(t, err)
	person, _ := credential(t, ca, pki.Identity{Role: pki.Admin, Name: "ann"})
	foreign, _ := credential(t, other, pki.Identity{Role: pki.Host, Name: strings.Repeat("3", 32)})
	none, err := pki.OpenHolder(t.TempDir(), time.Now)
	must(t, err)
	for who, holder := range map[string]*pki.Holder{"a person": person, "a host of another cluster": foreign, "nobody": none} {
		conf := holder.Client("")
		conf.VerifyConnection = func(tls.ConnectionState) error { return nil } // whom it believes is not what is looked at here
		resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: conf}}).Get("https://" + all.reports[0].Peer + "/frames/x")
		if err == nil {
			if resp.Body.Close(); resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s is answered %s", who, resp.Status)
			}
		}
	}
	for _, word := range []string{"0.0.0.0:1", "yes"} {
		if _, _, err := parseConfig([]string{"--peer-listen=" + word}, nil, func(string) ([]byte, error) { return nil, os.ErrNotExist }); err == nil {
			t.Errorf("peer_listen=%s was taken", word)
		}
	}
}

// A host begins to share once it has a certificate and an address, which fleetd gets at a time of its own.
func TestSharingBeginsWithACertificate(t *testing.T) {
	m := newMachine(t, newPublisher(t))
	m.cfg.PeerListen, m.cfg.PeerCache, m.cfg.PKIDir = auto, 1<<30, t.TempDir()
	h := &host{cfg: m.cfg, log: slog.New(slog.DiscardHandler), now: time.Now, client: http.DefaultClient}
	var all others
	id := strings.Repeat("1", 32)
	s := newSharing(m.cfg, h, fleet.MachineID(id), &all)
	said := make(chan string, 10)
	s.tell = func(address string) { said <- address }
	not := func(why string) {
		t.Helper()
		if began, err := s.serveHere(t.Context(), m.cfg); began || err != nil {
			t.Errorf("%s, and it shares: %v %v", why, began, err)
		}
	}
	not("there is no certificate")
	ca, err := pki.NewCA(time.Now())
	must(t, err)
	_, m.cfg.PKIDir = credential(t, ca, pki.Identity{Role: pki.Host, Name: id})
	not("nobody knows where this host is")
	all.err = errors.New("the store is away")
	not("the store is away")

	all = others{own: fleet.Machine{HostAddr: netip.MustParseAddrPort("127.0.0.1:2378")}}
	if at, err := s.ownAddress(t.Context()); at != "127.0.0.1:2377" || err != nil {
		t.Errorf("it would share at %q: %v", at, err)
	}
	m.cfg.PeerListen = "127.0.0.1:0"
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error, 1)
	go func() { end <- s.serve(ctx, m.cfg) }()
	if at := <-said; at != m.cfg.PeerListen {
		t.Errorf("it shares at %q", at)
	}
	cancel()
	must(t, <-end)
	if at := <-said; at != "" {
		t.Errorf("at its end it says that it shares at %q", at)
	}
	m.cfg.PeerListen = "192.0.2.1:1" // an address of nobody's
	if _, err := s.serveHere(t.Context(), m.cfg); err == nil || !strings.Contains(err.Error(), "choose another port") {
		t.Errorf("an address that this host has not: %v", err)
	}
}

// Who is off says nothing any more, and what it said last is still in the store: nobody shall wait for it.
func TestOnlyHostsThatAreUpAreAskedForFrames(t *testing.T) {
	store := kv.NewMemory(time.Now)
	up, gone := fleet.MachineID(strings.Repeat("1", 32)), strings.Repeat("2", 32)
	c := newCluster(store, "/fleet/", "c", "default", up, "b", slog.New(slog.DiscardHandler), time.Now)
	if _, err := c.Own(t.Context()); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("a host that has not joined is found: %v", err)
	}
	address := netip.MustParseAddrPort("10.0.0.1:2378")
	_, err := c.registry.Register(t.Context(), registry.Hello{Machine: fleet.Machine{ID: up, IP: address.Addr(), HostAddr: address}, Instance: "i"}, time.Hour)
	must(t, err)
	for _, id := range []string{string(up), gone} {
		must(t, c.rollouts.Publish(t.Context(), rollout.Host{Machine: id, Channel: "c", Peer: "10.0.0.1:2377"}))
	}
	list, err := c.Sharing(t.Context())
	if err != nil || len(list) != 1 || list[0].Machine != string(up) {
		t.Errorf("%v share: %v", list, err)
	}
	if m, err := c.Own(t.Context()); err != nil || m.HostAddr != address {
		t.Errorf("the others reach this host at %v: %v", m.HostAddr, err)
	}
}
