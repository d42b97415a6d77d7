package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/pki"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// credential writes a certificate into a folder, as fleetd keeps it.
func credential(t *testing.T, ca pki.CA, id pki.Identity) (*pki.Holder, string) {
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
	var reports []rollout.Host
	list := func(context.Context) ([]rollout.Host, error) { return reports, nil }
	stage := func(digit string) {
		id := strings.Repeat(digit, 32)
		m := newMachine(t, p, web.URL)
		m.cfg.PeerCache = 1 << 30
		_, m.cfg.PKIDir = credential(t, ca, pki.Identity{Role: pki.Host, Name: id})
		h := &host{cfg: m.cfg, log: slog.New(slog.DiscardHandler), slots: slot.Slots{Boot: m.slots, Images: m.slots, Running: slot.A}, running: "1.0.0", now: time.Now, client: http.DefaultClient}
		h.share = newSharing(m.cfg, h, id, list)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() { end <- h.share.serveOn(ctx, l, m.cfg) }()
		t.Cleanup(func() { cancel(); must(t, <-end) })
		reports = append(reports, rollout.Host{Machine: id, Channel: rolloutOf(m.cfg), Peer: l.Addr().String()})
		offers, err := h.offers(t.Context())
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
		resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: conf}}).Get("https://" + reports[0].Peer + "/frames/x")
		if err == nil {
			if resp.Body.Close(); resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s is answered %s", who, resp.Status)
			}
		}
	}
	if _, _, err := parseConfig([]string{"--peer-listen=0.0.0.0:1"}, nil, func(string) ([]byte, error) { return nil, os.ErrNotExist }); err == nil {
		t.Error("an address that nobody reaches was taken")
	}
}
