package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// Client asks servers, again while they might come up.
type Client struct {
	HTTP *http.Client
	// Tries is how often a server that does not answer, or answers with a fault of its own, is asked. Wait waits before the n-th, from 1.
	Tries int
	Wait  func(ctx context.Context, n int) error
	// Say tells of a try that failed, for the console.
	Say func(format string, args ...any)
}

// NewClient asks for some five minutes: a host may boot faster than the switch it hangs on.
func NewClient(say func(string, ...any)) *Client {
	return &Client{
		HTTP: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}},
		Tries: 20, Say: say,
		Wait: func(ctx context.Context, n int) error {
			t := time.NewTimer(min(time.Duration(n)*time.Second, 15*time.Second))
			defer t.Stop()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-t.C:
				return nil
			}
		},
	}
}

// get asks for a URL. Nothing is an error: only the server's own word that there is none (404, 410) is ErrNone.
func (c *Client) get(ctx context.Context, method, at string, header map[string]string) ([]byte, error) {
	var last error
	for n := range max(c.Tries, 1) {
		if n > 0 {
			c.Say("%v; trying again", last)
			if err := c.Wait(ctx, n); err != nil {
				return nil, errors.Join(last, err)
			}
		}
		data, again, err := c.once(ctx, method, at, header)
		if err == nil || !again {
			return data, err
		}
		last = err
	}
	return nil, last
}

func (c *Client) once(ctx context.Context, method, at string, header map[string]string) (data []byte, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, method, at, nil)
	if err != nil {
		return nil, false, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, ctx.Err() == nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		return nil, false, fmt.Errorf("%s: the server says %s: %w", shown(at), resp.Status, ErrNone)
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return nil, true, fmt.Errorf("%s: the server says %s", shown(at), resp.Status)
	case resp.StatusCode != http.StatusOK:
		return nil, false, fmt.Errorf("%s: the server says %s", shown(at), resp.Status)
	}
	data, err = readAll(resp.Body)
	if err != nil {
		return nil, !errors.Is(err, errSize), fmt.Errorf("%s: %w", shown(at), err)
	}
	return data, false, nil
}

// readAll reads up to the size of the largest document.
func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, document.MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > document.MaxSize {
		return nil, errSize
	}
	return data, nil
}

// URL is a document on a server. With sum, its SHA-256 in hexadecimal digits, nothing else is taken for it.
func URL(c *Client, at, sum string) Source {
	return Source{Name: shown(at), Network: true, Fetch: func(ctx context.Context) (Found, error) {
		data, err := c.Fetch(ctx, at, sum)
		return Found{Source: shown(at), UserData: data}, err
	}}
}

// Fetch gets what is at a URL and, if sum is not empty, holds it against that.
func (c *Client) Fetch(ctx context.Context, at, sum string) ([]byte, error) {
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is no http or https URL", at)
	}
	data, err := c.get(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	sum = strings.ToLower(strings.TrimPrefix(sum, "sha256:"))
	if got := sha256.Sum256(data); sum != "" && hex.EncodeToString(got[:]) != sum {
		return nil, fmt.Errorf("%s: its SHA-256 is %x, not %s: somebody has changed one of the two", shown(at), got, sum)
	}
	return data, nil
}

// shown is a URL without the password that may stand in it.
func shown(at string) string {
	if u, err := url.Parse(at); err == nil {
		return u.Redacted()
	}
	return at
}
