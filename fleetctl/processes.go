package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// processes prints what runs of a unit on a machine, as systemctl status does. Who may not know it, or asks an older fleetd, sees the rest.
func (a *app) processes(ctx context.Context, name, machine string) {
	p, err := a.client.Processes(ctx, unit.Name(name), machine)
	if refusal := (*api.Error)(nil); errors.As(err, &refusal) && refusal.Code != http.StatusBadGateway {
		return
	}
	if err != nil {
		a.printf("  Processes: not known: %v\n", err)
		return
	}
	a.printf("%s", processTree(p))
}

// mostProcesses are listed; a build server's slice may have thousands.
const mostProcesses = 50

func processTree(p fleet.Processes) string {
	var b strings.Builder
	if p.MainPID != 0 {
		fmt.Fprintf(&b, "   Main PID: %d\n", p.MainPID)
	}
	if p.Tasks != 0 {
		fmt.Fprintf(&b, "      Tasks: %d\n", p.Tasks)
	}
	if p.Memory != 0 {
		fmt.Fprintf(&b, "     Memory: %s\n", api.Size(p.Memory))
	}
	if p.CPU != 0 {
		fmt.Fprintf(&b, "        CPU: %s\n", p.CPU.Round(time.Millisecond))
	}
	if p.ControlGroup != "" {
		fmt.Fprintf(&b, "     CGroup: %s\n", p.ControlGroup)
	}
	for i, one := range p.List {
		branch := "├─"
		if i == len(p.List)-1 {
			branch = "└─"
		}
		if i == mostProcesses {
			fmt.Fprintf(&b, "             └─and %d more\n", len(p.List)-i)
			break
		}
		fmt.Fprintf(&b, "             %s%d %s\n", branch, one.PID, plain(one.Command))
	}
	return b.String()
}

// plain is a text without what a terminal would obey.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}
