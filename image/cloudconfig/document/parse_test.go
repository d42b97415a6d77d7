package document

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// addresses are what the tests' hosts know of themselves.
func addresses() Variables {
	return Variables{Source: "the test", Values: map[string]string{"private_ipv4": "10.0.0.7", "public_ipv4": "192.0.2.7"}}
}

func told(problems []Problem) string {
	var b strings.Builder
	for _, p := range problems {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

// The documents in testdata are what CoreOS' own documentation taught, in our words: they parse, and beside each stands what is told of it.
func TestDocuments(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			d, problems := Parse(data, addresses())
			out, err := json.MarshalIndent(d, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			got := told(problems) + string(out) + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("run with UPDATE_GOLDEN=1 if this is right:\n%s", diff)
			}
		})
	}
}

func TestWhatIsToldOfBadDocuments(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"broken YAML names its line", "#cloud-config\nhostname: a\n  users: b\n", "line 3: error: YAML: mapping values are not allowed in this context; mind the spaces"},
		{"a list that ends too early, below where it begins", "#cloud-config\nwrite_files:\n  - path: /a\n    content: x\n   owner: root\nhostname: a\n", "line 5: error: YAML: did not find expected"},
		{"a bracket that nothing closes", "#cloud-config\nhostname: a\nusers: [{name: a]\nwrite_files:\n  - path: /a\n", "line 3: error: YAML: did not find expected"},
		{"a quotation mark that nothing closes", "#cloud-config\nhostname: a\nupdate: {}\nmanage_etc_hosts: \"localhost\nusers: []\n", "line 4: error: YAML: found unexpected end of stream"},
		{"a character that YAML does not have", "#cloud-config\nhostname: a\nusers: \x01\n", "line 3: error: YAML: control characters are not allowed"},
		{"a tab", "#cloud-config\nusers:\n\t- name: a\n", "line 3: error: YAML: found character that cannot start any token"},
		{"no header", "hostname: a\n", `line 1: error: a document cannot begin with "hostname: a"; the first line is #cloud-config`},
		{"Ignition", `{"ignition": {"version": "3.0.0"}}`, "error: this is an Ignition config"},
		{"a list where text is", "#cloud-config\nhostname: [a]\n", "line 2: error: hostname must be text, not a list"},
		{"text where a list is", "#cloud-config\nusers: core\n", `line 2: error: users must be a list, not "core"`},
		{"a number where a table is", "#cloud-config\ncoreos: 5\n", `line 2: error: coreos must be a table of keys and values, not "5"`},
		{"a word for a boolean", "#cloud-config\ncoreos:\n  units:\n    - name: a.service\n      enable: maybe\n", `line 5: error: coreos.units[0].enable must be a boolean, not "maybe"`},
		{"a slip", "#cloud-config\nhostnmae: a\n", `line 2: error: unknown key "hostnmae" in the document; did you mean hostname?`},
		{"a slip in a setting", "#cloud-config\nfleet:\n  fleetd:\n    agent_tll: 5s\n", `line 4: error: unknown key "agent_tll" in fleet.fleetd; did you mean agent_ttl?`},
		{"twice", "#cloud-config\nhostname: a\nhostname: b\n", "line 3: error: hostname twice in the document; it stands on line 2 already"},
		{"twice, spelled differently", "#cloud-config\nwrite_files: []\nwrite-files: []\n", "line 3: error: write_files twice"},
		{"under /usr", "#cloud-config\nwrite_files:\n  - path: /usr/bin/x\n", "line 3: error: write_files[0].path cannot be \"/usr/bin/x\"; /usr is not written to"},
		{"up and out", "#cloud-config\nwrite_files:\n  - path: /etc/../usr/x\n", "without '..'"},
		{"a file that is a folder", "#cloud-config\nwrite_files:\n  - path: /etc/a\n  - path: /etc/a/b\n", "/etc/a is a file and a folder"},
		{"a mode", "#cloud-config\nwrite_files:\n  - {path: /etc/a, permissions: rw}\n", "write three or four octal digits"},
		{"not base64", "#cloud-config\nwrite_files:\n  - {path: /etc/a, content: '*', encoding: b64}\n", "line 3: error: /etc/a: content is not b64: it is not base64"},
		{"not gzip", "#cloud-config\nwrite_files:\n  - {path: /etc/a, content: YWJj, encoding: gz+b64}\n", "it is not gzip"},
		{"a source without a hash", "#cloud-config\nwrite_files:\n  - {path: /etc/a, source: 'https://x/y'}\n", "/etc/a: a source needs its hash"},
		{"no name", "#cloud-config\nusers:\n  - gecos: A\n", "line 3: error: users[0] has no name"},
		{"no type", "#cloud-config\ncoreos:\n  units:\n    - name: web\n", "a unit's name with its type"},
		{"a command", "#cloud-config\ncoreos:\n  units:\n    - {name: a.service, command: begin}\n", "use start, stop, restart"},
		{"an address nobody knows", "#cloud-config\nhostname: h\nwrite_files:\n  - path: /etc/a\n    content: $public_ipv6\n",
			"line 5: error: nobody knows $public_ipv6: not the test; say where it is: fleet: {addresses: {public_ipv6: INTERFACE or NETWORK}}"},
		{"set twice", "#cloud-config\ncoreos: {fleet: {public_ip: 10.0.0.1}}\nfleet: {fleetd: {public_ip: 10.0.0.2}}\n", "public_ip of fleetd is set twice, differently"},
		{"anchors", "#cloud-config\nhostname: &a x\n", "YAML anchors and aliases are not read"},
		{"two documents", "#cloud-config\nhostname: a\n---\nhostname: b\n", "there is more than one YAML document"},
		{"a window without length", "#cloud-config\ncoreos: {locksmith: {window_start: 'Thu 04:00'}}\n", "window_start without window_length"},
		{"a setting's value", "#cloud-config\nfleet:\n  fleetd:\n    agent-ttl: soon\n", "line 4: error: fleet.fleetd.agent_ttl cannot be \"soon\"; use a span of time such as 10s or 1m30s, at least 2s"},
		{"netd's slip", "#cloud-config\nfleet:\n  netd: {ip-mask: true}\n", "line 3: error: unknown key \"ip_mask\" in fleet.netd; did you mean ip_masq?"},
		{"flannel's value", "#cloud-config\ncoreos:\n  flannel:\n    ip_masq: maybe\n", "line 4: error: coreos.flannel.ip_masq cannot be \"maybe\"; write true or false"},
		{"etcd2", "#cloud-config\ncoreos:\n  etcd2:\n    discovery: https://x\n", "warning: coreos.etcd2 has no meaning here; the store is built into fleetd"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, problems := Parse([]byte(row.text), addresses())
			if got := told(problems); !strings.Contains(got, row.want) {
				t.Errorf("told:\n%swant: %s", got, row.want)
			}
		})
	}
}

