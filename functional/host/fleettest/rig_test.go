// Package fleettest holds the promises that fleet makes to its users against real hosts: systemd as process 1, the embedded etcd and the kernel's
// network. Each file is one kind of promise. It holds nothing but tests; package host boots the hosts and breaks them.
package fleettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/api"
)

// usual is the configuration of most tests: a machine is gone after this long, which is short for a test and long beside a busy
// processor's hiccups.
const usual = "agent_ttl = 4s\n"

// rig is a cluster of hosts with fleetd, and the test that looks at it.
type rig struct {
	*host.Cluster
	t   *testing.T
	ctx context.Context
}

// boot starts n hosts as one cluster and returns when all are in the list of machines and the cluster survives the loss of one.
func boot(t *testing.T, n int, conf string) *rig {
	t.Helper()
	return bootFiles(t, n, host.FleetFiles(n, conf)).formed()
}

// bootFiles starts n hosts with these files, and does not wait for fleetd.
func bootFiles(t *testing.T, n int, files func(i int) map[string]string) *rig {
	t.Helper()
	c := host.ForTest(t, host.Options{Hosts: n, Files: files})
	return &rig{Cluster: c, t: t, ctx: host.Context(t)}
}

// formed waits until all hosts are in the list of machines, and as many vote as the store wants to.
func (r *rig) formed() *rig {
	r.t.Helper()
	r.machines(r.Hosts()...)
	want := 1
	if len(r.Hosts()) >= 3 {
		want = 3
	}
	r.wait(fmt.Sprintf("%d voters", want), func() error {
		n, err := r.voters()
		return orElse(err, need(n == want, fmt.Sprintf("%d vote", n)))
	})
	return r
}

// sub runs a part of the story as a subtest. After one that failed the rest would only say so again.
func (r *rig) sub(name string, f func(r *rig)) {
	r.t.Helper()
	ok := r.t.Run(name, func(t *testing.T) { f(&rig{Cluster: r.Cluster, t: t, ctx: host.Context(t)}) })
	if !ok {
		r.t.FailNow()
	}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// wait waits until check finds nothing to object to. A failed test's journals show what went on meanwhile.
func (r *rig) wait(what string, check func() error) {
	r.t.Helper()
	r.must(host.WaitFor(r.ctx, what, func(context.Context) error { return check() }))
}

// machines waits until exactly these hosts are in the list, as each of them sees it.
func (r *rig) machines(hosts ...*host.Host) {
	r.t.Helper()
	var want []string
	for _, h := range hosts {
		want = append(want, h.Name)
	}
	slices.Sort(want)
	for _, h := range hosts {
		r.wait(fmt.Sprintf("%s to list %v", h.Name, want), func() error {
			list, err := r.api(h).Machines(r.ctx)
			var got []string
			for _, m := range list {
				got = append(got, m.Name)
			}
			slices.Sort(got)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("it lists %v", got)
			}
			return err
		})
	}
}

// api is a client of the host's fleetd. It dials the host's socket from out here.
func (r *rig) api(h *host.Host) *api.Client {
	r.t.Helper()
	path, err := h.Path("/run/fleet.sock")
	r.must(err)
	c, err := api.Dial("unix://"+path, api.Options{})
	r.must(err)
	r.t.Cleanup(c.Close)
	return c
}

// ctl runs fleetctl on a host, in the folder where write puts units, and fails the test if it fails.
func (r *rig) ctl(h *host.Host, args ...string) string {
	r.t.Helper()
	out, text, code := r.tryCtl(h, args...)
	if code != 0 {
		r.t.Fatalf("%s: fleetctl %s: exit code %d\n%s%s", h.Name, strings.Join(args, " "), code, out, text)
	}
	return strings.TrimSpace(out)
}

// tryCtl runs fleetctl and returns what it wrote to stdout and stderr, and its exit code.
func (r *rig) tryCtl(h *host.Host, args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	return r.try(h, "fleetctl", args...)
}

// try runs a program on a host, in the folder where write puts units.
func (r *rig) try(h *host.Host, program string, args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	line := "mkdir -p /root/units && cd /root/units && exec \"$@\""
	cmd, err := h.Command(r.ctx, "sh", append([]string{"-c", line, "sh", program}, args...)...)
	r.must(err)
	var out, text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &text
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out.String(), text.String(), exit.ExitCode()
	}
	r.must(err)
	return out.String(), text.String(), 0
}

// refused runs fleetctl, which must fail with this exit code and say all of these words.
func (r *rig) refused(h *host.Host, code int, words []string, args ...string) {
	r.t.Helper()
	out, text, got := r.tryCtl(h, args...)
	all := out + text
	if got != code {
		r.t.Errorf("fleetctl %s: exit code %d, want %d: %s", strings.Join(args, " "), got, code, all)
	}
	for _, w := range words {
		if !strings.Contains(all, w) {
			r.t.Errorf("fleetctl %s does not say %q: %s", strings.Join(args, " "), w, all)
		}
	}
}

