package unit

import "path"

// Glob is a shell-style pattern over unit names: * ? [a-z] and \ before a character that shall stand for itself, as in
// path.Match. It is a plain string, so that values holding one can be written, compared and stored as they are; the globs
// of Needs are well formed.
type Glob string

// Match reports whether name fits the glob. A glob also fits the name that it spells byte for byte: names made by
// systemd-escape hold backslashes (a\x2db.mount), and who writes one means that unit, not the pattern.
//
// Planners ask this for every pair of units, so it answers most pairs by the first bytes alone.
func (g Glob) Match(name Name) bool {
	if string(g) == string(name) {
		return true
	}
	for i := 0; i < len(g); i++ {
		if isMeta(g[i]) {
			// What stands before a metacharacter matched literally, so the rest decides.
			ok, err := path.Match(string(g[i:]), string(name[i:]))
			return ok && err == nil
		}
		if i >= len(name) || g[i] != name[i] {
			return false
		}
	}
	return false // no metacharacter, and not equal
}

// Literal returns the only name the glob fits, for an index by name; ok=false when it must be tried with Match.
func (g Glob) Literal() (name Name, ok bool) {
	for i := 0; i < len(g); i++ {
		if isMeta(g[i]) {
			return "", false
		}
	}
	return Name(g), true
}

// Valid reports whether the glob is well formed. A malformed one fits no name but itself.
func (g Glob) Valid() bool {
	_, err := path.Match(string(g), "")
	return g != "" && err == nil
}

// Match reports whether name fits the pattern, as Glob.Match.
func Match(pattern, name string) bool { return Glob(pattern).Match(Name(name)) }

func isMeta(c byte) bool { return c == '*' || c == '?' || c == '[' || c == '\\' }
