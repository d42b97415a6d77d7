package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/pki"
)

// contexts are the clusters that fleetctl knows, in ~/.config/fleet/contexts.json; each has its certificate in a folder beside it.
type contexts struct {
	V       int              `json:"v"`
	Current string           `json:"current,omitempty"` // empty: this host's socket
	Known   map[string]place `json:"contexts"`

	dir string
}

// place is one of them: voters that serve the API, or one endpoint with files that others keep.
type place struct {
	Voters   []string `json:"voters,omitempty"`
	Endpoint string   `json:"endpoint,omitempty"`
	CAFile   string   `json:"caFile,omitempty"`
	CertFile string   `json:"certFile,omitempty"`
	KeyFile  string   `json:"keyFile,omitempty"`
}

// local is the name of the context that is none: the fleetd of this host.
const local = "local"

func openContexts(env []string) (*contexts, error) {
	base := lookup(env, "XDG_CONFIG_HOME")
	if base == "" {
		base = filepath.Join(lookup(env, "HOME"), ".config")
	}
	c := &contexts{V: 1, Known: map[string]place{}, dir: filepath.Join(base, "fleet")}
	text, err := os.ReadFile(filepath.Join(c.dir, "contexts.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(text, c)
	}
	if err != nil {
		return nil, fmt.Errorf("read the contexts: %w", err)
	}
	if c.Known == nil {
		c.Known = map[string]place{}
	}
	return c, nil
}

func (c *contexts) save() error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(c.dir, "contexts.json")
	if err := errors.Join(os.MkdirAll(c.dir, 0o700), os.WriteFile(path+".new", append(text, '\n'), 0o600)); err != nil {
		return fmt.Errorf("write the contexts: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write the contexts: %w", err)
	}
	return nil
}

// folder holds a context's certificate.
func (c *contexts) folder(name string) string { return filepath.Join(c.dir, name) }

func contextCommand(ctx context.Context, a *app, args []string) int {
	all, err := openContexts(a.env)
	if err != nil {
		return a.fail("Error: %v", err)
	}
	verb, rest := "list", args
	if len(args) > 0 {
		verb, rest = args[0], args[1:]
	}
	switch {
	case verb == "list" && len(rest) == 0:
		return a.listContexts(all)
	case verb == "use" && len(rest) == 1:
		err = all.use(rest[0])
	case verb == "remove" && len(rest) == 1:
		err = all.remove(rest[0])
	case verb == "add" && (len(rest) == 1 || len(rest) == 2):
		if err = a.addContext(ctx, all, rest); err == nil {
			a.printf("Context %s is in use: fleetctl whoami\n", rest[0])
		}
	default:
		return a.usage(errors.New("context is followed by list, use NAME, add NAME TOKEN or remove NAME"), "context")
	}
	if err != nil {
		return a.fail("Error: %v", err)
	}
	return exitOK
}

func (a *app) listContexts(all *contexts) int {
	type row struct{ name, at, until string }
	rows := []row{{local, "this host", ""}}
	for _, name := range slices.Sorted(maps.Keys(all.Known)) {
		k := all.Known[name]
		r := row{name: name, at: cmp.Or(k.Endpoint, strings.Join(k.Voters, ","))}
		if h, err := pki.OpenHolder(all.folder(name), time.Now); err == nil && h.Leaf() != nil {
			r.until = h.Leaf().NotAfter.Local().Format(time.DateTime)
		}
		rows = append(rows, r)
	}
	return table(a, []column[row]{
		{"name", func(r row) string {
			if r.name == cmp.Or(all.Current, local) {
				return r.name + " *"
			}
			return r.name
		}},
		{"endpoint", func(r row) string { return r.at }},
		{"until", func(r row) string { return orDash(r.until) }},
	}, "name,endpoint,until", rows)
}

func (c *contexts) use(name string) error {
	if name == local {
		c.Current = ""
		return c.save()
	}
	if _, ok := c.Known[name]; !ok {
		return fmt.Errorf("there is no context %q: fleetctl context list shows them", name)
	}
	c.Current = name
	return c.save()
}

func (c *contexts) remove(name string) error {
	if _, ok := c.Known[name]; !ok {
		return fmt.Errorf("there is no context %q: fleetctl context list shows them", name)
	}
	delete(c.Known, name)
	if c.Current == name {
		c.Current = ""
	}
	return errors.Join(c.save(), os.RemoveAll(c.folder(name)))
}

// addContext makes a context of a token, or of files, and uses it.
func (a *app) addContext(ctx context.Context, all *contexts, args []string) error {
	name := args[0]
	if name == local || strings.ContainsAny(name, "/ \t\n") || strings.HasPrefix(name, ".") || name == "" {
		return fmt.Errorf("context name %q: use a word without slash and blank, and not %s", name, local)
	}
	if _, there := all.Known[name]; there {
		return fmt.Errorf("context %s is there already: fleetctl context remove %s", name, name)
	}
	if len(args) == 1 {
		if !slices.Contains(a.given, "endpoint") {
			return errors.New("give a token (fleetctl join-token create --role operator), or --endpoint with --ca-file, --cert-file and --key-file")
		}
		k := place{Endpoint: a.opts.endpoint}
		for at, file := range map[*string]string{&k.CAFile: a.opts.caFile, &k.CertFile: a.opts.certFile, &k.KeyFile: a.opts.keyFile} {
			if file == "" {
				continue
			}
			var err error
			if *at, err = filepath.Abs(file); err != nil {
				return err
			}
		}
		all.Known[name], all.Current = k, name
		return all.save()
	}
	voters, err := a.joinAsUser(ctx, all.folder(name), args[1])
	if err != nil {
		return err
	}
	all.Known[name], all.Current = place{Voters: voters}, name
	return all.save()
}

