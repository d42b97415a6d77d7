package etcd

import (
	"crypto/tls"
	"fmt"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Login is what an etcd that is not of our making wants of its clients. Files are PEM; empty = not needed there.
type Login struct {
	CAFile, CertFile, KeyFile string
	Username, Password        string
}

// TLS is how such an etcd is spoken to, nil = in the clear. A CA alone is enough: a password must not cross the network in the clear because no
// client certificate is there. The client's certificate is read anew for each connection, the CA once.
func (l Login) TLS() (*tls.Config, error) {
	if l.CAFile == "" && l.CertFile == "" {
		return nil, nil
	}
	conf, err := transport.TLSInfo{TrustedCAFile: l.CAFile, CertFile: l.CertFile, KeyFile: l.KeyFile}.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read the certificates for etcd (CA %q, certificate %q, key %q): %w", l.CAFile, l.CertFile, l.KeyFile, err)
	}
	return conf, nil
}

// Dial makes a client that connects and logs in when it is first used, so that it may be made while the store is down.
func (l Login) Dial(c clientv3.Config) (*clientv3.Client, error) {
	if l.Username != "" {
		// With a user the library logs in before it returns, and fails when the store is down. Given a token that no server knows it logs in
		// when the first call is refused, as it does whenever a token has run out.
		c.Token = "none yet"
	}
	client, err := clientv3.New(c)
	if err != nil {
		return nil, fmt.Errorf("make a client of etcd: %w", err)
	}
	if l.Username != "" {
		client.Token, client.Username, client.Password = "", l.Username, l.Password
	}
	return client, nil
}
