package near

import "testing"

func TestWord(t *testing.T) {
	words := []string{"start", "status", "stop", "list-units"}
	for _, row := range []struct {
		typed string
		slips int
		want  string
	}{
		{"start", 0, "start"},
		{"START", 0, "start"},
		{"strat", 1, "start"},
		{"stat", 1, "start"},
		{"stopp", 1, "stop"},
		{"stxp", 1, "stop"},
		{"list-unist", 1, "list-units"},
		{"lst-unist", 1, ""},
		{"lst-unist", 2, "list-units"},
		{"", 2, ""},
		{"sta", 3, "start"}, // two away, as status is three
		{"destroy", 2, ""},
	} {
		if got := Word(row.typed, words, row.slips); got != row.want {
			t.Errorf("%q with %d slips: %q, want %q", row.typed, row.slips, got, row.want)
		}
	}
}

func TestDistanceIsTheSameBothWays(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"ab", "ba", 1}, {"ca", "abc", 3}, {"kitten", "sitting", 3}} {
		if got, back := distance(row.a, row.b), distance(row.b, row.a); got != row.want || back != row.want {
			t.Errorf("%q and %q: %d, back %d, want %d", row.a, row.b, got, back, row.want)
		}
	}
}
