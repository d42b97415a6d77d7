package fleettest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

const originalModule = "../../original"

// originalctl puts fleet's own fleetctl, v1.0.0, onto a host and returns its path there.
func (r *rig) originalctl(h *host.Host) string {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "fleetctl")
	cmd := exec.CommandContext(r.ctx, "go", "build", "-trimpath", "-o", file,
		"-ldflags=-s -w -X github.com/coreos/fleet/version.Version=1.0.0", "github.com/coreos/fleet/fleetctl")
	cmd.Dir, cmd.Env = originalModule, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("build the original fleetctl: %v: %s", err, out)
	}
	program, err := os.ReadFile(file)
	r.must(err)
	const path = "/usr/local/bin/original"
	r.must(h.WriteFile(r.ctx, path, string(program)))
	h.Must(r.t, "chmod", "755", path)
	return path
}

// originalFile reads a file of the original's source, such as one of its examples.
func (r *rig) originalFile(path string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/coreos/fleet")
	cmd.Dir = originalModule
	dir, err := cmd.Output()
	r.must(err)
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), path))
	r.must(err)
	return string(text)
}

// step is one command of a session that both fleetctls go through, on the same cluster.
type step struct {
	args  string
	write string // "a.service: SECTION" writes that unit before: a service with this [X-Fleet] section and a text of its own
	until string // after the command: "a.service=launched" waits for the unit's current state, "-" none; for what does not block
	says  string // both say this on stderr

	// Where the two differ, and why. Words of lines; what is not named here has to be the same.
	why           string
	theirs, ours  string // lines of stdout that only one of them prints, separated by |
	codes         [2]int // the original's exit code, ours; zeros: the same
	theirsOnError bool   // the original says something on stderr, we do not
	oursOnError   bool
}

// outcome is what came of a step.
type outcome struct {
	stdout []string
	stderr string
	code   int
}

// Why the two differ.
const (
	oneRequest = "created and started by one request: the unit is never inactive in between"
	bugOneshot = "BUG 1.6: a oneshot that has ended is no failure"
	bugTwice   = "BUG 1.6: told twice"
	bugRestart = "BUG 1.3: it waits for launched both times, and may wait for ever"
	bugGlobal  = "BUG 1.3: a global unit has no current state to print"
	bugUsage   = "BUG 0.6: a wrong command line is told by the exit code"
	untrue     = "nothing has been stopped yet when it does not wait"
	waited     = "we wait until global units are down too, and name them"
	more       = "we show what is known of a unit without a machine"
)

