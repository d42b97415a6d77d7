package unit

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     []Option
	}{
		{"empty file", "", nil},
		{"only comments and empty sections", "# a\n[Unit]\n;b\n\n[Install]\n", nil},
		{"order, repeated keys and empty assignments stay", "[Service]\nExecStart=a\nExecStart=\nExecStart=b\n", []Option{
			{"Service", "ExecStart", "a", 2}, {"Service", "ExecStart", "", 3}, {"Service", "ExecStart", "b", 4}}},
		{"a section that comes again goes on where it was", "[A]\nx=1\n[B]\ny=2\n[A]\nz=3\n", []Option{
			{"A", "x", "1", 2}, {"A", "z", "3", 6}, {"B", "y", "2", 4}}},
		{"space around names and values goes", " [A] \n\tx  = a  b \t\n", []Option{{"A", "x", "a  b", 2}}},
		{"only the first = counts", "[A]\nEnvironment=B=c=d", []Option{{"A", "Environment", "B=c=d", 2}}},
		{"a comment sign inside a value is none", "[A]\nx=a # b\ny=;c", []Option{{"A", "x", "a # b", 2}, {"A", "y", ";c", 3}}},
		{"an indented comment", "[A]\n  # x=1\n\t; y=2\nz=3", []Option{{"A", "z", "3", 4}}},
		{"text before the first section is skipped", "hello\nx=1\n[A]\ny=2", []Option{{"A", "y", "2", 4}}},
		{"skipped text goes on over a backslash too", "hello \\\n[A]\n[B]\ny=2", []Option{{"B", "y", "2", 4}}},
		{"continuation keeps backslash and indentation", "[A]\nx= a \\\n\t b \\\n  c  \ny=1", []Option{
			{"A", "x", "a \\\n\t b \\\n  c", 2}, {"A", "y", "1", 5}}},
		{"comments between continued lines are skipped", "[A]\nx=a \\\n# b\n ; c \\\n  d\ny=1", []Option{
			{"A", "x", "a \\\n  d", 2}, {"A", "y", "1", 6}}},
		{"a comment never goes on", "[A]\n# a \\\nx=1", []Option{{"A", "x", "1", 3}}},
		{"a blank line ends a continued value", "[A]\nx=a \\\n  \ny=1", []Option{{"A", "x", "a \\\n", 2}, {"A", "y", "1", 4}}},
		{"backslash at the end of the file", "[A]\nx=a \\", []Option{{"A", "x", "a \\\n", 2}}},
		{"backslash and line end at the end of the file", "[A]\nx=a \\\n", []Option{{"A", "x", "a \\\n", 2}}},
		{"backslash before a comment at the end of the file", "[A]\nx=a \\\n# b", []Option{{"A", "x", "a \\\n", 2}}},
		{"a value that starts in the next line", "[A]\nx=\\\n b", []Option{{"A", "x", "\\\n b", 2}}},
		{"two backslashes do not continue", "[A]\nx=a\\\\\ny=1", []Option{{"A", "x", `a\\`, 2}, {"A", "y", "1", 3}}},
		{"three do", "[A]\nx=a\\\\\\\ny=1", []Option{{"A", "x", "a\\\\\\\ny=1", 2}}},
		{"CR LF", "[A]\r\nx=a \\\r\n b\r\ny=1\r\n", []Option{{"A", "x", "a \\\n b", 2}, {"A", "y", "1", 4}}},
		{"CR alone", "[A]\rx=1\ry=2", []Option{{"A", "x", "1", 2}, {"A", "y", "2", 3}}},
		{"byte order mark", "\ufeff[A]\nx=1", []Option{{"A", "x", "1", 2}}},
		{"a comment in another encoding", "# caf\xe9\n[A]\nx=a \\\n# caf\xe9\n b", []Option{{"A", "x", "a \\\n b", 3}}},
		{"a line longer than 2,048 bytes", "[A]\nx=" + strings.Repeat("a", 5000), []Option{{"A", "x", strings.Repeat("a", 5000), 2}}},
		{"section names are opaque", "[X-My [thing]\nx=1", []Option{{"X-My [thing", "x", "1", 2}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Parse([]byte(tt.in))
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

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ name, in, err string }{
		{"no =", "[A]\nx=1\n\nfoo", `line 4: no = in "foo": write Name=Value`},
		{"= in the next line only", "[A]\nfoo\\\n=bar", "line 2: no ="},
		{"no name", "[A]\n=foo", `line 2: no option name in "=foo"`},
		{"header not closed", "\n[Unit\nx=1", `line 2: section header "[Unit" has no ]: write [Unit]`},
		{"text after a header", "[Unit] x=1", `line 1: text after section header [Unit]: "x=1"`},
		{"comment after a header", "[Unit] # main", "text after section header"},
		{"backslash after a header", "[Unit]\\\nx=1", "text after section header"},
		{"empty header", "[]\nx=1", "no readable name"},
		{"control character in a header", "[a\x1b]", "no readable name"},
		{"NUL byte", "[A]\nx=1\x00\n", "line 2: NUL byte: save the file as UTF-8"},
		{"UTF-16", "\xff\xfe[\x00A\x00]\x00", "line 1: NUL byte"},
		{"value in another encoding", "[A]\nx=caf\xe9", "line 2: text is not UTF-8"},
		{"continued value in another encoding", "[A]\nx=1 \\\n2 \\\ncaf\xe9", "line 4: text is not UTF-8"},
		{"space after a backslash, which then continues nothing", "[A]\nx=a \\ \n b", "line 2: space after the backslash"},
		{"the same further down", "[A]\nx=a \\\n b \\\t\n c", "line 3: space after the backslash"},
		{"more than 1 MiB", "[A]\nx=" + strings.Repeat("a", MaxSize), "larger than 1 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.in))
			checkErr(t, err, tt.err)
		})
	}
}

