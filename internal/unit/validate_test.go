package unit

import (
	"slices"
	"testing"
)

func TestValidate(t *testing.T) {
	for _, tt := range []struct{ name, in, err string }{
		{"nothing asked", "", ""},
		{"machine ID with metadata", "MachineID=a\nMachineMetadata=b=c", ""},
		{"global with metadata", "Global=1\nMachineMetadata=b=c", ""},
		{"global with conflicts", "Global=1\nConflicts=a.service", ""},
		{"peers with conflicts", "MachineOf=a.service\nConflicts=b.service", ""},
		{"peers with replaces", "MachineOf=a.service\nReplaces=b.service", ""},
		{"not global after all", "Global=1\nGlobal=0\nMachineOf=a.service", ""},
		{"every legacy form", "X-ConditionMachineOf=a.service\nX-Conflicts=b.service\nX-ConditionMachineMetadata=a=b", ""},

		{"peer fits a conflict", "MachineOf=a@1.service\nConflicts=a@*.service", "line 3: MachineOf a@1.service fits Conflicts a@*.service"},
		{"peer fits a conflict once expanded", "MachineOf=%p@2.service\nConflicts=self@*.service", "fits Conflicts"},
		{"peer fits a replaces", "MachineOf=a.service\nReplaces=a.service", "line 3: MachineOf a.service fits Replaces a.service"},
		{"machine ID with peers", "MachineID=a\nMachineOf=a.service", "line 3: MachineID and MachineOf cannot be used together"},
		{"machine ID with conflicts", "MachineID=a\nConflicts=a.service", "line 3: MachineID and Conflicts"},
		{"machine ID with global", "Global=1\nMachineID=a", "line 3: MachineID and Global"},
		{"machine ID with replaces", "Replaces=a.service\nMachineID=a", "line 3: MachineID and Replaces"},
		{"global with peers", "Global=1\nMachineOf=a.service", "line 3: Global and MachineOf"},
		{"global with replaces", "Global=1\nReplaces=a.service", "line 3: Global and Replaces"},
		{"conflicts with replaces", "Conflicts=a.service\nReplaces=b.service", "line 3: Conflicts and Replaces"},
		{"legacy forms clash as well", "X-ConditionMachineBootID=a\nX-Conflicts=a.service", "line 3: MachineID and Conflicts"},

		{"unknown option, near to one", "Global=0\nMachinMetadata=a=b", `line 3: unknown option "MachinMetadata" in [X-Fleet]: did you mean MachineMetadata?`},
		{"unknown option, wrong case", "machineid=a", "did you mean MachineID?"},
		{"unknown option, one letter too few", "Conflict=a.service", "did you mean Conflicts?"},
		{"unknown option, far from all", "Weight=3", "use Conflicts, Exclusive, Global, MachineID, MachineMetadata, MachineOf, Network, OnDisconnect, Publish, Replaces"},
		{"an X- that never was", "X-Replaces=a.service", "did you mean Replaces?"},
		{"an option that another issue will bring", "Priority=9", `unknown option "Priority"`},
		{"a malformed value", "MachineMetadata=a", "line 2: MachineMetadata"},
		{"the section in another case", "[X-fleet]\nGlobal=1", `line 3: option "Global" is in [X-fleet], which nobody reads: write [X-Fleet]`},
		{"the section without its hyphen", "[XFleet]\nGlobal=1", "write [X-Fleet]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := mustParse(t, "[X-Fleet]\n"+tt.in)
			checkErr(t, Validate(f, "self@1.service"), tt.err)
			checkErr(t, Validate(f, "self@.service"), tt.err)
		})
	}
	t.Run("the name is checked too", func(t *testing.T) {
		checkErr(t, Validate(mustParse(t, ""), "self"), "has no type")
	})
	t.Run("an error says file, line and remedy", func(t *testing.T) {
		err := InFile("web.service", Validate(mustParse(t, "[X-Fleet]\nMachinMetadata=a=b"), "web.service"))
		checkErr(t, err, `web.service:2: unknown option "MachinMetadata" in [X-Fleet]: did you mean MachineMetadata?`)
	})
	t.Run("options by the API have no line", func(t *testing.T) {
		f, err := FromOptions([]Option{{Section: "X-Fleet", Name: "Globl", Value: "1"}})
		if err != nil {
			t.Fatal(err)
		}
		checkErr(t, InFile("web.service", Validate(f, "web.service")), `web.service: unknown option "Globl"`)
	})
}

func TestKnownIsSortedForPeople(t *testing.T) {
	if !slices.IsSorted(Known()) {
		t.Error(Known())
	}
}
