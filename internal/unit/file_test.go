package unit

import (
	"crypto/sha1"
	"encoding/hex"
	"io"
	"strings"
	"testing"

	systemd "github.com/coreos/go-systemd/v22/unit"
	"github.com/google/go-cmp/cmp"
)

const webText = `# The web.
[Unit]
Description=Web \
  of things
After=network.target

[Service]
ExecStart=/bin/web \
  --port=80
[X-Fleet]
Conflicts=web@*.service
[Unit]
Wants=db.service

[Install]
`

const webPrinted = `[Unit]
Description=Web \
  of things
After=network.target
Wants=db.service

[Service]
ExecStart=/bin/web \
  --port=80

[X-Fleet]
Conflicts=web@*.service
`

func TestPrintedFileHasNoCommentsAndEachSectionOnce(t *testing.T) {
	f := mustParse(t, webText)
	if diff := cmp.Diff(webPrinted, f.String()); diff != "" {
		t.Error(diff)
	}
	sum := sha1.Sum([]byte(webPrinted))
	if want := Hash(hex.EncodeToString(sum[:])); f.Hash() != want {
		t.Errorf("hash %s, want %s", f.Hash(), want)
	}
}

func TestHandMadeFilePrintsGroupedToo(t *testing.T) {
	f := &File{Options: []Option{{Section: "A", Name: "x"}, {Section: "B", Name: "y"}, {Section: "A", Name: "z"}}}
	if want := "[A]\nx=\nz=\n\n[B]\ny=\n"; f.String() != want {
		t.Errorf("got %q, want %q", f.String(), want)
	}
}

// fleet printed with go-systemd's unit package, and its hashes are of that. For files without the oddities where go-systemd
// leaves systemd's ways (comments in continuations, CR, long lines), ours must be the same.
func TestPrintedFileAndHashAreThoseOfFleet(t *testing.T) {
	for _, text := range []string{
		"", "[A]\n", webText,
		"# c\n[Service]\nExecStart=\nExecStart=/bin/a \\\n\t-b \\\n  -c\n;d\n[Service]\nx = y \n",
		"[A]\nx=a \\\n\ny=1\n", "pre\n[A]\nEnvironment=\"A=b c\" 'd=e'\n[B]\n\n\nz=",
	} {
		theirs, err := systemd.DeserializeOptions(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(systemd.Serialize(theirs))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), mustParse(t, text).String()); diff != "" {
			t.Errorf("%q:\n%s", text, diff)
		}
	}
}

func TestFileQuestions(t *testing.T) {
	f := mustParse(t, webText)
	if got := f.Description(); got != "Web    of things" {
		t.Errorf("description %q", got)
	}
	if f.HasInstall() {
		t.Error("an empty [Install] counts as present")
	}
	if !mustParse(t, "[Install]\nWantedBy=x").HasInstall() {
		t.Error("[Install] with an option is not seen")
	}
	if got := mustParse(t, "[Unit]\nDescription=a\nDescription=b").Description(); got != "a" {
		t.Errorf("not the first description: %q", got)
	}
	if got := mustParse(t, "[Service]\nDescription=a").Description(); got != "" {
		t.Errorf("description of another section: %q", got)
	}
	f = mustParse(t, "[A]\nx=1\ny=2\nx=\n[B]\nx=3")
	if diff := cmp.Diff([]string{"1", ""}, f.Get("A", "x")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Option{{"B", "x", "3", 6}}, f.Section("B")); diff != "" {
		t.Error(diff)
	}
}

func TestFromOptions(t *testing.T) {
	for _, tt := range []struct {
		name     string
		in, want []Option
	}{
		{"none", nil, nil},
		{"as they are", []Option{{"A", "x", "1", 0}, {"A", "x", "", 0}}, []Option{{"A", "x", "1", 0}, {"A", "x", "", 0}}},
		{"grouped by section", []Option{{"A", "x", "", 0}, {"B", "y", "", 0}, {"A", "z", "", 0}},
			[]Option{{"A", "x", "", 0}, {"A", "z", "", 0}, {"B", "y", "", 0}}},
		{"space goes", []Option{{"A", " x ", " 1 \n", 0}}, []Option{{"A", "x", "1", 0}}},
		{"continued value", []Option{{"A", "x", "a \\\n b", 3}}, []Option{{"A", "x", "a \\\n b", 3}}},
		{"comment in a continued value, which go-systemd keeps", []Option{{"A", "x", "a \\\n# c \\\n b", 0}}, []Option{{"A", "x", "a \\\n b", 0}}},
		{"backslash at the end, as go-systemd reads it at the end of a file", []Option{{"A", "x", `a \`, 0}, {"A", "y", "1", 0}},
			[]Option{{"A", "x", "a \\\n", 0}, {"A", "y", "1", 0}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := FromOptions(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(append([]Option{}, tt.want...), f.Options); diff != "" {
				t.Error(diff)
			}
			checkIdentity(t, f)
		})
	}
}

func TestFromOptionsRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   Option
		err  string
	}{
		{"value with a newline in it", Option{"A", "x", "a\nb=c", 0}, `option "x" in section "A": newline with no backslash before it`},
		{"value with a CR in it", Option{"A", "x", "a\rb=c", 0}, "newline with no backslash"},
		{"value that opens a section", Option{"A", "x", "a\n[B]", 0}, "newline with no backslash"},
		{"space after a backslash", Option{"A", "x", `a \ `, 0}, "space after the backslash"},
		{"section with ]", Option{"A]", "x", "", 0}, "text after section header"},
		{"section that opens another", Option{"A]\n[B", "x", "", 0}, "newline"},
		{"section with a newline", Option{"A\n", "x", "", 0}, "has no ]"},
		{"no section", Option{"", "x", "", 0}, "no readable name"},
		{"no name", Option{"A", " ", "", 0}, "no option name"},
		{"name with =", Option{"A", "x=y", "", 0}, "not a section and option name"},
		{"name that is a comment", Option{"A", "#x", "", 0}, "not a section and option name"},
		{"name that is a section", Option{"A", "[x]", "", 0}, "text after section header"},
		{"name with a newline", Option{"A", "x\ny", "", 0}, `no = in "x"`},
		{"NUL", Option{"A", "x", "\x00", 0}, "NUL"},
		{"not UTF-8", Option{"A", "x", "\xff", 0}, "not UTF-8"},
		{"too large", Option{"A", "x", strings.Repeat("a", MaxSize), 0}, "larger than 1 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := FromOptions([]Option{tt.in})
			checkErr(t, err, tt.err)
		})
	}
}

func mustParse(t testing.TB, text string) *File {
	t.Helper()
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}
