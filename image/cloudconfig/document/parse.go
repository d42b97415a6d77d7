package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/fleet-init/fleet/internal/near"
)

// MaxSize is the most bytes that a document, or a content in it, may have once it is unpacked.
const MaxSize = 16 << 20

// Variables are what $private_ipv4, $public_ipv4, $private_ipv6 and $public_ipv6 stand for, by those names without the dollar. Source is where
// they were looked for, for people. A nil Values leaves variables as they are, for who checks a document elsewhere than on its host.
type Variables struct {
	Values map[string]string
	Source string
}

// Parse reads user-data: a cloud-config, a script, or nothing. What it returns is to be applied only if no problem is an Error. Compressed
// user-data is unpacked first.
func Parse(data []byte, vars Variables) (Document, []Problem) {
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		plain, err := gunzip(data)
		if err != nil {
			return Document{}, []Problem{{Level: Error, What: fmt.Sprintf("unpack the document: %v", err)}}
		}
		data = plain
	}
	if len(data) > MaxSize {
		return Document{}, []Problem{{Level: Error, What: fmt.Sprintf("the document has more than %d MiB", MaxSize>>20)}}
	}
	first, _, _ := bytes.Cut(data, []byte("\n"))
	first = bytes.TrimRight(first, " \t\r")
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return Document{}, nil
	case bytes.HasPrefix(first, []byte("#!")):
		r := &reader{vars: vars}
		s := r.substitute(string(data), 0)
		return Document{Script: []byte(s)}, r.problems
	case string(first) == "#cloud-config":
		return parseYAML(data, vars)
	case isIgnition(data):
		return Document{}, []Problem{{Level: Error, What: "this is an Ignition config, which this host does not read", Hint: "translate it to a cloud-config: docs/image.md has both side by side"}}
	}
	return Document{}, []Problem{{Line: 1, Level: Error, What: fmt.Sprintf("a document cannot begin with %q", clip(string(first))), Hint: "the first line is #cloud-config, or #! and an interpreter"}}
}

func isIgnition(data []byte) bool {
	var doc struct {
		Old string `yaml:"ignitionVersion"`
		New struct {
			Version string `yaml:"version"`
		} `yaml:"ignition"`
	}
	return bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) && yaml.Unmarshal(data, &doc) == nil && (doc.Old != "" || doc.New.Version != "")
}

// raw is a document's own shape; build makes a Document of it.
type raw struct {
	Hostname string    `yaml:"hostname"`
	Keys     []string  `yaml:"ssh_authorized_keys"`
	EtcHosts string    `yaml:"manage_etc_hosts"`
	Users    []User    `yaml:"users"`
	Files    []rawFile `yaml:"write_files"`
	CoreOS   struct {
		Units     []Unit            `yaml:"units"`
		Fleet     map[string]string `yaml:"fleet"`
		Flannel   map[string]string `yaml:"flannel"`
		Locksmith map[string]string `yaml:"locksmith"`
		Update    map[string]string `yaml:"update"`
		OEM       map[string]string `yaml:"oem"`
	} `yaml:"coreos"`
	Fleet struct {
		Join   string            `yaml:"join"`
		Fleetd map[string]string `yaml:"fleetd"`
		Etcd   map[string]string `yaml:"etcd"`
		Netd   map[string]string `yaml:"netd"`
		Update map[string]string `yaml:"update"`
		Reboot struct {
			Strategy string   `yaml:"strategy"`
			Window   []string `yaml:"window"`
			Group    string   `yaml:"group"`
		} `yaml:"reboot"`
		Units     []Unit            `yaml:"units"`
		Addresses map[string]string `yaml:"addresses"`
	} `yaml:"fleet"`
}

type rawFile struct {
	Path     string `yaml:"path"`
	Content  string `yaml:"content"`
	Encoding string `yaml:"encoding"`
	Source   string `yaml:"source"`
	SHA256   string `yaml:"sha256"`
	Owner    string `yaml:"owner"`
	Mode     string `yaml:"permissions"`
	line     int
}

// reader collects what is wrong.
type reader struct {
	vars     Variables
	problems []Problem
}