func TestUnknownKeysAreErrorsOnlyToWhoWrites(t *testing.T) {
	d, problems := Parse([]byte("#cloud-config\nhostname: a\nnewer: {x: 1}\n"), addresses())
	if len(Errors(problems, false)) != 0 || len(Errors(problems, true)) != 1 || d.Hostname != "a" {
		t.Errorf("%+v %v", d, problems)
	}
}

func TestSecretsAreNotShownWhole(t *testing.T) {
	_, problems := Parse([]byte("#cloud-config\nfleet:\n  join: 'fleet1 "+strings.Repeat("s", 100)+"'\n"), addresses())
	if got := told(problems); strings.Contains(got, strings.Repeat("s", 50)) || len(problems) == 0 {
		t.Error(got)
	}
}

func TestCompressedAndScripts(t *testing.T) {
	zip := func(s string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		fmt.Fprint(z, s)
		z.Close()
		return b.Bytes()
	}
	if d, p := Parse(zip("#cloud-config\nhostname: a\n"), addresses()); d.Hostname != "a" || p != nil {
		t.Error(d, p)
	}
	if d, p := Parse([]byte("#!/bin/sh\necho $private_ipv4 \\$private_ipv4 $HOME\n"), addresses()); string(d.Script) != "#!/bin/sh\necho 10.0.0.7 $private_ipv4 $HOME\n" || p != nil {
		t.Errorf("%s %v", d.Script, p)
	}
	for _, empty := range []string{"", "\n", "#cloud-config\n", "#cloud-config \r\n# nothing\n"} {
		if d, p := Parse([]byte(empty), addresses()); cmp.Diff(Document{}, d) != "" || p != nil {
			t.Errorf("%q: %v %v", empty, d, p)
		}
	}
	// 20 MiB of zeros in 20 KiB: as the document, and inside of one.
	bomb := zip(strings.Repeat("\x00", MaxSize+1))
	inside := fmt.Sprintf("#cloud-config\nwrite_files:\n  - {path: /etc/a, encoding: gz+b64, content: %s}\n", base64.StdEncoding.EncodeToString(bomb))
	for _, data := range [][]byte{bomb, []byte(inside)} {
		if _, p := Parse(data, addresses()); !strings.Contains(told(p), "larger than 16 MiB") {
			t.Errorf("a bomb: %v", p)
		}
	}
}

func TestSchemaKnowsEveryKeyOfTheTable(t *testing.T) {
	var s struct {
		Properties map[string]struct {
			Properties map[string]any
			Items      struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	for _, f := range root().fields {
		p, ok := s.Properties[f.name]
		if !ok {
			t.Errorf("no %s", f.name)
		}
		subs := f.fields
		if f.item != nil {
			subs, p.Properties = f.item.fields, p.Items.Properties
		}
		for _, sub := range subs {
			if p.Properties[sub.name] == nil {
				t.Errorf("no %s.%s", f.name, sub.name)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("#cloud-config\na: &a [*a]\n"))
	f.Add([]byte("#!/bin/sh\n$private_ipv6"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, problems := Parse(data, addresses())
		if len(Errors(problems, false)) > 0 {
			return
		}
		for _, file := range d.Files {
			if wrong := isWritable(file.Path); wrong != "" {
				t.Errorf("%q went through: %s", file.Path, wrong)
			}
		}
		for _, u := range d.Units {
			if wrong := isUnit(u.Name); wrong != "" {
				t.Errorf("%q went through: %s", u.Name, wrong)
			}
		}
	})
}

// What the manual shows is read without a word of complaint.
func TestDocumentsOfTheManual(t *testing.T) {
	text, err := os.ReadFile("../../../docs/cloud-config.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```yaml\n")[1:]
	if len(blocks) < 2 {
		t.Fatalf("%d documents", len(blocks))
	}
	for _, b := range blocks {
		doc, _, _ := strings.Cut(b, "```")
		if _, problems := Parse([]byte(doc), Variables{}); len(problems) > 0 {
			t.Errorf("%s%s", doc, told(problems))
		}
	}
}
