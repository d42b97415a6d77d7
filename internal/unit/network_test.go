package unit

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNetwork(t *testing.T) {
	web := Port{8080, 80, "tcp"}
	for _, tt := range []struct {
		name, unit, in string // in: lines of [X-Fleet]
		want           Network
	}{
		{"nothing asked", "", "Global=yes", Network{}},
		{"an address", "", "Network=overlay", Network{Overlay: true}},
		{"the host's network by name", "", "Network=host", Network{}},
		{"the last value counts", "", "Network=overlay\nNetwork=", Network{}},
		{"a port", "", "Publish=8080:80\nNetwork=overlay", Network{true, []Port{web}}},
		{"ports: lines, words and lists", "", "Network=overlay\nPublish=8080:80  53:53/udp\nPublish=\"53:53/tcp\" \"9:9/sctp\"",
			Network{true, []Port{web, {53, 53, "udp"}, {53, 53, "tcp"}, {9, 9, "sctp"}}}},
		{"a port of each instance", "web@7.service", "Network=overlay\nPublish=80%i:80", Network{true, []Port{{807, 80, "tcp"}}}},
		{"a template's ports come with the instance", "web@.service", "Network=overlay\nPublish=80%i:80", Network{true, []Port{{800, 80, "tcp"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := Name("web.service")
			if tt.unit != "" {
				name = Name(tt.unit)
			}
			f := mustParse(t, "[Service]\nNetwork=bridge\n[X-Fleet]\n"+tt.in+"\n")
			got, err := f.Network(name)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			checkErr(t, Validate(f, name), "")
		})
	}
}

func TestNetworkRefuses(t *testing.T) {
	const overlay = "Network=overlay\n"
	for _, tt := range []struct{ name, unit, in, err string }{
		{"another network", "", "Network=bridge", `line 2: Network "bridge" is neither overlay nor host: write Network=overlay`},
		{"a port of the host's network", "", "Publish=80:80", "line 2: Publish without Network=overlay"},
		{"a unit that runs nothing", "web.timer", overlay, "line 2: Network=overlay in a timer unit: only a service"},
		{"one port alone", "", overlay + "Publish=80", `line 3: Publish "80" is no published port: write the host's port, then the unit's, such as Publish=8080:80`},
		{"an address", "", overlay + "Publish=127.0.0.1:80:80", "is no published port"},
		{"port 0", "", overlay + "Publish=0:80", "is no published port"},
		{"a port too high", "", overlay + "Publish=80:65536", "is no published port"},
		{"another protocol", "", overlay + "Publish=80:80/icmp", "is no published port"},
		{"a port twice", "", overlay + "Publish=80:80\nPublish=80:81/tcp", `line 4: Publish "80:81/tcp": the host's port is published twice`},
		{"a list with a quote too many", "", overlay + `Publish="80:80" "`, "odd number of double quotes"},
		{"a name with no room for the helper's", strings.Repeat("x", 228) + ".service", overlay, "longer than 235 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := Name("web.service")
			if tt.unit != "" {
				name = Name(tt.unit)
			}
			f := mustParse(t, "[X-Fleet]\n"+tt.in+"\n")
			_, err := f.Network(name)
			checkErr(t, err, tt.err)
			checkErr(t, Validate(f, name), tt.err)
		})
	}
	longest := Name(strings.Repeat("x", 227) + ".service")
	if _, err := mustParse(t, "[X-Fleet]\nNetwork=overlay\n").Network(longest); err != nil {
		t.Error(err)
	}
}

func TestPortPrintsAsItIsRead(t *testing.T) {
	for in, want := range map[string]string{"8080:80": "8080:80/tcp", "53:53/udp": "53:53/udp"} {
		p, err := ParsePort(in)
		if err != nil || p.String() != want {
			t.Errorf("%s: %v, %v", in, p, err)
		}
	}
	if _, err := ParsePort("80"); err == nil {
		t.Error("one port alone is taken")
	}
}
