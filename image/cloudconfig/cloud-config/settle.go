package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/fleet-init/fleet/image/cloudconfig/desired"
	"github.com/fleet-init/fleet/image/cloudconfig/document"
	"github.com/fleet-init/fleet/image/cloudconfig/source"
)

// What is kept on the host.
const (
	stateFile = "/var/lib/cloud-config/state.json"
	lastGood  = "/var/lib/cloud-config/last-good.json" // may hold secrets
)

// errLater: the document needs what only a network can tell or bring.
var errLater = errors.New("it needs the network")

// order reads a document for this host, with all that it names fetched, so that from here on nothing but the host itself can fail. With early, it
// is errLater if that takes a network.
func (a *app) order(ctx context.Context, f source.Found, early bool) (desired.Desired, error) {
	// Where addresses come from may stand in the document itself: a first look tells.
	draft, _ := document.Parse(f.UserData, document.Variables{})
	vars := variables(f, a.environment(), draft.Addresses)
	d, problems := document.Parse(f.UserData, vars)
	bad := document.Errors(problems, false)
	if early && len(bad) > 0 && len(draft.Addresses) > 0 && len(vars.Values) < len(draft.Addresses) {
		return desired.Desired{}, errLater
	}
	a.print(f.Source, problems)
	if len(bad) > 0 {
		return desired.Desired{}, errDocument
	}
	if len(d.Script) == 0 {
		if d.Hostname == "" {
			d.Hostname = f.Hostname
		}
		d.Keys = append(d.Keys, f.Keys...)
	}
	for i, file := range d.Files {
		if file.Source == "" {
			continue
		}
		if early {
			return desired.Desired{}, errLater
		}
		data, err := a.client.Fetch(ctx, file.Source, file.SHA256)
		if err != nil {
			return desired.Desired{}, fmt.Errorf("line %d: fetch %s: %w; nothing was changed", file.Line, file.Path, err)
		}
		d.Files[i].Content = data
	}
	return desired.From(d), nil
}

// variables are what $private_ipv4 and the others stand for: what the source says of this host, else what /etc/environment says, else the address
// that the document tells how to find.
func variables(f source.Found, environment, places map[string]string) document.Variables {
	v := document.Variables{Values: map[string]string{}, Source: strings.TrimPrefix(f.Source+", /etc/environment", ", ")}
	for _, name := range []string{"public_ipv4", "private_ipv4", "public_ipv6", "private_ipv6"} {
		switch {
		case f.Addresses[name] != "":
			v.Values[name] = f.Addresses[name]
		case environment["COREOS_"+strings.ToUpper(name)] != "":
			v.Values[name] = environment["COREOS_"+strings.ToUpper(name)]
		case places[name] != "":
			if at := find(places[name], strings.HasSuffix(name, "6")); at.IsValid() {
				v.Values[name] = at.String()
			}
		}
	}
	return v
}

// find is the address of an interface, the one within a network, or place itself.
func find(place string, six bool) netip.Addr {
	if at, err := netip.ParseAddr(place); err == nil {
		return at
	}
	network, _ := netip.ParsePrefix(place)
	all, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}
	}
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			at := p.Addr().Unmap()
			if err == nil && at.Is6() == six && at.IsGlobalUnicast() && (i.Name == place || network.IsValid() && network.Contains(at)) {
				return at
			}
		}
	}
	return netip.Addr{}
}

// environment is /etc/environment, where CoreOS kept addresses.
func (a *app) environment() map[string]string {
	out := map[string]string{}
	data, err := a.host.Read("/etc/environment")
	if err != nil {
		return out // it only adds to what is known
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		if key, value, ok := strings.Cut(strings.TrimSpace(s.Text()), "="); ok {
			out[key] = strings.Trim(value, `"'`)
		}
	}
	return out
}

// plan compares the host with what it is to be.
func (a *app) plan(ctx context.Context, want desired.Desired, booting bool) (steps []desired.Step, was, next desired.State, err error) {
	if was, err = a.state(); err != nil {
		return nil, was, next, err
	}
	seen, err := a.host.Look(ctx, want, was)
	if err != nil {
		return nil, was, next, err
	}
	seen.Boot = booting
	steps, next = desired.Plan(want, was, seen)
	return steps, was, next, nil
}

func (a *app) state() (desired.State, error) {
	var s desired.State
	data, err := a.host.Read(stateFile)
	if err != nil || data == nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read %s: %w; move it away to begin anew: what it names is then left where it is", stateFile, err)
	}
	if s.V > 1 {
		return s, fmt.Errorf("%s was written by a newer release (v%d)", stateFile, s.V)
	}
	return s, nil
}

// do carries a plan out and keeps the document that it was made of.
func (a *app) do(ctx context.Context, f source.Found, steps []desired.Step, was, next desired.State) error {
	now := time.Now().UTC()
	next.Applied, next.Source, next.Document = now, f.Source, desired.Hash(f.UserData)
	if next.FirstBoot.IsZero() {
		next.FirstBoot = now
	}
	err := a.host.Do(ctx, steps, func() error {
		// What is ours now and what will be: after a power cut in between the next run knows both.
		both := next
		both.Files = map[string]desired.Owned{}
		for p, o := range was.Files {
			both.Files[p] = o
		}
		for p, o := range next.Files {
			both.Files[p] = o
		}
		both.FirstBoot, both.Passwords = was.FirstBoot, was.Passwords
		return a.save(both)
	})
	if err != nil {
		return err
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return errors.Join(a.host.Keep(lastGood, data, 0o600), a.save(next))
}

func (a *app) save(s desired.State) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return a.host.Keep(stateFile, append(data, '\n'), 0o600)
}

func (a *app) status(context.Context) error {
	s, err := a.state()
	if err != nil {
		return err
	}
	if a.json {
		return a.encode(struct {
			Source    string    `json:"source"`
			SHA256    string    `json:"sha256"`
			Applied   time.Time `json:"applied"`
			FirstBoot time.Time `json:"first_boot"`
			Files     int       `json:"files"`
		}{s.Source, s.Document, s.Applied, s.FirstBoot, len(s.Files)})
	}
	if s.V == 0 {
		fmt.Fprintln(a.out, "no cloud-config was applied on this host")
		return nil
	}
	fmt.Fprintf(a.out, "  Source: %s\n  SHA256: %s\n Applied: %s\n   First: %s\n   Files: %d\n", s.Source, s.Document, s.Applied.Format(time.RFC3339), s.FirstBoot.Format(time.RFC3339), len(s.Files))
	return nil
}
