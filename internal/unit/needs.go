package unit

import (
	"slices"
	"strings"
)

// FleetSection is the section that fleet reads. The others are systemd's, but for [Install] and the Description.
const FleetSection = "X-Fleet"

// Needs reads the file's [X-Fleet] section for a unit of that name; see NeedsOf.
func (f *File) Needs(name Name) (Needs, error) { return NeedsOf(f.Options, name) }

// NeedsOf reads the [X-Fleet] options among options (others are passed over) for a unit of that name, with %n %N %p %i expanded: full
// name, name without type, prefix, instance. Other specifiers stay as they are. A template's Needs keep %n, %N and %i, since
// these come with the instance.
//
// A value may be a list in double quotes, "a=1" "b=2": then each part counts as a line of its own. Beyond that
//
//   - MachineID: the first value counts, of MachineID, else X-ConditionMachineID, else X-ConditionMachineBootID;
//   - MachineOf (X-ConditionMachineOf): one unit name a value, all must hold;
//   - MachineMetadata (X-ConditionMachineMetadata): key=value; of one key any value will do, all keys must fit. Space around
//     key and value goes (fleet kept it, and then fitted no machine);
//   - Conflicts (X-Conflicts): globs, several a value with space between;
//   - Replaces: one glob a value;
//   - Publish: ports as ParsePort reads them, several a value with space between; in a template those that are ports already;
//   - Global, Exclusive, OnDisconnect: the last value counts.
//
// Values that fleet dropped in silence, or that could never fit, are a *ParseError. Unknown options are passed over: Validate
// refuses them when a unit comes in, and a daemon that is older than the unit's author goes on with what it knows.
func NeedsOf(options []Option, name Name) (Needs, error) {
	r := reader{name: name, expand: expander(name), rank: len(machineIDKeys())}
	for _, o := range options {
		if o.Section != FleetSection {
			continue
		}
		values, err := split(joined(o.Value))
		if err == nil {
			err = r.option(o.Name, values)
		}
		if err != nil {
			return Needs{}, at(o.Line, err)
		}
	}
	return r.needs, nil
}

// machineIDKeys are the names of MachineID, best first.
func machineIDKeys() []string {
	return []string{"MachineID", "X-ConditionMachineID", "X-ConditionMachineBootID"}
}

// reader gathers Needs from one option after the other.
type reader struct {
	needs  Needs
	name   Name
	expand *strings.Replacer
	rank   int // place of the MachineID taken so far in machineIDKeys
}

