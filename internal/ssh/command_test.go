package ssh

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/ssh/sshtest"
)

// A ProxyCommand is the way to a host, what it says is seen, and it goes with the connection.
func TestProxyCommandCarriesTheConnection(t *testing.T) {
	u := newUser(t)
	key, text := sshtest.Key(t)
	s := sshtest.New(t, key.PublicKey())
	u.write(".ssh/id_ed25519", string(text))
	u.knows(s)
	host, port, _ := net.SplitHostPort(s.Addr)
	said := filepath.Join(t.TempDir(), "said")
	file, err := os.Create(said)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	u.options.Stderr = file
	u.write(".ssh/config", fmt.Sprintf("Host web\n  HostName %s\n  Port %s\n"+
		"  ProxyCommand bash -c 'echo by way of %%n:%%p $$ >&2; exec 3<>/dev/tcp/%%h/%%p; cat <&3 & exec cat >&3'\n", host, port))
	c := u.mustDial("web")
	if code, err := c.Run(t.Context(), "true", Streams{strings.NewReader(""), io.Discard, io.Discard}); code != 0 || err != nil {
		t.Error(code, err)
	}
	c.Close()
	sees := func(want string) {
		t.Helper()
		text, err := os.ReadFile(said)
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("the user has seen %q, %v, not %q", text, err, want)
		}
	}
	sees("by way of web:" + port + " ")
	u.write(".ssh/config", "Host web\n  ProxyCommand echo no way >&2; exit 1\n")
	if _, err := u.dial("web"); err == nil || !strings.Contains(err.Error(), "ProxyCommand") {
		t.Error(err)
	}
	sees("no way")
}

// What fleetctl cannot decide applies to no host, and does not take the rest of the file with it.
func TestMatchBlocksThatAreNotReadAreToldOf(t *testing.T) {
	u := newUser(t)
	u.write(".ssh/config", "Match exec \"test -e /x\"\n  User exec\nMatch host a user b\n  User second\nmatch originalhost=web\n  User third\n"+
		"Host web\n  User named\nMatch host *.example\n  User example\nMatch all\n  User all\n")
	d := NewDialer(u.options)
	for target, want := range map[string]string{"web": "named", "a": "all", "x.example": "example"} {
		if r, err := d.routeTo(target); err != nil || r.user != want {
			t.Errorf("%s: user %q, %v, want %q", target, r.user, err, want)
		}
	}
	if n := strings.Count(u.said.String(), "is left out"); n != 3 || !strings.Contains(u.said.String(), "config:1: ") {
		t.Errorf("the user has seen %q", u.said.String())
	}
}
