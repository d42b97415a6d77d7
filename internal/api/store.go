package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/fleet-init/fleet/internal/fleet"
)

// What the API says and does about the store itself: its members, backups, and what follows a restore. The routes are main's.

// Members lists the hosts of the store. It answers also when the store does not.
func (c *Client) Members(ctx context.Context) (out fleet.StoreMembers, err error) {
	return out, c.do(ctx, http.MethodGet, "members", nil, &out)
}

// RemoveMember takes a member (name, etcd's ID or the begin of a machine ID) out of the store.
func (c *Client) RemoveMember(ctx context.Context, name string) (out fleet.StoreMembers, err error) {
	return out, c.patient().do(ctx, http.MethodDelete, "members/"+url.PathEscape(name), nil, &out)
}

// PromoteMember makes a host that stands by or learns a voter, and returns when it votes.
func (c *Client) PromoteMember(ctx context.Context, name string) (out fleet.StoreMembers, err error) {
	return out, c.patient().do(ctx, http.MethodPost, "members/"+url.PathEscape(name), nil, &out)
}

// Backup reads a snapshot of the store, closed by its SHA-256, which the reader has to check.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	resp, err := c.raw(ctx, http.MethodGet, "store/backup", nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Restore makes a new cluster of that host out of a snapshot, and returns when it runs. With force the other members of a cluster that works are taken out first.
func (c *Client) Restore(ctx context.Context, snapshot io.Reader, force bool) error {
	path := "store/restore"
	if force {
		path += "?force=1"
	}
	return c.done(c.raw(ctx, http.MethodPost, path, snapshot))
}

// Recover makes a new cluster of that host out of what it holds. It is refused while there is a quorum.
func (c *Client) Recover(ctx context.Context) error {
	return c.done(c.raw(ctx, http.MethodPost, "store/recover", nil))
}

// Confirm says that a restored cluster is the one to obey.
func (c *Client) Confirm(ctx context.Context) (out fleet.StoreOrigin, err error) {
	return out, c.do(ctx, http.MethodPost, "store/confirm", nil, &out)
}

// patient is the client without its usual limit, for what waits for other hosts: the server has one.
func (c *Client) patient() *Client {
	p := *c
	p.timeout = 0
	return &p
}

func (c *Client) done(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close() // it has been read
	return err
}

// raw makes one request whose body and answer are bytes.
func (c *Client) raw(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/fleet/v1/"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := c.http.Do(req)
	if c.trace != nil {
		c.tell(method, path, resp, err)
	}
	if err != nil {
		return nil, &ConnectError{Endpoint: c.shown, Err: cause(ctx, err)}
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readError(resp)
}
