package vm

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/functional/host"
)

// first and second are the releases that build.sh makes images of; those that fail are the second under other names, with other words
// for the kernel.
const first, second = "0.1.0", "0.2.0"

// rig is a VM from the first release's image beside nspawn hosts, and a directory of releases that it can reach.
type rig struct {
	*VM
	t        *testing.T
	ctx      context.Context
	c        *host.Cluster
	images   string // what mkimage made
	releases string // served at url
	url      string
	engine   string // the command update-engine, out here
}

func newRig(t *testing.T, hosts int) *rig {
	t.Helper()
	return rigOf(t, hosts, func(r *rig) string { return filepath.Join(r.images, "fleet-"+first+".raw") })
}

// rigOf is one whose VM has another image, which may be made for it.
func rigOf(t *testing.T, hosts int, image func(*rig) string) *rig {
	t.Helper()
	images := os.Getenv("FLEET_IMAGE")
	if images == "" {
		t.Skip("FLEET_IMAGE is not set: ./build.sh test makes images and sets it")
	}
	if err := Missing(); err != nil {
		t.Fatal(err)
	}
	c := host.ForTest(t, host.Options{Hosts: hosts, Files: host.FleetFiles(hosts, "")})
	r := &rig{t: t, ctx: host.Context(t), c: c, images: images, releases: t.TempDir(), engine: filepath.Join(host.Tree(t), "usr/bin/update-engine")}
	r.makeKeys()
	r.serve()
	v, err := New(r.ctx, c, t.TempDir(), image(r), 2<<30)
	if err != nil {
		t.Fatal(err)
	}
	r.VM = v
	t.Cleanup(func() {
		v.Kill()
		if t.Failed() {
			text, _ := os.ReadFile(v.path("console.log"))
			t.Logf("the end of the VM's console:\n%s", host.Tail(string(text), 80))
		}
	})
	return r
}

// out runs update-engine out here, in the folder of the keys.
func (r *rig) out(args ...string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.ctx, r.engine, args...)
	cmd.Dir = r.releases
	if text, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("update-engine %s: %v: %s", strings.Join(args, " "), err, text)
	}
}

func (r *rig) makeKeys() {
	r.t.Helper()
	for _, k := range []string{"root", "targets", "online"} {
		r.out("keys", "new", k)
	}
	r.out("keys", "init", "dir", "--root", "root", "--targets", "targets", "--online", "online")
}

// publish makes the second image a release of that version, whose kernel gets more words. base is the release that hosts run meanwhile.
func (r *rig) publish(version, base, words string) {
	r.t.Helper()
	r.publishKernel(version, base, words, filepath.Join(r.images, "fleet-"+second+".efi"))
}

// publishKernel does the same with another kernel image.
func (r *rig) publishKernel(version, base, words, uki string) {
	r.t.Helper()
	hash, at := r.verity(second)
	r.out("publish", "dir", "--keys", "targets,online", "--version", version, "--usr", filepath.Join(r.images, "usr-"+second+".img"),
		"--uki", uki, "--base", filepath.Join(r.images, "usr-"+base+".img"), "--roothash", hash, "--hash-at", at,
		"--options", strings.TrimSpace(usual+" "+words))
}

// verity reads what mkimage noted beside an image.
func (r *rig) verity(version string) (hash, at string) {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.images, "usr-"+version+".env"))
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(text), "roothash=%s hash-at=%s", &hash, &at); err != nil {
		r.t.Fatalf("%q: %v", text, err)
	}
	return hash, at
}

// serve is the web server of the releases, on the bridge.
func (r *rig) serve() {
	r.t.Helper()
	var l net.Listener
	err := r.c.InNetwork(func() (err error) {
		l, err = new(net.ListenConfig).Listen(r.ctx, "tcp", gateway+":0")
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	s := &http.Server{Handler: http.FileServer(http.Dir(r.releases))}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	r.t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	r.url = "http://" + l.Addr().String() + "/dir"
}

// must runs a script in the VM and fails the test if it fails.
func (r *rig) must(script string) string {
	r.t.Helper()
	out, err := r.Run(r.ctx, script)
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// until repeats a script in the VM until it succeeds.
func (r *rig) until(what, script string) string {
	r.t.Helper()
	out, err := r.Poll(r.ctx, what, script)
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// login waits for the next boot's shell.
func (r *rig) login() string {
	r.t.Helper()
	said, err := r.Login(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return said
}

// reboot runs a script that reboots the VM and logs in again.
func (r *rig) reboot(script string) string {
	r.t.Helper()
	said, err := r.Reboot(r.ctx, script)
	if err != nil {
		r.t.Fatal(err)
	}
	return said
}

// apply takes a release from the rig's directory and returns when the firmware starts it. The host reboots as soon as it is staged, often before
// the command could say so.
func (r *rig) apply() {
	r.t.Helper()
	if out, err := r.Leave(r.ctx, `update-engine apply >/run/apply.log 2>&1 || { s=$?; cat /run/apply.log; exit $s; }`); err != nil {
		r.t.Fatalf("%v\n%s", err, out)
	}
}

// config are the files of a host of the cluster that is not its first.
func (r *rig) config() map[string]string {
	files := host.FleetFiles(len(r.c.Hosts()), "")(len(r.c.Hosts()) + 1)
	names := "127.0.0.1 localhost\n"
	for _, h := range r.c.Hosts() {
		names += h.IP + " " + h.Name + "\n"
	}
	files["/etc/hosts"] = names
	return files
}

// root is the root metadata of the releases.
func (r *rig) root() string {
	r.t.Helper()
	cmd := exec.CommandContext(r.ctx, r.engine, "keys", "root", "dir")
	cmd.Dir = r.releases
	text, err := cmd.Output()
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// await waits for a word on the VM's console.
func (r *rig) await(text string) string {
	r.t.Helper()
	said, err := r.Await(r.ctx, text)
	if err != nil {
		r.t.Fatal(err)
	}
	return said
}

// says waits until the VM's console has said something since it was switched on, by whichever hand.
func (r *rig) says(text string) {
	r.t.Helper()
	if err := host.WaitFor(r.ctx, "the console", func(context.Context) error {
		if said := r.console.all(); !strings.Contains(said, text) {
			return fmt.Errorf("it does not say %q:\n%s", text, host.Tail(said, 40))
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
}

// timed notes how long something took: "figure: …" lines are what ./build.sh bench prints. No test asserts one.
func (r *rig) timed(what string, do func()) {
	r.t.Helper()
	begin := time.Now()
	do()
	r.t.Logf("figure: %-44s %5.1f s", what, time.Since(begin).Seconds())
}