func (r *reader) say(line int, level Level, hint, format string, args ...any) {
	r.problems = append(r.problems, Problem{Line: line, Level: level, What: fmt.Sprintf(format, args...), Hint: hint})
}

func parseYAML(data []byte, vars Variables) (Document, []Problem) {
	r := &reader{vars: vars}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF): // comments only
		return Document{}, nil
	case err != nil:
		p := broken(err)
		p.Line = endOfYAML(data, p.Line)
		return Document{}, []Problem{p}
	}
	if err := dec.Decode(new(yaml.Node)); err == nil {
		r.say(0, Error, "put all of it into one", "there is more than one YAML document")
	}
	top := doc.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return Document{}, r.problems
	}
	if !r.plain(&doc, 0) {
		return Document{}, r.problems
	}
	r.node(top, root(), "the document")
	if len(Errors(r.problems, false)) > 0 {
		return Document{}, r.sorted()
	}
	var in raw
	if err := top.Decode(&in); err != nil {
		// The table has let something through that the shapes do not take: say so as about any document, rather than lose it.
		r.problems = append(r.problems, broken(err))
		return Document{}, r.sorted()
	}
	in.lines(top)
	d := r.build(in, top)
	return d, r.sorted()
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s*)?line (\d+): (.*)`)

// broken is a problem made of what the YAML library says.
func broken(err error) Problem {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		line, _ := strconv.Atoi(m[1])
		return Problem{Line: line, Level: Error, What: "YAML: " + m[2], Hint: "mind the spaces at the beginning of lines; tabs do not count as such"}
	}
	return Problem{Level: Error, What: "YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
}

// endOfYAML is the line at which a document stops being YAML: the one behind its longest beginning that is. The library says where the thing around it
// begins, or one line less, which may be far above; said is that line.
func endOfYAML(data []byte, said int) int {
	// More lines than anybody looks through, and little enough that a host is not held up by it.
	const most, window = 64 << 10, 200
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(data) > most {
		return said
	}
	for n := min(len(lines), said+window) - 1; n >= max(0, said-2); n-- {
		err := yaml.NewDecoder(bytes.NewReader(bytes.Join(lines[:n], nil))).Decode(new(yaml.Node))
		if err == nil || errors.Is(err, io.EOF) {
			return n + 1
		}
	}
	return said
}

// plain refuses anchors and aliases: a few lines of them make a document of any size, and no cloud-config needs one.
func (r *reader) plain(n *yaml.Node, depth int) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		r.say(n.Line, Error, "write it out", "YAML anchors and aliases are not read")
		return false
	case depth > 20:
		r.say(n.Line, Error, "", "it is nested deeper than any cloud-config")
		return false
	}
	for _, c := range n.Content {
		if !r.plain(c, depth+1) {
			return false
		}
	}
	return true
}

// node holds a node against its field, and makes it what the shapes expect: keys spelled with "_", variables replaced, scalars as words.
func (r *reader) node(n *yaml.Node, f field, where string) {
	if f.gone != "" {
		r.say(n.Line, Warning, f.gone, "%s has no meaning here", where)
		return
	}
	null := n.Kind == yaml.ScalarNode && n.Tag == "!!null"
	switch {
	case null: // as if the key were not there
		*n = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null", Line: n.Line}
	case (f.kind == table || f.kind == words) && n.Kind == yaml.MappingNode:
		r.mapping(n, f, where)
	case f.kind == list && n.Kind == yaml.SequenceNode:
		for i, c := range n.Content {
			r.node(c, *f.item, fmt.Sprintf("%s[%d]", where, i))
		}
	case f.kind == flag && n.Kind == yaml.ScalarNode:
		r.flag(n, where)
	case (f.kind == text || f.kind == mode || f.kind == scalar) && n.Kind == yaml.ScalarNode:
		r.scalar(n, f, where)
	default:
		r.say(n.Line, Error, "", "%s must be %s, not %s", where, article(f.kind), shape(n))
	}
}

func (r *reader) flag(n *yaml.Node, where string) {
	switch strings.ToLower(n.Value) {
	case "true", "yes", "on":
		n.Value = "true"
	case "false", "no", "off":
		n.Value = "false"
	default:
		r.say(n.Line, Error, "write true or false", "%s must be a boolean, not %q", where, clip(n.Value))
		return
	}
	n.Tag, n.Style = "!!bool", 0
}

func (r *reader) scalar(n *yaml.Node, f field, where string) {
	if n.Tag == "!!binary" {
		raw, err := unbase64(n.Value)
		if err != nil {
			r.say(n.Line, Error, "", "%s: %v", where, err)
			return
		}
		n.Value = string(raw)
	}
	n.Value = r.substitute(n.Value, n.Line)
	n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle // 0644 and true are words where words are asked for
	if f.check == nil || r.vars.Values == nil && strings.Contains(n.Value, "$p") {
		return
	}
	if wrong := f.check(n.Value); wrong != "" {
		r.say(n.Line, Error, wrong, "%s cannot be %q", where, clip(n.Value))
	}
}

func (r *reader) mapping(n *yaml.Node, f field, where string) {
	seen := map[string]int{}
	var kept []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := strings.ReplaceAll(key.Value, "-", "_")
		if key.Kind != yaml.ScalarNode {
			r.say(key.Line, Error, "", "a key of %s must be a word, not %s", where, shape(key))
			continue
		}
		if before, twice := seen[name]; twice {
			r.say(key.Line, Error, fmt.Sprintf("it stands on line %d already", before), "%s twice in %s", name, where)
			continue
		}
		seen[name] = key.Line
		key.Value, key.Tag = name, "!!str"
		inner := name
		if where != "the document" {
			inner = where + "." + name
		}
		sub, ok := r.sub(f, key, where)
		if !ok {
			continue
		}
		r.node(value, sub, inner)
		if sub.gone == "" {
			kept = append(kept, key, value)
		}
	}
	n.Content = kept
	for _, sub := range f.fields {
		if _, there := seen[sub.name]; sub.must && !there {
			r.say(n.Line, Error, "", "%s has no %s", where, sub.name)
		}
	}
}

// sub is the field that a key stands for.
func (r *reader) sub(f field, key *yaml.Node, where string) (field, bool) {
	i := slices.IndexFunc(f.fields, func(s field) bool { return s.name == key.Value })
	if i >= 0 {
		return f.fields[i], true
	}
	var names []string
	for _, s := range f.fields {
		names = append(names, s.name)
	}
	r.say(key.Line, Unknown, meant(key.Value, names), "unknown key %q in %s", clip(key.Value), where)
	return field{}, false
}

func meant(word string, words []string) string {
	if w := near.Word(word, words, 2); w != "" {
		return "did you mean " + w + "?"
	}
	return "there are " + strings.Join(words, ", ")
}

var variable = regexp.MustCompile(`\\?\$(?:public|private)_ipv[46]`)

// substitute puts in what variables stand for; a backslash before one keeps it.
func (r *reader) substitute(s string, line int) string {
	if r.vars.Values == nil {
		return s
	}
	return variable.ReplaceAllStringFunc(s, func(v string) string {
		if v[0] == '\\' {
			return v[1:]
		}
		value := r.vars.Values[v[1:]]
		if value == "" {
			r.say(line, Error, fmt.Sprintf("say where it is: fleet: {addresses: {%s: INTERFACE or NETWORK}}", v[1:]), "nobody knows %s: not %s", v, r.vars.Source)
		}
		return value
	})
}

func (r *reader) sorted() []Problem {
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Line - b.Line })
	return r.problems
}

func article(k kind) string {
	switch k {
	case list:
		return "a list"
	case table, words:
		return "a table of keys and values"
	case flag:
		return "a boolean"
	case mode:
		return "an octal mode"
	case scalar:
		return "a word or a number"
	}
	return "text"
}

func shape(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a table"
	case yaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("%q", clip(n.Value))
}

// clip shortens what is shown of somebody's text, which may hold a secret further on.
func clip(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 40 {
		s = strings.ToValidUTF8(s[:37], "") + "..."
	}
	return s
}

var errTooLarge = errors.New("it is larger than " + strconv.Itoa(MaxSize>>20) + " MiB when unpacked")
