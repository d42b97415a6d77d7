package man

import (
	"os/exec"
	"strings"
	"testing"
)

func TestPage(t *testing.T) {
	p := Page{Name: "x-y", Section: 8, Summary: "do it", Sections: []Section{
		{Title: "SYNOPSIS", Call: "x y", Args: []string{"", "[-z]"}},
		{Title: "OPTIONS", Items: []Item{{"-z", Sentence("go on", "false")}, {"--at=TIME", Sentence("when", "now")}}, After: ".not a request"},
		{Title: "SEE ALSO", See: []Item{{"a", "1"}, {"b-c", "5"}}},
	}}
	const want = `.TH X\-Y 8 "" fleet "fleet"
.SH NAME
x\-y \- do it
.SH SYNOPSIS
.B x y
[\-z]
.SH OPTIONS
.TP
.B \-z
Go on.
.TP
.B \-\-at=TIME
When (default: now).
.PP
\&.not a request
.SH SEE ALSO
.BR a (1),
.BR b\-c (5)
`
	if got := p.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		return // the page above is what mandoc -T lint has found nothing to say about
	}
	lint := exec.CommandContext(t.Context(), mandoc, "-T", "lint", "-W", "warning")
	lint.Stdin = strings.NewReader(want)
	if out, err := lint.CombinedOutput(); err != nil {
		t.Errorf("mandoc: %v\n%s", err, out)
	}
}
