// Package man writes manual pages in roff, with the macros of man(7). Tests of the programs make docs/man with it, out of the tables that
// the programs' help is made of.
package man

import (
	"fmt"
	"regexp"
	"strings"
)

// Page is one manual page.
type Page struct {
	Name     string // "fleetctl-start"
	Section  int    // 1 commands, 5 files, 8 what an administrator runs
	Summary  string
	Sections []Section
}

// Section is a headed part of a page; its parts come in the order of its fields, empty ones not at all.
type Section struct {
	Title   string
	Call    string   // a command line whose first words are Name: "fleetctl start", printed bold
	Args    []string // what follows Call, each on its own
	Text    string
	Items   []Item
	Example string // printed as it is
	After   string // text behind all that
	See     []Item // other pages: name and section
}

// Item is a term and what it means.
type Item struct{ Term, Text string }

// String is the page in roff.
func (p Page) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s %d \"\" fleet \"fleet\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(Roff(p.Name)), p.Section, Roff(p.Name), Roff(p.Summary))
	for _, s := range p.Sections {
		s.write(&b)
	}
	return b.String()
}

func (s Section) write(b *strings.Builder) {
	fmt.Fprintf(b, ".SH %s\n", s.Title)
	if s.Call != "" {
		fmt.Fprintf(b, ".B %s\n", Roff(s.Call))
	}
	for _, a := range s.Args {
		if a != "" {
			b.WriteString(Roff(a) + "\n")
		}
	}
	if s.Text != "" {
		b.WriteString(Roff(s.Text) + "\n")
	}
	for _, i := range s.Items {
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", Roff(i.Term), Roff(i.Text))
	}
	if s.Example != "" {
		fmt.Fprintf(b, ".nf\n%s\n.fi\n", Roff(s.Example))
	}
	if s.After != "" {
		if len(s.Items) > 0 {
			b.WriteString(".PP\n")
		}
		b.WriteString(Roff(s.After) + "\n")
	}
	for i, page := range s.See {
		comma := ","
		if i == len(s.See)-1 {
			comma = ""
		}
		fmt.Fprintf(b, ".BR %s (%s)%s\n", Roff(page.Term), page.Text, comma)
	}
}

// Sentence makes a line of help, "print less" with its default, a sentence.
func Sentence(help, def string) string {
	if help == "" {
		return ""
	}
	s := strings.ToUpper(help[:1]) + help[1:]
	if def != "" && def != "false" && def != "0" && def != `""` {
		s += " (default: " + def + ")"
	}
	return s + "."
}

// Roff makes text of what roff would take for its own: dashes and backslashes anywhere, dots and quotes that begin a line.
func Roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	return regexp.MustCompile(`(?m)^([.'])`).ReplaceAllString(s, `\&$1`)
}
