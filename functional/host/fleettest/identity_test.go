package fleettest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/pki"
)

// Three hosts hold the store, the fourth does not; a fifth comes later. What is tried here is what somebody tries who reaches the hosts' network: with
// nothing, with another cluster's certificate, with a person's, and with the key of a host without a vote.
func TestOnlyWhoProvesItComesIn(t *testing.T) {
	t.Parallel()
	files := host.FleetFiles(3, usual)
	r := bootFiles(t, 4, files).formed()
	standBy := r.standBy()
	voter := r.others(standBy)[0]
	r.write(voter, map[string]string{"s@.service": service(""), "secret.service": "[Service]\nEnvironment=PASSWORD=hunter2\nExecStart=/bin/sleep infinity\n" + fixed(voter)})
	r.ctl(voter, "start", "s@1.service", "s@2.service", "s@3.service", "secret.service")
	r.sub("a port scan finds three ports of fleet's", func(r *rig) {
		if open, want := r.scan(voter), []int{22, 2378, 2379, 2380}; !slices.Equal(open, want) {
			r.t.Errorf("%s has %v open, want %v", voter.Name, open, want)
		}
	})
	r.sub("every socket of a host is in the table", func(r *rig) {
		r.written()
		for _, h := range []*host.Host{voter, standBy} {
			must := ours()[:5]
			if h == standBy { // raft is for those who vote
				must = slices.Delete(must, 2, 3)
			}
			r.table(h, must)
			r.locals(h)
			r.datagrams(h, 53, 123, 2378, 2379, 2380, 8472, 51820)
		}
	})
	r.sub("strangers", func(r *rig) { strangers(r, standBy) })
	r.sub("the key of a host without a vote", func(r *rig) { stolenKey(r, standBy) })
	r.sub("a host without a vote, from inside", func(r *rig) {
		withoutVote(r, standBy, voter)
	})
	r.sub("the subnet of a host without a vote", func(r *rig) { ownSubnet(r, standBy, voter) })
	r.sub("a host without a vote gets a permit", func(r *rig) { rebootsWithoutVote(r, standBy, voter) })
	voters := r.others(standBy)
	r.sub("people", func(r *rig) { people(r, voters[0], voters[2]) })
	r.sub("a stolen certificate is revoked", func(r *rig) { revoked(r, voters[0], voters[2], standBy) })
	r.sub("a fifth host joins by a token", func(r *rig) { fifth(r, voters[0]) })
	r.sub("the CA is rotated under load", func(r *rig) { rotated(r, voters[0], voters[1]) })
	r.sub("a stolen host is shut out", func(r *rig) { revokedHost(r, voters[0], standBy) })
	r.sub("three commands make another cluster", func(r *rig) { fresh(r) })
}

// standBy is the host that has no vote.
func (r *rig) standBy() *host.Host {
	r.t.Helper()
	var found *host.Host
	r.wait("a host that stands by", func() error {
		for _, h := range r.Hosts() {
			if strings.Contains(r.property(h, "fleetd.service", "StatusText"), "stand-by") {
				found = h
				return nil
			}
		}
		return errors.New("none does")
	})
	return found
}

// scan tries every TCP port of a host.
func (r *rig) scan(h *host.Host) (open []int) {
	r.t.Helper()
	const parts = 4
	found := make([][]int, parts)
	errs := make([]error, parts)
	var wg sync.WaitGroup
	for part := range parts {
		wg.Go(func() {
			errs[part] = r.InNetwork(func() error {
				for port := 1 + part; port < 1<<16; port += parts {
					c, err := net.DialTimeout("tcp", net.JoinHostPort(h.IP, fmt.Sprint(port)), 2*time.Second)
					if err != nil {
						continue
					}
					_ = c.Close()
					found[part] = append(found[part], port)
				}
				return nil
			})
		})
	}
	wg.Wait()
	r.must(errors.Join(errs...))
	open = slices.Concat(found...)
	slices.Sort(open)
	return open
}

