package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/pki"
)

// city is a voter that gives certificates for one token, and says who calls.
type city struct {
	*testing.T
	ca    pki.CA
	addr  string
	token pki.Token
	home  string
	role  pki.Role
	asked []string // methods and paths
}

func newCity(t *testing.T) *city {
	t.Helper()
	ca, err := pki.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := &city{T: t, ca: ca, home: t.TempDir(), role: pki.Operator}
	voter, err := pki.OpenHolder(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := voter.Key()
	if err != nil {
		t.Fatal(err)
	}
	request, err := pki.NewRequest(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := take(voter, c.issue(string(request), pki.Identity{Role: pki.Voter, Name: strings.Repeat("a", 32)})); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(c.serve))
	srv.Listener = tls.NewListener(l, voter.Server())
	srv.Start()
	t.Cleanup(srv.Close)
	c.addr = l.Addr().String()
	c.token = pki.NewToken(pki.Hash(ca.Cert), []string{c.addr})
	return c
}

func (c *city) issue(request string, id pki.Identity) api.Certificate {
	c.Helper()
	r, err := pki.ParseRequest([]byte(request))
	if err != nil {
		c.Fatal(err)
	}
	cert, err := c.ca.Issue(r, id, time.Now())
	if err != nil {
		c.Fatal(err)
	}
	return api.Certificate{Chain: string(pki.CertsPEM(cert, c.ca.Cert)), Bundle: string(pki.CertsPEM(c.ca.Cert)), Role: api.Role(id.Role), Name: id.Name}
}

func (c *city) serve(w http.ResponseWriter, r *http.Request) {
	c.asked = append(c.asked, r.Method+" "+r.URL.Path)
	w.Header().Set("Server", "fleetd/test")
	switch r.URL.Path {
	case "/fleet/v1/join":
		var in api.JoinRequest
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Secret != c.token.Secret {
			api.Reply(w, 403, map[string]any{"error": &api.Error{Code: 403, Message: "the cluster does not know this token"}})
			return
		}
		api.Reply(w, 200, c.issue(in.Request, pki.Identity{Role: c.role, Name: map[bool]string{true: strings.Repeat("b", 32), false: "ann"}[c.role.IsHost()]}))
	case "/fleet/v1/whoami":
		who := api.WhoAmI{}
		if len(r.TLS.PeerCertificates) > 0 {
			id, err := pki.IdentityOf(r.TLS.PeerCertificates[0])
			if err == nil {
				who = api.WhoAmI{Role: api.Role(id.Role), Name: id.Name}
			}
		}
		api.Reply(w, 200, who)
	}
}

// run runs fleetctl with a home of its own.
func (c *city) run(stdin string, args ...string) (string, int) {
	c.Helper()
	var out bytes.Buffer
	code := run(c.Context(), args, []string{"HOME=" + c.home}, strings.NewReader(stdin), &out, &out)
	return out.String(), code
}

func (c *city) must(args ...string) string {
	c.Helper()
	out, code := c.run("", args...)
	if code != 0 {
		c.Fatalf("%v: %d: %s", args, code, out)
	}
	return out
}

func (c *city) refused(words string, args ...string) {
	c.Helper()
	if out, code := c.run("", args...); code == 0 || !strings.Contains(out, words) {
		c.Errorf("%v: %d: %s, want %q", args, code, out, words)
	}
}

func TestContextsAreAddedUsedAndForgotten(t *testing.T) {
	c := newCity(t)
	c.must("context", "add", "work", c.token.String())
	if out := c.must("whoami"); out != "operator ann\n" {
		t.Errorf("whoami: %q", out)
	}
	if out, code := c.run(c.token.String()+"\n", "context", "add", "again", "-"); code != 0 {
		t.Errorf("a token from input: %s", out)
	}
	out := c.must("context", "list", "--no-legend")
	for _, want := range []string{"local", "work", "again *", c.addr} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	c.must("context", "use", "work")
	if out := c.must("whoami", "--context=again"); out != "operator ann\n" {
		t.Errorf("whoami: %q", out)
	}
	info, err := os.Stat(filepath.Join(c.home, ".config/fleet/work/host.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v %v", info, err)
	}
	c.must("context", "remove", "again")
	if _, err := os.Stat(filepath.Join(c.home, ".config/fleet/again")); err == nil {
		t.Error("a certificate is left of a context that was removed")
	}
	c.refused("there is no context", "whoami", "--context=again")
	c.refused("there is no context", "context", "use", "again")
	c.refused("is there already", "context", "add", "work", c.token.String())
	c.refused("use a word without slash", "context", "add", "../x", c.token.String())
	c.refused("copy it whole", "context", "add", "x", c.token.String()[:50])
	strange := c.token
	strange.Secret = strings.Repeat("A", 26)
	c.refused("does not know this token", "context", "add", "x", strange.String())
	strange.CA[0] ^= 1
	c.refused("of another cluster", "context", "add", "x", strange.String())
	c.role = pki.Host
	c.refused("for a host, not for a person", "context", "add", "x", c.token.String())
	// What is given on the command line goes before what is in use.
	c.refused("connect to fleetd at unix:///nowhere", "whoami", "--endpoint=unix:///nowhere")
	c.must("context", "use", "local")
	c.refused("/nowhere", "whoami", "--endpoint=unix:///nowhere")
}

func TestAContextOfFiles(t *testing.T) {
	c := newCity(t)
	c.must("context", "add", "files", "--endpoint=https://"+c.addr, "--ca-file=/x/ca.crt", "--cert-file=/x/c", "--key-file=/x/k")
	c.refused("/x/ca.crt", "whoami")
	c.refused("give a token", "context", "add", "nothing")
}

// fakeHost is a host with a systemctl that notes what it was told, and a fleetd that answers.
func fakeHost(t *testing.T, conf string) (a *app, told *[]string, out *bytes.Buffer) {
	t.Helper()
	root := t.TempDir()
	if conf != "" {
		if err := os.MkdirAll(filepath.Join(root, "etc/fleet"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, confFile), []byte(conf), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(root, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fleet/v1/tokens" {
			api.Reply(w, 201, api.Token{Printed: "fleet1.printed", Uses: 10})
			return
		}
		api.Reply(w, 200, map[string]any{})
	}))
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	out, told = &bytes.Buffer{}, &[]string{}
	a = newApp(strings.NewReader(""), out, out)
	a.opts.endpoint = "unix://" + socket
	a.opts.trust.ttl = time.Hour
	a.host = thisHost{root, func(_ context.Context, args ...string) error {
		*told = append(*told, strings.Join(args, " "))
		return nil
	}}
	return a, told, out
}

