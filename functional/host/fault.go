package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Freeze stops every process of the host between two instructions, and keeps its network up: it answers pings and
// acknowledges nothing more. It is what a hypervisor's pause or a stuck disk looks like to others.
func (h *Host) Freeze(ctx context.Context) error { return h.setFrozen(ctx, "1") }

// Thaw lets a frozen host go on. It does not know that time has passed.
func (h *Host) Thaw(ctx context.Context) error { return h.setFrozen(ctx, "0") }

func (h *Host) setFrozen(ctx context.Context, to string) error {
	group, err := h.group()
	if err != nil {
		return fmt.Errorf("freeze %s: %w", h.Name, ErrOff)
	}
	machine := filepath.Join(group, "machine")
	if err := os.WriteFile(filepath.Join(machine, "cgroup.freeze"), []byte(to), 0); err != nil {
		return fmt.Errorf("freeze %s: %w", h.Name, err)
	}
	return WaitFor(ctx, "the freezer of "+h.Name, func(context.Context) error {
		text, err := os.ReadFile(filepath.Join(machine, "cgroup.events"))
		if err == nil && !strings.Contains(string(text), "frozen "+to) {
			err = errors.New("not yet")
		}
		return err
	})
}

// Signal sends a signal, such as STOP, CONT or KILL, to the main process of a unit.
func (h *Host) Signal(ctx context.Context, unit, signal string) error {
	_, err := h.Run(ctx, "systemctl", "kill", "--kill-whom=main", "--signal=SIG"+signal, unit)
	return err
}

// MainPID returns a unit's main process by its ID out here, for a look into its /proc. It is 0 if the unit has none.
func (h *Host) MainPID(ctx context.Context, unit string) (int, error) {
	out, err := h.Run(ctx, "systemctl", "show", "--value", "--property=MainPID", unit)
	if err != nil {
		return 0, err
	}
	inside := strings.TrimSpace(out)
	if inside == "0" {
		return 0, nil
	}
	for _, pid := range h.PIDs("") {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(text)) {
			// One ID for each namespace the process is in, the innermost last.
			if f := strings.Fields(line); len(f) > 1 && f[0] == "NSpid:" && f[len(f)-1] == inside {
				return pid, nil
			}
		}
	}
	return 0, fmt.Errorf("%s: the main process %s of %s has just gone", h.Name, inside, unit)
}

// PIDs returns the host's processes of a name (the first 15 bytes of the program's file name), or all for the empty name, by
// their IDs out here.
func (h *Host) PIDs(name string) []int {
	group, err := h.group()
	if err != nil {
		return nil
	}
	var pids []int
	for _, pid := range pidsIn(filepath.Join(group, "machine", "payload")) {
		comm, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
		if name == "" || strings.TrimSpace(string(comm)) == name {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Cut drops every frame between the host and others, both ways; without others, between it and all hosts there are. Interfaces
// stay up, connections hang: this is a broken switch, not a pulled cable. The process that runs the test still gets through.
func (h *Host) Cut(ctx context.Context, others ...*Host) error {
	return h.change(ctx, "add", h.pairs(others, true))
}

// CutTo drops only what the host sends to others, and lets through what they send to it.
func (h *Host) CutTo(ctx context.Context, others ...*Host) error {
	return h.change(ctx, "add", h.pairs(others, false))
}

// Heal undoes Cut and CutTo with the same others; without others, all that concerns this host.
func (h *Host) Heal(ctx context.Context, others ...*Host) error {
	// An element must be there to be deleted: adding it first makes deletion safe to repeat.
	pairs := h.pairs(others, true)
	return errors.Join(h.change(ctx, "add", pairs), h.change(ctx, "delete", pairs))
}

// Unplug pulls the host's cable: it loses its carrier and nobody reaches it, not even the test, except by Run.
func (h *Host) Unplug(ctx context.Context) error {
	_, err := h.cluster.onBridge(ctx, "ip", "link", "set", h.Name, "down")
	return err
}

// Plug puts the cable back in.
func (h *Host) Plug(ctx context.Context) error {
	_, err := h.cluster.onBridge(ctx, "ip", "link", "set", h.Name, "up")
	return err
}

func (h *Host) pairs(others []*Host, both bool) []string {
	if len(others) == 0 {
		others = h.cluster.Hosts()
	}
	var pairs []string
	for _, o := range others {
		if o.Name == h.Name {
			continue
		}
		pairs = append(pairs, h.Name+" . "+o.Name)
		if both {
			pairs = append(pairs, o.Name+" . "+h.Name)
		}
	}
	return pairs
}

func (h *Host) change(ctx context.Context, verb string, pairs []string) error {
	if len(pairs) == 0 {
		return nil
	}
	_, err := h.cluster.onBridge(ctx, "nft", verb, "element", "bridge", "fleet", "cut", "{ "+strings.Join(pairs, ", ")+" }")
	return err
}
