package member

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const voterName = "voter.fleet.internal"

// authority signs certificates for the hosts of one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert = a.sign(tmpl, tmpl, &key.PublicKey)
	return a
}

func (a *authority) sign(tmpl, parent *x509.Certificate, pub *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// issue writes a certificate of a role for a host, with its key and the authorities, into its folder.
func (a *authority) issue(h *host, role string, chain ...*x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Subject:     pkix.Name{CommonName: h.client(), OrganizationalUnit: []string{role}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	if role == "voter" {
		tmpl.DNSNames = []string{voterName}
	}
	text := certPEM(append([]*x509.Certificate{a.sign(tmpl, a.cert, &key.PublicKey)}, chain...)...)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	// One file for both, so that no handshake sees half of a renewal.
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	replace(a.t, h.cfg.TLS.CertFile, text)
}

func certPEM(list ...*x509.Certificate) (text []byte) {
	for _, c := range list {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

func replace(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// secure gives hosts certificates of the role of hosts, and a voter's to those that ask for a seat.
func (a *authority) secure(hosts ...*host) {
	for _, h := range hosts {
		dir := a.t.TempDir()
		h.cfg.TLS = TLS{
			CertFile: filepath.Join(dir, "own.pem"), KeyFile: filepath.Join(dir, "own.pem"), CAFile: filepath.Join(dir, "ca.pem"), Voter: voterName,
			Seat: func(context.Context) (bool, error) { a.issue(h, "voter"); return true, nil },
			Access: func(c *x509.Certificate) (Access, error) {
				if len(c.Subject.OrganizationalUnit) != 1 {
					return Access{}, errors.New("whose is this?")
				}
				switch c.Subject.OrganizationalUnit[0] {
				case "voter":
					return Access{All: true}, nil
				case "host":
					own := "/m/" + c.Subject.CommonName
					return Access{Read: []Span{{From: "/m/", To: "/m0"}}, Write: []Span{{From: own}}, Mine: []Span{{From: "/subnets/", To: "/subnets0"}},
						Known: []Span{{From: "/texts/", To: "/texts0"}}, Drop: []Span{{From: "/holders/", To: "/holders0"}},
						MayKnow:  func(_ context.Context, key string) bool { return key == "/texts/placed" },
						MineText: c.Subject.CommonName, Names: "of ", Once: []Span{{From: "/config"}}}, nil
				}
				return Access{}, errors.New("no business here")
			},
		}
		replace(a.t, h.cfg.TLS.CAFile, certPEM(a.cert))
		a.issue(h, "host")
	}
}

func TestClusterWithCertificates(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 5)
	ca := newAuthority(t)
	ca.secure(hosts...)
	stranger := hosts[4]
	newAuthority(t).secure(stranger)
	ca.issue(hosts[0], "voter") // the first has its own from the start
	hosts = hosts[:4]
	startAll(hosts)
	roles(t, hosts, map[Role]int{Voter: 3, StandBy: 1})
	var voters []*host
	var standBy *host
	for _, h := range hosts {
		if h.m.Status().Role == Voter {
			voters = append(voters, h)
		} else {
			standBy = h
		}
	}
	ca.issue(standBy, "host") // of two that take the last seat at once one has had a voter's for a moment
	standBy.stop()
	standBy.start()
	standBy.awaitRole(StandBy)
	voters[0].put("/m/x", "1")
	standBy.wantKey("/m/x", "1")
	t.Run("plain and strange clients are not let in", func(t *testing.T) {
		plain, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + voters[0].client()}, Logger: voters[0].m.zap})
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if _, err := plain.Get(ctx, "/m/x"); err == nil {
			t.Error("a client without a certificate was served")
		}
		for name, h := range map[string]*host{"of another CA": stranger, "of a host": standBy} {
			c, err := h.cfg.TLS.client()
			if err != nil {
				t.Fatal(err)
			}
			c.RootCAs, _ = hosts[0].cfg.TLS.pool()
			for _, port := range []uint16{voters[0].cfg.PeerPort, voters[0].cfg.ClientPort} {
				if h == standBy && port == voters[0].cfg.ClientPort {
					continue
				}
				if err := visit(t.Context(), c, port); err == nil {
					t.Errorf("a certificate %s opens port %d", name, port)
				}
			}
		}
	})
	t.Run("a host without a vote is held to its own", func(t *testing.T) { heldToItsOwn(t, standBy, voters[0]) })
	t.Run("certificates are renewed, also by another CA, without a restart", func(t *testing.T) {
		next := newAuthority(t)
		cross := ca.sign(&x509.Certificate{SerialNumber: big.NewInt(7), Subject: next.cert.Subject, NotBefore: next.cert.NotBefore, NotAfter: next.cert.NotAfter,
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, ca.cert, &next.key.PublicKey)
		for _, h := range hosts {
			replace(t, h.cfg.TLS.CAFile, certPEM(next.cert, ca.cert))
		}
		for _, h := range voters {
			next.issue(h, "voter", cross)
		}
		next.issue(standBy, "host", cross)
		for _, h := range hosts { // from now on the new one alone, but for the peer port, which read both at its start
			replace(t, h.cfg.TLS.CAFile, certPEM(next.cert))
			h.cfg.TLS.Seat = nil
		}
		voters[1].stop()
		voters[0].put("/m/x", "2")
		voters[1].start()
		voters[1].awaitRole(Voter)
		voters[1].wantKey("/m/x", "2")
		standBy.wantKey("/m/x", "2")
		standBy.stop()
		standBy.start()
		standBy.awaitRole(StandBy)
		standBy.wantKey("/m/x", "2")
	})
}

func visit(ctx context.Context, c *tls.Config, port uint16) error {
	ctx, cancel := context.WithTimeout(ctx, limit) // who is not let in need not be told
	defer cancel()
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/version", port), nil)
	if err != nil {
		return err
	}
	resp, err := h.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusUnsupportedMediaType {
		return nil
	}
	return errors.New(resp.Status)
}

func heldToItsOwn(t *testing.T, standBy, voter *host) {
	c, err := standBy.m.dial(urls([]string{voter.client()}))
	if err != nil {
		t.Fatal(err)
	}
	defer shut(c)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	own := "/m/" + standBy.client()
	for key, value := range map[string]string{"/secret": "s", "/texts/placed": "t", "/texts/other": "t", "/holders/a": "held by " + standBy.client(), "/holders/b": "x"} {
		voter.put(key, value)
	}
	voter.put("/subnets/theirs", "of someone else")
	voter.put("/subnets/reserved", "for an address")
	lease, err := c.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := voter.m.Client().Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := voter.m.Client().Put(ctx, "/m/voter", "v", clientv3.WithLease(theirs.ID)); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		may  bool
		do   func() error
	}{
		{"read what all may", true, func() error { _, err := c.Get(ctx, "/m/", clientv3.WithPrefix()); return err }},
		{"write its own", true, func() error { _, err := c.Put(ctx, own, "here", clientv3.WithLease(lease.ID)); return err }},
		{"renew its lease", true, func() error { _, err := c.KeepAliveOnce(ctx, lease.ID); return err }},
		{"list the members", true, func() error { _, err := c.MemberList(ctx); return err }},
		{"take a free subnet", true, func() error { _, err := c.Put(ctx, "/subnets/mine", "of "+standBy.client()); return err }},
		{"renew its subnet", true, func() error { _, err := c.Put(ctx, "/subnets/mine", "still of "+standBy.client()); return err }},
		{"give it back", true, func() error { _, err := c.Delete(ctx, "/subnets/mine"); return err }},
		{"take one that is nobody's", true, func() error { _, err := c.Put(ctx, "/subnets/reserved", "of "+standBy.client()); return err }},
		{"configure what nobody has", true, func() error { _, err := c.Put(ctx, "/config", "first"); return err }},
		{"and the same again", true, func() error { _, err := c.Put(ctx, "/config", "first"); return err }},
		{"configure it otherwise", false, func() error { _, err := c.Put(ctx, "/config", "other"); return err }},
		{"remove the configuration", false, func() error { _, err := c.Delete(ctx, "/config"); return err }},
		{"revoke its lease", true, func() error { _, err := c.Revoke(ctx, lease.ID); return err }},
		{"read a text that is placed on it", true, func() error { _, err := c.Get(ctx, "/texts/placed"); return err }},
		{"read another text", false, func() error { _, err := c.Get(ctx, "/texts/other"); return err }},
		{"read all texts", false, func() error { _, err := c.Get(ctx, "/texts/", clientv3.WithPrefix()); return err }},
		{"let go what it holds", true, func() error { _, err := c.Delete(ctx, "/holders/a"); return err }},
		{"let go for another", false, func() error { _, err := c.Delete(ctx, "/holders/b"); return err }},
		{"hold", false, func() error { _, err := c.Put(ctx, "/holders/c", standBy.client()); return err }},
		{"read a secret", false, func() error { _, err := c.Get(ctx, "/secret"); return err }},
		{"read everything", false, func() error { _, err := c.Get(ctx, "\x00", clientv3.WithFromKey()); return err }},
		{"read in a transaction", false, func() error { _, err := c.Txn(ctx).Then(clientv3.OpGet("/secret")).Commit(); return err }},
		{"read by the losing branch", false, func() error { _, err := c.Txn(ctx).Else(clientv3.OpGet("/secret")).Commit(); return err }},
		{"read by comparing", false, func() error {
			_, err := c.Txn(ctx).If(clientv3.Compare(clientv3.Value("/secret"), "=", "s")).Commit()
			return err
		}},
		{"read by overwriting", false, func() error { _, err := c.Put(ctx, "/secret", "", clientv3.WithPrevKV()); return err }},
		{"write another's", false, func() error { _, err := c.Put(ctx, "/m/other", "x"); return err }},
		{"delete another's", false, func() error { _, err := c.Delete(ctx, "/m/", clientv3.WithPrefix()); return err }},
		{"take another's subnet", false, func() error { _, err := c.Put(ctx, "/subnets/theirs", standBy.client()); return err }},
		{"name another as holder", false, func() error { _, err := c.Put(ctx, "/subnets/new", "someone"); return err }},
		{"delete another's subnet", false, func() error { _, err := c.Delete(ctx, "/subnets/theirs"); return err }},
		{"end another's lease", false, func() error { _, err := c.Revoke(ctx, theirs.ID); return err }},
		{"see what hangs on a lease", false, func() error { _, err := c.TimeToLive(ctx, theirs.ID, clientv3.WithAttachedKeys()); return err }},
		{"remove a member", false, func() error { _, err := c.MemberRemove(ctx, 1); return err }},
		{"take a backup", false, func() error {
			r, err := c.Snapshot(ctx)
			if err == nil {
				_, err = r.Read(make([]byte, 1))
			}
			return err
		}},
		{"compact", false, func() error { _, err := c.Compact(ctx, 1); return err }},
		{"see the leases", false, func() error { _, err := c.Leases(ctx); return err }},
	} {
		err := row.do()
		if row.may && err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
		if !row.may && !errors.Is(rpctypes.Error(err), rpctypes.ErrPermissionDenied) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	// A watch that is refused ends alone, another on the same stream goes on.
	good := c.Watch(ctx, "/m/", clientv3.WithPrefix())
	bad := <-c.Watch(ctx, "/secret")
	if !bad.Canceled {
		t.Errorf("a watch on a secret: %+v", bad)
	}
	voter.put("/m/y", "1")
	if r := <-good; len(r.Events) != 1 || r.Err() != nil {
		t.Errorf("the allowed watch: %+v", r)
	}
}
