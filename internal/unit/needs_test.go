package unit

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNeeds(t *testing.T) {
	for _, tt := range []struct {
		name, unit, in string // in: lines of [X-Fleet]
		want           Needs
	}{
		{"nothing asked", "", "", Needs{}},
		{"unknown options are passed over here", "", "Priority=9", Needs{}},

		{"machine ID: the first value counts", "", "MachineID=a\nMachineID=b", Needs{MachineID: "a"}},
		{"machine ID: the first of a quoted list", "", `MachineID="a" "b"`, Needs{MachineID: "a"}},
		{"machine ID: the better name counts wherever it stands", "",
			"X-ConditionMachineBootID=c\nX-ConditionMachineID=b\nMachineID=a", Needs{MachineID: "a"}},
		{"machine ID: condition form before boot ID", "", "X-ConditionMachineBootID=c\nX-ConditionMachineID=b", Needs{MachineID: "b"}},
		{"machine ID: boot ID alone", "", "X-ConditionMachineBootID=c", Needs{MachineID: "c"}},

		{"peers: all lines of both names, each once", "", "MachineOf=a.service\nX-ConditionMachineOf=b.service\nMachineOf=a.service",
			Needs{MachineOf: []Name{"a.service", "b.service"}}},
		{"peers: quoted list", "", `MachineOf="a.service" "b.service"`, Needs{MachineOf: []Name{"a.service", "b.service"}}},

		{"metadata: one key or, several and", "", "MachineMetadata=a=1\nMachineMetadata=a=2\nMachineMetadata=b=3",
			Needs{Metadata: map[string][]string{"a": {"1", "2"}, "b": {"3"}}}},
		{"metadata: both names are joined", "", "X-ConditionMachineMetadata=a=1\nMachineMetadata=a=2\nMachineMetadata=a=1",
			Needs{Metadata: map[string][]string{"a": {"1", "2"}}}},
		{"metadata: a quoted list is as several lines", "", `MachineMetadata="a=1" "a=2"  "b=3 4"`,
			Needs{Metadata: map[string][]string{"a": {"1", "2"}, "b": {"3 4"}}}},
		{"metadata: a quoted list over several lines", "", "MachineMetadata=\"a=1\" \\\n  \"b=2\"",
			Needs{Metadata: map[string][]string{"a": {"1"}, "b": {"2"}}}},
		{"metadata: space around key and value goes", "", "MachineMetadata=rack = 7\nMachineMetadata=\" zone =\ta \"",
			Needs{Metadata: map[string][]string{"rack": {"7"}, "zone": {"a"}}}},

		{"conflicts: lines, words and both names", "", "Conflicts=a.service  b@*.service\nX-Conflicts=c.service",
			Needs{Conflicts: []Glob{"a.service", "b@*.service", "c.service"}}},
		{"conflicts: quoted list", "", `Conflicts="a.service" "b.service c.service"`,
			Needs{Conflicts: []Glob{"a.service", "b.service", "c.service"}}},
		{"conflicts: continued", "", "Conflicts=a.service \\\nb.service", Needs{Conflicts: []Glob{"a.service", "b.service"}}},
		{"conflicts: empty is nothing", "", "Conflicts=", Needs{}},

		{"replaces: one glob a line", "", "Replaces=a@*.service\nReplaces=b.service", Needs{Replaces: []Glob{"a@*.service", "b.service"}}},
		{"replaces: empty is nothing", "", "Replaces=", Needs{}},

		{"global: the last value counts", "", "Global=true\nGlobal=no", Needs{}},
		{"global: any case", "", "Global=False\nGlobal=YES", Needs{Global: true}},
		{"global: on", "", "Global=on", Needs{Global: true}},
		{"global: t", "", "Global=t", Needs{Global: true}},
		{"global: 1", "", `Global="1"`, Needs{Global: true}},
		{"global: empty is no", "", "Global=1\nGlobal=", Needs{}},

		{"ports: several a line, each once", "", "Network=overlay\nPublish=80:8080 53:53/udp\nPublish=80:8080",
			Needs{Publish: []Port{{80, 8080, "tcp"}, {53, 53, "udp"}}}},
		{"ports of an instance", "web@1.service", "Network=overlay\nPublish=800%i:80", Needs{Publish: []Port{{8001, 80, "tcp"}}}},
		{"ports that only an instance has", "web@.service", "Network=overlay\nPublish=800%i:80 443:443", Needs{Publish: []Port{{443, 443, "tcp"}}}},

		{"specifiers of an instance", "web@a@1.service", "Conflicts=%n %N %p %i %p@*.service\nMachineOf=db@%i.service",
			Needs{Conflicts: []Glob{"web@a@1.service", "web@a@1", "web", "a@1", "web@*.service"}, MachineOf: []Name{"db@a@1.service"}}},
		{"specifiers of a plain unit: no instance", "web.service", "Conflicts=%n %N %p x%i", Needs{Conflicts: []Glob{"web.service", "web", "x"}}},
		{"a template keeps what comes with the instance", "web@.service", "Conflicts=%p@*.service %n\nMachineOf=%p-db@%i.service\nMachineMetadata=zone=%i",
			Needs{Conflicts: []Glob{"web@*.service", "%n"}, MachineOf: []Name{"web-db@%i.service"}, Metadata: map[string][]string{"zone": {"%i"}}}},
		{"other specifiers stay", "web.service", "MachineMetadata=a=%H%m%%", Needs{Metadata: map[string][]string{"a": {"%H%m%%"}}}},
		{"%% escapes nothing", "web.service", "MachineMetadata=a=%%p", Needs{Metadata: map[string][]string{"a": {"%web"}}}},
		{"what was put in is not expanded again", "in@x.service", "MachineMetadata=a=%%n", Needs{Metadata: map[string][]string{"a": {"%in@x.service"}}}},
		{"specifiers in a quoted list", "web@1.service", `MachineMetadata="a=%p" "a=%i"`, Needs{Metadata: map[string][]string{"a": {"web", "1"}}}},
		{"an escaped instance in a glob still fits", `web@a\x2db.service`, "Conflicts=*@%i.service", Needs{Conflicts: []Glob{`*@a\x2db.service`}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := Name("self@1.service")
			if tt.unit != "" {
				name = Name(tt.unit)
			}
			f := mustParse(t, "[Unit]\nConflicts=other.service\n[X-Fleet]\n"+tt.in+"\n")
			got, err := f.Needs(name)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			fromStore, err := NeedsOf(withoutLines(f.Section(FleetSection)), name)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, fromStore); diff != "" {
				t.Errorf("of the stored options:\n%s", diff)
			}
		})
	}
}

