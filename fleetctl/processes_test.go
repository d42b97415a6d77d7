package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
)

func TestProcessTree(t *testing.T) {
	got := processTree(fleet.Processes{MainPID: 312, Tasks: 2, Memory: 311296, CPU: 12345 * time.Microsecond, ControlGroup: "/system.slice/web@1.service",
		List: []fleet.Process{{PID: 312, Command: "httpd -f"}, {PID: 313, Command: "evil\x1b[2J\n"}}})
	want := `   Main PID: 312
      Tasks: 2
     Memory: 304.0K
        CPU: 12ms
     CGroup: /system.slice/web@1.service
             ├─312 httpd -f
             └─313 evil?[2J?
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := processTree(fleet.Processes{}); got != "" {
		t.Errorf("of nothing: %q", got)
	}
	many := fleet.Processes{List: make([]fleet.Process, 60)}
	if got := processTree(many); strings.Count(got, "\n") != mostProcesses+1 || !strings.HasSuffix(got, "└─and 10 more\n") {
		t.Error(got)
	}
}
