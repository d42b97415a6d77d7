package fleettest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// What fleet's users did every day, and what it did to them: each part is one of their complaints.
func TestWhatHurtFleetsUsersDoesNotHurtHere(t *testing.T) {
	t.Parallel()
	r := boot(t, 2, usual)
	h := r.Host(1)
	here := fixed(h)

	r.sub("states as they were told", (*rig).statesAsTheyWere)
	r.sub("destroyed and started again, with another text each time", func(r *rig) {
		for i := range 5 {
			r.write(h, map[string]string{
				"d-base.service": service(fmt.Sprintf("[Unit]\nDescription=base %d\n%s", i, here)),
				"d-top.service":  service("[Unit]\nRequires=d-base.service\nAfter=d-base.service\n" + here),
			})
			// The one that needs the other is named first: all files are there before anything starts.
			r.ctl(h, "start", "d-top.service", "d-base.service")
			if out := h.Must(r.t, "systemctl", "show", "--value", "-pDescription,NeedDaemonReload", "d-base.service"); out != fmt.Sprintf("base %d\n\nno", i) && out != fmt.Sprintf("base %d\nno", i) {
				r.t.Errorf("round %d runs %q", i, out)
			}
			r.ctl(h, "destroy", "d-top.service", "d-base.service")
			if out, err := h.Run(r.ctx, "systemctl", "cat", "d-base.service"); err == nil {
				r.t.Errorf("round %d: destroy has returned and there is %s", i, out)
			}
		}
	})
	r.sub("timer beside its service", func(r *rig) {
		r.write(h, map[string]string{
			"u-tick.timer":   "[Timer]\nOnActiveSec=1ms\nAccuracySec=1ms\n[X-Fleet]\nMachineOf=u-tick.service\n",
			"u-tick.service": "[Service]\nType=oneshot\nExecStart=/usr/bin/touch /run/u-tick\n" + here,
		})
		r.ctl(h, "load", "u-tick.service")
		r.ctl(h, "start", "u-tick.timer")
		r.exists(h, "/run/u-tick")
		r.ctl(h, "destroy", "u-tick.timer", "u-tick.service")
	})
	r.sub("names that look strange", func(r *rig) {
		long := "u-" + strings.Repeat("l", 200) + ".service"
		names := []string{"u-at@a@b.1.service", "u-x:y_z.1.service", `u-a\x2db.service`, long, `u-at@\x20.service`}
		units := map[string]string{}
		for _, n := range names {
			units[n] = "[Unit]\nDescription=%n\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n[X-Fleet]\nMachineID=" + h.MachineID + "\n"
		}
		r.write(h, units)
		r.ctl(h, append([]string{"start"}, names...)...)
		out := strings.Fields(r.ctl(h, "list-units", "--no-legend", "--fields=unit,active"))
		for _, n := range names {
			if i := slices.Index(out, n); i < 0 || out[i+1] != "active" {
				r.t.Errorf("%s is not active in %s", n, out)
			}
			if text := r.ctl(h, "cat", n); !strings.Contains(text, "Description=%n") {
				r.t.Errorf("%s holds %s", n, text)
			}
			r.ctl(h, "journal", n)
			r.ctl(h, "status", n)
		}
		for _, bad := range []string{"u-no type", "@.service", "u-é.service", "u-x.service.", "u-@y.mount"} {
			r.refused(h, 1, nil, "start", bad)
		}
		r.ctl(h, append([]string{"destroy"}, names...)...)
		r.leavesNothing(h)
	})
	r.sub("line of 100 KiB", func(r *rig) {
		long := strings.Repeat("x", 100<<10)
		r.write(h, map[string]string{"u-long.service": service("Environment=LONG=" + long + "\n" + here)})
		r.ctl(h, "start", "u-long.service")
		if out := h.Must(r.t, "sh", "-c", "tr '\\0' '\\n' </proc/$(systemctl show --value -pMainPID u-long.service)/environ | sed -n 's/^LONG=//p'"); out != long {
			r.t.Errorf("%d characters arrived", len(out))
		}
		r.ctl(h, "destroy", "u-long.service")
	})
	r.sub("units move over as the guide says", (*rig).asTheGuideSays)
	r.sub("a hundred units, and nothing left of them", func(r *rig) {
		units := instances("q", 100)
		r.write(h, map[string]string{"q@.service": service("")})
		r.ctl(h, append([]string{"start"}, units...)...)
		// No row is missing, none is there twice.
		if out := r.ctl(h, "list-units", "--no-legend", "--fields=unit,active"); strings.Count(out, "\tactive") != 100 || strings.Count(out, "\n") != 99 {
			r.t.Errorf("it lists %s", out)
		}
		r.ctl(h, append([]string{"destroy"}, units...)...)
		if out := r.ctl(h, "list-units", "--no-legend") + r.ctl(h, "list-unit-files", "--no-legend"); out != "" {
			r.t.Errorf("of destroyed units there is %s", out)
		}
		for _, h := range r.Hosts() {
			r.leavesNothing(h)
		}
	})
}

