package api

import (
	"fmt"
	"net/http"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Limits of a request's body. A unit's text has a limit of its own, unit.MaxSize.
const (
	maxUnitBody  = 3 << 20  // one unit as JSON: quotes, names and escapes come on top of the text
	maxBatchBody = 64 << 20 // some 60,000 small units
)

// submission checks a unit from the wire and turns it into what the registry takes. The rules are the same for a new unit, a
// replaced one and a batch.
func submission(u Unit) (fleet.Submission, error) {
	name, err := unit.ParseName(u.Name)
	if err != nil {
		return fleet.Submission{}, err
	}
	sub := fleet.Submission{Name: name}
	if u.DesiredState != "" {
		target, err := fleet.ParseTargetState(u.DesiredState)
		if err != nil {
			return sub, err
		}
		if name.IsTemplate() && target != fleet.Inactive {
			return sub, &fleet.InvalidError{
				What: fmt.Sprintf("target state %s of template %s", target, name),
				Hint: "a template only gives its text to instances; start one of them",
			}
		}
		sub.Target = &target
	}
	sub.Was = unit.Hash(u.Was)
	if len(u.Options) > 0 {
		sub.File, sub.SpeaksFor, err = file(name, u)
	} else if len(u.DropIns) > 0 {
		err = &fleet.InvalidError{What: "drop-ins of " + u.Name + " without its options", Hint: "send both: they are one text"}
	}
	return sub, err
}

// file makes a unit file of options, which come from anyone and end in a file that a host's systemd reads; and the units whose drop-ins it
// speaks for.
func file(name unit.Name, u Unit) (f *unit.File, speaksFor []unit.Name, err error) {
	size := 0
	for o := range u.all() {
		size += len(o.Section) + len(o.Name) + len(o.Value)
	}
	if size > unit.MaxSize {
		return nil, nil, refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf(
			"%s has more than %d MiB of text: keep data in files of its own and name them in the unit", name, unit.MaxSize>>20))
	}
	f, speaksFor, err = u.File()
	if err == nil {
		err = unit.Validate(f, name)
	}
	if err != nil {
		return nil, nil, unit.InFile(string(name), err)
	}
	return f, speaksFor, nil
}
