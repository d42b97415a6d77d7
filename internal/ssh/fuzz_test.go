package ssh

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/fleet-init/fleet/internal/ssh/sshtest"
)

// FuzzConfig reads anything as the configuration of OpenSSH's client: whatever it says, the host that the user named is a host and a port, and a
// block that cannot be decided names no user.
func FuzzConfig(f *testing.F) {
	f.Add("Host web\n  HostName 10.0.0.1\n  Port 22\n  ProxyJump a,b:2\n", "web")
	f.Add("Match exec x\n User a\nMatch host web\n User=b\n", "core@web:2222")
	f.Add("Include ~/.ssh/*\nHost !*\nHost \"a b\"\nPort -1\n", "[fd00::1]:22")
	f.Add("Host *\n HostName %h.example\n IdentityFile ~/%d/%%\n", "web")
	f.Add("", "a]b")
	f.Add("Host *\n HostName [\n", "web")
	home := f.TempDir()
	path := filepath.Join(home, ".ssh/config")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text, target string) {
		if strings.Contains(strings.ToLower(text), "include") {
			return // it reads files of the machine that fuzzes
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		notices := 0
		d := NewDialer(Options{DefaultUser: "core", Timeout: time.Second, Home: home, Notice: func(string) { notices++ }})
		defer d.Close()
		r, err := d.routeTo(target)
		if err != nil {
			if !strings.Contains(err.Error(), "SSH") && !strings.Contains(err.Error(), "ort") {
				t.Errorf("%v does not say what is wrong", err)
			}
			return
		}
		host, port, err := net.SplitHostPort(r.addr)
		if err != nil || host == "" || port == "" || r.user == "" {
			t.Errorf("%q leads to %q as %q: %v", target, r.addr, r.user, err)
		}
		_ = d.proxyCommand(r)
	})
}

// FuzzKnownHosts reads a file of host keys that anybody may have written into: it never makes a key known that is not in it.
func FuzzKnownHosts(f *testing.F) {
	signer, _ := sshtest.Key(f)
	other, _ := sshtest.Key(f)
	line := knownhosts.Line([]string{"10.0.0.1:22"}, signer.PublicKey())
	f.Add(line + "\n")
	f.Add("@revoked " + line + "\n@cert-authority *.example " + line + "\n")
	f.Add("|1|AAAA|AAAA " + strings.TrimPrefix(line, "10.0.0.1 ") + "\n")
	f.Add("* \n\x00 ssh-ed25519 AAAA\n")
	home := f.TempDir()
	file := filepath.Join(home, "known")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d := NewDialer(Options{Home: home, KnownHosts: file, Strict: true, Timeout: time.Minute, Notice: func(string) {}, Ask: func(string) bool { return false }})
		defer d.Close()
		patience := time.NewTimer(time.Minute)
		defer patience.Stop()
		check, kinds, err := d.hostKeys("10.0.0.1:22", patience)
		if err != nil {
			if !strings.Contains(err.Error(), "known hosts") {
				t.Errorf("%v does not name the file", err)
			}
			return
		}
		for _, k := range kinds {
			if k == "" {
				t.Error("a kind without a name")
			}
		}
		if check("10.0.0.1:22", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 22}, other.PublicKey()) == nil {
			t.Errorf("%q: a key that is not in it is known", text)
		}
	})
}

// FuzzReadIdentity reads keys: what is taken can sign.
func FuzzReadIdentity(f *testing.F) {
	signer, text := sshtest.Key(f)
	f.Add(text, []byte(nil))
	f.Add(text, ssh.MarshalAuthorizedKey(signer.PublicKey()))
	f.Add([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----\n"), []byte("ssh-ed25519-cert-v01@openssh.com AAAA"))
	path := filepath.Join(f.TempDir(), "id")
	f.Fuzz(func(t *testing.T, key, cert []byte) {
		if err := os.WriteFile(path, key, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+"-cert.pub", cert, 0o600); err != nil {
			t.Fatal(err)
		}
		s, pub, err := readIdentity(path)
		if err == nil && (s == nil || pub == nil || s.PublicKey() == nil) {
			t.Errorf("a key without half of it: %v %v", s, pub)
		}
	})
}