// strangers have no certificate, one of another cluster, or nothing that is TLS.
func strangers(r *rig, standBy *host.Host) {
	other, err := pki.NewCA(time.Now())
	r.must(err)
	for _, h := range []*host.Host{r.others(standBy)[0], standBy} {
		for _, port := range []string{"2378", "2379", "2380"} {
			if h == standBy && port == "2380" {
				continue
			}
			addr := h.Name + ":" + port
			for name, bytes := range map[string]string{
				"HTTP": "GET /fleet/v1/units HTTP/1.1\r\nHost: x\r\n\r\n", "gRPC": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "noise": strings.Repeat("\x00\xff\x16\x03", 500),
			} {
				if said := r.rawTalk(addr, bytes); strings.Contains(said, "200 OK") || strings.Contains(said, "s@1") {
					r.t.Errorf("%s answers %s with %q", addr, name, said)
				}
			}
			if port != "2378" {
				r.noEntry(addr, &tls.Config{InsecureSkipVerify: true})
			}
			r.noEntry(addr, r.issue(other, pki.Identity{Role: pki.Voter, Name: h.MachineID}))
		}
		for _, path := range []string{"units", "units?view=whole", "machines", "state", "watch", "journal?unit=s@1.service", "tokens", "ca", "audit", "version", "nothing", "../../metrics"} {
			if code, body := r.ask(h, &tls.Config{InsecureSkipVerify: true}, http.MethodGet, "/fleet/v1/"+path, ""); code != http.StatusUnauthorized {
				r.t.Errorf("GET %s without a certificate: %d %s", path, code, body)
			}
		}
		for _, path := range []string{"/metrics", "/fleet/host/v1/journal?unit=s@1.service", "/fleet/host/v1/network", "/", "/v1-alpha/units"} {
			if code, body := r.ask(h, &tls.Config{InsecureSkipVerify: true}, http.MethodGet, path, ""); code != 401 && code != 403 {
				r.t.Errorf("GET %s without a certificate: %d %s", path, code, body)
			}
		}
		for _, body := range []string{"", "{", `{"id":"aaaaaaaa"}`, `{"id":"../x","secret":"y","request":"z"}`, strings.Repeat("x", 1<<17)} {
			if code, said := r.ask(h, &tls.Config{InsecureSkipVerify: true}, http.MethodPost, "/fleet/v1/join", body); code/100 != 4 && h != standBy {
				r.t.Errorf("joining with %.30q: %d %s", body, code, said)
			}
		}
	}
	r.machines(r.Hosts()...)
}

// rawTalk sends bytes to a port and returns what comes back until it is closed, or nothing comes for a second.
func (r *rig) rawTalk(addr, bytes string) string {
	r.t.Helper()
	c, err := r.Dial(r.ctx, "tcp", addr)
	r.must(err)
	defer c.Close()
	_, _ = c.Write([]byte(bytes)) // it may have been closed by then
	r.must(c.SetReadDeadline(time.Now().Add(time.Second)))
	said, _ := io.ReadAll(io.LimitReader(c, 1<<16)) // its end does not matter
	return string(said)
}

// noEntry fails the test if a handshake is followed by anything.
func (r *rig) noEntry(addr string, cfg *tls.Config) {
	r.t.Helper()
	raw, err := r.Dial(r.ctx, "tcp", addr)
	r.must(err)
	defer raw.Close()
	r.must(raw.SetDeadline(time.Now().Add(5 * time.Second)))
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	c := tls.Client(raw, cfg)
	if err := c.HandshakeContext(r.ctx); err != nil {
		return
	}
	// With TLS 1.3 the server's refusal comes with the first read.
	_, err = c.Read(make([]byte, 1))
	if alert := tls.AlertError(0); err == nil || !errors.As(err, &alert) && !strings.Contains(err.Error(), "remote error") && !errors.Is(err, io.EOF) {
		r.t.Errorf("%s lets in: %v", addr, err)
	}
}

// issue makes the TLS configuration of who has a certificate of that CA, and looks at nobody else's.
func (r *rig) issue(ca pki.CA, id pki.Identity) *tls.Config {
	r.t.Helper()
	key, err := pki.NewKey()
	r.must(err)
	text, err := pki.NewRequest(key, nil)
	r.must(err)
	req, err := pki.ParseRequest(text)
	r.must(err)
	cert, err := ca.Issue(req, id, time.Now())
	r.must(err)
	own := tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	// Certificates would be held back where the server names other authorities.
	return &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }}
}

// stolen reads the key and certificate of a host.
func (r *rig) stolen(h *host.Host) *tls.Config {
	r.t.Helper()
	cert, err := h.Sh(r.ctx, "cat /var/lib/fleet/pki/host.crt")
	r.must(err)
	key, err := h.Sh(r.ctx, "cat /var/lib/fleet/pki/host.key")
	r.must(err)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	r.must(err)
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, ServerName: pki.VoterName}
}

