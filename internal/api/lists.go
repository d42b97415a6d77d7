package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// listed is the view that the first page of a list was cut from. Later pages are cut from it too while it is fresh, so
// that a list of fleet v1 is read once rather than once per page, and its pages agree with each other.
type listed struct {
	view *view
	at   time.Time
}

// pagesFor is how long the pages after the first come from the same view. An old fleetctl reads its pages within
// milliseconds of each other.
const pagesFor = 5 * time.Second

func (h *handler) read(ctx context.Context) (*view, error) {
	s, err := h.Registry.Snapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the registry: %w", err)
	}
	return newView(s), nil
}

// readOf is read for an answer that is about some units only.
func (h *handler) readOf(ctx context.Context, names ...unit.Name) (*view, error) {
	if h.SnapshotOf == nil {
		return h.read(ctx)
	}
	s, err := h.SnapshotOf(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("read the registry: %w", err)
	}
	return newView(s), nil
}

// readPage returns the view for a page: a new one for the first page, the kept one for those after it.
func (h *handler) readPage(ctx context.Context, page uint16) (*view, error) {
	h.mu.Lock()
	last := h.last
	h.mu.Unlock()
	if page > 1 && last.view != nil && time.Since(last.at) < pagesFor {
		return last.view, nil
	}
	return h.read(ctx)
}

// keep remembers the view of a list that has more pages to come.
func (h *handler) keep(v *view) {
	h.mu.Lock()
	h.last = listed{v, time.Now()}
	h.mu.Unlock()
}

// whole reports whether the client asked for the list in one page with the additive fields.
func whole(r *http.Request) bool { return r.URL.Query().Get("view") == "whole" }

// listUnits answers with a page of fleet v1, or with view=whole with all units without their texts; with view=text with those that are
// named, all of each.
func (h *handler) listUnits(w http.ResponseWriter, r *http.Request, _ string) error {
	if r.URL.Query().Get("view") == "text" {
		return h.texts(w, r)
	}
	return h.list(w, r, func(ctx context.Context, v *view, n uint16, p *page) (err error) {
		if n == 0 {
			p.Units, p.Machines = v.units(), v.machines()
			return nil
		}
		p.Units, p.NextPageToken = cut(v.units(), n, h.TokenLimit)
		if err = h.addTexts(ctx, p.Units); err != nil {
			return err
		}
		for i := range p.Units {
			p.Units[i] = trimUnit(p.Units[i])
		}
		return nil
	})
}

func (h *handler) texts(w http.ResponseWriter, r *http.Request) error {
	names := unitNames(r.URL.Query()["unit"])
	v, err := h.readOf(r.Context(), names...)
	if err != nil {
		return err
	}
	var p page
	for _, name := range names {
		if u, ok := v.unit(name); ok {
			p.Units = append(p.Units, u)
		}
	}
	if err := h.addTexts(r.Context(), p.Units); err != nil {
		return err
	}
	reply(w, http.StatusOK, p)
	return nil
}

func (h *handler) listStates(w http.ResponseWriter, r *http.Request, _ string) error {
	q := r.URL.Query()
	machine, name := fleet.MachineID(q.Get("machineID")), unit.Name(q.Get("unitName"))
	var of []unit.Name
	if name != "" {
		of = append(of, name)
	}
	return h.list(w, r, func(_ context.Context, v *view, n uint16, p *page) error {
		if n == 0 {
			p.States, p.Machines = v.states(machine, name), v.machines()
			return nil
		}
		p.States, p.NextPageToken = cut(v1States(v.states(machine, name)), n, h.TokenLimit)
		return nil
	}, of...)
}

func (h *handler) listMachines(w http.ResponseWriter, r *http.Request, _ string) error {
	return h.list(w, r, func(_ context.Context, v *view, n uint16, p *page) error {
		if n == 0 {
			p.Machines = v.machines()
			return nil
		}
		p.Machines, p.NextPageToken = cut(v.machines(), n, h.TokenLimit)
		for i := range p.Machines {
			p.Machines[i] = trimMachine(p.Machines[i])
		}
		return nil
	})
}

// list answers with one page that fill makes: number n of fleet v1's pages, or with n = 0 everything; of some units, if any are named.
func (h *handler) list(w http.ResponseWriter, r *http.Request, fill func(ctx context.Context, v *view, n uint16, p *page) error, of ...unit.Name) error {
	var n uint16
	var v *view
	var err error
	if !whole(r) {
		if n, err = pageOf(r.URL.Query(), h.TokenLimit); err != nil {
			return err
		}
	}
	switch {
	case len(of) > 0:
		v, err = h.readOf(r.Context(), of...)
	case n == 0:
		v, err = h.read(r.Context())
	default:
		v, err = h.readPage(r.Context(), n)
	}
	if err != nil {
		return err
	}
	var p page
	if err := fill(r.Context(), v, n, &p); err != nil {
		return err
	}
	if n == 1 && p.NextPageToken != "" && len(of) == 0 {
		h.keep(v)
	}
	reply(w, http.StatusOK, p)
	return nil
}

// addTexts adds the texts of units: options and drop-ins.
func (h *handler) addTexts(ctx context.Context, units []Unit) error {
	hashes := make([]unit.Hash, len(units))
	for i, u := range units {
		hashes[i] = unit.Hash(u.Hash)
	}
	files, err := h.Registry.Files(ctx, hashes...)
	if err != nil {
		return fmt.Errorf("read unit texts: %w", err)
	}
	for i := range units {
		u := &units[i]
		// A text missing here was collected since the snapshot: the unit has just been replaced or destroyed.
		if f := files[unit.Hash(u.Hash)]; f != nil {
			var with []unit.Name // folders that have any
			for _, n := range unit.Folders(unit.Name(u.Name)) {
				if len(f.From(n)) > 0 {
					with = append(with, n)
				}
			}
			u.SetFile(f, with...)
		}
	}
	return nil
}

// v1States leaves out the rows that only carry an agent's reason: fleet published no state without a hash.
func v1States(states []UnitState) []UnitState {
	list := states[:0]
	for _, s := range states {
		if s.Hash != "" && s.SystemdLoadState != "" {
			list = append(list, trimState(s))
		}
	}
	return list
}
