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
	if len(u.Options) > 0 {
		sub.File, err = file(name, u.Options)
	}
	return sub, err
}

// file makes a unit file of options, which come from anyone and end in a file that a host's systemd reads.
func file(name unit.Name, options []unit.Option) (*unit.File, error) {
	size := 0
	for _, o := range options {
		size += len(o.Section) + len(o.Name) + len(o.Value)
	}
	if size > unit.MaxSize {
		return nil, refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf(
			"%s has more than %d MiB of text: keep data in files of its own and name them in the unit", name, unit.MaxSize>>20))
	}
	f, err := unit.FromOptions(options)
	if err == nil {
		err = unit.Validate(f, name)
	}
	if err != nil {
		return nil, unit.InFile(string(name), err)
	}
	return f, nil
}
