package unit

import (
	"slices"
	"strings"
)

// Aliases are the other names that [Install] gives the unit on its machine, sorted. Those that systemd would not make a name of, or that only
// the host can expand, are not among them.
func (f *File) Aliases(name Name) (names []Name) {
	for _, o := range f.Merged() {
		if o.Section != "Install" || o.Name != "Alias" {
			continue
		}
		words := strings.Fields(joined(o.Value))
		if len(words) == 0 {
			names = nil // as with every list of systemd's, an empty value takes back what came before
		}
		for _, w := range words {
			if n, err := ParseName(Expand(name, w)); err == nil && n != name {
				names = append(names, n)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
