package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strings"

	"github.com/fleet-init/fleet/internal/near"
)

// Program says what there is to configure. Its keys' fields are set to their defaults already.
type Program struct {
	Name string // "fleetd"
	Env  string // "FLEET_"
	File string // read if it is there and none is named by -config
	Keys []Key
}

// Result is what a command line asked for besides the settings.
type Result struct {
	File     string   // the file that was read, if any
	Version  bool     // -version, or the word version: print it and end
	Help     bool     // -help: print Usage and end
	Warnings []string // accepted, but the user should know
}

// Error is everything that is wrong, one line each, in the order file, environment, command line.
type Error []string

func (e Error) Error() string { return strings.Join(e, "\n") }

// Parse sets the keys' fields: file first, environment over it, command line over both. args is without the program's name,
// env as from os.Environ, read as os.ReadFile. Errors are of type Error and name file and line, variable or flag.
// Settings not mentioned keep their defaults. With Version or Help nothing else was looked at.
func Parse(p Program, args, env []string, read func(string) ([]byte, error)) (Result, error) {
	r := reader{keys: map[string]Key{}, program: p}
	for _, k := range p.Keys {
		r.keys[k.Name] = k
	}
	flags, res := r.args(args)
	if res.Version || res.Help {
		return res, nil
	}
	var early Error
	early, r.errs = r.errs, nil // the command line's come last
	res.File = r.file(res.File, read)
	r.env(env)
	r.errs = append(r.errs, early...)
	for _, f := range flags {
		r.set(f.at, f.key, f.text)
	}
	res.Warnings = r.warnings
	if len(r.errs) > 0 {
		return res, r.errs
	}
	return res, nil
}

type reader struct {
	program  Program
	keys     map[string]Key
	errs     Error
	warnings []string
}

type setting struct {
	at   string // "flag --agent-ttl"
	key  Key
	text string
}

func (r *reader) fail(format string, a ...any) { r.errs = append(r.errs, fmt.Sprintf(format, a...)) }

func (r *reader) set(at string, k Key, text string) {
	if k.Gone != "" {
		r.warnings = append(r.warnings, fmt.Sprintf("%s: %s has no effect: %s", at, k.Name, k.Gone))
		return
	}
	warn, err := k.set(text)
	if err != nil {
		r.fail("%s: %s = %q: %v", at, k.Name, text, err)
	}
	if warn != "" {
		r.warnings = append(r.warnings, fmt.Sprintf("%s: %s: %s", at, k.Name, warn))
	}
}

// file reads the named or else the default file and returns its name, "" if there is none.
func (r *reader) file(name string, read func(string) ([]byte, error)) string {
	named := name != ""
	if !named {
		name = r.program.File
	}
	if name == "" {
		return ""
	}
	text, err := read(name)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return ""
	}
	if err != nil {
		// The path error repeats the name, its cause does not.
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		r.fail("read %s: %v; correct -config, or the file", name, err)
		return name
	}
	first := map[string]int{}
	lines := strings.Split(strings.TrimPrefix(string(text), "\ufeff"), "\n")
	for i, line := range lines {
		line = strings.TrimSpace(line)
		at := fmt.Sprintf("%s:%d", name, i+1)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		word, text, ok := strings.Cut(line, "=")
		word = strings.TrimSpace(word)
		switch k, known := r.keys[word]; {
		case line[0] == '[':
			r.fail("%s: %s: the file has no sections; remove the line", at, line)
		case !ok:
			r.fail(`%s: %q is no setting; write key = value, or # before a comment`, at, line)
		case !known:
			r.fail("%s: unknown key %q; %s", at, word, r.hint(word, func(k string) string { return k }, "remove the line"))
		default:
			if before := first[word]; before > 0 {
				r.warnings = append(r.warnings, fmt.Sprintf("%s: %s is set in line %d already; this one counts", at, word, before))
			}
			first[word] = i + 1
			value, err := unquote(strings.TrimSpace(text))
			if err != nil {
				r.fail("%s: %s: %v", at, word, err)
				continue
			}
			r.set(at, k, value)
		}
	}
	return name
}

// env takes every variable with the program's prefix. An empty one counts as not set: a drop-in can only empty a variable,
// not take it away.
func (r *reader) env(env []string) {
	var own []string
	for _, e := range env {
		if r.program.Env != "" && strings.HasPrefix(e, r.program.Env) {
			own = append(own, e)
		}
	}
	sort.Strings(own)
	upper := func(k string) string { return r.program.Env + strings.ToUpper(k) }
	for _, e := range own {
		name, text, _ := strings.Cut(e, "=")
		word := strings.ToLower(strings.TrimPrefix(name, r.program.Env))
		k, known := r.keys[word]
		switch {
		case !known || name != upper(word):
			r.fail("environment: unknown variable %s; %s", name, r.hint(word, upper, "remove it (Environment= of the unit)"))
		case text != "":
			value, err := unquote(strings.TrimSpace(text))
			if err != nil {
				r.fail("environment: %s: %v", name, err)
				continue
			}
			r.set("environment "+name, k, value)
		}
	}
}

// args reads the command line. Long flags may have one dash, as fleet's had.
func (r *reader) args(args []string) (flags []setting, res Result) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "version" {
			return nil, Result{Version: true}
		}
		name, text, given := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if name == arg || name == "" {
			r.fail("unexpected argument %q; see %s -help", arg, r.program.Name)
			continue
		}
		word := strings.ReplaceAll(name, "-", "_")
		k, known := r.keys[word]
		switch {
		case name == "version":
			return nil, Result{Version: true}
		case name == "help" || name == "h":
			return nil, Result{Help: true}
		case name != "config" && !known:
			r.fail("unknown flag %s; %s", arg, r.hint(word, dashes, "see "+r.program.Name+" -help"))
			continue
		case given || known && k.flag:
			if !given {
				text = "true"
			}
		case len(args) == 0:
			r.fail("flag %s needs a value", arg)
			continue
		default:
			text, args = args[0], args[1:]
		}
		if name == "config" {
			res.File = text
			continue
		}
		flags = append(flags, setting{"flag " + dashes(word), k, text})
	}
	return flags, res
}

func dashes(key string) string { return "--" + strings.ReplaceAll(key, "_", "-") }

// hint names the known key nearest to word, spelled by spell, or else says what to do.
func (r *reader) hint(word string, spell func(string) string, otherwise string) string {
	var known []string
	for _, k := range r.program.Keys {
		if k.Gone == "" {
			known = append(known, k.Name)
		}
	}
	best := near.Word(strings.ReplaceAll(word, "-", "_"), known, 3) // more than three slips is another word
	if best == "" {
		return otherwise
	}
	return "did you mean " + spell(best) + "?"
}

// Usage is the text for --help: every key with its default.
func Usage(p Program) string {
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s [-config FILE] [-version] [--KEY VALUE]...\n\n", p.Name)
	fmt.Fprintf(&b, "Settings come from %s, the environment (%sKEY) and flags, the later over the earlier.\n\n", p.File, p.Env)
	for _, k := range p.Keys {
		if k.Gone != "" {
			continue
		}
		fmt.Fprintf(&b, "  %s\n        %s", dashes(k.Name), k.Usage)
		if def := k.Default(); def != "" {
			fmt.Fprintf(&b, " (default %s)", def)
		}
		b.WriteString("\n")
	}
	return b.String()
}
