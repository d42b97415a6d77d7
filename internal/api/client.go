package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
)

// Client speaks to one fleetd. It is safe for use by many goroutines and re-uses its connections.
type Client struct {
	base    string // "http://fleet" for a socket
	shown   string // the endpoint as the user wrote it, for errors
	http    *http.Client
	timeout time.Duration
	trace   func(line string)
}

// Options are a client's settings; the zero value is usable.
type Options struct {
	Timeout time.Duration     // of each request but a watch; 0: none
	Trace   func(line string) // told each request and its answer; nil: nobody
	TLS     *tls.Config       // for https; nil: the system's certificate authorities, no certificate of our own
	// Dial makes the connections: network is unix or tcp, as for net.Dial. nil: directly, over tcp through the environment's proxy.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Dial returns a client of the fleetd at endpoint: unix:///path or file:///path (a socket), http://host:port or
// https://host:port. It connects with the first request. A wrong endpoint is fleet.ErrInvalid.
func Dial(endpoint string, o Options) (*Client, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, &fleet.InvalidError{What: fmt.Sprintf("endpoint %q", endpoint), Hint: "use unix:///run/fleet.sock or http://host:port"}
	}
	c := &Client{shown: endpoint, timeout: o.Timeout, trace: o.Trace}
	t := &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, TLSClientConfig: o.TLS}
	switch u.Scheme {
	case "unix", "file":
		if u.Host != "" || u.Path == "" {
			return nil, &fleet.InvalidError{What: fmt.Sprintf("endpoint %q", endpoint), Hint: "a socket's path needs three slashes: " + u.Scheme + ":///run/fleet.sock"}
		}
		c.base = "http://fleet"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			if o.Dial != nil {
				return o.Dial(ctx, "unix", u.Path)
			}
			return new(net.Dialer).DialContext(ctx, "unix", u.Path)
		}
	case "http", "https":
		if u.Host == "" {
			return nil, &fleet.InvalidError{What: fmt.Sprintf("endpoint %q", endpoint), Hint: "write host and port: " + u.Scheme + "://host:port"}
		}
		c.base = u.Scheme + "://" + u.Host + strings.TrimSuffix(u.Path, "/")
		if t.DialContext = o.Dial; o.Dial == nil {
			t.Proxy = http.ProxyFromEnvironment
			t.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
		}
	default:
		return nil, &fleet.InvalidError{What: fmt.Sprintf("endpoint %q", endpoint), Hint: "begin it with unix://, http:// or https://"}
	}
	c.http = &http.Client{Transport: t}
	return c, nil
}

// ConnectError is a fleetd that could not be reached at all, as opposed to one that refused.
type ConnectError struct {
	Endpoint string
	Err      error
}

func (e *ConnectError) Error() string {
	return "connect to fleetd at " + e.Endpoint + ": " + e.Err.Error()
}
func (e *ConnectError) Unwrap() error { return e.Err }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Units lists all units by name, without their texts, and all machines, from one snapshot.
func (c *Client) Units(ctx context.Context) ([]Unit, []Machine, error) {
	var p page
	err := c.get(ctx, "units?view=whole", &p)
	return p.Units, p.Machines, err
}

// States lists all unit states by unit and machine, and all machines, from one snapshot.
func (c *Client) States(ctx context.Context) ([]UnitState, []Machine, error) {
	var p page
	err := c.get(ctx, "state?view=whole", &p)
	return p.States, p.Machines, err
}

// Machines lists the registered machines by ID.
func (c *Client) Machines(ctx context.Context) ([]Machine, error) {
	var p page
	err := c.get(ctx, "machines?view=whole", &p)
	return p.Machines, err
}

// Unit reads one unit with its text. An unknown one is fleet.ErrNotFound.
func (c *Client) Unit(ctx context.Context, name string) (Unit, error) {
	var u Unit
	err := c.get(ctx, "units/"+url.PathEscape(name)+"?view=whole", &u)
	return u, err
}

