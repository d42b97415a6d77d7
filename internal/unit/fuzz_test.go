package unit

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", webText, "[A]\nx=a \\\n# c\n b\\\\\ny=\\", "\ufeff[A]\r\nx=1\r\r\ny=2", "[A]\nx=a\\ \n", "[A]\n\u00a0\nx=\u00a0", "[A\\]\nx=\\\n\n[A]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse(text)
		if err != nil {
			checkErr(t, err, " ")
			return
		}
		checkIdentity(t, file)
		// What was parsed passes the API as it is.
		again, err := FromOptions(file.Options)
		if err != nil {
			t.Fatalf("parsed options are refused: %v", err)
		}
		if diff := cmp.Diff(file, again); diff != "" {
			t.Fatalf("parsed options changed:\n%s", diff)
		}
	})
}

func FuzzFromOptions(f *testing.F) {
	f.Add("Service", "ExecStart", "/bin/a \\\n b")
	f.Add("A]\n[B", "x", "1")
	f.Add("A", "x\n[B]\ny", "1\nz=2")
	f.Add("A", "#x", `a \`)
	f.Add("A", " x ", "\n1 \r\n")
	f.Fuzz(func(t *testing.T, section, name, value string) {
		file, err := FromOptions([]Option{{Section: section, Name: name, Value: value}, {Section: "Z", Name: "z", Value: "z"}})
		if err != nil {
			checkErr(t, err, " ")
			return
		}
		if len(file.Options) != 2 || file.Options[0].Section != section || file.Options[1] != (Option{Section: "Z", Name: "z", Value: "z"}) {
			t.Fatalf("options became others: %+v", file.Options)
		}
		checkIdentity(t, file)
	})
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"", "web.service", "web@.service", "foo@bar@1.2.service", `a\x2db.mount`, "@.", "dir/web@1", "..", "a@b.c@d.path"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err != nil {
			checkErr(t, err, " ")
		} else {
			if string(n) != s || n.Base()+"."+n.Type() != s {
				t.Fatalf("%q came apart as %q and %q", s, n.Base(), n.Type())
			}
			if n.IsTemplate() && n.IsInstance() || strings.Contains(n.Base(), "@") != (n.IsTemplate() || n.IsInstance()) {
				t.Fatalf("%q: template %v, instance %v", s, n.IsTemplate(), n.IsInstance())
			}
			if m, err := Mangle(s); err == nil && m != n && m != n+".service" {
				t.Fatalf("%q mangled to %q", s, m)
			}
		}
		// Names that were never checked must not crash anyone.
		m := Name(s)
		if tpl, ok := m.Template(); ok && !tpl.IsTemplate() {
			t.Fatalf("%q: template %q is none", s, tpl)
		}
		if m, err := Mangle(s); err == nil {
			if again, err := ParseName(string(m)); err != nil || again != m {
				t.Fatalf("%q mangled to %q, which is no name: %v", s, m, err)
			}
		}
	})
}

func FuzzNeeds(f *testing.F) {
	f.Add("MachineMetadata", `"a=%i" "b=2"`, "web@1.service")
	f.Add("Conflicts", "%p@*.service \\\n[a", "web@.service")
	f.Add("MachineOf", "%n", "web.service")
	f.Add("X-ConditionMachineBootID", "a", "web.service")
	f.Add("Global", `"`, "")
	f.Fuzz(func(t *testing.T, key, value, name string) {
		needs, err := NeedsOf([]Option{{Section: FleetSection, Name: key, Value: value}}, Name(name))
		if err != nil {
			checkErr(t, err, " ")
			return
		}
		for k, vs := range needs.Metadata {
			if k == "" || len(vs) == 0 || strings.TrimSpace(k) != k && strings.Trim(k, space) != k {
				t.Fatalf("metadata %q = %q", k, vs)
			}
		}
		for _, g := range append(needs.Conflicts, needs.Replaces...) {
			if !g.Valid() {
				t.Fatalf("malformed glob %q came through", g)
			}
		}
		for _, p := range needs.MachineOf {
			if _, err := ParseName(string(p)); err != nil && !Name(name).IsTemplate() {
				t.Fatalf("peer %q: %v", p, err)
			}
		}
	})
}
