package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// placed reads placements: "name target hash [handover]".
func placed(lines ...string) Orders {
	o := Orders{Rev: 7, Admitted: true, Placements: map[unit.Name]fleet.Placement{}}
	for _, l := range lines {
		w := strings.Fields(l)
		o.Placements[unit.Name(w[0])] = fleet.Placement{Unit: unit.Name(w[0]), Machine: "m", Target: fleet.TargetState(w[1]),
			Hash: letter(w[2]), Handover: len(w) == 4}
	}
	return o
}

// letter makes a hash of one letter; "-" is none.
func letter(s string) unit.Hash {
	if s == "-" {
		return ""
	}
	return unit.Hash(strings.Repeat(s, 40))
}

// seen reads what is observed: "name disk-hash started-hash load active [job]", "text hash", "asked name job", "stale",
// "held kind name hash".
func seen(lines ...string) Observed {
	o := Observed{At: time.Unix(1000, 0), Disk: map[unit.Name]OnDisk{}, States: map[unit.Name]fleet.UnitStatus{},
		Jobs: map[unit.Name]string{}, Texts: map[unit.Hash]bool{}, Held: map[taskID]time.Time{}}
	for _, l := range lines {
		w := strings.Fields(l)
		switch w[0] {
		case "text":
			o.Texts[letter(w[1])] = true
		case "asked":
			o.Jobs[unit.Name(w[1])] = w[2]
		case "stale":
			o.Stale = true
		case "held":
			o.Held[Task{Kind: Kind(w[1]), Unit: unit.Name(strings.Trim(w[2], "-")), Hash: letter(w[3])}.id()] = o.At.Add(time.Second)
		default:
			n := unit.Name(w[0])
			o.Disk[n] = OnDisk{Hash: letter(w[1]), Started: letter(w[2])}
			st := fleet.UnitStatus{Load: w[3], Active: w[4]}
			if len(w) == 6 {
				st.Job = w[5]
			}
			o.States[n] = st
		}
	}
	return o
}