// Texts reads units with their texts; those that are not known are left out.
func (c *Client) Texts(ctx context.Context, names ...string) ([]Unit, error) {
	var all []Unit
	for part := range slices.Chunk(names, 200) { // what fits into a request line
		var p page
		if err := c.get(ctx, "units?view=text&"+url.Values{"unit": part}.Encode(), &p); err != nil {
			return nil, err
		}
		all = append(all, p.Units...)
	}
	return all, nil
}

// Batch sets and destroys units. Its error is of the request as a whole; each unit's own is in its result. A large one may
// take longer than the client's timeout: each unit adds to it.
func (c *Client) Batch(ctx context.Context, b Batch) (BatchResult, error) {
	patient := *c
	if c.timeout > 0 {
		patient.timeout += time.Duration(len(b.Set)+len(b.Delete)) * 20 * time.Millisecond
	}
	var out BatchResult
	err := patient.do(ctx, http.MethodPost, "batch", b, &out)
	if err == nil && len(out.Results) != len(b.Set)+len(b.Delete) {
		err = fmt.Errorf("fleetd answered %d results for %d units", len(out.Results), len(b.Set)+len(b.Delete))
	}
	return out, err
}

// Restart orders units to be restarted where they are. Its error is of the request as a whole.
func (c *Client) Restart(ctx context.Context, orders ...RestartOrder) ([]RestartResult, error) {
	var out Restarts
	err := c.do(ctx, http.MethodPost, "restart", RestartRequest{Units: orders}, &out)
	return out.Results, err
}

// Explain says what becomes of units; without names, of all that want a machine and have none.
func (c *Client) Explain(ctx context.Context, names ...string) ([]fleet.Explanation, error) {
	var out explanations
	err := c.get(ctx, "explain"+query(names), &out)
	return out.Explanations, err
}

func query(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "?" + url.Values{"unit": names}.Encode()
}

func (c *Client) get(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodGet, path, nil, out)
}

// do makes one request and reads its whole answer.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	if c.timeout > 0 {
		// A deadline of the caller's own stays what it is, also in the error.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer within %v", c.timeout))
		defer cancel()
	}
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return &ConnectError{Endpoint: c.shown, Err: cause(ctx, err)}
	}
	if out == nil {
		return nil // nothing is answered but that it is done
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("answer of fleetd to %s %s: %w", method, path, err)
	}
	return nil
}

// send makes one request and returns its answer if it is a success.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("write request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/fleet/v1/"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if c.trace != nil {
		c.tell(method, path, resp, err)
	}
	if err != nil {
		if uerr := (*url.Error)(nil); errors.As(err, &uerr) {
			err = uerr.Err // without the URL: the endpoint is named, and fleet is no host
		}
		if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
			err = op.Err // nor the address once more
		}
		return nil, &ConnectError{Endpoint: c.shown, Err: cause(ctx, err)}
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readError(resp)
}

// cause prefers why the context ended over that it did.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readError makes an Error of an answer. One that is no error of the API (a proxy's page, another server) says so.
func readError(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what could be read is enough to tell
	var body struct{ Error *Error }
	if json.Unmarshal(b, &body) == nil && body.Error != nil {
		return &Error{Code: resp.StatusCode, Message: body.Error.Message}
	}
	if !strings.HasPrefix(resp.Header.Get("Server"), "fleetd/") {
		return &Error{Code: resp.StatusCode, Message: "what answers there is not fleetd: " + resp.Status}
	}
	return &Error{Code: resp.StatusCode}
}

func (c *Client) tell(method, path string, resp *http.Response, err error) {
	if len(path) > 200 {
		path = path[:200] + "…"
	}
	if err != nil {
		c.trace(fmt.Sprintf("%s %s: %v", method, path, err))
		return
	}
	c.trace(fmt.Sprintf("%s %s: %s", method, path, resp.Status))
}