func TestInitAndJoinConfigureTheHost(t *testing.T) {
	started := []string{"enable --quiet fleet.socket fleetd.service", "start fleet.socket", "--no-block restart fleetd.service"}
	token := pki.NewToken([32]byte{1}, []string{"127.0.0.1:2378"})
	for _, row := range []struct {
		name, conf, memberIP, want string
		run                        func(a *app) int
	}{
		{"join finds its address", "", "", "member_ip = 127.0.0.1\n", func(a *app) int { return joinCommand(t.Context(), a, []string{token.String()}) }},
		{"join leaves what is there", "agent_ttl = 5s\n", "10.0.0.0/24", "agent_ttl = 5s\nmember_ip = 10.0.0.0/24\n", func(a *app) int { return joinCommand(t.Context(), a, []string{token.String()}) }},
		{"init keeps an address", "member_ip=10.0.0.9", "10.0.0.1", "member_ip=10.0.0.9", func(a *app) int { return initCommand(t.Context(), a, nil) }},
	} {
		a, told, out := fakeHost(t, row.conf)
		a.opts.trust.memberIP = row.memberIP
		code := row.run(a)
		_ = a.out.Flush()
		if code != 0 {
			t.Errorf("%s: %d: %s", row.name, code, out)
		}
		conf, err := os.ReadFile(filepath.Join(a.host.root, confFile))
		if err != nil || string(conf) != row.want {
			t.Errorf("%s: fleet.conf is %q, want %q: %v", row.name, conf, row.want, err)
		}
		if diff := cmp.Diff(started, *told); diff != "" {
			t.Errorf("%s: %s", row.name, diff)
		}
		if _, err := os.Stat(filepath.Join(a.host.root, tokenCredential)); err == nil {
			t.Errorf("%s: the token is left on the disk", row.name)
		}
		if strings.HasPrefix(row.name, "init") && !strings.Contains(out.String(), "fleetctl join fleet1.printed") {
			t.Errorf("%s: %s", row.name, out)
		}
	}
}

func TestJoinRefusesWhatCannotBe(t *testing.T) {
	token := pki.NewToken([32]byte{1}, []string{"127.0.0.1:2378"}).String()
	for words, row := range map[string]struct{ arg, memberIP string }{
		"copy it whole":              {token[:30], ""},
		"use an address such as":     {token, "x"},
		"join takes one token, or -": {"", ""},
	} {
		a, told, out := fakeHost(t, "")
		a.opts.trust.memberIP = row.memberIP
		args := []string{row.arg}
		if row.arg == "" {
			args = nil
		}
		if code := joinCommand(t.Context(), a, args); code == 0 || !strings.Contains(out.String(), words) || len(*told) > 0 {
			t.Errorf("%q: %d %v: %s", words, code, *told, out)
		}
	}
	c := newCity(t)
	a, _, out := fakeHost(t, "")
	holder, err := pki.OpenHolder(filepath.Join(a.host.root, certificate), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := holder.Key()
	if err != nil {
		t.Fatal(err)
	}
	request, err := pki.NewRequest(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := take(holder, c.issue(string(request), pki.Identity{Role: pki.Host, Name: strings.Repeat("b", 32)})); err != nil {
		t.Fatal(err)
	}
	if code := joinCommand(t.Context(), a, []string{token}); code == 0 || !strings.Contains(out.String(), "in a cluster already") {
		t.Errorf("%d %s", code, out)
	}
}
