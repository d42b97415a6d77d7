package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/update-engine/update"
)

// gate waits until all is well for a while, or gives up. Whether the cluster can be reached is part of being well; when that alone
// is missing, and it is the cluster that is away and not this host, it is an outage and not held against the release.
func (h *host) gate(ctx context.Context) update.Fact {
	begin := h.now()
	var since time.Time // all is well since
	last := ""
	for {
		outage, err := h.healthy(ctx)
		now := h.now()
		switch {
		case ctx.Err() != nil:
			return update.Fact{}
		case err == nil && since.IsZero():
			since = now
		case err != nil:
			since = time.Time{}
		}
		if err == nil && now.Sub(since) >= h.cfg.GateTime {
			return update.Fact{Kind: update.GatePassed}
		}
		if err != nil && now.Sub(begin) >= h.cfg.GateTimeout {
			return update.Fact{Kind: update.GateFailed, Why: err.Error(), Outage: outage}
		}
		if err != nil && err.Error() != last {
			last = err.Error()
			h.log.Info("not healthy yet", "reason", last)
		}
		t := time.NewTimer(max(min(h.cfg.GateTime/10, 5*time.Second), 10*time.Millisecond))
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// healthy runs every check once. The host's own checks come first: what is wrong here is wrong whatever the cluster does.
func (h *host) healthy(ctx context.Context) (outage bool, err error) {
	if err := h.healthPrograms(ctx); err != nil {
		return false, err
	}
	b := h.before()
	if h.permits != nil {
		if err := h.permits.Reach(ctx); err != nil {
			if errors.Is(err, errNotJoined) {
				return false, err
			}
			return h.permits.Outage(ctx, b.Peers), err
		}
	}
	return false, h.unitsHealthy(ctx, b.Units)
}

// healthPrograms runs what the host's owner put into health_dir, in the order of the names.
func (h *host) healthPrograms(ctx context.Context) error {
	names, err := os.ReadDir(h.cfg.HealthDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, n := range names {
		p := filepath.Join(h.cfg.HealthDir, n.Name())
		info, err := os.Stat(p)
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 || strings.HasPrefix(n.Name(), ".") {
			continue // as run-parts does
		}
		argv := append(strings.Fields(h.cfg.HealthCommand), p)
		cctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		cmd := exec.CommandContext(cctx, argv[0], argv[1:]...)
		cmd.WaitDelay = time.Second // what it left behind may hold its output open
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			return said(fmt.Errorf("health check %s: %w", n.Name(), err), out)
		}
	}
	return nil
}

// said adds the last line that a program printed to its failure.
func said(err error, out []byte) error {
	text := strings.TrimSpace(string(out))
	if text = text[strings.LastIndex(text, "\n")+1:]; text == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, text)
}

// before is what this host looked like when it last left for a reboot: what must be so again.
type before struct {
	Units []string `json:"units"` // services that ran
	Peers []string `json:"peers"` // client URLs of the store's other members
}

func (h *host) beforeFile() string { return filepath.Join(h.cfg.StateDir, "before.json") }

// before reads it. Without one (the first boot of all) nothing is asked.
func (h *host) before() before {
	var b before
	text, err := os.ReadFile(h.beforeFile())
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.log.Warn("what ran before is not known", "err", err)
	}
	return b
}

// remember writes down what runs now that the units that can move have left: exactly that must run after the reboot too.
func (h *host) remember(ctx context.Context) {
	var b before
	var err error
	if b.Units, err = h.runningServices(ctx); err != nil {
		h.log.Warn("which services run is not known: the gate will not ask for them", "err", err)
	}
	if h.permits != nil {
		if b.Peers, err = h.permits.Peers(ctx); err != nil {
			h.log.Warn("the store's members are not known", "err", err)
		}
	}
	text, err := json.Marshal(b)
	if err == nil {
		err = replace(h.beforeFile(), text)
	}
	if err != nil {
		h.log.Error("write down what runs", "err", err)
	}
}

// runningServices are the services that a boot of this host starts by itself and that run: those that are enabled, fleet's own units that
// could not move, and the ones that the gate always asks for.
func (h *host) runningServices(ctx context.Context) ([]string, error) {
	if !h.hasSystemd() {
		return nil, nil
	}
	out, err := h.systemctl(ctx, "show", "--property="+unitProperties, "--type=service", "*.service")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range blocks(out) {
		enabled := slices.Contains([]string{"enabled", "enabled-runtime", "linked", "linked-runtime"}, p["UnitFileState"])
		if p["ActiveState"] == "active" && p["SubState"] == "running" && (enabled || slices.Contains(h.cfg.GateUnits, p["Id"])) {
			names = append(names, p["Id"])
		}
	}
	slices.Sort(names)
	return names, nil
}

