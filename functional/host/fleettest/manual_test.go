package fleettest

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// What fleet's manual says of fleetctl, sentence by sentence: words, names, columns, lines and exit codes that scripts depend on. Each part begins and ends
// with an empty cluster. Scheduling, API, states, settings and SSH are in the other files.
func TestFleetctlIsAsInFleetsManual(t *testing.T) {
	t.Parallel()
	r := boot(t, 2, usual+"metadata = disk=ssd\n")
	for _, part := range []struct {
		name string
		run  func(*rig)
	}{
		{"the command line", (*rig).commandLine},
		{"environment and endpoints", (*rig).endpoints},
		{"names of units, and where their texts come from", (*rig).namesOnTheLine},
		{"what there is nothing to do for", (*rig).nothingToDo},
		{"lists", (*rig).listsOfOld},
		{"lines of each step, and where they go", (*rig).linesOfSteps},
		{"waiting, and not waiting", (*rig).waitsOrNot},
		{"what a command may replace", (*rig).reachOfReplace},
		{"status, cat and journal", (*rig).looksAtUnits},
		{"texts are what systemd and fleet make of them", (*rig).textsOfOld},
		{"options that cannot stand together", (*rig).refusedTogether},
		{"aliases are no other unit's name", (*rig).aliasesAndNames},
		{"many units at once", (*rig).spread},
		{"metadata from the command line", (*rig).metadataByHand},
		{"examples of units and of cloud-config", (*rig).examplesOfOld},
	} {
		r.sub(part.name, func(r *rig) {
			part.run(r)
			r.cleared()
			r.Host(1).Must(r.t, "rm", "-rf", "/root/units")
		})
	}
}

// prints runs fleetctl on the first host: its exit code, all of its stdout but for white space, which columns have, and words that must be in stderr; with
// none, that must be empty.
func (r *rig) prints(code int, stdout string, stderr []string, args ...string) {
	r.t.Helper()
	out, text, got := r.tryCtl(r.Host(1), args...)
	line := "fleetctl " + strings.Join(args, " ")
	if got != code {
		r.t.Errorf("%s: exit code %d, want %d\n%s%s", line, got, code, out, text)
	}
	if words(out) != words(stdout) {
		r.t.Errorf("%s prints\n%s\nwant\n%s\nstderr: %s", line, out, stdout, text)
	}
	for _, w := range stderr {
		if !strings.Contains(text, w) {
			r.t.Errorf("%s does not say %q: %s", line, w, text)
		}
	}
	if len(stderr) == 0 && text != "" {
		r.t.Errorf("%s says %s", line, text)
	}
}

