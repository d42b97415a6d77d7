package unit

import (
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/near"
)

// Validate checks a unit before it is stored: the name, that [X-Fleet] holds known options only and well-formed values, that
// these can hold together, and that its drop-ins are its own. Errors are *ParseError; put the file's name in with InFile.
func Validate(f *File, name Name) error {
	if _, err := ParseName(string(name)); err != nil {
		return err
	}
	for _, o := range f.Options {
		if err := checkKey(o); err != nil {
			return err
		}
	}
	needs, err := f.Needs(name)
	if err != nil {
		return err
	}
	if _, err := f.Network(name); err != nil {
		return err
	}
	if err := f.checkDropIns(name); err != nil {
		return err
	}
	if err := f.checkExclusive(needs, name); err != nil {
		return err
	}
	return f.checkTogether(needs)
}

// Known returns the options that [X-Fleet] takes, without their legacy names, sorted.
func Known() (names []string) {
	for _, k := range Keywords() {
		names = append(names, k.Name)
	}
	slices.Sort(names)
	return names
}

// modern turns fleet's oldest option names, still found in files, into today's; others come back as they are. As in fleet, a boot ID is
// compared with machine IDs: it fits no machine, which is safer than to fit all.
func modern(key string) string {
	if !strings.HasPrefix(key, "X-") {
		return key
	}
	for _, k := range Keywords() {
		if slices.Contains(k.Older, key) {
			return k.Name
		}
	}
	return key
}

func checkKey(o Option) error {
	if o.Section != FleetSection {
		// systemd skips all sections that start with X-, so nobody else would ever tell.
		if plain := strings.NewReplacer("-", "", "_", "", " ", "").Replace(o.Section); strings.EqualFold(plain, "XFleet") {
			return fault(o.Line, "option "+quote(o.Name)+" is in ["+o.Section+"], which nobody reads", "write ["+FleetSection+"]")
		}
		return nil
	}
	if slices.Contains(Known(), modern(o.Name)) {
		return nil
	}
	hint := "use " + strings.Join(Known(), ", ")
	if meant := near.Word(o.Name, Known(), 2); meant != "" {
		hint = "did you mean " + meant + "?"
	}
	return fault(o.Line, "unknown option "+quote(o.Name)+" in ["+FleetSection+"]", hint)
}

// checkTogether finds options that no machine could fulfil at once, or whose meaning together is not defined. fleet
// has the same rules.
func (f *File) checkTogether(n Needs) error {
	peers, conflicts, replaces := len(n.MachineOf) > 0, len(n.Conflicts) > 0, len(n.Replaces) > 0
	for _, peer := range n.MachineOf {
		for _, g := range n.Conflicts {
			if g.Match(peer) {
				return f.clash("MachineOf", "Conflicts", "MachineOf "+string(peer)+" fits Conflicts "+string(g),
					"a unit cannot be both with another and away from it")
			}
		}
		for _, g := range n.Replaces {
			if g.Match(peer) {
				return f.clash("MachineOf", "Replaces", "MachineOf "+string(peer)+" fits Replaces "+string(g),
					"a unit cannot be both with another and drive it away")
			}
		}
	}
	for _, pair := range []struct {
		both bool
		a, b string
	}{
		{n.MachineID != "" && peers, "MachineID", "MachineOf"},
		{n.MachineID != "" && conflicts, "MachineID", "Conflicts"},
		{n.MachineID != "" && n.Global, "MachineID", "Global"},
		{n.MachineID != "" && replaces, "MachineID", "Replaces"},
		{n.Global && peers, "Global", "MachineOf"},
		{n.Global && replaces, "Global", "Replaces"},
		{conflicts && replaces, "Conflicts", "Replaces"},
	} {
		if pair.both {
			return f.clash(pair.a, pair.b, pair.a+" and "+pair.b+" cannot be used together", "delete one of them")
		}
	}
	return nil
}

// clash points to the last line of the two options, where the trouble came in.
func (f *File) clash(a, b, what, hint string) error {
	line := 0
	for _, o := range f.Section(FleetSection) {
		if key := modern(o.Name); key == a || key == b {
			line = max(line, o.Line)
		}
	}
	return fault(line, what, hint)
}
