package systemd

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Processes asks what runs of a unit and what that costs. A unit without processes, or none that systemd knows, has none.
func (s *Systemd) Processes(ctx context.Context, n unit.Name) (fleet.Processes, error) {
	var p fleet.Processes
	c, err := s.connected()
	if err != nil {
		return p, err
	}
	// GetUnitProcesses is what systemctl status asks: control group, PID, command line.
	var rows []struct {
		Group   string
		PID     uint32
		Command string
	}
	err = c.call(ctx, "GetUnitProcesses", []any{&rows}, string(n))
	if errorName(err) == busName+".NoSuchUnit" {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("ask systemd for the processes of %s: %w", n, err)
	}
	for _, r := range rows {
		p.List = append(p.List, fleet.Process{PID: r.PID, Command: strings.ToValidUTF8(r.Command, "\uFFFD")})
	}
	slices.SortFunc(p.List, func(a, b fleet.Process) int { return cmp.Compare(a.PID, b.PID) })
	iface := resultIface(n)
	if n.Type() == "slice" {
		iface = busName + ".Slice"
	}
	if iface == "" {
		return p, nil
	}
	var all map[string]dbus.Variant
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = c.bus.Object(busName, objectOf(n)).CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll", 0, iface).Store(&all)
	if err != nil {
		return p, fmt.Errorf("ask systemd what %s costs: %w", n, err)
	}
	p.MainPID, _ = all["MainPID"].Value().(uint32)
	p.ControlGroup, _ = all["ControlGroup"].Value().(string)
	p.Tasks, p.Memory = counted(all["TasksCurrent"]), counted(all["MemoryCurrent"])
	p.CPU = time.Duration(min(counted(all["CPUUsageNSec"]), math.MaxInt64))
	return p, nil
}

// counted reads a number; systemd writes the largest there is for one that it does not know.
func counted(v dbus.Variant) uint64 {
	n, _ := v.Value().(uint64)
	if n == math.MaxUint64 {
		return 0
	}
	return n
}
