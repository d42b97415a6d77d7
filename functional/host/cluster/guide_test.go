package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// What docs/update.md tells a newcomer to do on three local hosts is done word for word.
func TestTheGuideToUpdatesOnThreeHosts(t *testing.T) {
	guide(t, "docs/update.md", "2.0.0 has proven itself", "3.0.0: came back after its tries were spent", "stopped by itself: 1 of 1 hosts that are through came back")
}

// So are the examples of docs/units.md.
func TestTheManualOfUnitsOnThreeHosts(t *testing.T) {
	guide(t, "docs/units.md", "apart@1.service", "refused", "# web@.service.d/10-limits.conf", "LimitNOFILE=65536", "begins", "cache.service", "Unit backup.timer")
}

// guide runs a page's blocks of shell as one script. All of words must be in what it prints.
func guide(t *testing.T, path string, words ...string) {
	t.Helper()
	if err := host.Missing(); err != nil {
		if os.Getenv("FLEET_HOSTS") == "required" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	page, err := os.ReadFile("../../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eu\n"
	for i, part := range strings.Split(string(page), "```bash\n") {
		if i > 0 {
			code, _, _ := strings.Cut(part, "```")
			script += code
		}
	}
	id := fmt.Sprintf("FLEET_CLUSTER=guide-%d", os.Getpid())
	t.Cleanup(func() {
		// Not the test's context: it has ended when the guide has hung.
		if out, err := shell(context.Background(), id, "./build.sh down 2>&1"); err != nil && !strings.Contains(out, "no cluster") {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	out, err := shell(host.Context(t), id, script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range words {
		if !strings.Contains(out, want) {
			t.Errorf("nothing says %q:\n%s", want, out)
		}
	}
}
