package unit

import (
	"strings"
	"testing"
)

// FuzzDropIn: a drop-in that is taken has a name that stays below its folder, and prints as what reads the same.
func FuzzDropIn(f *testing.F) {
	f.Add("a.service", "10-limits.conf", []byte("[Service]\nMemoryMax=1G\n"))
	f.Add("a@.service", "../x.conf", []byte("[X-Fleet]\nMachineOf=%i\n"))
	f.Fuzz(func(t *testing.T, of, name string, text []byte) {
		n, err := ParseName(of)
		if err != nil {
			return
		}
		d, err := ParseDropIn(n, name, text)
		if err != nil {
			return
		}
		if strings.ContainsAny(d.Name, "/\x00\n") || d.Name == "" || strings.HasPrefix(d.Name, ".") && strings.Trim(d.Name, ".") == "conf" && d.Name != ".conf" {
			t.Errorf("%q is a name", d.Name)
		}
		again, err := DropInOf(n, name, d.Options)
		if err != nil || len(again.Options) != len(d.Options) {
			t.Errorf("%d options are %d when given by the API: %v", len(d.Options), len(again.Options), err)
		}
	})
}

// FuzzWords reads the values of [X-Fleet] that are more than a name: a port prints as itself, a pattern matches what it says literally.
func FuzzWords(f *testing.F) {
	f.Add("8080:80/tcp", "web@*.service", "web@1.service")
	f.Add("0", "[a-", "[a-")
	f.Add("65536/udp", "a\\*b", "a*b")
	f.Fuzz(func(t *testing.T, port, glob, name string) {
		if p, err := ParsePort(port); err == nil {
			if again, err := ParsePort(p.String()); err != nil || again != p || p.Host == 0 || p.Inside == 0 {
				t.Errorf("%q is %v, and that %v: %v", port, p, again, err)
			}
		}
		g := Glob(glob)
		_ = g.Match(Name(name))
		if n, ok := g.Literal(); ok && g.Valid() && !g.Match(n) {
			t.Errorf("%q is %q literally and does not match it", glob, n)
		}
	})
}
