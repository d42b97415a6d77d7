package fleettest

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/pki"
)

// stream follows the cluster with somebody's certificate, and closes ended when the host hangs up.
func (r *rig) stream(h *host.Host, cfg *tls.Config) (ended chan struct{}) {
	r.t.Helper()
	client := http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DialContext: r.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "https://"+h.Name+":2378/fleet/v1/watch", nil)
	r.must(err)
	resp, err := client.Do(req)
	r.must(err)
	in := bufio.NewReader(resp.Body)
	if line, err := in.ReadString('\n'); err != nil || resp.StatusCode != http.StatusOK {
		r.t.Fatalf("%s: %d %s %v", h.Name, resp.StatusCode, line, err)
	}
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, in) // how it ends does not matter
		_ = resp.Body.Close()
	}()
	return ended
}

// keyOf reads key and certificate in a folder of a host, as a thief would.
func (r *rig) keyOf(h *host.Host, dir string) *tls.Config {
	r.t.Helper()
	cert, err := h.Sh(r.ctx, "cat "+path.Join(dir, "host.crt"))
	r.must(err)
	key, err := h.Sh(r.ctx, "cat "+path.Join(dir, "host.key"))
	r.must(err)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	r.must(err)
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, ServerName: pki.VoterName}
}

// over waits for the end of a stream.
func (r *rig) over(what string, ended chan struct{}) {
	r.t.Helper()
	select {
	case <-ended:
	case <-r.ctx.Done():
		r.t.Fatalf("%s goes on with a revoked certificate", what)
	}
}

// revoked is what an admin does whose certificate was stolen: it is refused everywhere, and what came in by it is thrown out, while everybody else's
// go on.
func revoked(r *rig, h, away, standBy *host.Host) {
	token := func(name string) string { return r.ctl(h, "join-token", "create", "--role=admin", "--name="+name) }
	first := token("mallory")
	r.ctl(away, "context", "add", "mallory", first)
	r.ctl(away, "context", "add", "good", token("good"))
	cfg, good := r.keyOf(away, "/root/.config/fleet/mallory"), r.keyOf(away, "/root/.config/fleet/good")
	if code, body := r.ask(h, cfg, http.MethodGet, "/fleet/v1/tokens", ""); code != 200 {
		r.t.Fatalf("before: %d %s", code, body)
	}
	here, there, stays := r.stream(h, cfg), r.stream(standBy, cfg), r.stream(standBy, good)
	list := r.ctl(h, "certificate", "list", "--no-legend", "--fields", "name,role,revoked,serial")
	words := " " + strings.Join(strings.Fields(list), " ")
	if !strings.Contains(words, " mallory admin - ") || !strings.Contains(words, " "+standBy.MachineID+" host - ") {
		r.t.Errorf("certificate list: %s", list)
	}
	r.refused(h, 1, []string{"fleetctl certificate list"}, "certificate", "revoke", "nobody-of-that-name")
	if out := r.ctl(h, "certificate", "revoke", "mallory"); !strings.Contains(out, "All certificates of admin mallory so far are worth nothing any more") {
		r.t.Errorf("certificate revoke: %s", out)
	}
	r.over("a stream from "+h.Name, here)
	r.over("a stream from "+standBy.Name, there)
	for _, at := range r.Hosts() {
		r.wait(at.Name+" to refuse it", func() error {
			code, body := r.tryAsk(at, cfg)
			return need(code == http.StatusUnauthorized && strings.Contains(body, "the certificate was revoked on"), fmt.Sprint(code, body))
		})
		if code, body := r.tryAsk(at, good); code != 200 {
			r.t.Errorf("%s refuses another's: %d %s", at.Name, code, body)
		}
	}
	select {
	case <-stays:
		r.t.Error("another's stream has ended, too")
	default:
	}
	r.ctl(away, "context", "use", "mallory")
	r.refused(away, 1, []string{"the certificate was revoked on", "join-token create"}, "whoami")
	r.ctl(away, "context", "remove", "mallory")
	// It is used up as well: which of the two is told depends on the second in which it was made.
	r.refused(away, 1, []string{"join token", "ask for a new one"}, "context", "add", "mallory", first)
	r.ctl(away, "context", "add", "mallory", token("mallory"))
	if who := r.ctl(away, "whoami"); who != "admin mallory" {
		r.t.Errorf("with a new token: %q", who)
	}
	r.wait("the audit to know", func() error {
		out := r.ctl(h, "audit", "--entries=50")
		return need(strings.Contains(out, "revoke certificate mallory"), out)
	})
	// Of two admins one may go; the last does not shut itself out by mistake.
	r.ctl(away, "certificate", "revoke", "good")
	r.over("the other's stream", stays)
	for line := range strings.Lines(r.ctl(h, "certificate", "list", "--no-legend", "--fields", "name,role,revoked")) {
		if f := strings.Fields(line); f[1] == "admin" && f[2] == "-" && f[0] != "mallory" {
			r.ctl(h, "certificate", "revoke", f[0])
		}
	}
	r.refused(away, 1, []string{"your own", "--force"}, "certificate", "revoke", "mallory")
	r.ctl(away, "context", "use", "local")
}

// revokedHost shuts a host without a vote out: its key opens nothing, and the cluster goes on without it.
func revokedHost(r *rig, h, bad *host.Host) {
	cfg := r.keyOf(bad, "/var/lib/fleet/pki")
	if code, body := r.tryAsk(h, cfg); code != 200 {
		r.t.Fatalf("before: %d %s", code, body)
	}
	out, said, code := r.tryCtl(h, "certificate", "revoke", bad.Name)
	if code != 0 || !strings.Contains(out, bad.MachineID) || !strings.Contains(said, "Take it down") {
		r.t.Errorf("certificate revoke %s: %d %s %s", bad.Name, code, out, said)
	}
	for _, at := range r.others(bad) {
		r.wait(at.Name+" to refuse it", func() error {
			code, body := r.tryAsk(at, cfg)
			return need(code == http.StatusUnauthorized, fmt.Sprint(code, body))
		})
	}
	r.noEntry(h.Name+":2379", cfg)
	// What it held open to the store is gone as well: its registration runs out.
	r.machines(r.others(bad)...)
	r.must(bad.PowerOff(r.ctx))
}
