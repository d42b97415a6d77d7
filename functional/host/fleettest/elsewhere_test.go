package fleettest

import (
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// etcd_servers: a fleetd that carries no store but uses an etcd elsewhere, here the one of another host. To its users there is no difference, and as with
// fleet any host may change anything.
func TestFleetdUsesAnEtcdElsewhere(t *testing.T) {
	t.Parallel()
	r := bootFiles(t, 2, func(i int) map[string]string {
		conf := usual + "insecure = true\n" // as fleet's etcd was: open to all
		if i == 2 {
			conf += `etcd_servers=["http://h1:2379"]` + "\n"
		}
		files := host.FleetFiles(2, conf)(i)
		delete(files, "/var/lib/fleet/pki/seed.json")
		delete(files, "/etc/credstore/fleet.join-token")
		return files
	})
	h := r.Host(2)
	r.machines(r.Hosts()...)
	h.Must(t, "test", "!", "-e", "/var/lib/fleet/etcd")
	r.write(h, map[string]string{"x-here.service": service(fixed(h)), "x-there.service": service(fixed(r.Host(1))), "x-all.service": service("[X-Fleet]\nGlobal=true\n")})
	r.ctl(h, "start", "x-here.service", "x-there.service", "x-all.service")
	r.onHost("h2", "x-here.service")
	r.onHost("h1", "x-there.service")
	r.everywhere("x-all.service")
	before := r.running(h)
	h.Must(t, "systemctl", "restart", "fleetd.service")
	r.machines(r.Hosts()...)
	r.settled()
	r.same(h, before)
	r.ctl(h, "destroy", "x-here.service", "x-there.service", "x-all.service")
	if at := r.places(); len(at) != 0 {
		t.Errorf("there run %v", at)
	}
}