// write puts unit files where ctl finds them.
func (r *rig) write(h *host.Host, units map[string]string) {
	r.t.Helper()
	files := map[string]string{}
	for name, text := range units {
		files["/root/units/"+name] = text
	}
	r.must(h.WriteFiles(r.ctx, files))
}

// service is a unit that runs until it is stopped. more is lines of its [Service] section and sections after it.
func service(more string) string {
	return "[Service]\nExecStart=/bin/sleep infinity\n" + more
}

// fixed is a section that ties a unit to one host.
func fixed(h *host.Host) string { return "[X-Fleet]\nMachineID=" + h.MachineID + "\n" }

// running are the fleet units of a host that are active, with systemd's word for this run of each. It changes with every start.
func (r *rig) running(h *host.Host) map[string]string {
	r.t.Helper()
	out, err := h.Sh(r.ctx, `cd /run/fleet/units 2>/dev/null && set -- * && [ -e "$1" ] || exit 0
		systemctl show --property=Id,ActiveState,InvocationID -- "$@"`)
	r.must(err)
	found := map[string]string{}
	for block := range strings.SplitSeq(out, "\n\n") {
		p := map[string]string{}
		for line := range strings.Lines(block) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			p[k] = v
		}
		if p["ActiveState"] == "active" {
			found[p["Id"]] = p["InvocationID"]
		}
	}
	return found
}

// places tells for each unit that is active anywhere on which hosts it is.
func (r *rig) places() map[string][]*host.Host {
	r.t.Helper()
	at := map[string][]*host.Host{}
	for _, h := range r.Hosts() {
		if h.On() {
			for n := range r.running(h) {
				at[n] = append(at[n], h)
			}
		}
	}
	return at
}

// once waits until each of these units is active on exactly one host, and returns where.
func (r *rig) once(units ...string) map[string]*host.Host {
	r.t.Helper()
	found := map[string]*host.Host{}
	r.wait(fmt.Sprintf("%d units to run once each", len(units)), func() error {
		at := r.places()
		for _, u := range units {
			if len(at[u]) != 1 {
				return fmt.Errorf("%s runs on %v", u, hostNames(at[u]))
			}
			found[u] = at[u][0]
		}
		return nil
	})
	return found
}

// same fails the test if units that were running are not running as they were.
func (r *rig) same(h *host.Host, before map[string]string) {
	r.t.Helper()
	now := r.running(h)
	for _, u := range slices.Sorted(maps.Keys(before)) {
		if now[u] != before[u] {
			r.t.Errorf("%s on %s was run %q, is now %q", u, h.Name, before[u], now[u])
		}
	}
}

func hostNames(hosts []*host.Host) (names []string) {
	for _, h := range hosts {
		names = append(names, h.Name)
	}
	return names
}

// others are all hosts but these.
func (r *rig) others(not ...*host.Host) (rest []*host.Host) {
	for _, h := range r.Hosts() {
		if !slices.ContainsFunc(not, func(n *host.Host) bool { return n.Name == h.Name }) {
			rest = append(rest, h)
		}
	}
	return rest
}

// answer is what a unit's web server on a host says.
func (r *rig) answer(h *host.Host, port int) (string, error) {
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/", h.Name, port), nil)
	if err != nil {
		return "", err
	}
	resp, err := r.HTTP().Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(page)), err
}

// leader is the host whose engine leads.
func (r *rig) leader() *host.Host {
	r.t.Helper()
	var found *host.Host
	r.wait("a leader", func() error {
		term, err := r.term()
		if err != nil {
			return err
		}
		for _, h := range r.Hosts() {
			if h.MachineID == string(term) {
				found = h
				return nil
			}
		}
		return fmt.Errorf("it is %q", term)
	})
	return found
}

// journalSays waits until a unit's journal on a host holds all of these words.
func (r *rig) journalSays(h *host.Host, unit string, words ...string) {
	r.t.Helper()
	r.wait(fmt.Sprintf("the journal of %s on %s to say %q", unit, h.Name, words), func() error {
		text, err := h.Journal(r.ctx, unit)
		for _, w := range words {
			if err == nil && !strings.Contains(text, w) {
				err = fmt.Errorf("it does not say %q", w)
			}
		}
		return err
	})
}

// property reads one property of a unit from the host's systemd.
func (r *rig) property(h *host.Host, unit, name string) string {
	r.t.Helper()
	out, err := h.Run(r.ctx, "systemctl", "show", "--value", "--property="+name, unit)
	r.must(err)
	return strings.TrimSpace(out)
}