func TestNeedsRefuses(t *testing.T) {
	for _, tt := range []struct{ name, in, err string }{
		{"metadata without =", "MachineMetadata=rack", `MachineMetadata "rack" is no key=value: write both, such as MachineMetadata=rack=7`},
		{"metadata without key", "MachineMetadata==7", "is no key=value"},
		{"metadata without value", "MachineMetadata=rack=", "is no key=value"},
		{"metadata that is empty", "MachineMetadata=", "or delete the line"},
		{"metadata that is space only", `MachineMetadata="rack= "`, "is no key=value"},
		{"two pairs without quotes", "MachineMetadata=rack=7 zone=a", `write a line for each, or quote each: MachineMetadata="rack=7" "zone=a"`},
		{"a pair with quotes in the wrong place", `MachineMetadata=rack="7"`, "is not one key=value"},
		{"list with a quote too many", `MachineMetadata="a=1" b"`, "odd number of double quotes"},
		{"the old name is named in the error", "X-ConditionMachineMetadata=rack", `X-ConditionMachineMetadata "rack"`},
		{"empty machine ID", "MachineID=", "MachineID is empty"},
		{"several peers in a line", "MachineOf=a.service b.service", "write one unit's full name a line"},
		{"peer without type", "MachineOf=a", "is no unit name"},
		{"peer that is a glob", "MachineOf=a@*.service", "is no unit name"},
		{"peer with a specifier fleet does not know", "MachineOf=a@%H.service", "is no unit name"},
		{"the unit as its own peer", "MachineOf=%n", "names the unit itself"},
		{"malformed conflict", "Conflicts=a.service b@[1.service", `Conflicts "b@[1.service" is a malformed pattern: close each [`},
		{"malformed replaces", "Replaces=b@[1.service", "malformed pattern"},
		{"several replaces in a line", "Replaces=a.service b.service", "write one pattern a line"},
		{"global neither yes nor no", "Global=ture", `Global "ture" is neither yes nor no: write Global=true or Global=false`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := mustParse(t, "[X-Fleet]\n\n"+tt.in).Needs("self@1.service")
			checkErr(t, err, "line 3: ")
			checkErr(t, err, tt.err)
			_, err = mustParse(t, "[X-Fleet]\n"+tt.in).Needs("self@.service")
			if !strings.Contains(tt.in, "%n") { // what a template's own name is, its instances do not say
				checkErr(t, err, tt.err)
			}
		})
	}
}

func BenchmarkNeedsOf(b *testing.B) {
	f := mustParse(b, "[X-Fleet]\nConflicts=%p@*.service\nMachineMetadata=zone=a\nMachineOf=db@%i.service\n")
	for b.Loop() {
		if _, err := NeedsOf(f.Options, "web@1.service"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestExpandShowsWhatSystemdWould(t *testing.T) {
	if got, want := Expand("web@1.service", "Server %i of %p (%n) on %H"), "Server 1 of web (web@1.service) on %H"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