// words are a text's lines, sorted (units that are waited for together come in any order), with one blank between words.
func words(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// legend is how lists show a host.
func legend(h *host.Host) string { return short(h) + ".../" + h.IP }

func (r *rig) commandLine() {
	h := r.Host(1)
	for _, args := range [][]string{nil, {"help"}, {"-h"}, {"--help"}} {
		out, _, code := r.tryCtl(h, args...)
		for _, w := range []string{"NAME:", "USAGE:", "VERSION:", "COMMANDS:", "OPTIONS:", "list-unit-files", "--endpoint"} {
			if code != 0 || !strings.Contains(out, w) {
				r.t.Errorf("fleetctl %v: %d, no %q in %s", args, code, w, out)
			}
		}
	}
	for _, args := range [][]string{{"help", "start"}, {"start", "--help"}, {"start", "-h"}} {
		out, _, code := r.tryCtl(h, args...)
		for _, w := range []string{"NAME:", "USAGE:", "DESCRIPTION:", "OPTIONS:", "GLOBAL OPTIONS:", "--no-block"} {
			if code != 0 || !strings.Contains(out, w) {
				r.t.Errorf("fleetctl %v: %d, no %q in %s", args, code, w, out)
			}
		}
	}
	for _, args := range [][]string{{"version"}, {"--version"}, {"-v"}} {
		if out := r.ctl(h, args...); !regexp.MustCompile(`^fleetctl version \S+$`).MatchString(out) {
			r.t.Errorf("fleetctl %v: %s", args, out)
		}
	}
	// Flags stand anywhere, a command may be cut short, long flags may have one dash.
	list := r.ctl(h, "list-machines", "--no-legend")
	for _, args := range [][]string{{"--no-legend", "list-machines"}, {"list-m", "--no-legend=true"}, {"--no-legend", "list-machines", "--full=false"}} {
		r.prints(0, list, nil, args...)
	}
	r.prints(0, list, []string{"-no-legend"}, "list-machines", "-no-legend")
	full := r.ctl(h, "list-machines", "--full")
	for _, flag := range []string{"-l", "--l"} {
		r.prints(0, full, nil, "list-machines", flag)
	}
	// What once meant something is taken.
	r.prints(0, list, nil, "--experimental-api", "--driver=API", "--etcd-key-prefix=/_coreos.com/fleet/", "--etcd-cafile=/x", "--etcd-keyfile=/x", "--etcd-certfile=/x",
		"--request-timeout=3.0", "--ssh-timeout=10.0", "--ssh-username=core", "--strict-host-key-checking=true", "--known-hosts-file=~/.fleetctl/known_hosts", "list-machines", "--no-legend")
	// fleet went on with exit code 0, which hid typing errors in scripts.
	r.prints(2, "", []string{"unknown command", "start"}, "strat", "a.service")
	r.prints(2, "", []string{"start", "status", "stop"}, "st", "a.service")
	r.prints(2, "", []string{"no-such-flag"}, "start", "--no-such-flag", "a.service")
	r.prints(2, "", []string{"signed"}, "verify", "a.service")
}

func (r *rig) endpoints() {
	h := r.Host(1)
	list := r.ctl(h, "list-machines")
	with := func(env, want string, args ...string) {
		r.t.Helper()
		out, text, code := r.try(h, "env", append([]string{env, "fleetctl"}, args...)...)
		if want == "" && code == 0 || want != "" && (code != 0 || strings.TrimSpace(out) != want) {
			r.t.Errorf("%s fleetctl %v: %d %s%s", env, args, code, out, text)
		}
	}
	with("FLEETCTL_ENDPOINT=unix:///run/fleet.sock", list, "list-machines")
	with("FLEETCTL_ENDPOINT=unix:///nowhere.sock", "", "list-machines")
	with("FLEETCTL_ENDPOINT=unix:///nowhere.sock", list, "--endpoint=unix:///run/fleet.sock", "list-machines")
	with("FLEETCTL_ENDPOINT=", list, "list-machines")
	with("FLEETCTL_STRICT_HOST_KEY_CHECKING=false", list, "list-machines")
	with("FLEETCTL_DRIVER=API", list, "list-machines")
	// A command's own flags have no variable.
	with("FLEETCTL_NO_LEGEND=true", list, "list-machines")
	r.prints(0, list, nil, "--endpoint", "file:///run/fleet.sock", "list-machines")
	r.prints(0, list, []string{"only the first"}, "--endpoint", "unix:///run/fleet.sock,http://127.0.0.1:1", "list-machines")
	for _, bad := range []string{"unix://run/fleet.sock", "run/fleet.sock", "ftp://127.0.0.1"} {
		r.prints(2, "", []string{bad}, "--endpoint="+bad, "list-machines")
	}
	r.prints(1, "", []string{"Error retrieving list of active machines", "fleetd"}, "--endpoint=unix:///nowhere.sock", "list-machines")
	r.prints(0, list, []string{"DEBUG GET "}, "--debug", "list-machines")
	with("FLEETCTL_DEBUG=true", list, "list-machines")
}

func (r *rig) namesOnTheLine() {
	h := r.Host(1)
	here := fixed(h)
	text := service(here)
	r.write(h, map[string]string{"n-hello.service": text, "dir/n-deep.service": text, "n-foo.1.service": text, "n-all.target": "[Unit]\nDescription=t\n" + here, "n-t@.service": text, "dir/n-b@.service": text})
	on := " launched on " + legend(h) + "\n"
	r.prints(0, "Unit n-hello.service"+on+"Unit n-deep.service"+on+"Unit n-foo.1.service"+on+"Unit n-all.target"+on, nil,
		"start", "n-hello", "dir/n-deep.service", "n-foo.1", "n-all.target")
	// The shell makes patterns; one that gets here is a name, and no good one.
	r.prints(1, "", []string{`"web@{1..3}.service"`}, "start", "web@{1..3}.service")
	r.prints(1, "", []string{`"n-*.service"`}, "stop", "n-*.service")
	// In the cluster, in a file, from the cluster's template, from the template beside the path; else nowhere.
	r.prints(0, "Unit n-t@.service inactive", nil, "submit", "n-t@.service")
	h.Must(r.t, "rm", "/root/units/n-t@.service")
	r.prints(0, "Unit n-t@1.service"+on+"Unit n-b@x.y.service"+on, nil, "start", "n-t@1", "dir/n-b@x.y.service")
	if out := r.ctl(h, "list-unit-files", "--no-legend", "--fields=unit"); words(out) != "n-all.target\nn-b@x.y.service\nn-deep.service\nn-foo.1.service\nn-hello.service\nn-t@.service\nn-t@1.service" {
		r.t.Errorf("there are %s", out)
	}
	r.prints(1, "", []string{"Error creating units:", "n-none.service"}, "start", "n-none.service")
	r.prints(1, "", []string{"Error creating units:", "n-b@2.service"}, "start", "n-b@2.service") // its template lies elsewhere
	r.write(h, map[string]string{"n-hello.service": text + "# a comment is no difference\n"})
	r.prints(0, "", nil, "start", "n-hello.service")
	r.write(h, map[string]string{"n-hello.service": service("Nice=1\n" + here)})
	r.prints(0, "", []string{"WARNING:", "n-hello.service", "--replace"}, "start", "n-hello.service")
	if nice := r.property(h, "n-hello.service", "Nice"); nice != "0" {
		r.t.Errorf("it was replaced: Nice=%s", nice)
	}
	// A template is never started, however it gets here.
	r.prints(1, "", []string{"n-t@.service is a template"}, "start", "n-t@.service")
	r.prints(1, "", []string{"n-t@.service is a template"}, "load", "n-t@.service")
}

func (r *rig) nothingToDo() {
	h := r.Host(1)
	for _, c := range []string{"submit", "load", "start", "stop", "unload", "destroy", "restart"} {
		r.prints(0, "", []string{"No units given"}, c)
	}
	// fleet's said nothing here; systemctl's shows the whole.
	if out := r.ctl(h, "status"); !strings.Contains(out, "State: ") || !strings.Contains(out, "led by ") {
		r.t.Errorf("fleetctl status:\n%s", out)
	}
	for _, c := range []string{"stop", "unload", "destroy"} {
		r.prints(0, "", []string{"e-none.service", "not found in registry"}, c, "e-none.service")
	}
	r.prints(1, "", []string{"e-none.service does not exist"}, "status", "e-none.service")
	r.prints(1, "", []string{"e-none.service not found"}, "cat", "e-none.service")
	r.prints(1, "", []string{"One unit file must be provided"}, "cat")
	r.prints(1, "", []string{"e-none.service"}, "journal", "e-none.service")
	r.write(h, map[string]string{"e-is.service": service(fixed(h))})
	r.prints(0, "Unit e-is.service inactive", nil, "submit", "e-is.service")
	r.prints(0, "", nil, "submit", "e-is.service")
	r.prints(1, "", []string{"Unable to stop unit e-is.service in state inactive"}, "stop", "e-is.service")
	r.prints(0, "", []string{"Successfully unloaded units []."}, "unload", "e-is.service")
	r.prints(1, "○ e-is.service\nTarget: inactive\nHash: "+r.hash(h, "e-is.service")[:7], []string{"e-is.service does not appear to be loaded"}, "status", "e-is.service")
	r.prints(0, "Unit e-is.service loaded on "+legend(h), nil, "load", "e-is.service")
	r.prints(0, "", nil, "load", "e-is.service")
	r.prints(0, "", []string{"Successfully stopped units []."}, "stop", "e-is.service")
	// Names that are not there do not hold up those that are.
	r.prints(0, "Destroyed e-is.service", []string{"e-none.service not found in registry"}, "destroy", "e-none.service", "e-is.service")
}

// hash is the whole hash of a unit, as the cluster tells it.
func (r *rig) hash(h *host.Host, unit string) string {
	r.t.Helper()
	for line := range strings.Lines(r.ctl(h, "list-unit-files", "--full", "--no-legend", "--fields=unit,hash")) {
		if name, hash, _ := strings.Cut(strings.TrimSpace(line), "\t"); name == unit {
			return strings.TrimSpace(hash)
		}
	}
	r.t.Fatalf("there is no %s", unit)
	return ""
}

func (r *rig) listsOfOld() {
	h, other := r.Host(1), r.Host(2)
	ids := []*host.Host{h, other}
	slices.SortFunc(ids, func(a, b *host.Host) int { return strings.Compare(a.MachineID, b.MachineID) })
	rows, whole := "", ""
	for _, m := range ids {
		rows += short(m) + "...\t" + m.IP + "\tdisk=ssd\n"
		whole += m.MachineID + "\t" + m.IP + "\tdisk=ssd\n"
	}
	inOrder := func(want string, args ...string) {
		r.t.Helper()
		out := r.ctl(h, args...) // columns are aligned by tabs, of which there may be several
		if got := regexp.MustCompile(`\t+`).ReplaceAllString(out, "\t"); got != strings.TrimSpace(want) {
			r.t.Errorf("fleetctl %s prints\n%s\nwant\n%s", strings.Join(args, " "), got, want)
		}
	}
	inOrder("MACHINE\tIP\tMETADATA\n"+rows, "list-machines")
	inOrder(whole, "list-machines", "--full", "--no-legend")
	inOrder("METADATA\tMACHINE\ndisk=ssd\t"+short(ids[0])+"...\ndisk=ssd\t"+short(ids[1])+"...", "list-machines", "--fields=metadata,machine")
	inOrder("UNIT\tMACHINE\tACTIVE\tSUB", "list-units")
	inOrder("", "list-units", "--no-legend")

	r.write(h, map[string]string{
		"l-b.service": service("[Unit]\nDescription=It is b\nDescription=no more\n" + fixed(h)), "l-a.service": service(fixed(other)),
		"l-g.service": service("[X-Fleet]\nGlobal=true\n"), "l-c.service": service(""),
	})
	r.ctl(h, "start", "l-b.service", "l-a.service", "l-g.service")
	r.ctl(h, "submit", "l-c.service")
	r.everywhere("l-g.service")
	r.ctl(h, "stop", "l-a.service")
	a, b, c, g := r.hash(h, "l-a.service"), r.hash(h, "l-b.service"), r.hash(h, "l-c.service"), r.hash(h, "l-g.service")
	rows = ""
	for _, m := range ids {
		rows += "l-g.service\t" + legend(m) + "\tactive\trunning\n"
	}
	r.told(other, "l-a.service", "loaded inactive dead")
	inOrder("UNIT\tMACHINE\tACTIVE\tSUB\nl-a.service\t"+legend(other)+"\tinactive\tdead\nl-b.service\t"+legend(h)+"\tactive\trunning\n"+rows, "list-units")
	if out := r.ctl(h, "list-units", "--full", "--no-legend", "--fields=hash,load,machine,unit"); !strings.Contains(out, b+"\tloaded\t"+h.MachineID+"/"+h.IP+"\tl-b.service") {
		r.t.Errorf("list-units --full prints %s", out)
	}
	inOrder("UNIT\tHASH\tDSTATE\tSTATE\tTARGET\nl-a.service\t"+a[:7]+"\tloaded\tloaded\t"+legend(other)+"\nl-b.service\t"+b[:7]+"\tlaunched\tlaunched\t"+legend(h)+
		"\nl-c.service\t"+c[:7]+"\tinactive\tinactive\t-\nl-g.service\t"+g[:7]+"\tlaunched\t-\tglobal", "list-unit-files")
	inOrder("UNIT\tGLOBAL\tDESC\nl-a.service\tfalse\t-\nl-b.service\tfalse\tIt is b\nl-c.service\tfalse\t-\nl-g.service\ttrue\t-", "list-unit-files", "--fields=unit,global,desc")
	out, text, code := r.tryCtl(h, "list-unit-files", "--no-legend", "--fields=tmachine")
	if code != 0 || !strings.Contains(out, legend(h)) || !strings.Contains(text, "WARNING") || !strings.Contains(text, "target") {
		r.t.Errorf("--fields=tmachine: %d %s%s", code, out, text)
	}
	for _, list := range []string{"list-machines", "list-units", "list-unit-files"} {
		r.prints(1, "", []string{"Invalid key in output format"}, list, "--fields=unit,colour")
		r.prints(1, "", []string{"Must define output format"}, list, "--fields=")
	}
	// fleet's hash of a text is the SHA-1 of what cat prints.
	sum := sha1.Sum([]byte(r.ctl(h, "cat", "l-b.service") + "\n"))
	if got := hex.EncodeToString(sum[:]); got != b {
		r.t.Errorf("the hash is %s, that of the text %s", b, got)
	}
	if !strings.HasSuffix(fmt.Sprint(r.ctl(h, "list-units", "--json")), "]") {
		r.t.Error("--json prints no list")
	}
}