// joinAsUser gets a certificate for a token into a folder.
func (a *app) joinAsUser(ctx context.Context, dir, word string) ([]string, error) {
	token, err := a.readToken(word)
	if err != nil {
		return nil, err
	}
	holder, err := pki.OpenHolder(dir, time.Now)
	if err != nil {
		return nil, err
	}
	key, err := holder.Key()
	if err != nil {
		return nil, err
	}
	request, err := pki.NewRequest(key, nil)
	if err != nil {
		return nil, err
	}
	c, err := api.DialAny(token.Endpoints, pki.Pinned(token.CA, time.Now), api.Options{Timeout: a.opts.requestTimeout})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	got, err := c.Join(ctx, api.JoinRequest{ID: token.ID, Secret: token.Secret, Request: string(request), Clock: time.Now()})
	if err != nil {
		return nil, err
	}
	if got.Role == api.AsHost {
		return nil, errors.New("this token is for a host, not for a person: ask for one with --role operator")
	}
	if err := take(holder, got); err != nil {
		return nil, err
	}
	if len(got.Voters) == 0 {
		got.Voters = token.Endpoints
	}
	return got.Voters, nil
}

// readToken reads a token from a word, or from input when that is "-".
func (a *app) readToken(word string) (pki.Token, error) {
	if word == "-" {
		line, err := bufio.NewReader(io.LimitReader(a.stdin, 8<<10)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return pki.Token{}, fmt.Errorf("read the token: %w", err)
		}
		word = strings.TrimSpace(line)
	}
	return pki.ParseToken(word)
}

func take(holder *pki.Holder, got api.Certificate) error {
	key, err := holder.Key()
	if err != nil {
		return err
	}
	chain, err := pki.ParseCerts([]byte(got.Chain))
	bundle, berr := pki.ParseCerts([]byte(got.Bundle))
	if err := errors.Join(err, berr); err != nil {
		return fmt.Errorf("certificate from the cluster: %w", err)
	}
	return holder.Set(pki.Credential{Key: key, Chain: chain, Bundle: bundle})
}

// chosen is the context to speak to; ok=false: none, the endpoint counts.
func (a *app) chosen() (all *contexts, name string, ok bool, err error) {
	if a.opts.tunnel != "" || a.opts.trust.context == "" && a.endpointGiven() || a.opts.trust.context == local {
		return nil, "", false, nil
	}
	if all, err = openContexts(a.env); err != nil {
		return nil, "", false, err
	}
	name = cmp.Or(a.opts.trust.context, all.Current)
	if name == "" || name == local {
		return all, "", false, nil
	}
	if _, ok := all.Known[name]; !ok {
		return nil, "", false, fmt.Errorf("there is no context %q: fleetctl context list shows them", name)
	}
	return all, name, true, nil
}

func (a *app) endpointGiven() bool {
	return slices.Contains(a.given, "endpoint") || lookup(a.env, "FLEETCTL_ENDPOINT") != ""
}

// dialContext makes the client of a context. One that is kept by files is as if they had been given on the command line.
func (a *app) dialContext(all *contexts, name string, o api.Options) (*api.Client, error) {
	k := all.Known[name]
	if k.Endpoint != "" {
		a.opts.endpoint, a.opts.caFile, a.opts.certFile, a.opts.keyFile = k.Endpoint, k.CAFile, k.CertFile, k.KeyFile
		var err error
		if o.TLS, err = a.tls(); err != nil {
			return nil, err
		}
		return api.Dial(k.Endpoint, o)
	}
	holder, err := pki.OpenHolder(all.folder(name), time.Now)
	if err != nil {
		return nil, err
	}
	leaf := holder.Leaf()
	if leaf == nil {
		return nil, fmt.Errorf("context %s has no certificate: fleetctl context remove %s, and add it again with a new token", name, name)
	}
	if time.Now().After(leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate of context %s ended on %s: ask for a new token (fleetctl join-token create), then: fleetctl context remove %s; fleetctl context add %s TOKEN",
			name, leaf.NotAfter.Local().Format(time.DateTime), name, name)
	}
	a.holder = holder
	return api.DialAny(k.Voters, holder.Client(pki.VoterName), o)
}

// renewContext renews the certificate of the context at two thirds of its life, or at once.
func (a *app) renewContext(ctx context.Context, now bool) error {
	if a.holder == nil || !now && time.Now().Before(pki.RenewAt(a.holder.Leaf())) {
		return nil
	}
	key, err := a.holder.Key()
	if err != nil {
		return err
	}
	request, err := pki.NewRequest(key, nil)
	if err != nil {
		return err
	}
	got, err := a.client.Renew(ctx, request)
	if err != nil {
		return err
	}
	return take(a.holder, got)
}
