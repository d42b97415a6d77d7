package api

import (
	"iter"
	"maps"
	"slices"

	"github.com/fleet-init/fleet/internal/unit"
)

// File makes a file of a unit's options and drop-ins, and tells whose drop-ins it speaks for. Errors are *unit.ParseError.
func (u Unit) File() (f *unit.File, speaksFor []unit.Name, err error) {
	if f, err = unit.FromOptions(u.Options); err != nil {
		return nil, nil, err
	}
	var all []unit.DropIn
	for _, of := range slices.Sorted(maps.Keys(u.DropIns)) {
		speaksFor = append(speaksFor, of)
		for _, name := range slices.Sorted(maps.Keys(u.DropIns[of])) {
			d, err := unit.DropInOf(of, name, u.DropIns[of][name])
			if err != nil {
				return nil, nil, unit.InFile(unit.DropIn{Of: of, Name: name}.Path(), err)
			}
			all = append(all, d)
		}
	}
	return f.With(all), speaksFor, nil
}

// SetFile puts a text into a unit: its options, and the drop-ins of the units it speaks for.
func (u *Unit) SetFile(f *unit.File, speaksFor ...unit.Name) {
	u.Options, u.DropIns = f.Options, nil
	for _, of := range speaksFor {
		if u.DropIns == nil {
			u.DropIns = map[unit.Name]map[string][]unit.Option{}
		}
		folder := map[string][]unit.Option{}
		for _, d := range f.From(of) {
			folder[d.Name] = slices.Clone(d.Options)
			if folder[d.Name] == nil {
				folder[d.Name] = []unit.Option{} // an empty one is there, and is no null
			}
		}
		u.DropIns[of] = folder
	}
}

// all are the options of a unit's text and of its drop-ins.
func (u Unit) all() iter.Seq[unit.Option] {
	return func(yield func(unit.Option) bool) {
		lists := [][]unit.Option{u.Options}
		for _, folder := range u.DropIns {
			lists = slices.AppendSeq(lists, maps.Values(folder))
		}
		for _, list := range lists {
			for _, o := range list {
				if !yield(o) {
					return
				}
			}
		}
	}
}
