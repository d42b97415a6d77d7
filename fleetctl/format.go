package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
)

// legend names a machine for people: the first eight digits of its ID or all, and its address if it is registered.
func legend(machines map[fleet.MachineID]api.Machine, id string, full bool) string {
	name := shortID(id, full)
	if m, ok := machines[fleet.MachineID(id)]; ok && m.PrimaryIP != "" {
		name += "/" + m.PrimaryIP
	}
	return name
}

func shortID(id string, full bool) string {
	if full || len(id) <= 8 {
		return id
	}
	return fleet.MachineID(id).Short() + "..."
}

// shortHash is what people compare: seven digits, or all.
func shortHash(h string, full bool) string {
	if full || len(h) <= 7 {
		return h
	}
	return h[:7]
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// A column makes one field of a row of T.
type column[T any] struct {
	name string
	show func(T) string
}

// table prints rows as fleet does: columns aligned by tabs, headed by the field names in capitals. --fields chooses
// and orders the columns.
func table[T any](a *app, columns []column[T], standard string, rows []T) int {
	fields := standard
	if slices.Contains(a.given, "fields") {
		fields = a.opts.fields
	}
	if fields == "" {
		return a.fail("Must define output format: give --fields columns, such as %s", standard)
	}
	var chosen []column[T]
	for _, f := range strings.Split(fields, ",") {
		i := slices.IndexFunc(columns, func(c column[T]) bool { return c.name == f })
		if i < 0 {
			return a.fail("Invalid key in output format: %q is no column; there are %s", f, columnNames(columns))
		}
		if f == "tmachine" {
			a.warn("WARNING: the column tmachine is called target now")
		}
		chosen = append(chosen, columns[i])
	}
	w := tabwriter.NewWriter(a.out, 0, 8, 1, '\t', 0)
	if !a.opts.noLegend {
		fmt.Fprintln(w, strings.ToUpper(strings.ReplaceAll(fields, ",", "\t")))
	}
	for _, row := range rows {
		for i, c := range chosen {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, orDash(plain(c.show(row))))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // a.out keeps its error
	return exitOK
}

func columnNames[T any](columns []column[T]) string {
	var names []string
	for _, c := range columns {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}

// printJSON prints a list of the API's entities.
func printJSON[T any](a *app, list []T) int {
	if list == nil {
		list = []T{} // a list, also for programs: not null
	}
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(list); err != nil {
		return a.fail("Error writing output: %v", err)
	}
	return exitOK
}

func byID(list []api.Machine) map[fleet.MachineID]api.Machine {
	out := make(map[fleet.MachineID]api.Machine, len(list))
	for _, m := range list {
		out[fleet.MachineID(m.ID)] = m
	}
	return out
}
