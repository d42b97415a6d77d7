package main

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/fleet-init/fleet/internal/man"
)

// docs/man/cloud-config.8 is what help says.
func TestManualPage(t *testing.T) {
	var list, flags []man.Item
	for _, c := range commands() {
		list = append(list, man.Item{Term: strings.TrimSpace(c.name + " " + c.args), Text: man.Sentence(c.does, "")})
	}
	new(app).flags().VisitAll(func(f *pflag.Flag) {
		kind, usage := pflag.UnquoteUsage(f)
		flags = append(flags, man.Item{Term: strings.TrimSpace("--" + f.Name + " " + kind), Text: man.Sentence(usage, f.DefValue)})
	})
	man.Golden(t, "../../../docs/man", man.Page{Name: "cloud-config", Section: 8, Summary: "make a host what its cloud-config says", Sections: []man.Section{
		{Title: "SYNOPSIS", Call: "cloud-config", Args: []string{"COMMAND [options] [FILE]"}},
		{Title: "DESCRIPTION", Text: "At each boot a host reads its document from the kernel's command line, a config drive, a file or a cloud's metadata, checks all of it, and only then " +
			"changes anything: files, users, units and settings of fleet. What is no longer in the document is taken back. docs/cloud-config.md has the whole language."},
		{Title: "COMMANDS", Items: list, After: "Without FILE or --from-..., diff and apply ask the sources that a boot asks."},
		{Title: "OPTIONS", Items: flags},
		{Title: "EXIT STATUS", Items: []man.Item{{Term: "0", Text: "Done."}, {Term: "1", Text: "Failed."}, {Term: "2", Text: "The document or the command line is wrong."}}},
		{Title: "EXAMPLE", Example: "cloud-config validate user-data\ncloud-config diff user-data"},
		{Title: "SEE ALSO", See: []man.Item{{Term: "fleetd", Text: "8"}, {Term: "update-engine", Text: "8"}}},
	}})
}
