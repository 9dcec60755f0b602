package config

import "slices"

// nearest returns the known name with the smallest edit distance to name, for "did you mean".
func nearest(name string, known []string) string {
	best, least := "", int(^uint(0)>>1)
	for _, k := range slices.Sorted(slices.Values(known)) { // so that the answer does not vary among equals
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
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
