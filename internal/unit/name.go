package unit

import (
	"path"
	"slices"
	"strings"
)

// maxName is the longest name, in bytes. fleet allowed 256, but neither a file system nor systemd takes more than 255.
const maxName = 255

// ParseName checks a full unit name: up to 255 bytes of letters, digits and :-_.\@, a known type as its suffix, and an @
// only where systemd has templates: path, service, socket, target, timer. Errors are *ParseError.
func ParseName(s string) (Name, error) {
	bad := func(why, hint string) (Name, error) {
		return "", fault(0, "unit name "+quote(s)+" "+why, hint)
	}
	if s == "" {
		return "", fault(0, "unit name is empty", "write a name such as web.service")
	}
	if len(s) > maxName {
		return bad("is longer than 255 bytes", "choose a shorter one")
	}
	base, suffix, dotted := cutLast(s, '.')
	if !dotted || suffix == "" {
		return bad("has no type", "write a name such as web.service")
	}
	if !slices.Contains(types(), suffix) {
		return bad("has the unknown type "+quote(suffix), "use one of "+strings.Join(types(), ", "))
	}
	if base == "" || base[0] == '@' {
		return bad("has nothing before its "+string(s[0]), "write a name such as web"+s)
	}
	for _, r := range base {
		if !nameRune(r) {
			return bad("holds the character "+quote(string(r)),
				`use letters, digits and :-_.\@ (systemd-escape turns others into these)`)
		}
	}
	if strings.Contains(base, "@") && !mayTemplate(suffix) {
		return bad("is a template or instance, which type "+suffix+" cannot be", "use it without @")
	}
	return Name(s), nil
}

// Mangle makes a unit name of a command line's word: directories go away, and a word without a type that can be run is a
// service (hello → hello.service, foo.1 → foo.1.service, dir/web@1 → web@1.service, foo.target stays).
func Mangle(arg string) (Name, error) {
	if arg == "" {
		return ParseName(arg)
	}
	word := path.Base(arg)
	_, suffix, _ := cutLast(word, '.')
	if !runnable(suffix) {
		word += ".service"
	}
	return ParseName(word)
}

// Type is the suffix without its dot: "service".
func (n Name) Type() string {
	_, suffix, _ := cutLast(string(n), '.')
	return suffix
}

// Base is the name without its type: web@1.service → web@1.
func (n Name) Base() string {
	base, _, _ := cutLast(string(n), '.')
	return base
}

// Prefix is what stands before the first @, or the whole base: web@1.service → web.
func (n Name) Prefix() string {
	prefix, _, _ := strings.Cut(n.Base(), "@")
	return prefix
}

// Instance is what stands after the first @ of the base: foo@a@1.2.service → a@1.2. It is empty for plain units and
// for templates.
func (n Name) Instance() string {
	_, instance, _ := strings.Cut(n.Base(), "@")
	return instance
}

// IsTemplate reports whether the name is a template's, web@.service, which can be stored but never run.
func (n Name) IsTemplate() bool {
	_, instance, at := strings.Cut(n.Base(), "@")
	return at && instance == ""
}

// IsInstance reports whether the name is an instance's, web@1.service.
func (n Name) IsInstance() bool { return n.Instance() != "" }

// Template names the template an instance is made from: web@1.service → web@.service. ok=false for all but instances.
func (n Name) Template() (t Name, ok bool) {
	if !n.IsInstance() {
		return "", false
	}
	return Name(n.Prefix() + "@." + n.Type()), true
}

// types are systemd's, with those that it has dropped (busname, snapshot): fleet's API took them.
func types() []string {
	return []string{"automount", "busname", "device", "mount", "path", "scope", "service", "slice", "snapshot", "socket",
		"swap", "target", "timer"}
}

func mayTemplate(t string) bool {
	switch t {
	case "path", "service", "socket", "target", "timer":
		return true
	}
	return false
}

// runnable are the types that systemd still has. On a command line "v1.snapshot" is rather a service's name.
func runnable(t string) bool {
	return t != "busname" && t != "snapshot" && slices.Contains(types(), t)
}

func nameRune(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune(`:-_.\@`, r)
}

// cutLast cuts s at its last sep; without one all of s stands before it.
func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}
