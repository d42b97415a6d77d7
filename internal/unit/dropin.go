package unit

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

// DropIn is a file with more lines for a unit, as systemd reads it from a folder beside the unit's file: 10-limits.conf in
// web@.service.d. It names no [X-Fleet] options: what a machine must have is said in one place, the unit itself.
type DropIn struct {
	Of      Name   // whose folder it is in: the unit's own, or its template's
	Name    string // its file name, which ends in .conf
	Options []Option
}

// Path is where the drop-in would lie beside the unit's file: web@.service.d/10-limits.conf.
func (d DropIn) Path() string { return path.Join(Folder(d.Of), d.Name) }

// Folder is the name of the folder of a unit's drop-ins.
func Folder(n Name) string { return string(n) + ".d" }

// Folders are the units whose drop-ins a unit has: its template, if it is an instance, and itself. What is in the later one counts more.
// systemd has others (service.d, and foo-.service.d for foo-bar.service): they are for whole hosts, and fleet does not send them.
func Folders(n Name) []Name {
	if t, ok := n.Template(); ok {
		return []Name{t, n}
	}
	return []Name{n}
}

// maxDropIn bounds a drop-in's file name: on a host it stands behind a word of fleet's own.
const maxDropIn = 200

// ParseDropIn reads a drop-in's text. An error is a *ParseError, with the line.
func ParseDropIn(of Name, name string, text []byte) (DropIn, error) {
	f, err := Parse(text)
	if err != nil {
		return DropIn{}, err
	}
	d := DropIn{Of: of, Name: name, Options: f.Options}
	return d, d.check()
}

// DropInOf makes a drop-in of options that came by the API, as FromOptions makes a file.
func DropInOf(of Name, name string, options []Option) (DropIn, error) {
	f, err := FromOptions(options)
	if err != nil {
		return DropIn{}, err
	}
	d := DropIn{Of: of, Name: name, Options: f.Options}
	return d, d.check()
}

// check holds the rules for one drop-in: its name becomes a path on hosts.
func (d DropIn) check() error {
	switch base, isConf := strings.CutSuffix(d.Name, ".conf"); {
	case !isConf || base == "":
		return fault(0, "drop-in "+quote(d.Name)+" does not end in .conf", "systemd reads no other: write a name such as 10-limits.conf")
	case len(d.Name) > maxDropIn:
		return fault(0, "the name of drop-in "+quote(d.Name)+" is longer than 200 bytes", "choose a shorter one")
	case base[0] == '.' || strings.ContainsFunc(base, func(r rune) bool { return !nameRune(r) }):
		return fault(0, "drop-in name "+quote(d.Name)+" is no plain file name", `use letters, digits and :-_.\@, and no dot first`)
	}
	for _, o := range d.Options {
		if o.Section == FleetSection {
			return fault(o.Line, "["+FleetSection+"] in a drop-in", "write "+o.Name+"= into "+string(d.Of)+" itself: fleetctl edit --full "+string(d.Of))
		}
		if err := checkKey(o); err != nil {
			return err
		}
	}
	return nil
}

// File is the drop-in as a file of its own.
func (d DropIn) File() *File { return &File{Options: d.Options} }

// With returns a file with the options of f and other drop-ins: those given, in the order they are kept in.
func (f *File) With(ds []DropIn) *File {
	g := &File{Options: f.Options}
	if len(ds) > 0 {
		g.DropIns = slices.SortedStableFunc(slices.Values(ds), func(a, b DropIn) int {
			// A template's name is shorter than its instances'.
			return cmp.Or(cmp.Compare(len(a.Of), len(b.Of)), cmp.Compare(a.Of, b.Of), cmp.Compare(a.Name, b.Name))
		})
	}
	return g
}

// Keeping returns f with the drop-ins of old beside it, but for those of the folders that f speaks for: what a text says nothing about
// stays.
func (f *File) Keeping(old *File, speaksFor []Name) *File {
	all := slices.Clone(f.DropIns)
	for _, d := range old.DropIns {
		if !slices.Contains(speaksFor, d.Of) {
			all = append(all, d)
		}
	}
	return f.With(all)
}

// From returns the file's drop-ins of some folders.
func (f *File) From(folders ...Name) []DropIn {
	var found []DropIn
	for _, d := range f.DropIns {
		if slices.Contains(folders, d.Of) {
			found = append(found, d)
		}
	}
	return found
}

// Effective are the drop-ins that count, in the order that systemd reads them: by file name, whichever folder they are in. Of one name in
// two folders the instance's own counts, and an empty one takes the template's away.
func (f *File) Effective() []DropIn {
	byName := map[string]DropIn{}
	for _, d := range f.DropIns { // the template's come first: see With
		byName[d.Name] = d
	}
	var found []DropIn
	for _, d := range byName {
		if len(d.Options) > 0 {
			found = append(found, d)
		}
	}
	slices.SortFunc(found, func(a, b DropIn) int { return cmp.Compare(a.Name, b.Name) })
	return found
}

// Merged are all options as systemd has them in the end: those of the file, then those of its drop-ins.
func (f *File) Merged() []Option {
	if len(f.DropIns) == 0 {
		return f.Options
	}
	all := slices.Clone(f.Options)
	for _, d := range f.Effective() {
		all = append(all, d.Options...)
	}
	return grouped(all)
}

// Main is the file without its drop-ins.
func (f *File) Main() *File { return &File{Options: f.Options} }

// A file with drop-ins is printed as the file, then each drop-in under a line with its path. Nothing else that String prints starts with
// this, since comments are not kept: so it can be read back. A file without drop-ins is printed as fleet printed it.
const dropInMark = "# "

// ParseStored reads what String printed, with the drop-ins. A person's file goes through Parse, which takes such lines for comments.
func ParseStored(text []byte) (*File, error) {
	if !strings.HasPrefix(string(text), dropInMark) && !strings.Contains(string(text), "\n"+dropInMark) {
		return Parse(text)
	}
	var parts [][2]string // path and text
	at := 0
	for line := range strings.Lines(string(text)) {
		if p, is := strings.CutPrefix(line, dropInMark); is {
			parts = append(parts, [2]string{strings.TrimSpace(p)})
		} else if len(parts) > 0 {
			parts[len(parts)-1][1] += line
		} else {
			at += len(line)
		}
	}
	f, err := Parse(text[:at])
	if err != nil {
		return nil, err
	}
	var all []DropIn
	for _, p := range parts {
		folder, name := path.Split(p[0])
		of, err := ParseName(strings.TrimSuffix(folder, ".d/"))
		if err != nil {
			return nil, err
		}
		d, err := ParseDropIn(of, name, []byte(p[1]))
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return f.With(all), nil
}

// checkDropIns checks what is beside a unit of that name.
func (f *File) checkDropIns(name Name) error {
	seen := map[string]bool{}
	for _, d := range f.DropIns {
		switch {
		case !slices.Contains(Folders(name), d.Of):
			return fault(0, "drop-in "+quote(d.Path())+" is not "+string(name)+"'s", "put it into "+Folder(name))
		case seen[d.Path()]:
			return fault(0, "drop-in "+quote(d.Path())+" is given twice", "give it once")
		case len(d.Options) == 0 && !d.Of.IsInstance():
			return fault(0, "drop-in "+quote(d.Path())+" is empty", "leave it out")
		}
		seen[d.Path()] = true
		if err := d.check(); err != nil {
			return InFile(d.Path(), err)
		}
	}
	if len(f.DropIns) > 0 && f.printedSize() > MaxSize {
		return tooLarge()
	}
	return nil
}