func TestPlan(t *testing.T) {
	blind := placed()
	blind.Admitted = false
	for _, c := range []struct {
		name   string
		orders Orders
		seen   Observed
		want   string // one task per line
	}{
		{"nothing ordered, nothing there", placed(), seen(), ""},
		{"a new unit's text is fetched first", placed("web@1.service launched a"), seen(), "fetch web@1.service aaaaaaa: to be loaded"},
		{"a text is fetched once for all instances", placed("web@1.service launched a", "web@2.service launched a"), seen(),
			"fetch web@1.service aaaaaaa: to be loaded"},
		{"with the text at hand it is loaded and started", placed("web@1.service launched a"), seen("text a"), `
load web@1.service aaaaaaa: placed here
start web@1.service aaaaaaa: its target state is launched`},
		{"target loaded is not started", placed("web@1.service loaded a"), seen("text a"), "load web@1.service aaaaaaa: placed here"},
		{"all loads come before all starts", placed("a.service launched a", "b.service loaded b", "c.service launched a"),
			seen("text a", "text b"), `
load a.service aaaaaaa: placed here
load b.service bbbbbbb: placed here
load c.service aaaaaaa: placed here
start a.service aaaaaaa: its target state is launched
start c.service aaaaaaa: its target state is launched`},
		{"a loaded unit is started", placed("a.service launched a"), seen("a.service a - loaded inactive"),
			"start a.service aaaaaaa: its target state is launched"},
		{"a running unit that we launched is left alone", placed("a.service launched a"), seen("a.service a a loaded active"), ""},
		{"a unit that ended by itself is not started again", placed("a.service launched a"), seen("a.service a a loaded inactive"), ""},
		{"a unit that failed is not started again", placed("a.service launched a"), seen("a.service a a loaded failed"), ""},
		{"a unit that something else started is launched all the same", placed("a.service launched a"),
			seen("a.service a - loaded active"), "start a.service aaaaaaa: its target state is launched"},
		{"a start under way is not asked for again", placed("a.service launched a"),
			seen("a.service a - loaded inactive", "asked a.service start"), ""},
		{"a start waits for the end of a stop", placed("a.service launched a"), seen("a.service a - loaded deactivating stop"), ""},
		{"target loaded stops what we launched", placed("a.service loaded a"), seen("a.service a a loaded active"),
			"stop a.service aaaaaaa: its target state is loaded"},
		{"target loaded leaves what others started", placed("a.service loaded a"), seen("a.service a - loaded active"), ""},
		{"target loaded cancels a start under way", placed("a.service loaded a"),
			seen("a.service a a loaded inactive", "asked a.service start"), "stop a.service aaaaaaa: its target state is loaded"},
		{"a stop under way is not asked for again", placed("a.service loaded a"),
			seen("a.service a a loaded deactivating", "asked a.service stop"), ""},

		{"a withdrawn unit is stopped first", placed(), seen("a.service a a loaded active"), "stop a.service aaaaaaa: no longer placed here"},
		{"its file stays while it stops", placed(), seen("a.service a a loaded deactivating stop"), ""},
		{"its file goes when it has stopped", placed(), seen("a.service a - loaded inactive"), "unload a.service aaaaaaa: no longer placed here"},
		{"a failed withdrawn unit is unloaded", placed(), seen("a.service a a loaded failed"), "unload a.service aaaaaaa: no longer placed here"},
		{"what systemd forgot is unloaded", placed(), seen("a.service a a not-found inactive"), "unload a.service aaaaaaa: no longer placed here"},
		{"a running unit whose file is gone is stopped too", placed(), seen("a.service - a not-found active"), "stop a.service: no longer placed here"},
		{"a queued start of a withdrawn unit is cancelled", placed(), seen("a.service a a loaded inactive start"), "stop a.service aaaaaaa: no longer placed here"},
		{"nothing goes before an engine has planned for this registration", blind, seen("a.service a a loaded active"), ""},
		{"a handover runs on", placed("a.service launched b x"), seen("a.service a a loaded active"), ""},
		{"a handover that does not run is not started", placed("a.service launched a x"), seen("a.service a - loaded inactive"), ""},
		{"a handover that is not there is not loaded", placed("a.service launched a x"), seen("text a"), ""},
		{"a placement without a wish is no placement", placed("a.service inactive a"), seen("a.service a - loaded inactive"),
			"unload a.service aaaaaaa: its target state is inactive"},

		{"replacing fetches before it stops", placed("a.service launched b"), seen("a.service a a loaded active"),
			"fetch a.service bbbbbbb: to be loaded"},
		{"replacing stops with the old text", placed("a.service launched b"), seen("a.service a a loaded active", "text b"),
			"stop a.service aaaaaaa: its text changed"},
		{"replacing waits for the stop", placed("a.service launched b"), seen("a.service a a loaded deactivating stop", "text b"), ""},
		{"replacing goes on when it has stopped", placed("a.service launched b"), seen("a.service a - loaded inactive", "text b"), `
load a.service bbbbbbb: its text changed
start a.service bbbbbbb: its target state is launched`},
		{"an old text in systemd's memory is reloaded before starts", placed("a.service launched b", "c.service loaded a"),
			seen("a.service b - loaded inactive", "stale", "text a"), `
load c.service aaaaaaa: placed here
reload: systemd holds an older text
start a.service bbbbbbb: its target state is launched`},
		{"while a reload fails nothing starts", placed("a.service launched b"),
			seen("a.service b - loaded inactive", "stale", "held reload - -"), ""},
		{"a link that is gone is made again", placed("a.service launched a"), seen("a.service a a not-found inactive"),
			"load a.service aaaaaaa: systemd does not know it"},
		{"a file that was removed by hand is written again, its unit runs on", placed("a.service launched a"),
			seen("a.service - a loaded active", "text a"), "load a.service aaaaaaa: its file is gone"},

		{"what failed is held back, others go on", placed("a.service launched a", "b.service launched a"),
			seen("a.service a - loaded inactive", "b.service a - loaded inactive", "held start a.service a"),
			"start b.service aaaaaaa: its target state is launched"},
		{"a start waits for a load that is held back", placed("a.service launched a"), seen("text a", "held load a.service a"), ""},
		{"a new text is tried at once", placed("a.service launched b"), seen("a.service b - loaded inactive", "held start a.service a"),
			"start a.service bbbbbbb: its target state is launched"},
		{"order of kinds", placed("new.service launched a", "old.service launched a", "far.service launched c", "kept.service loaded a"),
			seen("text a", "old.service a - loaded inactive", "gone.service b - loaded inactive", "going.service b b loaded active",
				"kept.service a a loaded active", "stale"), `
stop going.service bbbbbbb: no longer placed here
stop kept.service aaaaaaa: its target state is loaded
unload gone.service bbbbbbb: no longer placed here
fetch far.service ccccccc: to be loaded
load new.service aaaaaaa: placed here
reload: systemd holds an older text
start new.service aaaaaaa: its target state is launched
start old.service aaaaaaa: its target state is launched`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(strings.TrimSpace(c.want), text(Plan(c.orders, c.seen))); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func text(tasks []Task) string {
	lines := make([]string, len(tasks))
	for i, t := range tasks {
		lines[i] = t.String()
	}
	return strings.Join(lines, "\n")
}
