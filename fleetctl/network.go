package main

import (
	"context"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
)

// widestMatrix is how many machines still fit beside each other on a terminal.
const widestMatrix = 12

// networkCommand shows each machine's part of the overlay and how the machines reach each other. It exits with 1 when one does not.
func networkCommand(ctx context.Context, a *app, _ []string) int {
	hosts, err := a.client.Network(ctx)
	if err != nil {
		return a.refused("Error asking for the network", err)
	}
	code := exitOK
	for _, h := range hosts {
		if h.Trouble != "" || h.Reached < h.Known {
			code = exitFailed
		}
	}
	if a.opts.json {
		return max(code, printJSON(a, hosts))
	}
	full := a.opts.full
	shown := table(a, []column[fleet.HostNetwork]{
		{"machine", func(h fleet.HostNetwork) string { return shortID(string(h.Machine), full) }},
		{"ip", func(h fleet.HostNetwork) string { return h.IP }},
		{"subnet", func(h fleet.HostNetwork) string { return h.Subnet }},
		{"backend", func(h fleet.HostNetwork) string { return h.Backend }},
		{"why", func(h fleet.HostNetwork) string { return h.Why }},
		{"iface", func(h fleet.HostNetwork) string { return h.Iface }},
		{"mtu", func(h fleet.HostNetwork) string { return orNothing(h.MTU) }},
		{"reaches", func(h fleet.HostNetwork) string {
			if h.Subnet == "" {
				return ""
			}
			return strconv.Itoa(h.Reached) + "/" + strconv.Itoa(h.Known)
		}},
		{"slowest", func(h fleet.HostNetwork) string { return roundTrip(h.Slowest) }},
		{"state", func(h fleet.HostNetwork) string {
			switch {
			case h.Trouble != "":
				return h.Trouble
			case h.Reached < h.Known:
				return strconv.Itoa(h.Known-h.Reached) + " not reached"
			}
			return "ok"
		}},
	}, "machine,ip,subnet,backend,mtu,reaches,slowest,state", hosts)
	if shown != exitOK || a.opts.fields != "" {
		return max(shown, code)
	}
	if len(hosts) <= widestMatrix {
		matrix(a, hosts)
	}
	troubles(a, hosts)
	return code
}

func orNothing(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func roundTrip(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.Round(time.Microsecond).String()
}

// matrix shows the round trip from each machine, by row, to each other.
func matrix(a *app, hosts []fleet.HostNetwork) {
	if len(hosts) < 2 {
		return
	}
	fmt.Fprintln(a.out)
	w := tabwriter.NewWriter(a.out, 0, 8, 1, '\t', 0)
	if !a.opts.noLegend {
		fmt.Fprint(w, "FROM")
		for _, to := range hosts {
			fmt.Fprint(w, "\t", shortID(string(to.Machine), a.opts.full))
		}
		fmt.Fprintln(w)
	}
	for _, from := range hosts {
		way := map[fleet.MachineID]fleet.NetworkPeer{}
		for _, p := range from.Peers {
			way[p.Machine] = p
		}
		fmt.Fprint(w, shortID(string(from.Machine), a.opts.full))
		for _, to := range hosts {
			cell := "?" // nothing is known of it: one of the two has no lease, or could not be asked
			p, known := way[to.Machine]
			switch {
			case to.Machine == from.Machine:
				cell = "-"
			case known && p.Trouble != "":
				cell = "no"
			case known:
				cell = roundTrip(p.RTT)
			}
			fmt.Fprint(w, "\t", cell)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // a.out keeps its error
}

// troubles says of each way that does not work why.
func troubles(a *app, hosts []fleet.HostNetwork) {
	head := "\n"
	for _, h := range hosts {
		for _, p := range h.Peers {
			if p.Trouble == "" {
				continue
			}
			to := p.PublicIP
			if p.Machine != "" {
				to = shortID(string(p.Machine), a.opts.full) + "/" + to
			}
			a.printf("%s%s to %s (%s): %s\n", head, shortID(string(h.Machine), a.opts.full), to, p.Subnet, p.Trouble)
			head = ""
		}
	}
}