// session is what a user does on an afternoon. Both leave the cluster empty.
func session() []step {
	here := "MachineID=HERE"
	return []step{
		{args: "list-units"}, {args: "list-unit-files"}, {args: "list-machines"},
		{args: "submit a.service", write: "a.service: " + here},
		{args: "submit a.service"},
		{args: "list-unit-files"},
		{args: "list-unit-files --full --no-legend"},
		{args: "cat a.service"}, {args: "cat a"}, {args: "cat dir/a"},
		{args: "cat nix", says: "Unit nix.service not found"},
		{args: "cat a b", says: "One unit file must be provided"},
		{args: "cat", says: "One unit file must be provided"},
		{args: "load a.service"}, {args: "load a.service"},
		{args: "list-units --no-legend"},
		{args: "start a.service"}, {args: "start a.service"},
		{args: "start ./b.service", write: "b.service: " + here, why: oneRequest, theirs: "Unit b.service inactive"},
		{args: "list-units"}, {args: "list-units --full --no-legend"}, {args: "list-units --l"},
		{args: "list-units --fields=unit,load,hash --no-legend"},
		{args: "list-units --fields nix", says: "Invalid key in output format"},
		{args: "list-units --fields=", says: "Must define output format"},
		{args: "list-machines --full"}, {args: "list-machines --fields=metadata,machine"}, {args: "list-m --no-legend"},
		{args: "list-machines --fields=nix", says: "Invalid key in output format"},
		{args: "list-unit-files --fields=unit,hash,dstate,state,target,global,desc"},
		{args: "list-unit-files --fields=tmachine,unit", says: "WARNING: "},
		{args: "journal b", why: "each has a log of its own", theirs: "*", ours: "*"},
		{args: "journal nix", says: "does not exist"},
		{args: "status nix", says: "nix.service"},
		{args: "stop a.service", says: "Successfully stopped units [a.service]."},
		{args: "stop a.service", says: "Successfully stopped units []."},
		{args: "stop nix", says: "not found in registry"},
		{args: "unload a.service", says: "Successfully unloaded units [a.service]."},
		{args: "stop a.service", says: "Unable to stop unit a.service in state inactive"},
		{args: "status a", says: "Unit a.service does not appear to be loaded", why: more, ours: "*"},
		{args: "start --no-block a.service", until: "a.service=launched", why: bugTwice, theirs: "Triggered unit a.service start"},
		{args: "start --no-block a.service"},
		{args: "stop --no-block a", until: "a.service=loaded", why: untrue, theirsOnError: true},
		{args: "unload --no-block a", until: "a.service=inactive", why: untrue, theirsOnError: true},
		{args: "load --no-block a", until: "a.service=loaded"},
		{args: "start --block-attempts=20 a b"},
		{args: "start a.service", write: "a.service: " + here, says: "WARNING: "},
		{args: "start --replace a.service", why: oneRequest, theirs: "Unit a.service inactive"},
		{args: "start --replace a.service", why: "our words", theirs: "*", ours: "*"},
		{args: "load --replace a.service", write: "a.service: " + here, says: "use the appropriate command"},
		{args: "submit --replace a.service", says: "use the appropriate command"},
		{args: "load --replace a.service", why: oneRequest, theirs: "Unit a.service inactive", ours: "*"},
		{args: "destroy a.service"},
		{args: "destroy a.service", says: "not found in registry"},
		{args: "submit t@.service", write: "t@.service: " + here},
		{args: "start t@1.service", why: oneRequest, theirs: "Unit t@1.service inactive"},
		{args: "start dir/t@2", why: oneRequest, theirs: "Unit t@2.service inactive"},
		{args: "start t@.service", says: "template"},
		// One only: the original's list of machines is filled by the first goroutine that needs it, and another may find it empty.
		{args: "load t@3", why: oneRequest, theirs: "Unit t@3.service inactive"},
		{args: "list-units --no-legend"},
		{args: "start u@x.service", write: "u@.service: " + here, why: oneRequest, theirs: "Unit u@x.service inactive"},
		{args: "list-unit-files --no-legend"},
		{args: "destroy t@1 t@2 t@3 t@ u@x"},
		{args: "submit g.service", write: "g.service: Global=true", why: bugGlobal, theirs: "Unit g.service", ours: "Unit g.service inactive"},
		{args: "start g.service", until: "g.service=everywhere"},
		{args: "list-unit-files"}, {args: "list-units"},
		{args: "stop g", why: waited, says: "Successfully stopped units ["},
		{args: "unload g", why: waited, says: "Successfully unloaded units ["},
		{args: "destroy g"},
		{args: "start m.service", write: "m.service: MachineMetadata=side=left", why: oneRequest, theirs: "Unit m.service inactive"},
		{args: "destroy m"},
		{args: "start nix.service", says: "Error creating units:"},
		{args: "submit faulty.service", write: "faulty.service: MachineID=HERE Conflicts=*", says: "Error creating units:"},
		{args: "submit faulty.target", says: "Error creating units:"},
		{args: "submit"}, {args: "load"}, {args: "start"}, {args: "stop"}, {args: "unload"}, {args: "destroy"}, {args: "restart"},
		{args: "unload b"}, {args: "restart b", says: "Unable to restart unit b.service in state inactive"},
		{args: "load b"}, {args: "restart b", why: "it logs", theirsOnError: true},
		{args: "start once.service", write: "once.service: " + here + " Type=oneshot", why: bugOneshot, theirs: "Unit once.service inactive", codes: [2]int{1, 0}, theirsOnError: true},
		{args: "destroy b once"},
		{args: "nix", why: bugUsage, codes: [2]int{0, 2}, says: `unknown command "nix"`},
		{args: "list-units --nix", why: bugUsage, theirs: "*", codes: [2]int{0, 2}, says: "unknown flag: --nix"},
		{args: "verify a.service", says: "signed"},
		{args: "version", why: "each its own", theirs: "*", ours: "*"}, {args: "--version", why: "each its own", theirs: "*", ours: "*"},
		{args: "list-units"}, {args: "list-unit-files"},
	}
}

// The original fleetctl drives our fleetd, over the socket, and says the same as ours but for its faults.
func TestOriginalFleetctlSaysTheSameAsOurs(t *testing.T) {
	t.Parallel()
	files := func(i int) map[string]string {
		return host.FleetFiles(2, fmt.Sprintf("%smetadata = side=%s\n", usual, []string{"left", "right"}[i-1]))(i)
	}
	r := bootFiles(t, 2, files).formed()
	h := r.Host(1)
	path := r.originalctl(h)
	theirs := r.play(h, path)
	ours := r.play(h, "fleetctl")
	for i, s := range session() {
		for _, fault := range s.compare(theirs[i], ours[i]) {
			t.Errorf("fleetctl %s: %s\nthe original: %d %q %q\nours:         %d %q %q", s.args, fault,
				theirs[i].code, theirs[i].stdout, theirs[i].stderr, ours[i].code, ours[i].stdout, ours[i].stderr)
		}
	}
	r.sub("the original's tests of the command line", func(r *rig) { r.driven(h, path) })
}

