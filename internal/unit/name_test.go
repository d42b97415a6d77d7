package unit

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseName(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		err      string // part of the error; empty: the name is good
	}{
		{"plain service", "web.service", ""},
		{"instance", "web@1.service", ""},
		{"instance with dots and a second @", "foo@bar@1.2.service", ""},
		{"template", "web@.timer", ""},
		{"all odd characters that are allowed", `a:-_.\x2d.mount`, ""},
		{"type that systemd has dropped, as fleet took it", "a.snapshot", ""},
		{"255 bytes", strings.Repeat("a", 247) + ".service", ""},
		{"256 bytes, which no host can load", strings.Repeat("a", 248) + ".service", "longer than 255 bytes"},
		{"empty", "", "is empty"},
		{"no type", "web", "has no type: write a name such as web.service"},
		{"ends in a dot", "web.", "has no type"},
		{"unknown type", "web.exe", `unknown type "exe"`},
		{"types are lower case", "web.Service", `unknown type "Service"`},
		{"nothing before the type", ".service", `nothing before its .: write a name such as web.service`},
		{"nothing before the @", "@1.service", "write a name such as web@1.service"},
		{"slash", "a/b.service", `character "/"`},
		{"space", "a b.service", `character " "`},
		{"glob", "web@*.service", `character "*"`},
		{"letter outside ASCII", "ü.service", `character "ü"`},
		{"bytes that are no UTF-8", "a\xff.service", "character"},
		{"mount template", "a@.mount", "type mount cannot be"},
		{"device instance", "a@1.device", "type device cannot be"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseName(tt.in)
			checkErr(t, err, tt.err)
			if err == nil && string(got) != tt.in {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestNameParts(t *testing.T) {
	type parts struct {
		Type, Base, Prefix, Instance string
		IsTemplate, IsInstance       bool
		Template                     Name
	}
	for name, want := range map[Name]parts{
		"web.service":         {Type: "service", Base: "web", Prefix: "web"},
		"web@.service":        {Type: "service", Base: "web@", Prefix: "web", IsTemplate: true},
		"web@1.service":       {Type: "service", Base: "web@1", Prefix: "web", Instance: "1", IsInstance: true, Template: "web@.service"},
		"foo@bar@1.2.service": {Type: "service", Base: "foo@bar@1.2", Prefix: "foo", Instance: "bar@1.2", IsInstance: true, Template: "foo@.service"},
		"foo@@.socket":        {Type: "socket", Base: "foo@@", Prefix: "foo", Instance: "@", IsInstance: true, Template: "foo@.socket"},
		"a.b.c.mount":         {Type: "mount", Base: "a.b.c", Prefix: "a.b.c"},
		"no name at all":      {Base: "no name at all", Prefix: "no name at all"},
		"":                    {},
	} {
		template, ok := name.Template()
		got := parts{name.Type(), name.Base(), name.Prefix(), name.Instance(), name.IsTemplate(), name.IsInstance(), template}
		if diff := cmp.Diff(want, got); diff != "" || ok != want.IsInstance {
			t.Errorf("%q: ok=%v\n%s", name, ok, diff)
		}
	}
}

func TestMangle(t *testing.T) {
	for _, tt := range []struct{ name, in, want, err string }{
		{"a bare word is a service", "hello", "hello.service", ""},
		{"a dot does not make a type", "foo.1", "foo.1.service", ""},
		{"an instance without type", "web@1", "web@1.service", ""},
		{"a template without type", "web@", "web@.service", ""},
		{"directories go", "./units/web@1.service", "web@1.service", ""},
		{"a type stays", "a.socket", "a.socket", ""},
		{"target stays, which fleet made foo.target.service", "foo.target", "foo.target", ""},
		{"slice stays", "a.slice", "a.slice", ""},
		{"swap stays", "a.swap", "a.swap", ""},
		{"scope stays", "a.scope", "a.scope", ""},
		{"a type that systemd has dropped is part of a service's name", "v1.snapshot", "v1.snapshot.service", ""},
		{"the shell's unused glob", "web@*", "", `character "*"`},
		{"empty", "", "", "is empty"},
		{"only a slash", "/", "", `character "/"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Mangle(tt.in)
			checkErr(t, err, tt.err)
			if string(got) != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// checkErr wants an error of this package that holds part, or none when part is empty.
func checkErr(t *testing.T, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Fatalf("unexpected error: %v", err)
	case part == "":
	case err == nil:
		t.Fatalf("no error, want one with %q", part)
	case !errors.Is(err, ErrInvalid):
		t.Errorf("error %v is not ErrInvalid", err)
	case !strings.Contains(err.Error(), part):
		t.Errorf("error %q does not hold %q", err, part)
	}
}
