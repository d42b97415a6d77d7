package fleettest

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/rollout"
)

// originAddress is where a cluster's mirror is: on its bridge, which every host reaches.
const originAddress = "172.31.80.1:8099"

// origin is a web server with a release directory, which counts how often it sends which piece of which payload.
type origin struct {
	server *http.Server
	mu     sync.Mutex     // guards sent
	sent   map[string]int // "path range" → how often
}

// serveOrigin serves a folder in a cluster's network until the test ends, or close.
func serveOrigin(t *testing.T, c *host.Cluster, dir string) *origin {
	t.Helper()
	o := &origin{sent: map[string]int{}}
	files := http.FileServerFS(os.DirFS(dir))
	o.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if part := r.Header.Get("Range"); part != "" {
			o.mu.Lock()
			o.sent[r.URL.Path+" "+part]++
			o.mu.Unlock()
		}
		files.ServeHTTP(w, r)
	})}
	var l net.Listener
	err := c.InNetwork(func() (err error) {
		l, err = net.Listen("tcp", originAddress)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan error, 1)
	go func() { end <- o.server.Serve(l) }()
	t.Cleanup(func() {
		o.close()
		if err := <-end; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return o
}

func (o *origin) close() { _ = o.server.Close() }

// often is how often the origin has sent the pieces of a release's payloads, and how many pieces there are.
func (o *origin) often(version string) (sent, pieces int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for what, n := range o.sent {
		if strings.Contains(what, "/"+version+"/") {
			pieces++
			sent += n
		}
	}
	return sent, pieces
}

// block lets nobody reboot, until the returned function is called: somebody who never goes has the permit of each group.
func (u *updating) block() (free func()) {
	u.rig.t.Helper()
	path, err := u.Host(2).Path("/run/fleet.sock")
	u.must(err)
	do := func(verb string) {
		u.rig.t.Helper()
		for _, group := range []string{"default", "canary"} {
			u.wait("fleetd to "+verb+" the permit of "+group, func() error {
				var out map[string]any
				err := ask(u.ctx, path, http.MethodPost, "reboot/"+group, map[string]any{"do": verb, "id": "somebody"}, &out)
				if err != nil && verb == "unlock" && strings.Contains(err.Error(), "404") {
					return nil // done by an earlier try whose answer came too late
				}
				return err
			})
		}
	}
	do("lock")
	return func() { do("unlock") }
}

// sharesFrames publishes a release and checks that the hosts get it from each other: all stage it while none may reboot.
func (u *updating) sharesFrames(o *origin, version, base string, files map[string]string) {
	u.rig.t.Helper()
	each := func(what string, check func(rollout.Host) error) {
		u.rig.t.Helper()
		u.wait("all hosts to "+what, func() error {
			all, err := u.reports()
			for _, h := range u.Hosts() {
				if err == nil {
					err = check(all[h.Name])
				}
			}
			return err
		})
	}
	each("hand frames on", func(x rollout.Host) error { return need(x.Peer != "", x.Machine+" does not") })
	u.rig.frames(u.Host(1))
	free := u.block()
	u.publish(version, base, files)
	each("have "+version+" staged", func(x rollout.Host) error {
		return need(x.Phase == "staged" && x.Target == version, fmt.Sprintf("%s is %s: %s", x.Machine, x.Phase, x.Why))
	})
	sent, pieces := o.often(version)
	if sent >= 2*pieces || pieces < 3 {
		u.rig.t.Errorf("of %d pieces the origin sent %d to three hosts: %v", pieces, sent, o.sent)
	}
	for _, name := range []string{`fleet_update_frame_bytes_total{from="peers"} `, "fleet_update_frame_bytes_given_total "} {
		if u.metric(name) == 0 {
			u.rig.t.Errorf("no host counts in %s", name)
		}
	}
	for _, h := range u.Hosts() {
		pid, err := h.MainPID(u.ctx, "update-engine.service")
		u.must(err)
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		u.must(err)
		u.rig.t.Logf("figure: update-engine on %s with the store, permits and peers: %s", h.Name, regexp.MustCompile(`VmHWM:.*`).Find(text))
	}
	free()
}

// metric is the sum of one of update-engine's metrics over all hosts.
func (u *updating) metric(name string) (sum float64) {
	u.rig.t.Helper()
	for _, h := range u.Hosts() {
		for line := range strings.Lines(h.Must(u.rig.t, "update-engine", "metrics")) {
			if value, ok := strings.CutPrefix(line, name); ok {
				n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				u.must(err)
				sum += n
			}
		}
	}
	return sum
}