func TestParseSizeLimitIsThatOfThePrintedFile(t *testing.T) {
	// Each section gets a blank line before it when printed, so a text below the limit may print to more.
	var b strings.Builder
	for i := 0; b.Len() < MaxSize-20; i++ {
		b.WriteString("[" + strconv.Itoa(i) + "]\nx=\n")
	}
	_, err := Parse([]byte(b.String()))
	checkErr(t, err, "larger than 1 MiB")

	exact := "[A]\nx=" + strings.Repeat("a", MaxSize-len("[A]\nx=\n")) + "\n"
	f, err := Parse([]byte(exact))
	if err != nil {
		t.Fatalf("a file of just 1 MiB: %v", err)
	}
	checkIdentity(t, f)
	_, err = Parse([]byte(exact[:len(exact)-1] + "a"))
	checkErr(t, err, "larger than 1 MiB") // 1 MiB, but its line end is missing
}

func TestInFile(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"with a line", fault(7, "it is wrong", "mend it"), "web.service:7: it is wrong: mend it"},
		{"without a line", fault(0, "it is wrong", ""), "web.service: it is wrong"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := InFile("web.service", tt.err).Error(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if err := InFile("web.service", nil); err != nil {
		t.Errorf("nil became %v", err)
	}
}

// checkIdentity wants the file to print to what reads back as the same options, and prints to the same again.
func checkIdentity(t *testing.T, f *File) {
	t.Helper()
	text := f.String()
	again, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("what was printed does not parse: %v\n%q", err, text)
	}
	if diff := cmp.Diff(withoutLines(f.Options), withoutLines(again.Options)); diff != "" {
		t.Fatalf("options changed by print and parse:\n%s", diff)
	}
	if back := again.String(); back != text {
		t.Fatalf("printed %q, then %q", text, back)
	}
	if f.printedSize() != len(text) {
		t.Fatalf("%d bytes printed, %d foreseen", len(text), f.printedSize())
	}
}

func withoutLines(options []Option) []Option {
	out := make([]Option, len(options))
	for i, o := range options {
		o.Line = 0
		out[i] = o
	}
	return out
}