// statesAsTheyWere takes units up and down through all their states, and does to them what operators do by hand.
func (r *rig) statesAsTheyWere() {
	h := r.Host(1)
	here := fixed(h)
	r.write(h, map[string]string{
		"s-main.service":   service(here),
		"s-pulled.service": service("[Install]\nWantedBy=s-main.service\n" + here),
		"s-fails.service":  "[Service]\nExecStart=/bin/sh -c 'exit 7'\n" + here,
	})
	state := func(unit, want string) {
		r.t.Helper()
		r.wait(unit+" to be "+want, func() error {
			out := r.ctl(h, "list-unit-files", "--no-legend", "--fields=unit,dstate,state") + "\n" +
				r.ctl(h, "list-units", "--no-legend", "--fields=unit,load,active,sub")
			var of []string
			for line := range strings.Lines(out) {
				if rest, ok := strings.CutPrefix(line, unit+"\t"); ok {
					of = append(of, strings.Fields(rest)...)
				}
			}
			return need(strings.Join(of, " ") == want, strings.Join(of, " "))
		})
	}
	r.ctl(h, "submit", "s-main.service")
	state("s-main.service", "inactive inactive")
	r.ctl(h, "load", "s-main.service", "s-pulled.service")
	state("s-main.service", "loaded loaded loaded inactive dead")
	if out, _ := h.Run(r.ctx, "systemctl", "is-enabled", "s-main.service"); strings.TrimSpace(out) != "linked-runtime" {
		r.t.Errorf("a loaded unit is %s", out)
	}
	// What another unit's start pulls up runs, though nobody has launched it.
	r.ctl(h, "start", "s-main.service")
	state("s-main.service", "launched launched loaded active running")
	state("s-pulled.service", "loaded loaded loaded active running")
	// Who stops one by hand means it.
	h.Must(r.t, "systemctl", "stop", "s-main.service")
	state("s-main.service", "launched launched loaded inactive dead")
	// What fails is told, stays where it is, and is started again by systemd's Restart= or not at all.
	r.tryCtl(h, "start", "s-fails.service")
	state("s-fails.service", "launched launched loaded failed failed")
	r.settled()
	if n := r.starts(h)["s-fails.service"]; n != 1 {
		r.t.Errorf("the unit that fails was started %d times", n)
	}
	r.ctl(h, "stop", "s-fails.service")
	r.ctl(h, "unload", "s-main.service")
	state("s-main.service", "inactive inactive")
	if out, err := h.Run(r.ctx, "systemctl", "cat", "s-main.service"); err == nil {
		r.t.Errorf("an unloaded unit is still there: %s", out)
	}
	r.ctl(h, "destroy", "s-main.service", "s-pulled.service", "s-fails.service")
}

// asTheGuideSays goes through docs/coming-from-fleet.md's commands, with this cluster in both parts: where the units come from and, once
// it has forgotten them, where they go to.
func (r *rig) asTheGuideSays() {
	h := r.Host(1)
	text, err := os.ReadFile("../../../docs/coming-from-fleet.md")
	r.must(err)
	_, guide, found := strings.Cut(string(text), "## How to move a cluster over")
	if !found {
		r.t.Fatal("there is no guide")
	}
	var blocks []string
	inside := false
	for line := range strings.Lines(guide) {
		if command, ok := strings.CutPrefix(line, "       "); ok {
			if !inside {
				blocks = append(blocks, "set -e\n")
			}
			blocks[len(blocks)-1] += command
			inside = true
		} else {
			inside = false
		}
	}
	if len(blocks) != 2 {
		r.t.Fatalf("the guide has the commands %q", blocks)
	}
	r.write(h, map[string]string{"m@.service": service(""), "m-all.service": service("[X-Fleet]\nGlobal=true\n"), "m-idle.service": service("")})
	r.ctl(h, "submit", "m@.service", "m-idle.service")
	r.ctl(h, "start", "m@1.service", "m@2.service", "m-all.service")
	list := func() string {
		return r.ctl(h, "list-unit-files", "--full", "--no-legend", "--fields=unit,hash,dstate")
	}
	before := list()
	h.Must(r.t, "sh", "-c", "mkdir /root/move && cd /root/move && "+blocks[0])
	r.ctl(h, "destroy", "m@.service", "m@1.service", "m@2.service", "m-all.service", "m-idle.service")
	r.ctl(h, "submit", "/root/move/units/m@.service", "/root/move/units/m-idle.service")
	h.Must(r.t, "sh", "-c", "cd /root/move && "+blocks[1])
	r.once("m@1.service", "m@2.service")
	r.everywhere("m-all.service")
	if after := list(); after != before {
		r.t.Errorf("the units were\n%s\nand are\n%s", before, after)
	}
	r.ctl(h, "destroy", "m@.service", "m@1.service", "m@2.service", "m-all.service", "m-idle.service")
}
