package member

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"google.golang.org/grpc/credentials"
)

// handshakeLimit is the most that one side may take to prove who it is.
const handshakeLimit = 10 * time.Second

func (m *Member) scheme() string {
	if m.cfg.TLS.On() {
		return "https"
	}
	return "http"
}

func (m *Member) peerURL(self netip.AddrPort) string { return m.scheme() + "://" + self.String() }

// peerTLS is for etcd's own port. It reads certificate and key at each handshake, the authorities only when the member starts: a new one
// also comes signed by the old one.
func (m *Member) peerTLS() transport.TLSInfo {
	t := m.cfg.TLS
	if !t.On() {
		return transport.TLSInfo{}
	}
	info := transport.TLSInfo{
		CertFile: t.CertFile, KeyFile: t.KeyFile, TrustedCAFile: t.CAFile, ClientCertAuth: true,
		// Else etcd resolves the names in the certificate of whoever connects and compares addresses.
		SkipClientSANVerify: true,
		MinVersion:          tls.VersionTLS13, MaxVersion: tls.VersionTLS13,
	}
	if t.Voter != "" {
		info.ServerName, info.AllowedHostnames = t.Voter, []string{t.Voter}
	}
	return info
}

// ownCert reads this host's certificate as it is now.
func (t TLS) ownCert() (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	return &c, err
}

// pool reads the authorities as they are now.
func (t TLS) pool() (*x509.CertPool, error) {
	text, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, err
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", t.CAFile)
	}
	return p, nil
}

// server is for the client port.
func (t TLS) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			own, err := t.ownCert()
			if err != nil {
				return nil, err
			}
			pool, err := t.pool()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{*own},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
			}, nil
		},
	}
}

// client asks that a voter answers.
func (t TLS) client() (*tls.Config, error) {
	pool, err := t.pool()
	if err != nil {
		return nil, err
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: t.Voter,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.ownCert() },
	}
	if t.Voter == "" { // any host of the cluster will do, whatever its address
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(s tls.ConnectionState) error {
			rest := x509.NewCertPool()
			for _, cert := range s.PeerCertificates[1:] {
				rest.AddCert(cert)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: rest})
			return err
		}
	}
	return c, nil
}

// connect is the dialer of all connections to other members' ports.
func (m *Member) connect(ctx context.Context, addr string, protos ...string) (net.Conn, error) {
	raw, err := dialFast(ctx, addr)
	if err != nil || !m.cfg.TLS.On() || raw.RemoteAddr().Network() == "unix" {
		return raw, err
	}
	c, err := m.cfg.TLS.client()
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	c.NextProtos = protos
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	secure := tls.Client(raw, c)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", addr, errors.Join(err, raw.Close()))
	}
	return secure, nil
}

// dialGRPC is connect for gRPC's clients.
func (m *Member) dialGRPC(ctx context.Context, addr string) (net.Conn, error) {
	return m.connect(ctx, addr, "h2")
}

// newHTTP makes the client for questions to peer ports.
func (m *Member) newHTTP() *http.Client {
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) { return m.connect(ctx, addr) }
	return &http.Client{Transport: &http.Transport{DialContext: dial, DialTLSContext: dial, IdleConnTimeout: time.Minute}}
}

// visitor is what the door knows of a client.
type visitor struct {
	credentials.CommonAuthInfo
	access Access
}

// AuthType is gRPC's.
func (visitor) AuthType() string { return "fleet" }

// porter lets clients in: whoever may open the unix socket, and who shows a certificate of the cluster on the port.
type porter struct {
	tls TLS
	cfg *tls.Config
}

func newPorter(t TLS) credentials.TransportCredentials { return porter{t, t.server()} }

// ServerHandshake is gRPC's; each connection has a goroutine of its own for it.
func (p porter) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	v := visitor{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, Access{All: true}}
	if !p.tls.On() || raw.LocalAddr().Network() == "unix" {
		return raw, v, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), handshakeLimit)
	defer cancel()
	c := tls.Server(raw, p.cfg)
	err := c.HandshakeContext(ctx)
	if err == nil && p.tls.Access != nil {
		v.access, err = p.tls.Access(c.ConnectionState().PeerCertificates[0])
	}
	inside := net.Conn(c)
	if err == nil && p.tls.Enter != nil {
		inside, err = p.tls.Enter(c, c.ConnectionState().PeerCertificates[0])
	}
	if err != nil {
		return nil, nil, errors.Join(err, raw.Close())
	}
	return inside, v, nil
}

// ClientHandshake is gRPC's; the door has no clients of its own.
func (porter) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("a door dials nobody")
}

// Info is gRPC's.
func (porter) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "fleet"}
}

// Clone is gRPC's.
func (p porter) Clone() credentials.TransportCredentials { return p }

// OverrideServerName is gRPC's, and nothing for a server.
func (porter) OverrideServerName(string) error { return nil }
