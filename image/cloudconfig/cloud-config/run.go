package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
	"github.com/fleet-init/fleet/image/cloudconfig/host"
	"github.com/fleet-init/fleet/image/cloudconfig/source"
)

// Exit codes.
const (
	exitOK       = 0
	exitFailed   = 1
	exitDocument = 2 // the document is wrong, or the command line
)

// command is a row of the table of commands.
type command struct {
	name, args, does string
	run              func(*app, context.Context) error
}

func commands() []command {
	return []command{
		{"validate", "FILE...", "say what is wrong with documents, with line numbers; '-' is standard input", (*app).validate},
		{"diff", "[FILE]", "show what apply would do", (*app).diff},
		{"apply", "[FILE]", "make this host what a document says, and take back what an earlier one said", (*app).apply},
		{"boot", "", "what the units do at each boot", (*app).boot},
		{"status", "", "which document this host has, and since when", (*app).status},
		{"schema", "", "print the language as a JSON schema, for editors", (*app).schema},
	}
}

// app is one run of the program.
type app struct {
	args     []string
	out, err io.Writer
	host     *host.Host
	client   *source.Client
	from     sources
	json     bool
	network  bool // boot: the second part, once there is a network
}

// sources are the flags that name one.
type sources struct {
	file, url, sha256, drive string
	cloud                    map[string]*string // platform to base URL
}

var (
	// errDocument: problems have been printed.
	errDocument = errors.New("the document has errors")
	// errUsage is for a command line that says too little, or too much.
	errUsage = errors.New("see cloud-config help")
)

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	a := &app{out: out, err: errOut, host: &host.Host{Root: "/"}}
	a.client = source.NewClient(func(format string, args ...any) { fmt.Fprintf(errOut, "cloud-config: "+format+"\n", args...) })
	flags := a.flags()
	if len(args) > 0 && (args[0] == "help" || args[0] == "--help" || args[0] == "-h") || len(args) == 0 {
		a.help(flags)
		if len(args) == 0 {
			return exitDocument
		}
		return exitOK
	}
	i := slices.IndexFunc(commands(), func(c command) bool { return c.name == args[0] })
	if i < 0 {
		fmt.Fprintf(errOut, "cloud-config: unknown command %q\nTry: cloud-config help\n", args[0])
		return exitDocument
	}
	c := commands()[i]
	switch err := flags.Parse(args[1:]); {
	case errors.Is(err, pflag.ErrHelp):
		a.help(flags)
		return exitOK
	case err != nil:
		fmt.Fprintf(errOut, "cloud-config: %v\nTry: cloud-config help\n", err)
		return exitDocument
	}
	a.args = flags.Args()
	switch err := c.run(a, ctx); {
	case errors.Is(err, errDocument), errors.Is(err, errUsage):
		fmt.Fprintf(errOut, "cloud-config: %v\n", err)
		return exitDocument
	case err != nil:
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(errOut, "cloud-config: %s\n", strings.TrimSuffix(line, "\n"))
		}
		return exitFailed
	}
	return exitOK
}

func (a *app) flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("cloud-config", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&a.json, "json", false, "validate, status: answer in JSON")
	f.BoolVar(&a.network, "network", false, "boot: there is a network now; ask the sources that need one")
	f.StringVar(&a.from.file, "from-file", "", "the document is this file ('-': standard input)")
	f.StringVar(&a.from.url, "from-url", "", "the document is at this http or https URL")
	f.StringVar(&a.from.sha256, "sha256", "", "and has this SHA-256")
	f.StringVar(&a.from.drive, "from-configdrive", "", "the document is on a config drive that is mounted here")
	a.from.cloud = map[string]*string{}
	for _, p := range platforms() {
		a.from.cloud[p] = f.String("from-"+p+"-metadata", "", "the document is in "+p+"'s metadata service, at this base URL")
		f.Lookup("from-" + p + "-metadata").NoOptDefVal = "usual"
	}
	return f
}

func platforms() []string { return []string{"ec2", "gce", "digitalocean", "openstack"} }

func (a *app) help(f *pflag.FlagSet) {
	fmt.Fprintf(a.out, "Make this host what its cloud-config says.\n\nusage: cloud-config COMMAND [FLAG]... [FILE]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(a.out, "  %-20s %s\n", strings.TrimSpace(c.name+" "+c.args), c.does)
	}
	fmt.Fprintf(a.out, "\nWithout FILE or --from-…, diff and apply ask the sources that a boot asks.\n\n%s\n"+
		"exit codes: 0 done, 1 failed, 2 the document or the command line is wrong\n", f.FlagUsages())
}

// validate reads documents as their author wants them read: what nobody knows is an error.
func (a *app) validate(ctx context.Context) error {
	if len(a.args) == 0 {
		return fmt.Errorf("name the documents: cloud-config validate FILE... ('-': standard input): %w", errUsage)
	}
	type verdict struct {
		File     string             `json:"file"`
		Problems []document.Problem `json:"problems"`
	}
	bad, all := false, []verdict{}
	for _, name := range a.args {
		data, err := readNamed(ctx, name)
		if err != nil {
			return err
		}
		// Variables stay as they are: which host will read it is not known here.
		_, problems := document.Parse(data, document.Variables{})
		bad = bad || len(document.Errors(problems, true)) > 0
		all = append(all, verdict{name, append([]document.Problem{}, problems...)})
		if !a.json {
			a.print(name, problems)
		}
	}
	if a.json {
		if err := a.encode(all); err != nil {
			return err
		}
	}
	if bad {
		return errDocument
	}
	return nil
}

// print shows problems, those of one document after its name.
func (a *app) print(name string, problems []document.Problem) {
	for _, p := range problems {
		fmt.Fprintf(a.err, "%s: %s\n", name, p)
	}
}

func (a *app) schema(context.Context) error {
	_, err := a.out.Write(document.Schema())
	return err
}

func (a *app) encode(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// chosen is the source that the command line names, if it names one.
func (a *app) chosen() (source.Source, bool, error) {
	var all []source.Source
	if len(a.args) == 1 {
		all = append(all, source.File(a.args[0]))
	}
	if a.from.file != "" {
		all = append(all, source.File(a.from.file))
	}
	if a.from.url != "" {
		all = append(all, source.URL(a.client, a.from.url, a.from.sha256))
	} else if a.from.sha256 != "" {
		return source.Source{}, false, fmt.Errorf("--sha256 is of what --from-url names: %w", errUsage)
	}
	if a.from.drive != "" {
		all = append(all, source.ConfigDrive(a.from.drive))
	}
	for _, p := range platforms() {
		base := *a.from.cloud[p]
		if base == "" {
			continue
		}
		if base == "usual" {
			base = ""
		}
		s, err := source.Cloud(a.client, p, base)
		if err != nil {
			return source.Source{}, false, err
		}
		all = append(all, s)
	}
	switch {
	case len(a.args) > 1 || len(all) > 1:
		return source.Source{}, false, fmt.Errorf("name one document: one FILE or one --from-…: %w", errUsage)
	case len(all) == 0:
		return source.Source{}, false, nil
	}
	return all[0], true, nil
}

// readNamed is for validate, which knows no sources.
func readNamed(ctx context.Context, name string) ([]byte, error) {
	f, err := source.File(name).Fetch(ctx)
	if errors.Is(err, source.ErrNone) {
		return nil, fmt.Errorf("%s: %w", name, os.ErrNotExist)
	}
	return f.UserData, err
}
