package unit

import (
	"errors"
	"strconv"
	"strings"
)

// ErrInvalid is what every error of this package is, by errors.Is: a name or a text that its author must change.
var ErrInvalid = errors.New("invalid")

// ParseError is what is wrong with a name, a unit file or one of its options, where, and what to write instead.
type ParseError struct {
	File string // the unit or file, as the caller names it; see InFile
	Line int    // line in the file; 0 when the option came by the API, or the fault is in no single line
	What string // what is wrong: `unknown option "MachinMetadata" in [X-Fleet]`
	Hint string // what to do: "did you mean MachineMetadata?"; may be empty
}

// Error renders as much as is known of file:line: what: hint.
func (e *ParseError) Error() string {
	var b strings.Builder
	switch {
	case e.File != "" && e.Line > 0:
		b.WriteString(e.File + ":" + strconv.Itoa(e.Line) + ": ")
	case e.File != "":
		b.WriteString(e.File + ": ")
	case e.Line > 0:
		b.WriteString("line " + strconv.Itoa(e.Line) + ": ")
	}
	b.WriteString(e.What)
	if e.Hint != "" {
		b.WriteString(": " + e.Hint)
	}
	return b.String()
}

// Is makes errors.Is(err, ErrInvalid) true.
func (e *ParseError) Is(target error) bool { return target == ErrInvalid }

// InFile names the file in an error of this package, as in web.service:7: …; other errors and nil come back as they are, as do errors that
// name a file already, which is the drop-in of the one that was read.
func InFile(file string, err error) error {
	var pe *ParseError
	if !errors.As(err, &pe) || pe.File != "" {
		return err
	}
	named := *pe
	named.File = file
	return &named
}

func fault(line int, what, hint string) *ParseError {
	return &ParseError{Line: line, What: what, Hint: hint}
}

func quote(s string) string {
	// A pasted megabyte would bury the message.
	const most = 80
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}
