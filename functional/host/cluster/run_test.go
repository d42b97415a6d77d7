package main

import (
	"context"
	"io"
	"strings"
	"testing"
)

func TestArgumentsThatCannotWorkAreRefused(t *testing.T) {
	for _, row := range []struct{ args, want string }{
		{"", "see build.sh help"},
		{"explode", "see build.sh help"},
		{"up zero dir", `"zero" hosts: give a number from 1 to 50`},
		{"up 0 dir", "give a number from 1 to 50"},
		{"up 51 dir", "give a number from 1 to 50"},
		{"kill", "which host? b kill HOST"},
		{"boot", "which host? b boot HOST"},
		{"enter", "which host? b enter HOST [COMMAND...]"},
	} {
		getenv := func(name string) string { return map[string]string{"BUILD": "b"}[name] }
		err := run(context.Background(), strings.Fields(row.args), getenv, io.Discard)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%q: %v, want %q", row.args, err, row.want)
		}
	}
}
