package unit

import (
	"path"
	"strings"
)

// Glob is a shell-style pattern over unit names: * ? [a-z] as in path.Match. A backslash is tried both ways, as path.Match's
// escape and as itself: names made by systemd-escape hold backslashes (a\x2db.mount), and who writes one in a
// pattern means that unit.
//
// It is a plain string, so that values holding one can be written, compared and stored as they are; the globs of Needs are
// well formed.
type Glob string

// Match reports whether name fits the glob. A malformed glob fits no name. Planners ask this for every pair of units, so it
// answers most pairs by their first bytes alone.
func (g Glob) Match(name Name) bool {
	for i := 0; i < len(g); i++ {
		if isMeta(g[i]) {
			// What stands before a metacharacter matched literally, so the rest decides.
			return matchRest(string(g[i:]), string(name[i:]))
		}
		if i >= len(name) || g[i] != name[i] {
			return false
		}
	}
	return len(g) == len(name)
}

func matchRest(pattern, name string) bool {
	if tail := Glob(pattern[1:]); pattern[0] == '*' && tail.plain() {
		// Nearly all patterns have this one star. It stops at no slash, as path.Match's would: names hold none.
		return strings.HasSuffix(name, string(tail))
	}
	if ok, err := path.Match(pattern, name); ok || err != nil || !strings.Contains(pattern, `\`) {
		return ok && err == nil
	}
	ok, err := path.Match(strings.ReplaceAll(pattern, `\`, `\\`), name)
	return ok && err == nil
}

// Literal returns the only name the glob fits, for an index by name; ok=false when it must be tried with Match.
func (g Glob) Literal() (name Name, ok bool) {
	if !g.plain() {
		return "", false
	}
	return Name(g), true
}

func (g Glob) plain() bool {
	for i := range len(g) {
		if isMeta(g[i]) {
			return false
		}
	}
	return true
}

// Valid reports whether the glob is well formed.
func (g Glob) Valid() bool {
	_, err := path.Match(string(g), "")
	return err == nil
}

func isMeta(c byte) bool { return c == '*' || c == '?' || c == '[' || c == '\\' }
