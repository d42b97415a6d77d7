package agent

import (
	"strings"

	"github.com/fleet-init/fleet/internal/unit"
)

// printed cuts a text as the registry has it into the unit's file and what stands behind it, its drop-ins.
func printed(f *unit.File) (main, beside string) {
	main = f.Main().String()
	return main, strings.TrimPrefix(f.String(), main)
}

// onDisk is what a text makes of a unit. A text whose network cannot be read is never written, see write: it has none here.
func onDisk(n unit.Name, f *unit.File) OnDisk {
	net, err := f.Network(n)
	_, beside := printed(f)
	return OnDisk{Install: f.HasInstall(), Overlay: err == nil && net.Overlay, Beside: beside}.fencing(n, f)
}

// userDropIn begins the file names of users' drop-ins, behind the adapter's own word. Names that begin alike sort as they do without it; and
// none is that of an addition of fleet's.
const userDropIn = "fleet-unit-"

// dropIns are the files that systemd shall read beside a unit's: the user's and fleet's own. token is where its fencing token is.
func (d OnDisk) dropIns(token string) map[string]string {
	if d.Beside == "" && !d.Overlay && !d.bound() {
		return nil
	}
	files := map[string]string{}
	if f, err := unit.ParseStored([]byte(d.Beside)); err == nil { // else the hash is of no known text, and all is written again
		for _, in := range f.Effective() {
			files[userDropIn+in.Name] = "# " + in.Path() + ", by fleetd\n" + in.File().String()
		}
	}
	if d.bound() {
		files["fleet-zz-guard.conf"] = d.guardDropIn(token) // the last: its time-outs count
	}
	if d.Overlay {
		files["fleet-network.conf"] = overlayDropIn
	}
	return files
}
