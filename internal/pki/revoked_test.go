package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A revoked certificate is refused in words, at both ends, over a restart; connections that came in by it end, others stay.
func TestRevokedCertificatesAreOutAndTheirConnectionsEnd(t *testing.T) {
	ca, now := newCA(t), start
	server := hold(t, ca, Identity{Role: Voter, Name: machine}, &now)
	ann, bob := hold(t, ca, Identity{Role: Operator, Name: "ann"}, &now), hold(t, ca, Identity{Role: Operator, Name: "bob"}, &now)
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := server.Listen(raw)
	t.Cleanup(func() { _ = l.Close() })
	come := func(h *Holder) (in, out *tls.Conn) {
		t.Helper()
		accepted := make(chan *tls.Conn, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				err = c.(*tls.Conn).HandshakeContext(t.Context())
			}
			if err != nil {
				t.Error(err)
				close(accepted)
				return
			}
			accepted <- c.(*tls.Conn)
		}()
		out, err := tls.Dial("tcp", l.Addr().String(), h.Client(VoterName))
		if err != nil {
			t.Fatal(err)
		}
		in = <-accepted
		t.Cleanup(func() { _, _ = in.Close(), out.Close() })
		return in, out
	}
	byAnn, annEnd := come(ann)
	byBob, bobEnd := come(bob)
	gone := []Revoked{{Role: Operator, Name: "ann", At: now, Until: now.Add(time.Hour)}}
	if err := server.SetRevoked(gone); err != nil {
		t.Fatal(err)
	}
	if _, err := byAnn.Read(make([]byte, 1)); err == nil {
		t.Error("the server's end of her connection is open")
	}
	if _, err := annEnd.Read(make([]byte, 1)); err == nil {
		t.Error("her end is open")
	}
	go func() { _, _ = byBob.Write([]byte("x")) }()
	if _, err := bobEnd.Read(make([]byte, 1)); err != nil {
		t.Errorf("his connection: %v", err)
	}
	again, _ := come(ann) // let in, to be told
	err = server.Verify(again.ConnectionState().PeerCertificates)
	if !errors.Is(err, ErrRevoked) || !strings.Contains(err.Error(), "ask for a new token") {
		t.Errorf("she is told %v", err)
	}
	if err := server.Verify(byBob.ConnectionState().PeerCertificates); err != nil {
		t.Errorf("he is told %v", err)
	}
	pipe, other := net.Pipe()
	defer other.Close()
	if _, err := server.Enter(pipe, ann.Leaf()); !errors.Is(err, ErrRevoked) {
		t.Errorf("at the other door: %v", err)
	}
	inside, err := server.Enter(pipe, bob.Leaf())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.SetRevoked([]Revoked{{Key: KeyHash(bob.Leaf()), Name: "bob", At: now, Until: now.Add(time.Hour)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := inside.Read(make([]byte, 1)); err == nil {
		t.Error("his connection inside is open")
	}
	if err := inside.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	server.mu.Lock()
	if n := len(server.guests); n > 1 { // the second of hers may not have been noted: it was revoked
		t.Errorf("%d guests are noted, of whom none is left", n)
	}
	server.mu.Unlock()
	// A restart knows it before it has heard from anybody; a file that a full disk has spoiled does not keep the host from starting.
	reopened, err := OpenHolder(server.dir, func() time.Time { return now })
	if err != nil || !errors.Is(reopened.Revoked(bob.Leaf()), ErrRevoked) {
		t.Errorf("after a restart: %v, %v", err, reopened.Revoked(bob.Leaf()))
	}
	if err := os.WriteFile(filepath.Join(server.dir, revokedFile), []byte(`[{"key`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenHolder(server.dir, func() time.Time { return now }); err != nil {
		t.Error(err)
	}
}

// Whoever shows a revoked certificate as a server is not believed either.
func TestARevokedHostIsNoServer(t *testing.T) {
	ca, now := newCA(t), start
	server, client := hold(t, ca, Identity{Role: Voter, Name: machine}, &now), hold(t, ca, Identity{Role: Viewer, Name: "ann"}, &now)
	if err := client.SetRevoked([]Revoked{{Role: Host, Name: machine, At: now, Until: now.Add(time.Hour)}}); err != nil {
		t.Fatal(err)
	}
	err := client.Client(VoterName).VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{server.Leaf()}, ServerName: VoterName})
	if !errors.Is(err, ErrRevoked) {
		t.Error(err)
	}
	reissue(t, server, ca, Identity{Role: Voter, Name: machine}, now.Add(time.Second))
	err = client.Client(VoterName).VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{server.Leaf()}, ServerName: VoterName})
	if err != nil {
		t.Errorf("one that was issued after that: %v", err)
	}
}
