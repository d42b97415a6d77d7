package unit

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxSize is the most a unit file may hold, as written and as printed: systemd's own limit for one line, and what fits
// into one request to etcd.
const MaxSize = 1 << 20

// space is what systemd takes for white space inside a line.
const space = " \t"

// Parse reads a unit file as systemd 252 does (each rule was tried there) and keeps what fleet keeps:
//
//   - a line that ends in an odd number of backslashes goes on in the next; comment lines between are skipped, and also
//     after the backslash a blank line or the end of the file ends the value;
//   - # and ; start a comment at the start of a line only, and a comment never goes on;
//   - line ends may be LF, CR LF or CR, and a byte order mark may stand first;
//   - what stands before the first section is skipped;
//   - a section that comes again goes on where it was: options are kept in order, grouped by section.
//
// What systemd would skip with a warning in its log is an error here: a line without =, an option without a name, text that
// is not UTF-8. Errors are *ParseError with the line.
func Parse(text []byte) (*File, error) {
	if len(text) > MaxSize {
		return nil, tooLarge()
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return nil, fault(1+bytes.Count(text[:i], []byte("\n")), "NUL byte", "save the file as UTF-8 text")
	}
	var p parser
	for l := newLines(string(text)); l.next(); {
		if err := p.take(l.logical, l.first); err != nil {
			return nil, err
		}
	}
	return newFile(p.options)
}

// lines cuts a text into logical lines: the physical lines of one assignment, with the comments between them.
type lines struct {
	rest    string
	number  int      // of the last physical line read
	logical []string // the logical line that next found
	first   int      // number of its first physical line
}

func newLines(text string) *lines {
	text = strings.TrimPrefix(text, "\ufeff")
	if strings.Contains(text, "\r") {
		text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	}
	return &lines{rest: text}
}

func (l *lines) next() bool {
	for {
		line, ok := l.physical()
		if !ok {
			return false
		}
		if isComment(line) {
			continue
		}
		l.logical, l.first = append(l.logical[:0], line), l.number
		for goesOn := continues(line); goesOn; {
			if line, ok = l.physical(); !ok {
				break
			}
			l.logical = append(l.logical, line)
			goesOn = isComment(line) || continues(line)
		}
		return true
	}
}

func (l *lines) physical() (line string, ok bool) {
	if l.rest == "" {
		return "", false
	}
	line, l.rest, _ = strings.Cut(l.rest, "\n")
	l.number++
	return line, true
}

// continues reports whether a line ends in a backslash that no other backslash escapes.
func continues(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

func isComment(line string) bool {
	line = strings.TrimLeft(line, space)
	return line != "" && (line[0] == '#' || line[0] == ';')
}

// parser makes options of logical lines.
type parser struct {
	section string // none yet: empty, which no section is called
	options []Option
}

// take reads one logical line, of which number is the first physical one.
func (p *parser) take(lines []string, number int) *ParseError {
	line := strings.Trim(lines[0], space)
	header := strings.HasPrefix(line, "[")
	if strings.TrimSpace(line) == "" || !header && p.section == "" {
		return nil
	}
	for i, l := range lines {
		if !utf8.ValidString(l) && !isComment(l) {
			return fault(number+i, "text is not UTF-8", "save the file as UTF-8 (systemd would skip the line)")
		}
	}
	if header {
		section, err := sectionName(line)
		if err != nil {
			return at(number, err)
		}
		p.section = section
		return nil
	}
	name, first, found := strings.Cut(lines[0], "=")
	name = strings.Trim(name, space)
	switch {
	case !found:
		return fault(number, "no = in "+quote(line), `write Name=Value, or end the line before it in \ if it belongs there`)
	case name == "":
		return fault(number, "no option name in "+quote(line), "write Name=Value")
	}
	value, err := joinValue(first, lines[1:])
	if err != nil {
		return at(number+len(lines)-1, err)
	}
	p.options = append(p.options, Option{Section: p.section, Name: name, Value: value, Line: number})
	return nil
}

// sectionName reads [Name], a line without space around it.
func sectionName(line string) (string, *ParseError) {
	name, after, closed := strings.Cut(line[1:], "]")
	switch {
	case !closed:
		return "", fault(0, "section header "+quote(line)+" has no ]", "write "+line+"]")
	case strings.Trim(after, space) != "":
		return "", fault(0, "text after section header ["+name+"]: "+quote(strings.Trim(after, space)),
			"put it on a line of its own")
	case name == "" || strings.ContainsFunc(name, unicode.IsControl):
		return "", fault(0, "section header "+quote(line)+" has no readable name", "write a name such as [Service]")
	}
	return name, nil
}

// joinValue makes a value of the text after the = and the lines that continue it. The backslashes, line ends and
// indentation stay; comments and the space around the whole go.
func joinValue(first string, more []string) (string, *ParseError) {
	kept := []string{strings.TrimLeft(first, space)}
	for _, l := range more {
		if !isComment(l) {
			kept = append(kept, l)
		}
	}
	if continues(kept[len(kept)-1]) {
		// The file ends here. A blank line is the same to systemd, and keeps the value apart from what is printed after it.
		kept = append(kept, "")
	}
	last := strings.TrimRight(kept[len(kept)-1], space)
	if continues(last) {
		return "", fault(0, "space after the backslash at the end of the line",
			"systemd does not go on in the next line then: delete the space")
	}
	kept[len(kept)-1] = last
	return strings.Join(kept, "\n"), nil
}

func at(line int, err *ParseError) *ParseError {
	return fault(line, err.What, err.Hint)
}
