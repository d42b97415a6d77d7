package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/fleet-init/fleet/internal/api"
)

// dial makes the client of the endpoint. Nothing is sent yet.
func (a *app) dial() (*api.Client, error) {
	all, name, chosen, err := a.chosen()
	if err != nil {
		return nil, err
	}
	endpoint, rest, several := strings.Cut(a.opts.endpoint, ",")
	if several {
		a.warn("WARNING: only the first endpoint is used: %s, not %s", endpoint, rest)
	}
	o := api.Options{Timeout: a.opts.requestTimeout}
	if a.opts.debug {
		o.Trace = func(line string) { a.warn("DEBUG %s", line) }
	}
	if chosen {
		return a.dialContext(all, name, o)
	}
	if o.TLS, err = a.tls(); err != nil {
		return nil, err
	}
	if a.opts.tunnel != "" {
		a.tunnel = &tunnel{app: a}
		o.Dial = a.tunnel.dial
	}
	return api.Dial(endpoint, o)
}

// hangUp ends what dial and its tunnel have opened.
func (a *app) hangUp() {
	a.client.Close()
	if a.tunnel != nil {
		a.tunnel.close()
	}
}

// tls reads the certificate files. Without any, https uses the system's authorities; the server is always checked.
func (a *app) tls() (*tls.Config, error) {
	if a.opts.caFile == "" && a.opts.certFile == "" && a.opts.keyFile == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.opts.caFile != "" {
		pem, err := os.ReadFile(a.opts.caFile)
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca-file %s: no PEM certificate in it", a.opts.caFile)
		}
	}
	if (a.opts.certFile == "") != (a.opts.keyFile == "") {
		return nil, errors.New("--cert-file and --key-file go together: give both")
	}
	if a.opts.certFile != "" {
		pair, err := tls.LoadX509KeyPair(a.opts.certFile, a.opts.keyFile)
		if err != nil {
			return nil, fmt.Errorf("--cert-file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// refused prints why the API could not be used, with the next step where the error tells it. doing begins the line:
// "Error creating units".
func (a *app) refused(doing string, err error) int {
	if errors.Is(err, context.Canceled) {
		a.warn("Interrupted. What fleetd was told by then goes on; to see what the cluster knows: fleetctl list-unit-files")
		return exitInterrupted
	}
	a.warn("%s: %v", doing, err)
	var conn *api.ConnectError
	if !errors.As(err, &conn) {
		return exitFailed
	}
	socket := strings.HasPrefix(conn.Endpoint, "unix:") || strings.HasPrefix(conn.Endpoint, "file:")
	switch {
	case socket && errors.Is(err, syscall.EACCES):
		a.warn("The members of group fleet may use the socket: run this as root, or add yourself (sudo usermod -aG fleet $USER) and log in again.")
	case socket && (errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)):
		a.warn("Is fleetd running here? See: systemctl status fleetd\nTo speak to a cluster from elsewhere: fleetctl context add NAME TOKEN")
	case errors.Is(err, syscall.ECONNREFUSED):
		a.warn("Is fleetd running there, and does fleet.socket listen on that port?")
	case strings.Contains(err.Error(), "remote error: tls:"):
		// The server's half of the handshake has one word for each reason, and TLS 1.3 tells it only after ours is done.
		a.warn("The certificate you have is not accepted there: it has ended, or the cluster's CA was rotated since. Ask for a new token: fleetctl join-token create")
	}
	return exitFailed
}
