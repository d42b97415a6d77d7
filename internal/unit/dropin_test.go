package unit

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func dropIn(t *testing.T, of Name, name, text string) DropIn {
	t.Helper()
	d, err := ParseDropIn(of, name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The instance's own lie behind its template's, and count in the order of their names.
func instance(t *testing.T) *File {
	f, err := Parse([]byte("[Service]\nExecStart=/bin/web\n"))
	if err != nil {
		t.Fatal(err)
	}
	return f.With([]DropIn{
		dropIn(t, "web@1.service", "20-own.conf", "[Service]\nNice=1\n"),
		dropIn(t, "web@.service", "30-last.conf", "[Service]\nNice=3\n[Install]\nWantedBy=a.target\n"),
		dropIn(t, "web@.service", "10-first.conf", "# why\n[Service]\nNice=\\\n 0\n"),
		dropIn(t, "web@.service", "20-own.conf", "[Service]\nNice=2\n"),
		dropIn(t, "web@.service", "40-off.conf", "[Service]\nNice=4\n"),
		dropIn(t, "web@1.service", "40-off.conf", "# off here\n"),
	})
}

func TestFileIsPrintedWithItsDropIns(t *testing.T) {
	f := instance(t)
	want := `[Service]
ExecStart=/bin/web

# web@.service.d/10-first.conf
[Service]
Nice=\
 0

# web@.service.d/20-own.conf
[Service]
Nice=2

# web@.service.d/30-last.conf
[Service]
Nice=3

[Install]
WantedBy=a.target

# web@.service.d/40-off.conf
[Service]
Nice=4

# web@1.service.d/20-own.conf
[Service]
Nice=1

# web@1.service.d/40-off.conf
`
	if diff := cmp.Diff(want, f.String()); diff != "" {
		t.Error(diff)
	}
	checkStored(t, f)
	if f.Hash() == f.Main().Hash() {
		t.Error("the hash does not cover the drop-ins")
	}
}

func checkStored(t *testing.T, f *File) {
	t.Helper()
	back, err := ParseStored([]byte(f.String()))
	if err != nil {
		t.Fatalf("%v:\n%s", err, f)
	}
	if diff := cmp.Diff(f.String(), back.String()); diff != "" || back.Hash() != f.Hash() || len(f.DropIns) != len(back.DropIns) {
		t.Errorf("it is read back as another: %s", diff)
	}
	if len(f.String()) != f.printedSize() {
		t.Errorf("printed size %d, foretold %d", len(f.String()), f.printedSize())
	}
}

func TestEffectiveDropInsAreSystemds(t *testing.T) {
	f := instance(t)
	var got []string
	for _, d := range f.Effective() {
		got = append(got, d.Path())
	}
	want := []string{"web@.service.d/10-first.conf", "web@1.service.d/20-own.conf", "web@.service.d/30-last.conf"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var nice []string
	for _, o := range f.Merged() {
		if o.Name == "Nice" {
			nice = append(nice, joined(o.Value))
		}
	}
	if diff := cmp.Diff([]string{"  0", "1", "3"}, nice); diff != "" {
		t.Error(diff)
	}
	if !f.HasInstall() {
		t.Error("the drop-in's [Install] does not count")
	}
}

func TestTextKeepsWhatItDoesNotSpeakOf(t *testing.T) {
	old := instance(t)
	f, err := Parse([]byte("[Service]\nExecStart=/bin/new\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Keeping(old, nil); !slices.EqualFunc(got.DropIns, old.DropIns, func(a, b DropIn) bool { return a.Path() == b.Path() }) {
		t.Errorf("it kept %v", got.DropIns)
	}
	got := f.With([]DropIn{dropIn(t, "web@.service", "50-new.conf", "[Service]\nNice=5\n")}).Keeping(old, []Name{"web@.service"})
	var paths []string
	for _, d := range got.DropIns {
		paths = append(paths, d.Path())
	}
	if diff := cmp.Diff([]string{"web@.service.d/50-new.conf", "web@1.service.d/20-own.conf", "web@1.service.d/40-off.conf"}, paths); diff != "" {
		t.Error(diff)
	}
}

func TestDropInsAreChecked(t *testing.T) {
	f, err := Parse([]byte("[Service]\nExecStart=/bin/web\n"))
	if err != nil {
		t.Fatal(err)
	}
	line := "[Service]\nNice=1\n"
	for _, row := range []struct {
		what, of, name, text, want string
	}{
		{"good", "web@.service", "a.conf", line, ""},
		{"good, its own", "web@1.service", "a.conf", line, ""},
		{"empty, to take its template's away", "web@1.service", "a.conf", "", ""},
		{"empty", "web@.service", "a.conf", "", `drop-in "web@.service.d/a.conf" is empty: leave it out`},
		{"of another unit", "db.service", "a.conf", line, `drop-in "db.service.d/a.conf" is not web@1.service's: put it into web@1.service.d`},
		{"not a drop-in's name", "web@.service", "a.txt", line, `drop-in "a.txt" does not end in .conf: systemd reads no other: write a name such as 10-limits.conf`},
		{"hidden", "web@.service", ".a.conf", line, `drop-in name ".a.conf" is no plain file name: use letters, digits and :-_.\@, and no dot first`},
		{"a path", "web@.service", "../a.conf", line, `drop-in name "../a.conf" is no plain file name: use letters, digits and :-_.\@, and no dot first`},
		{"placement", "web@.service", "a.conf", "[Service]\nNice=1\n[X-Fleet]\nGlobal=1\n",
			"line 4: [X-Fleet] in a drop-in: write Global= into web@.service itself: fleetctl edit --full web@.service"},
		{"a section that nobody reads", "web@.service", "a.conf", "[XFleet]\nGlobal=1\n", `line 2: option "Global" is in [XFleet], which nobody reads: write [X-Fleet]`},
	} {
		d, err := ParseDropIn(Name(row.of), row.name, []byte(row.text))
		if err == nil {
			err = Validate(f.With([]DropIn{d}), "web@1.service")
		}
		got := ""
		if err != nil {
			checkErr(t, err, " ")
			got = err.Error()
		}
		if got != row.want {
			t.Errorf("%s: %q, want %q", row.what, got, row.want)
		}
	}
	twice := dropIn(t, "web@1.service", "a.conf", line)
	if err := Validate(f.With([]DropIn{twice, twice}), "web@1.service"); err == nil {
		t.Error("a drop-in that is given twice is taken")
	}
	big := dropIn(t, "web@1.service", "a.conf", line)
	big.Options[0].Value = string(make([]byte, MaxSize))
	if err := Validate(f.With([]DropIn{big}), "web@1.service"); err == nil {
		t.Error("a drop-in of any size is taken")
	}
}

func FuzzParseStored(f *testing.F) {
	for _, s := range []string{"", "[A]\nx=1\n\n# a.service.d/b.conf\n[B]\ny=2 \\\n\n\n# a.service.d/c.conf\n", "# \n", "# a.d/b.conf\n# a.d/b.conf"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := ParseStored(text)
		if err != nil {
			checkErr(t, err, " ")
			return
		}
		checkStored(t, file)
	})
}
