// Package near finds the word that somebody meant.
package near

import "strings"

// Word returns the one of words that at most slips slips of the fingers turn into typed, the nearest first and the earlier of two as
// near; or "" when all are farther. Upper and lower case are one. A slip is one letter missing, too many, wrong, or two neighbours
// swapped.
func Word(typed string, words []string, slips int) string {
	typed = strings.ToLower(typed)
	best, found := slips+1, ""
	for _, w := range words {
		if d := distance(typed, strings.ToLower(w)); d < best {
			best, found = d, w
		}
	}
	return found
}

// distance is the optimal string alignment distance: Damerau's four slips, no letter touched twice. Words are short: the table of
// all pairs of beginnings is kept whole, so that the step over two swapped letters can look back two rows.
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			wrong := d[i-1][j-1]
			if a[i-1] != b[j-1] {
				wrong++
			}
			d[i][j] = min(wrong, d[i-1][j]+1, d[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
