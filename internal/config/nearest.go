package config

import (
	"slices"
	"strings"
)

// nearest tells which known name somebody may have meant, for a warning; empty: there is none that is near. Names
// begin with a prefix that says nothing.
func nearest(name, prefix string, known []string) string {
	name = strings.TrimPrefix(name, prefix)
	best, least := "", max(1, len(name)/3)+1
	if len(name) > longest {
		return ""
	}
	for _, k := range slices.Sorted(slices.Values(known)) { // so that the answer does not vary among equals
		if d := distance(name, strings.TrimPrefix(k, prefix)); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; the nearest known one is " + best
}

// distance is Levenshtein's: how many insertions, deletions and replacements make a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
