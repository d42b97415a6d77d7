package fleettest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The suite that the fake systemd passes is passed by the real one: what the tests of the rooms take for systemd is systemd.
func TestSystemdPassesTheSuiteOfItsFake(t *testing.T) {
	t.Parallel()
	r := boot(t, 1, usual)
	h := r.Host(1)
	binary := filepath.Join(t.TempDir(), "systemd.test")
	if out, err := exec.CommandContext(r.ctx, "go", "test", "-c", "-o", binary, "../../../internal/systemd").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(binary)
	r.must(err)
	r.must(h.WriteFile(r.ctx, "/root/systemd.test", string(text)))
	h.Must(t, "systemctl", "stop", "fleetd.service") // it would clear away what the suite makes
	out, err := h.Sh(r.ctx, "chmod +x /root/systemd.test && cd /root && FLEET_TEST_SYSTEMD=1 ./systemd.test -test.run 'TestSystemdPasses' -test.v 2>&1")
	if err != nil || !strings.Contains(out, "\nPASS") {
		t.Errorf("%v: %s", err, out)
	}
}