// play goes through the session with one of the two.
func (r *rig) play(h *host.Host, program string) (all []outcome) {
	r.t.Helper()
	h.Must(r.t, "rm", "-rf", "/root/units")
	for i, s := range session() {
		if name, section, ok := strings.Cut(s.write, ": "); ok {
			kind := "simple"
			if rest, oneshot := strings.CutSuffix(section, " Type=oneshot"); oneshot {
				section, kind = rest, "oneshot\nRemainAfterExit=no"
			}
			section = strings.ReplaceAll(strings.ReplaceAll(section, "HERE", h.MachineID), " ", "\n")
			run := map[bool]string{true: "/bin/sleep infinity", false: "/bin/true"}[kind == "simple"]
			r.write(h, map[string]string{name: fmt.Sprintf("[Unit]\nDescription=step %d\n[Service]\nType=%s\nExecStart=%s\n[X-Fleet]\n%s\n", i, kind, run, section)})
		}
		out, text, code := r.try(h, program, strings.Fields(s.args)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		slices.Sort(lines) // several units come as they get there
		all = append(all, outcome{lines, text, code})
		if unit, state, ok := strings.Cut(s.until, "="); ok {
			r.reaches(h, unit, state)
		}
	}
	return all
}

// reaches waits until a unit's current state is this one, or until it is active everywhere.
func (r *rig) reaches(h *host.Host, unit, state string) {
	r.t.Helper()
	if state == "everywhere" {
		r.everywhere(unit)
		return
	}
	r.wait(unit+" "+state, func() error {
		u, err := r.api(h).Unit(r.ctx, unit)
		return orElse(err, need(u.CurrentState == state, "it is "+u.CurrentState))
	})
}

// compare tells where the two outcomes of a step are neither the same nor different as the step says.
func (s step) compare(theirs, ours outcome) (faults []string) {
	if want := s.codes; want == [2]int{} && theirs.code != ours.code || want != [2]int{} && want != [2]int{theirs.code, ours.code} {
		faults = append(faults, fmt.Sprintf("exit codes %d and %d", theirs.code, ours.code))
	}
	for _, side := range []struct {
		who      string
		has, not []string
		expected string
	}{{"the original", theirs.stdout, ours.stdout, s.theirs}, {"ours", ours.stdout, theirs.stdout, s.ours}} {
		only := strings.Join(less(side.has, side.not), "|")
		if side.expected != "*" && only != side.expected {
			faults = append(faults, fmt.Sprintf("only %s prints %q, expected %q", side.who, only, side.expected))
		}
	}
	if (theirs.stderr != "" && !s.theirsOnError) != (ours.stderr != "" && !s.oursOnError) {
		faults = append(faults, "only one says something on stderr")
	}
	if s.says != "" && (!strings.Contains(theirs.stderr, s.says) || !strings.Contains(ours.stderr, s.says)) {
		faults = append(faults, fmt.Sprintf("not both say %q", s.says))
	}
	return faults
}

// less are the lines of a that b has not, counted.
func less(a, b []string) (rest []string) {
	b = slices.Clone(b)
	for _, line := range a {
		if i := slices.Index(b, line); i >= 0 {
			b = slices.Delete(b, i, i+1)
		} else if line != "" {
			rest = append(rest, line)
		}
	}
	return rest
}

// driven is what the original does besides: over TCP, by the environment, and what it runs on the machine itself.
func (r *rig) driven(h *host.Host, path string) {
	// As fleet's users opened a port: a drop-in for the socket, then stop, restart, start.
	r.must(h.WriteFile(r.ctx, "/etc/systemd/system/fleet.socket.d/30-listen.conf", "[Socket]\nListenStream=127.0.0.1:49153\n"))
	h.Must(r.t, "sh", "-c", "systemctl daemon-reload && systemctl stop fleetd && systemctl restart fleet.socket && systemctl start fleetd")
	r.machines(r.Hosts()...)
	const tcp = "http://127.0.0.1:49153"
	r.write(h, map[string]string{"tcp.service": service(fixed(h))})
	for _, line := range []struct {
		argv []string
		code int
		says string
	}{
		{[]string{path, "--endpoint", tcp, "start", "tcp.service"}, 0, "Unit tcp.service launched on "},
		{[]string{path, "list-units", "--endpoint", tcp}, 0, "tcp.service"},
		{[]string{"env", "FLEETCTL_ENDPOINT=" + tcp, path, "list-machines"}, 0, h.IP},
		{[]string{"env", "FLEETCTL_ENDPOINT=" + tcp, "fleetctl", "list-machines"}, 0, h.IP},
		{[]string{path, "status", "tcp.service"}, 0, "active (running)"},
		{[]string{path, "journal", "tcp.service"}, 0, "Started tcp.service"},
		{[]string{"systemctl", "stop", "tcp.service"}, 0, ""},
		{[]string{path, "status", "tcp.service"}, 3, "inactive (dead)"},
		{[]string{path, "--driver=API", "--request-timeout=5", "--endpoint=unix:///run/fleet.sock", "destroy", "tcp"}, 0, "Destroyed tcp.service"},
	} {
		out, text, code := r.try(h, line.argv[0], line.argv[1:]...)
		if code != line.code || !strings.Contains(out, line.says) {
			r.t.Errorf("%v: %d %s%s; want %d and %q", line.argv, code, out, text, line.code, line.says)
		}
	}
	// A restart keeps both sockets: connections wait in them, none is refused.
	h.Must(r.t, "systemctl", "restart", "--no-block", "fleetd")
	h.Must(r.t, "curl", "-sf", "--retry-connrefused", "--retry", "0", tcp+"/fleet/v1/version")
}