const unitProperties = "Id,LoadState,ActiveState,SubState,UnitFileState,Job,Result"

// hasSystemd says whether systemd runs this host: it makes this folder first of all.
func (h *host) hasSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return h.ctl != nil || err == nil
}

// systemctl asks systemd; no such program is an error like any other.
func (h *host) systemctl(ctx context.Context, args ...string) (string, error) {
	if h.ctl != nil {
		return h.ctl(ctx, args...)
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", args...).Output()
	if err != nil {
		return "", fmt.Errorf("systemctl %s: %w", args[0], err)
	}
	return string(out), nil
}

// blocks reads what systemctl show prints: a block of key=value lines per unit.
func blocks(out string) []map[string]string {
	var all []map[string]string
	for block := range strings.SplitSeq(strings.TrimSpace(out), "\n\n") {
		p := map[string]string{}
		for line := range strings.Lines(block) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			p[k] = v
		}
		if p["Id"] != "" {
			all = append(all, p)
		}
	}
	return all
}

// unitsHealthy says which unit is not as it should be: one that ran before, one that this host boots and the gate always asks for, one
// that boot-complete.target requires.
func (h *host) unitsHealthy(ctx context.Context, ran []string) error {
	if len(h.cfg.GateUnits) == 0 && len(ran) == 0 || !h.hasSystemd() {
		return nil
	}
	required, err := h.systemctl(ctx, "show", "--property=Requires", "--value", "boot-complete.target")
	if err != nil {
		return err
	}
	var more []string
	for n := range strings.FieldsSeq(required) {
		if n != gateUnit {
			more = append(more, n)
		}
	}
	out, err := h.systemctl(ctx, append([]string{"show", "--property=" + unitProperties}, slices.Concat(h.cfg.GateUnits, ran, more)...)...)
	if err != nil {
		return err
	}
	for _, p := range blocks(out) {
		if why := ill(p, slices.Contains(ran, p["Id"])); why != "" {
			return fmt.Errorf("%s %s", p["Id"], why)
		}
	}
	return nil
}

// gateUnit is our own part of boot-complete.target; waiting for it here would be waiting for ourselves.
const gateUnit = "update-engine-gate.service"

// ill is why a unit is not well, "" when it is. One that is not on this host, or not started by its boot, need not run, unless it ran before.
func ill(p map[string]string, ran bool) string {
	switch {
	case p["LoadState"] == "not-found" || p["LoadState"] == "masked":
		return "" // the new release, or the owner, is without it
	case p["LoadState"] != "loaded":
		return "could not be loaded: " + p["LoadState"]
	case p["ActiveState"] == "active":
		return ""
	case p["ActiveState"] == "failed":
		return "has failed: " + p["Result"]
	case p["ActiveState"] == "inactive" && p["Job"] == "" && !ran:
		return ""
	case p["ActiveState"] == "inactive" && ran:
		return "ran before and does not now"
	}
	return "is still " + p["ActiveState"]
}

// gateCommand is what update-engine-gate.service runs, before boot-complete.target: it ends when this boot is good as far as the release is
// concerned. A proven slot is, and so is one on trial that only waits for the cluster. What ends a boot that never gets there is systemd,
// by the target's job time-out, also when the daemon itself does not come up.
func gateCommand(ctx context.Context, j job) error {
	f, socket := j.flags()
	dir := f.String("state-dir", "/var/lib/update-engine", "state_dir of the daemon")
	root := f.String("root", "/", "root of the file system, for tests")
	if err := j.parse(f, 0, 0); err != nil {
		return err
	}
	if why := unquestioned(*root, *dir); why != "" {
		fmt.Fprintln(j.stdout, why)
		return nil
	}
	for {
		err := follow(ctx, *socket, func(s update.State) bool {
			return s.Phase != "" && (s.Good || s.Phase != update.Trial || s.Outage)
		})
		if err == nil || ctx.Err() != nil {
			return err
		}
		pause.For(ctx, time.Second)
	}
}

// unquestioned is why this boot is good without asking the daemon: a mistake in its configuration must not restart a host whose release
// has long proven itself. "" = ask it.
func unquestioned(root, stateDir string) string {
	words, err := told(root)
	if err != nil {
		return ""
	}
	_, version, err := runningOf(Config{}, words)
	if err != nil {
		return "this host was not booted from a slot"
	}
	b, err := os.ReadFile(filepath.Join(stateDir, "state.json"))
	var s update.State
	if err == nil && json.Unmarshal(b, &s) == nil && s.Running == version && s.Good {
		return version + " has proven itself"
	}
	return ""
}
