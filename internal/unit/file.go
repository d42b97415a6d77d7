package unit

import (
	"crypto/sha1"
	"encoding/hex"
	"slices"
	"strings"
)

// FromOptions makes a file of options that came by the API, in the form that Parse gives: space around names and values
// goes, as do comments inside continued values. Options that could not be printed and read back the same are a
// *ParseError: a newline with no backslash before it, a section or name that cannot be one.
func FromOptions(options []Option) (*File, error) {
	clean := make([]Option, 0, len(options))
	size := 0
	for _, o := range options {
		// A bound on the work; newFile measures exactly.
		if size += len(o.Section) + len(o.Name) + len(o.Value); size > MaxSize {
			return nil, tooLarge()
		}
		c, err := cleanOption(o)
		if err != nil {
			return nil, fault(0, "option "+quote(o.Name)+" in section "+quote(o.Section)+": "+err.What, err.Hint)
		}
		clean = append(clean, c)
	}
	return newFile(clean)
}

// cleanOption prints one option and reads it back. What comes back must be that option alone: a value must not smuggle in
// another option or section.
func cleanOption(o Option) (Option, *ParseError) {
	if strings.Contains(o.Section+o.Name+o.Value, "\x00") {
		return o, fault(0, "NUL byte", "send text only")
	}
	var p parser
	found := 0
	for l := newLines("[" + o.Section + "]\n" + o.Name + "=" + o.Value); l.next(); {
		if strings.TrimSpace(l.logical[0]) != "" {
			found++
		}
		if err := p.take(l.logical, 0); err != nil {
			return o, err
		}
	}
	if found > 2 {
		return o, fault(0, "newline with no backslash before it", `end each line of a value but the last in \`)
	}
	if len(p.options) != 1 || p.section != o.Section || p.options[0].Name != strings.Trim(o.Name, space) {
		return o, fault(0, "not a section and option name", "use no ] in a section, no = # ; [ in a name")
	}
	c := p.options[0]
	c.Line = o.Line
	return c, nil
}

// newFile brings options into the order they are printed in and holds the size limit: printing adds a few line ends.
func newFile(options []Option) (*File, error) {
	f := &File{Options: grouped(options)}
	if f.printedSize() > MaxSize {
		return nil, tooLarge()
	}
	return f, nil
}

func tooLarge() error {
	return fault(0, "unit file is larger than 1 MiB", "keep data in files of its own and name them in the unit")
}

// grouped puts the options of a section that came in several pieces behind its first piece, as systemd reads them.
func grouped(options []Option) []Option {
	index := map[string]int{}
	var sections [][]Option
	for _, o := range options {
		i, known := index[o.Section]
		if !known {
			i = len(sections)
			index[o.Section] = i
			sections = append(sections, nil)
		}
		sections[i] = append(sections[i], o)
	}
	out := make([]Option, 0, len(options))
	for _, s := range sections {
		out = append(out, s...)
	}
	return out
}

// printedSize is the length of String, when the options are grouped.
func (f *File) printedSize() int {
	size, section := 0, ""
	for _, d := range f.DropIns {
		size += len("\n"+dropInMark+"\n") + len(d.Path()) + d.File().printedSize()
	}
	for _, o := range f.Options {
		if o.Section != section {
			if section != "" {
				size += len("\n")
			}
			section = o.Section
			size += len("[]\n") + len(section)
		}
		size += len(o.Name) + len("=") + len(o.Value) + len("\n")
	}
	return size
}

// String prints the file as fleet does, byte for byte, since hashes hang on it: sections in the order they first come in,
// a blank line between them, Name=Value lines. Parse reads it back to the same options. Drop-ins, which fleet did not have, follow with a
// line of their path before each; ParseStored reads them back.
func (f *File) String() string {
	var b strings.Builder
	b.Grow(f.printedSize())
	section := "" // no section is called so
	for _, o := range grouped(f.Options) {
		if o.Section != section {
			if section != "" {
				b.WriteByte('\n')
			}
			section = o.Section
			b.WriteString("[" + section + "]\n")
		}
		b.WriteString(o.Name)
		b.WriteByte('=')
		b.WriteString(o.Value)
		b.WriteByte('\n')
	}
	for _, d := range f.DropIns {
		b.WriteString("\n" + dropInMark + d.Path() + "\n" + d.File().String())
	}
	return b.String()
}

// Hash identifies the content, drop-ins and all: SHA-1 of the printed form, so that comments and blank lines do not make a difference.
func (f *File) Hash() Hash {
	sum := sha1.Sum([]byte(f.String()))
	return Hash(hex.EncodeToString(sum[:]))
}

// Section returns a section's options in order.
func (f *File) Section(section string) []Option {
	var found []Option
	for _, o := range f.Options {
		if o.Section == section {
			found = append(found, o)
		}
	}
	return found
}

// Get returns all values of an option in order, as they stand in the file; empty assignments are among them.
func (f *File) Get(section, name string) []string {
	var found []string
	for _, o := range f.Options {
		if o.Section == section && o.Name == name {
			found = append(found, o.Value)
		}
	}
	return found
}

// Description is the first Description of [Unit], in one line, or empty.
func (f *File) Description() string {
	for _, d := range f.Get("Unit", "Description") {
		return strings.TrimSpace(joined(d))
	}
	return ""
}

// HasInstall reports whether there are options in [Install], also of a drop-in, so that the unit is to be enabled when it is loaded.
func (f *File) HasInstall() bool {
	return slices.ContainsFunc(f.Merged(), func(o Option) bool { return o.Section == "Install" })
}

// joined is a value in one line, as systemd reads it: each backslash and line end that continue it are one space.
func joined(value string) string {
	if !strings.Contains(value, "\n") {
		return value
	}
	lines := strings.Split(value, "\n")
	for i, l := range lines[:len(lines)-1] {
		lines[i] = strings.TrimSuffix(l, `\`)
	}
	return strings.Join(lines, " ")
}
