package host

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// FleetFiles gives Options.Files for hosts that run fleetd from their first boot on, as one cluster with the built-in store: the
// first host makes it, the others join through any of the first n. conf is more lines for every fleet.conf, such as
// "agent_ttl = 5s\n".
func FleetFiles(n int, conf string) func(i int) map[string]string {
	return func(i int) map[string]string {
		text := "member_ip = " + network + "0/24\n" + conf
		var others []string
		for o := 1; o <= n; o++ {
			if o != i {
				others = append(others, fmt.Sprintf("h%d", o))
			}
		}
		if i > 1 {
			text += "join = " + strings.Join(others, ",") + "\n"
		}
		return map[string]string{
			"/etc/fleet/fleet.conf": text,
			// What "systemctl enable fleetd" does, in a plain file.
			"/etc/systemd/system/multi-user.target.d/fleet.conf": "[Unit]\nWants=fleetd.service\n",
		}
	}
}

// Installed returns a folder with what build.sh install makes, for Options.Install: FLEET_INSTALL if that is set, else it is
// built for this test.
func Installed(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("FLEET_INSTALL"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(Context(t), filepath.Join(root(t), "build.sh"), "install", dir).CombinedOutput(); err != nil {
		t.Fatalf("build.sh install: %v: %s", err, out)
	}
	return dir
}

// root returns the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for !slices.Contains(names(dir), "go.mod") {
		if dir == filepath.Dir(dir) {
			t.Fatal("there is no go.mod above this test")
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// names returns what a folder holds.
func names(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