// ask makes one request of a host's API on its port.
func (r *rig) ask(h *host.Host, cfg *tls.Config, method, path, body string) (int, string) {
	r.t.Helper()
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: cfg, DialContext: r.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(r.ctx, method, "https://"+h.Name+":2378"+path, strings.NewReader(body))
	r.must(err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	r.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	r.must(err)
	return resp.StatusCode, string(text)
}

// stolenKey is what the key of a host without a vote is worth: its own, and lists.
func stolenKey(r *rig, from *host.Host) {
	voter := r.others(from)[0]
	cfg := r.stolen(from)
	r.noEntry(voter.Name+":2380", cfg)
	for path, want := range map[string]int{
		"GET /fleet/v1/machines": 200, "GET /fleet/v1/units?view=whole": 200, "GET /fleet/v1/units": 403, "GET /fleet/v1/units/secret.service": 403,
		"GET /fleet/v1/journal?unit=secret.service": 403, "PUT /fleet/v1/units/s@1.service": 403, "DELETE /fleet/v1/units/s@1.service": 403,
		"POST /fleet/v1/batch": 403, "PATCH /fleet/v1/machines": 403, "GET /fleet/v1/tokens": 403, "POST /fleet/v1/tokens": 403, "POST /fleet/v1/ca": 403,
		"GET /fleet/host/v1/journal?unit=secret.service": 403, "GET /metrics": 403, "GET /fleet/v1/audit": 403,
	} {
		method, path, _ := strings.Cut(path, " ")
		if code, body := r.ask(voter, cfg, method, path, `{"desiredState":"inactive"}`); code != want {
			r.t.Errorf("%s %s: %d, want %d: %.200s", method, path, code, want, body)
		}
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"https://" + voter.IP + ":2379"}, TLS: cfg, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return r.Dial(ctx, "tcp", addr) })},
	})
	r.must(err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(r.ctx, 30*time.Second)
	defer cancel()
	own, other := "/fleet/machines/"+from.MachineID, "/fleet/machines/"+voter.MachineID
	got, err := c.Get(ctx, own)
	if err != nil || len(got.Kvs) != 1 {
		r.t.Fatalf("its own record: %v", err)
	}
	placed, err := c.Get(ctx, "/fleet/placements/", clientv3.WithPrefix())
	r.must(err)
	theirs, err := c.Get(ctx, other)
	r.must(err)
	hash := textOf(r, "secret.service")
	for what, try := range map[string]func() error{
		"read the CA":       func() error { _, err := c.Get(ctx, "/fleet/pki/ca"); return err },
		"read the tokens":   func() error { _, err := c.Get(ctx, "/fleet/pki/tokens/", clientv3.WithPrefix()); return err },
		"read everything":   func() error { _, err := c.Get(ctx, "\x00", clientv3.WithFromKey()); return err },
		"read all texts":    func() error { _, err := c.Get(ctx, "/fleet/files/", clientv3.WithPrefix()); return err },
		"read another text": func() error { _, err := c.Get(ctx, "/fleet/files/"+hash); return err },
		"read the audit":    func() error { _, err := c.Get(ctx, "/fleet/audit/", clientv3.WithPrefix()); return err },
		"place a unit":      func() error { _, err := c.Put(ctx, string(placed.Kvs[0].Key), string(placed.Kvs[0].Value)); return err },
		"place it here":     func() error { _, err := c.Put(ctx, "/fleet/placements/"+from.MachineID+"/x.service", "{}"); return err },
		"write a unit":      func() error { _, err := c.Put(ctx, "/fleet/units/s@1.service", "{}"); return err },
		"write as another":  func() error { _, err := c.Put(ctx, other, string(theirs.Kvs[0].Value)); return err },
		"delete another":    func() error { _, err := c.Delete(ctx, other); return err },
		"lead":              func() error { _, err := c.Put(ctx, "/fleet/leader", "{}"); return err },
		"end a lease":       func() error { _, err := c.Revoke(ctx, clientv3.LeaseID(theirs.Kvs[0].Lease)); return err },
		"list leases":       func() error { _, err := c.Leases(ctx); return err },
		"add a member":      func() error { _, err := c.MemberAdd(ctx, []string{"https://10.9.9.9:2380"}); return err },
		"copy the store":    func() error { rc, err := c.Snapshot(ctx); return drained(rc, err) },
		"a transaction's other branch": func() error {
			_, err := c.Txn(ctx).If(clientv3.Compare(clientv3.Version(own), "=", -1)).Then(clientv3.OpGet(own)).Else(clientv3.OpPut("/fleet/units/s@1.service", "{}")).Commit()
			return err
		},
		"watch the CA": func() error {
			w := <-c.Watch(ctx, "/fleet/pki/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
			return w.Err()
		},
	} {
		err := try()
		if err == nil || !strings.Contains(err.Error(), "permission denied") && !strings.Contains(err.Error(), "PermissionDenied") && !errors.Is(err, rpctypes.ErrPermissionDenied) {
			r.t.Errorf("with a stolen key, %s: %v", what, err)
		}
	}
	if got, err := c.Get(ctx, other); err != nil || len(got.Kvs) != 1 || got.Kvs[0].ModRevision != theirs.Kvs[0].ModRevision {
		r.t.Errorf("another machine's record has changed: %v", err)
	}
}

func drained(rc io.ReadCloser, err error) error {
	if err != nil {
		return err
	}
	defer rc.Close()
	_, err = io.Copy(io.Discard, rc)
	return err
}

// textOf is the hash of a unit's text.
func textOf(r *rig, name string) (hash string) {
	s, err := r.snapshot()
	r.must(err)
	for n, u := range s.Units {
		if string(n) == name {
			hash = string(u.Hash)
		}
	}
	return hash
}

// people get certificates by tokens, each for what the token says.
func people(r *rig, h, away *host.Host) {
	token := func(role string) string { return r.ctl(h, "join-token", "create", "--role="+role, "--name=ann") }
	viewer := token("viewer")
	r.ctl(away, "context", "add", "look", viewer)
	if who := r.ctl(away, "whoami"); who != "viewer ann" {
		r.t.Errorf("whoami: %q", who)
	}
	r.ctl(away, "list-units")
	r.ctl(away, "cat", "secret.service")
	r.refused(away, 1, []string{"viewer ann may not do this", "operator"}, "stop", "s@1.service")
	r.refused(away, 1, []string{"used up"}, "context", "add", "again", viewer)
	r.ctl(away, "context", "add", "work", token("operator"))
	r.ctl(away, "stop", "s@1.service")
	r.ctl(away, "start", "s@1.service")
	r.refused(away, 1, []string{"operator ann may not do this", "admin"}, "join-token", "list")
	r.refused(away, 1, []string{"operator ann may not do this"}, "ca", "rotate")
	if out := r.ctl(away, "context", "list"); !strings.Contains(out, "work *") {
		r.t.Errorf("context list: %s", out)
	}
	r.wait("the audit to know", func() error {
		out := r.ctl(h, "audit", "--entries=1000")
		for _, w := range []string{"operator ann", "s@1.service inactive", "create join token", "viewer ann", "403"} {
			if !strings.Contains(out, w) && !(w == "s@1.service inactive" && strings.Contains(out, "s@1.service loaded")) {
				return fmt.Errorf("it does not say %q: %s", w, out)
			}
		}
		return nil
	})
	r.ctl(away, "context", "use", "local")
	if who := r.ctl(away, "whoami"); who != "admin root" {
		r.t.Errorf("whoami: %q", who)
	}
}

// bare are the files of a host that knows of no cluster, and whose fleetd does not start by itself and make one: an empty file masks the link in
// the image.
func bare() map[string]string {
	return map[string]string{"/etc/fleet/fleet.conf": "agent_ttl = 4s\n", "/etc/credstore/fleet.join-token": "", "/etc/systemd/system/multi-user.target.wants/fleetd.service": ""}
}

// fifth joins as a person would have it: one command, with a token.
func fifth(r *rig, h *host.Host) {
	token := r.ctl(h, "join-token", "create", "--no-vote")
	id, _, _ := strings.Cut(strings.SplitN(token, ".", 3)[2], ".")
	revoked := r.ctl(h, "join-token", "create")
	revokedID, _, _ := strings.Cut(strings.SplitN(revoked, ".", 3)[2], ".")
	r.ctl(h, "join-token", "revoke", revokedID)
	if out := r.ctl(h, "join-token", "list"); !strings.Contains(out, id) || strings.Contains(out, revokedID) {
		r.t.Errorf("join-token list: %s", out)
	}
	late := r.newHost(bare())
	r.refused(late, 1, []string{"damaged"}, "join", strings.Replace(token, id, "x", 1))
	r.ctl(late, "join", token)
	r.machines(r.Hosts()...)
	if out := late.Must(r.t, "cat", "/etc/fleet/fleet.conf"); !strings.Contains(out, "member_ip = "+late.IP) {
		r.t.Errorf("fleet.conf: %s", out)
	}
	if _, err := late.Run(r.ctx, "test", "!", "-e", "/etc/credstore/fleet.join-token"); err != nil {
		r.t.Error("the token is left on the disk")
	}
	r.refused(late, 1, []string{"in a cluster already"}, "join", token)
	// Somebody else with the same token, and with the one that was revoked.
	for token, words := range map[string]string{token: "used up (1 of 1)", revoked: "revoked"} {
		late.Must(r.t, "sh", "-c", "rm -rf /tmp/t; fleetctl context add t '"+token+"' 2>&1 | grep -F '"+words+"'")
	}
}

// fresh are two hosts that know of no cluster, and become one: init, join, look.
func fresh(r *rig) {
	one, two := r.newHost(bare()), r.newHost(bare())
	defer func() { r.must(errors.Join(one.PowerOff(r.ctx), two.PowerOff(r.ctx))) }()
	out := r.ctl(one, "init")
	at := strings.Index(out, "fleet1.")
	if at < 0 {
		r.t.Fatalf("init printed no token: %s", out)
	}
	token := strings.Fields(out[at:])[0]
	two.Must(r.t, "sh", "-c", "echo '"+token+"' | fleetctl join -")
	r.machines(one, two)
	r.wait("the second host to hold the store, too", func() error {
		text := r.property(one, "fleetd.service", "StatusText")
		return need(strings.Contains(text, "2 members"), text)
	})
}

// rotated replaces the CA while units run, a unit is started and stopped again and again, and a person looks on with a context.
func rotated(r *rig, h, away *host.Host) {
	r.ctl(away, "context", "add", "look", r.ctl(h, "join-token", "create", "--role=admin", "--name=eve"))
	before := map[*host.Host]map[string]string{}
	for _, h := range r.Hosts() {
		before[h] = r.running(h)
	}
	old := r.stolen(h)
	r.write(h, map[string]string{"load.service": service("")})
	h.Must(r.t, "sh", "-c", `cd /root/units; fleetctl submit load.service; systemd-run --unit=load-maker sh -c 'until [ -e /run/enough ]; do fleetctl start load.service && fleetctl stop load.service && echo round || echo BROKEN; done'`)
	out := r.ctl(away, "ca", "rotate")
	if !strings.Contains(out, "generation 2") || !strings.Contains(out, "not believed any more") {
		r.t.Errorf("ca rotate: %s", out)
	}
	h.Must(r.t, "touch", "/run/enough")
	r.wait("the load to end", func() error {
		return need(r.property(h, "load-maker.service", "ActiveState") != "active", "it goes on")
	})
	if text, err := h.Journal(r.ctx, "load-maker.service"); err != nil || strings.Contains(text, "]: BROKEN") || !strings.Contains(text, "]: round") {
		r.t.Errorf("while the CA was rotated: %v\n%s", err, host.Tail(text, 20))
	}
	r.ctl(away, "whoami")
	for _, h := range r.Hosts() {
		r.same(h, before[h])
		if got := r.stolen(h).Certificates[0].Certificate[0]; r.issuer(got) == r.issuer(old.Certificates[0].Certificate[0]) {
			r.t.Errorf("%s has a certificate of the old CA", h.Name)
		}
		r.wait(h.Name+" to refuse the old CA", func() error {
			code, body := r.tryAsk(h, old)
			return need(code == 0 || code == http.StatusUnauthorized, fmt.Sprint(code, body))
		})
	}
	// Everybody finds everybody after a restart too, when etcd reads the authorities anew.
	for _, h := range r.Hosts() {
		h.Must(r.t, "systemctl", "restart", "fleetd.service")
		r.machines(r.Hosts()...)
	}
	for _, h := range r.Hosts() {
		r.same(h, before[h])
	}
	r.ctl(away, "context", "use", "local")
}

func (r *rig) issuer(der []byte) string {
	r.t.Helper()
	c, err := x509.ParseCertificate(der)
	r.must(err)
	return c.Issuer.CommonName
}

// tryAsk asks for machines with a certificate that may be refused in the handshake: 0.
func (r *rig) tryAsk(h *host.Host, cfg *tls.Config) (int, string) {
	r.t.Helper()
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: cfg, DialContext: r.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "https://"+h.Name+":2378/fleet/v1/machines", nil)
	r.must(err)
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	r.must(err)
	return resp.StatusCode, string(text)
}
