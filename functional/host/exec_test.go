package host

import (
	"os/exec"
	"testing"
)

// A host that shuts down stops all its processes, and nsenter stops with them.
func TestACommandThatIsStoppedGoesOn(t *testing.T) {
	out, err := Finish(exec.CommandContext(t.Context(), "sh", "-c", "kill -STOP $$; echo on"))
	if err != nil || out != "on\n" {
		t.Errorf("%q, %v", out, err)
	}
}