func (r *reader) option(key string, values []string) *ParseError {
	var take func(key, value string) *ParseError
	switch modern(key) {
	case "MachineID":
		take = r.machineID
	case "MachineOf":
		take = r.machineOf
	case "MachineMetadata":
		take = r.metadata
	case "Conflicts":
		take = r.conflicts
	case "Replaces":
		take = r.replaces
	case "Publish":
		take = r.publish
	case "Global":
		take = r.global
	case "Exclusive":
		take = r.exclusive
	case "OnDisconnect":
		take = r.disconnect
	default:
		return nil
	}
	for _, v := range values {
		if err := take(key, r.expand.Replace(v)); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) machineID(key, value string) *ParseError {
	if value == "" {
		return fault(0, key+" is empty", "write the machine's ID, or delete the line")
	}
	if rank := slices.Index(machineIDKeys(), key); rank < r.rank {
		r.rank, r.needs.MachineID = rank, value
	}
	return nil
}

func (r *reader) machineOf(key, value string) *ParseError {
	peer := value
	if r.name.IsTemplate() {
		// What an instance would ask must be a name; what the template keeps need not.
		peer = expander(Name(r.name.Prefix() + "@0." + r.name.Type())).Replace(value)
	}
	if _, err := ParseName(peer); err != nil {
		return fault(0, key+" "+quote(value)+" is no unit name", "write one unit's full name a line, such as "+key+"=web.service")
	}
	if peer == string(r.name) {
		return fault(0, key+" names the unit itself", "name another unit, or delete the line")
	}
	r.needs.MachineOf = appendNew(r.needs.MachineOf, Name(value))
	return nil
}

func (r *reader) metadata(key, value string) *ParseError {
	k, v, _ := strings.Cut(value, "=")
	k, v = strings.Trim(k, space), strings.Trim(v, space)
	if strings.Count(value, "=") > 1 || strings.Contains(value, `"`) {
		return fault(0, key+" "+quote(value)+" is not one key=value",
			`write a line for each, or quote each: `+key+`="rack=7" "zone=a"`)
	}
	if k == "" || v == "" {
		return fault(0, key+" "+quote(value)+" is no key=value", "write both, such as "+key+"=rack=7, or delete the line")
	}
	if r.needs.Metadata == nil {
		r.needs.Metadata = map[string][]string{}
	}
	r.needs.Metadata[k] = appendNew(r.needs.Metadata[k], v)
	return nil
}

func (r *reader) conflicts(key, value string) *ParseError {
	for _, g := range strings.Fields(value) {
		if !Glob(g).Valid() {
			return badGlob(key, g)
		}
		r.needs.Conflicts = appendNew(r.needs.Conflicts, Glob(g))
	}
	return nil
}

func (r *reader) replaces(key, value string) *ParseError {
	switch {
	case value == "":
		return nil
	case strings.ContainsAny(value, space):
		return fault(0, key+" "+quote(value)+" holds space", "write one pattern a line, such as "+key+"=web@*.service")
	case !Glob(value).Valid():
		return badGlob(key, value)
	}
	r.needs.Replaces = appendNew(r.needs.Replaces, Glob(value))
	return nil
}

// publish takes ports. What only an instance makes a number, such as 80%i:80, is none in its template.
func (r *reader) publish(_, value string) *ParseError {
	for _, w := range strings.Fields(value) {
		p, err := parsePort(w)
		if err != nil && r.name.IsTemplate() {
			continue
		}
		if err != nil {
			return err
		}
		r.needs.Publish = appendNew(r.needs.Publish, p)
	}
	return nil
}

func badGlob(key, glob string) *ParseError {
	return fault(0, key+" "+quote(glob)+" is a malformed pattern", "close each [ with a ], as in web@[12].service")
}

func (r *reader) global(key, value string) *ParseError {
	switch strings.ToLower(value) {
	case "true", "yes", "1", "on", "t":
		r.needs.Global = true
	case "false", "no", "0", "off", "f", "":
		r.needs.Global = false
	default:
		// fleet took any other word for false: Global=y ran on one machine.
		return fault(0, key+" "+quote(value)+" is neither yes nor no", "write "+key+"=true or "+key+"=false")
	}
	return nil
}

// Expand replaces %n, %N, %p and %i in a text that is shown, as systemd would on the host. Other specifiers only the host knows.
func Expand(name Name, text string) string { return expander(name).Replace(text) }

// expander replaces the specifiers in one pass, so that a name with a letter after % cannot be expanded again.
func expander(name Name) *strings.Replacer {
	if name.IsTemplate() {
		return strings.NewReplacer("%p", name.Prefix())
	}
	return strings.NewReplacer("%n", string(name), "%N", name.Base(), "%p", name.Prefix(), "%i", name.Instance())
}

// split cuts a value that stands wholly in double quotes into its quoted parts; any other value is one.
func split(value string) ([]string, *ParseError) {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return []string{value}, nil
	}
	var parts []string
	var part strings.Builder
	quoted, begun := false, false
	for _, c := range []byte(value) {
		switch {
		case c == '"':
			quoted, begun = !quoted, true
		case !quoted && strings.IndexByte(space, c) >= 0:
			if begun {
				parts = append(parts, part.String())
				part.Reset()
			}
			begun = false
		default:
			part.WriteByte(c)
			begun = true
		}
	}
	if quoted {
		return nil, fault(0, "list "+quote(value)+" has an odd number of double quotes", `quote each part: "a" "b"`)
	}
	return append(parts, part.String()), nil
}

func appendNew[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}
