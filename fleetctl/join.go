package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/pki"
)

// thisHost is what init and join change of the host they run on.
type thisHost struct {
	root      string // "/", but for tests
	systemctl func(ctx context.Context, args ...string) error
}

func (a *app) here() thisHost {
	if a.host.root != "" {
		return a.host
	}
	return thisHost{"/", func(ctx context.Context, args ...string) error {
		out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
		return nil
	}}
}

// Where fleetd reads its settings, where systemd takes credentials from, and what a host that has joined has.
const (
	confFile        = "etc/fleet/fleet.conf"
	tokenCredential = "etc/credstore/fleet.join-token"
	certificate     = "var/lib/fleet/pki"
)

// initCommand starts the first host of a cluster and tells how others join.
func initCommand(ctx context.Context, a *app, args []string) int {
	if len(args) > 0 {
		return a.usage(errors.New("init takes no words"), "init")
	}
	h := a.here()
	toward := []string{"192.0.2.1:9", "[2001:db8::1]:9"} // documentation's: wherever the default route leads
	err := h.address(a.opts.trust.memberIP, toward)
	if err == nil {
		err = h.start(ctx)
	}
	if err != nil {
		return a.fail("Error: %v", err)
	}
	if err := a.awaitFleetd(ctx); err != nil {
		return a.refused("fleetd was started, but", err)
	}
	o := a.opts.trust
	if !slices.Contains(a.given, "uses") {
		o.uses = 10
	}
	t, err := a.client.CreateToken(ctx, api.TokenRequest{Role: api.AsHost, TTL: o.ttl.String(), Uses: o.uses})
	if err != nil {
		return a.refused("This is a cluster of one host now, but it made no token for others", err)
	}
	a.printf("This is the first host of a cluster. On each further host, up to %d, until %s:\n\n    fleetctl join %s\n\n"+
		"Then, on any of the first three: fleetctl list-machines\n", t.Uses, t.Expires.Local().Format(time.DateTime), t.Printed)
	return exitOK
}

// joinCommand hands a token to fleetd and waits until it is in.
func joinCommand(ctx context.Context, a *app, args []string) int {
	if len(args) != 1 {
		return a.usage(errors.New("join takes one token, or - to read it from standard input"), "join")
	}
	token, err := a.readToken(args[0])
	if err != nil {
		return a.fail("Error: %v", err)
	}
	h := a.here()
	if err := h.free(); err != nil {
		return a.fail("Error: %v", err)
	}
	if err := h.address(a.opts.trust.memberIP, token.Endpoints); err != nil {
		return a.fail("Error: %v", err)
	}
	if err := h.write(tokenCredential, []byte(token.String()+"\n"), 0o600); err != nil {
		return a.fail("Error: %v", err)
	}
	if err := h.start(ctx); err != nil {
		return a.fail("Error: %v", err)
	}
	if err := a.awaitFleetd(ctx); err != nil {
		return a.refused("fleetd was started with the token, but", err)
	}
	// The certificate is there: a token that lies about could only be found by somebody else.
	if err := os.Remove(filepath.Join(h.root, tokenCredential)); err != nil {
		a.warn("The token is still in /%s: %v", tokenCredential, err)
	}
	a.printf("This host is one of the cluster now: fleetctl list-machines\n")
	return exitOK
}

// free refuses a host that is in a cluster: a second one would be half in both.
func (h thisHost) free() error {
	holder, err := pki.OpenHolder(filepath.Join(h.root, certificate), time.Now)
	if errors.Is(err, fs.ErrPermission) {
		return errors.New("only root can join a host: try sudo fleetctl join TOKEN")
	}
	if err != nil {
		return err
	}
	if leaf := holder.Leaf(); leaf != nil && time.Now().Before(leaf.NotAfter) {
		return errors.New("this host is in a cluster already; to take it out and join another: systemctl stop fleetd, rm -r /var/lib/fleet, then join again")
	}
	return nil
}

// address sees to member_ip in fleet.conf: what stands there stays, else what was given, else the address from which this host reaches
// one of these.
func (h thisHost) address(given string, toward []string) error {
	path := filepath.Join(h.root, confFile)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the settings of fleetd: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if key, _, ok := strings.Cut(line, "="); ok && strings.TrimSpace(key) == "member_ip" {
			return nil
		}
	}
	if given == "" {
		if given, err = sourceTo(toward); err != nil {
			return err
		}
	} else if _, aerr := netip.ParseAddr(given); aerr != nil {
		if _, perr := netip.ParsePrefix(given); perr != nil {
			return fmt.Errorf("--member-ip %q: use an address such as 10.0.0.1, or a network such as 10.0.0.0/24", given)
		}
	}
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	return h.write(confFile, append(text, "member_ip = "+given+"\n"...), 0o644)
}

// sourceTo asks the kernel from which address packets to a host would go; none is sent.
func sourceTo(endpoints []string) (string, error) {
	var last error
	for _, e := range endpoints {
		c, err := net.Dial("udp", e)
		if err != nil {
			last = err
			continue
		}
		from := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
		_ = c.Close()
		return from.String(), nil
	}
	return "", fmt.Errorf("find the address that the others reach this host at: %w: give it with --member-ip", last)
}

func (h thisHost) write(name string, text []byte, mode os.FileMode) error {
	path := filepath.Join(h.root, name)
	dirMode := os.FileMode(0o755)
	if mode == 0o600 {
		dirMode = 0o700
	}
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return asRoot(err)
	}
	if err := os.WriteFile(path+".new", text, mode); err != nil {
		return asRoot(err)
	}
	return asRoot(os.Rename(path+".new", path))
}

func asRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: this is for root, try sudo", err)
	}
	return err
}

// start has systemd run fleetd, now and at each boot, with the settings as they are.
func (h thisHost) start(ctx context.Context) error {
	if err := h.systemctl(ctx, "enable", "--quiet", "fleet.socket", "fleetd.service"); err != nil {
		return err
	}
	// Not waiting: it is ready when the cluster knows it, and what it waits for until then is asked of it below.
	return errors.Join(h.systemctl(ctx, "start", "fleet.socket"), h.systemctl(ctx, "--no-block", "restart", "fleetd.service"))
}

// awaitFleetd waits until fleetd answers, and tells what it waits for.
func (a *app) awaitFleetd(ctx context.Context) error {
	var err error
	if a.client, err = api.Dial(a.opts.endpoint, api.Options{Timeout: 5 * time.Second}); err != nil {
		return err
	}
	last, begin := "", time.Now()
	for time.Since(begin) < 2*time.Minute {
		_, err = a.client.Machines(ctx)
		var refused *api.Error
		if err == nil || errors.As(err, &refused) && refused.Code != 503 {
			return err
		}
		// The first moments are no news.
		if text := err.Error(); text != last && time.Since(begin) > 2*time.Second {
			last = text
			a.warn("waiting: %s", text)
		}
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
	return fmt.Errorf("it is still not ready: %w; it goes on trying: systemctl status fleetd", err)
}
