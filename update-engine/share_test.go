package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// certificates writes a CA and a certificate for 127.0.0.1 that it signed.
func certificates(t *testing.T, c *Config) {
	t.Helper()
	dir := t.TempDir()
	c.PeerCA, c.PeerCert, c.PeerKey = filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	caPub, caKey, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caPub, caKey)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, pub, caKey)
	must(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	for p, b := range map[string]*pem.Block{c.PeerCA: {Type: "CERTIFICATE", Bytes: caDER}, c.PeerCert: {Type: "CERTIFICATE", Bytes: der}, c.PeerKey: {Type: "PRIVATE KEY", Bytes: raw}} {
		must(t, os.WriteFile(p, pem.EncodeToMemory(b), 0o600))
	}
}

func TestHostsStageAReleaseFromEachOtherOverTLS(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0")
	bytesOut := 0
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			bytesOut++
		}
		http.FileServerFS(os.DirFS(p.dir)).ServeHTTP(w, r)
	}))
	defer web.Close()
	var reports []rollout.Host
	list := func(context.Context) ([]rollout.Host, error) { return reports, nil }
	shared := Config{PeerCache: 1 << 30}
	certificates(t, &shared)
	stage := func(id string) {
		m := newMachine(t, p, web.URL)
		m.id = id
		m.cfg.PeerCA, m.cfg.PeerCert, m.cfg.PeerKey, m.cfg.PeerCache, m.cfg.PeerListen = shared.PeerCA, shared.PeerCert, shared.PeerKey, shared.PeerCache, "127.0.0.1:1"
		h := &host{cfg: m.cfg, log: slog.New(slog.DiscardHandler), slots: slot.Slots{Boot: m.slots, Images: m.slots, Running: slot.A}, running: "1.0.0", now: time.Now, client: http.DefaultClient}
		var err error
		h.share, err = newSharing(m.cfg, h, id, list)
		must(t, err)
		_, server, err := m.cfg.peerTLS()
		must(t, err)
		s := httptest.NewUnstartedServer(h.share.Handler())
		s.Listener = tls.NewListener(s.Listener, server) // StartTLS would put a certificate of its own before ours
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
		s.Start()
		t.Cleanup(s.Close)
		reports = append(reports, rollout.Host{Machine: id, Channel: rolloutOf(m.cfg), Peer: "https://" + s.Listener.Addr().String()})
		offers, err := h.offers(t.Context())
		must(t, err)
		if f := h.stage(t.Context(), offers[0], func(update.Fact) {}); f.Kind != update.StagedOK {
			t.Fatalf("%s: %+v", id, f)
		}
	}
	stage("m1")
	first := bytesOut
	stage("m2")
	if alone := first; bytesOut >= 2*alone {
		t.Errorf("the origin was asked %d times by one host and %d times by two", alone, bytesOut)
	}
	if _, err := http.Get(reports[0].Peer); err == nil {
		t.Error("frames are given to whoever has no certificate")
	}
	c := &tls.Config{InsecureSkipVerify: true} // to get as far as being refused
	if resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: c}}).Get(reports[0].Peer + "/frames/x"); err == nil {
		resp.Body.Close()
		t.Error("frames are given to whoever has no certificate")
	}
	for _, bad := range []Config{{PeerCA: "/none"}, {PeerCA: shared.PeerKey, PeerCert: shared.PeerCert}, {PeerCA: shared.PeerCA, PeerCert: "/none"}} {
		if _, _, err := bad.peerTLS(); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if _, _, err := parseConfig([]string{"--peer-listen=0.0.0.0:1"}, nil, func(string) ([]byte, error) { return nil, os.ErrNotExist }); err == nil {
		t.Error("an address that nobody reaches was taken")
	}
}
