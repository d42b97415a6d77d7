package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// HostConfig is what a fleetd shows to the fleetds of other hosts. All but Network must be set.
type HostConfig struct {
	// Journal reads this host's own journal.
	Journal func(ctx context.Context, q fleet.LogQuery, each func(fleet.LogEntry) error) error
	// Known returns those of the names that are no units of the cluster.
	Unknown func(ctx context.Context, names []unit.Name) ([]unit.Name, error)
	// Network asks this host's netd; nil: nobody is asked.
	Network func(ctx context.Context, all bool) (fleet.HostNetwork, error)
	// Processes asks this host's systemd.
	Processes func(ctx context.Context, n unit.Name) (fleet.Processes, error)
	Version   string
}

// HostPrefix begins the paths of what hosts ask of each other, so that nobody takes them for the API.
const HostPrefix = "/fleet/host/"

const hostPath = HostPrefix + "v1/journal"

// NewHostHandler returns what other hosts may ask of this one: the logs and processes of the cluster's units and how it reaches the others,
// and nothing else.
func NewHostHandler(c HostConfig) http.Handler {
	mux := http.NewServeMux()
	for path, answer := range map[string]func(http.ResponseWriter, *http.Request) error{hostPath: c.journal, networkPath: c.network, processesPath: c.processes} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Server", "fleetd/"+c.Version)
			if err := answer(w, r); err != nil {
				e := toError(err)
				reply(w, e.Code, map[string]*Error{"error": e})
			}
		})
	}
	return mux
}

func (c HostConfig) journal(w http.ResponseWriter, r *http.Request) error {
	q, err := logQuery(r.URL.Query(), time.Now().UTC())
	if err != nil {
		return err
	}
	// A host's journal holds more than its units' lines: what is not the cluster's is not the other hosts' either.
	unknown, err := c.Unknown(r.Context(), q.Units)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return refuse(http.StatusNotFound, fmt.Sprintf("%v: no unit of this cluster", unknown))
	}
	out, err := newLogWriter(w, "json")
	if err != nil {
		return err
	}
	out.header()
	out.flush()
	err = c.Journal(r.Context(), q, func(e fleet.LogEntry) error {
		if err := out.entry(e); err != nil {
			return err
		}
		if q.Follow {
			out.flush()
		}
		return nil
	})
	if err != nil && r.Context().Err() == nil {
		_ = out.problem(err) // as below: if this cannot be sent, nobody is there to read it
	}
	out.flush()
	return nil
}

// HostClient asks the fleetds of other hosts. It is safe for use by many goroutines.
type HostClient struct{ http *http.Client }

// NewHostClient returns a client that speaks TLS with c, or without it when c is nil.
func NewHostClient(c *tls.Config) *HostClient {
	t := &http.Transport{
		TLSClientConfig: c, ResponseHeaderTimeout: readLimit, IdleConnTimeout: time.Minute,
		DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
	}
	if c != nil {
		t.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			named := c.Clone()
			named.ServerName, _ = ctx.Value(hostNameKey{}).(string)
			return (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 3 * time.Second}, Config: named}).DialContext(ctx, network, addr)
		}
	}
	return &HostClient{&http.Client{Transport: t}}
}

type hostNameKey struct{}

// WithHostName says which name the certificate of the host must have that is asked with ctx: an address may have become another's.
func WithHostName(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, hostNameKey{}, name)
}

// url is where another host's fleetd listens, without a path.
func (c *HostClient) url(addr netip.AddrPort) string {
	if c.http.Transport.(*http.Transport).TLSClientConfig != nil {
		return "https://" + addr.String()
	}
	return "http://" + addr.String()
}

// Journal reads another host's journal, as Config.Journal does.
func (c *HostClient) Journal(ctx context.Context, addr netip.AddrPort, q fleet.LogQuery, each func(fleet.LogEntry) error) error {
	body, err := c.open(ctx, addr, hostPath+"?"+logValues(q).Encode())
	if err != nil {
		return err
	}
	defer body.Close()
	var told error
	err = readEntries(body, each, func(err error) { told = err })
	if end := (*streamError)(nil); errors.As(err, &end) {
		return fmt.Errorf("its answer breaks off: %w", end.err)
	}
	switch {
	case err == nil && told != nil:
		return told
	case err == nil && q.Follow:
		return fmt.Errorf("its answer breaks off: %w", errEnded)
	}
	return err
}

// open asks another host for an answer, which is the caller's to close.
func (c *HostClient) open(ctx context.Context, addr netip.AddrPort, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(addr)+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask another host: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("its fleetd does not answer: %w", errors.Unwrap(err)) // without the URL, whose question may be long
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp.Body, nil
}

// ask gets an answer in JSON.
func (c *HostClient) ask(ctx context.Context, addr netip.AddrPort, path string, out any) error {
	body, err := c.open(ctx, addr, path)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("its fleetd's answer is not understood: %w", err)
	}
	return nil
}

// Close closes idle connections.
func (c *HostClient) Close() { c.http.CloseIdleConnections() }

// maxLogLine is the longest line that is read: an entry of a MiB, each byte as a number and a comma.
const maxLogLine = 6 << 20

// streamError is the end of a stream before its time, as opposed to an error of the reader.
type streamError struct{ err error }

func (e *streamError) Error() string { return e.err.Error() }

// readEntries reads a stream in the output mode json.
func readEntries(r io.Reader, each func(fleet.LogEntry) error, problem func(error)) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxLogLine)
	for in.Scan() {
		line := bytes.Clone(in.Bytes())
		e, err := fleet.ParseLogEntry(line)
		if err != nil {
			var body struct{ Error *Error }
			if json.Unmarshal(line, &body) != nil || body.Error == nil {
				return &streamError{err}
			}
			problem(body.Error)
			continue
		}
		if err := each(e); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		return &streamError{err}
	}
	return nil
}
