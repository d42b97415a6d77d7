package unit

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAliases(t *testing.T) {
	for _, row := range []struct {
		name string
		unit Name
		text string
		want []Name
	}{
		{"none", "a.service", "[Service]\nExecStart=/bin/a\n", nil},
		{"several in a line and in lines", "a.service", "[Install]\nAlias=c.service b.service\nAlias=b.service\n", []Name{"b.service", "c.service"}},
		{"an empty value takes back", "a.service", "[Install]\nAlias=b.service\nAlias=\nAlias=c.service\n", []Name{"c.service"}},
		{"of an instance", "a@1.service", "[Install]\nAlias=%p-%i.service b@%i.service\n", []Name{"a-1.service", "b@1.service"}},
		{"of a template", "a@.service", "[Install]\nAlias=%p-%i.service b@.service\n", []Name{"b@.service"}},
		{"its own name is none", "a.service", "[Install]\nAlias=a.service\n", nil},
		{"what only the host can expand", "a.service", "[Install]\nAlias=%H.service\n", nil},
		{"of another section", "a.service", "[Unit]\nAlias=b.service\n", nil},
		{"over several lines", "a.service", "[Install]\nAlias=b.service \\\n  c.service\n", []Name{"b.service", "c.service"}},
	} {
		f, err := Parse([]byte(row.text))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(row.want, f.Aliases(row.unit)); diff != "" {
			t.Errorf("%s: %s", row.name, diff)
		}
	}
	f := (&File{}).With([]DropIn{{Of: "a.service", Name: "x.conf", Options: []Option{{Section: "Install", Name: "Alias", Value: "b.service"}}}})
	if diff := cmp.Diff([]Name{"b.service"}, f.Aliases("a.service")); diff != "" {
		t.Errorf("of a drop-in: %s", diff)
	}
}
