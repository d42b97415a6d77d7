package link

import (
	"context"
	"errors"
	"slices"

	"github.com/fleet-init/fleet/internal/network"
)

// fake is a kernel in memory. It holds to the rules the real one has: a device needs its underlay, a route its device, and
// what is on a device goes with it.
type fake struct {
	s     State
	under []string         // devices that are there
	fails map[string]error // steps, by text, that fail
	log   []string         // what was done
}

func newFake() *fake {
	return &fake{s: State{Sysctls: map[string]string{}}, under: []string{"eth0"}, fails: map[string]error{}}
}

func (f *fake) Observe(_ context.Context, a Ask) (State, error) {
	out := State{Sysctls: map[string]string{}, Rules: f.s.Rules, Neighs: slices.Clone(f.s.Neighs), FDB: slices.Clone(f.s.FDB), WG: slices.Clone(f.s.WG), Routes: slices.Clone(f.s.Routes)}
	for _, d := range f.s.Devices {
		if d.Ours || slices.Contains(a.Devices, d.Name) {
			out.Devices = append(out.Devices, d)
		}
	}
	for _, n := range a.Sysctls {
		if v, ok := f.s.Sysctls[n]; ok {
			out.Sysctls[n] = v
		}
	}
	return out, nil
}

var errNoDevice = errors.New("no such device")

func (f *fake) has(dev string) bool {
	return slices.Contains(f.under, dev) || slices.ContainsFunc(f.s.Devices, func(d Device) bool { return d.Name == dev && d.Up })
}

func (f *fake) Do(_ context.Context, steps []Step) []error {
	var errs []error
	for _, s := range steps {
		f.log = append(f.log, s.String())
		err := f.fails[s.String()]
		if err == nil {
			err = f.do(s)
		}
		errs = append(errs, err)
	}
	return errs
}

func (f *fake) do(s Step) error {
	del := s.Verb == "delete"
	switch {
	case s.Device != nil:
		f.s.Devices = slices.DeleteFunc(f.s.Devices, func(d Device) bool { return d.Name == s.Device.Name })
		if del {
			f.dropOn(s.Device.Name)
			return nil
		}
		f.s.Devices = append(f.s.Devices, Device{Device: *s.Device, Ours: true, Up: true})
	case s.Route != nil:
		if !s.Route.Blackhole && !f.has(s.Route.Dev) {
			return errNoDevice
		}
		f.s.Routes = slices.DeleteFunc(f.s.Routes, func(r network.Route) bool { return r.Dst == s.Route.Dst && r.Metric == s.Route.Metric })
		if !del {
			f.s.Routes = append(f.s.Routes, *s.Route)
		}
	case s.Neigh != nil:
		if !f.has(s.Neigh.Dev) {
			return errNoDevice
		}
		f.s.Neighs = slices.DeleteFunc(f.s.Neighs, func(n network.Neigh) bool { return n.Dev == s.Neigh.Dev && n.IP == s.Neigh.IP })
		if !del {
			f.s.Neighs = append(f.s.Neighs, *s.Neigh)
		}
	case s.FDB != nil:
		if !f.has(s.FDB.Dev) {
			return errNoDevice
		}
		f.s.FDB = slices.DeleteFunc(f.s.FDB, func(x network.FDB) bool { return x.Dev == s.FDB.Dev && x.MAC == s.FDB.MAC })
		if !del {
			f.s.FDB = append(f.s.FDB, *s.FDB)
		}
	case s.WG != nil:
		f.s.WG = slices.DeleteFunc(f.s.WG, func(w network.WGPeer) bool { return w.Dev == s.WG.Dev && w.PublicKey == s.WG.PublicKey })
		if !del {
			f.s.WG = append(f.s.WG, *s.WG)
		}
	case s.Sysctl != nil:
		f.s.Sysctls[s.Sysctl.Name] = s.Sysctl.Value
	default:
		f.s.Rules = s.Rules
	}
	return nil
}

// dropOn removes what is on a device, as setting it down or deleting it does.
func (f *fake) dropOn(dev string) {
	f.s.Routes = slices.DeleteFunc(f.s.Routes, func(r network.Route) bool { return r.Dev == dev })
	f.s.Neighs = slices.DeleteFunc(f.s.Neighs, func(n network.Neigh) bool { return n.Dev == dev })
	f.s.FDB = slices.DeleteFunc(f.s.FDB, func(x network.FDB) bool { return x.Dev == dev })
	f.s.WG = slices.DeleteFunc(f.s.WG, func(w network.WGPeer) bool { return w.Dev == dev })
}
