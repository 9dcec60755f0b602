package balancer

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// BenchmarkPick compares Pick and Release, by all processors at once, with what any shared state costs at the least:
// an atomic add to one counter. Targets, as multiples of that: round_robin and random two 5 at any size, least_conn 10
// up to 16 candidates. Equal weights are the normal case; 5, 1, 1, … is the one to judge by, if they differ.
//
// The ratios say something only on quiet processors that share a cache: else the baseline, which keeps the line for many
// adds in a row, hides what it costs to move one.
func BenchmarkPick(b *testing.B) {
	b.Run("baseline", func(b *testing.B) {
		var n struct {
			_ [cacheLine]byte
			atomic.Int64
			_ [cacheLine]byte
		}
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				n.Add(1)
			}
		})
	})
	for i := range policies {
		for _, n := range []int{1, 4, 16, 256} {
			for _, w := range []struct {
				name    string
				weights []int
			}{{"equal", []int{1}}, {"5-1-1", []int{5, 1, 1}}} {
				p := everyKind(i)
				b.Run(fmt.Sprintf("%s/%s/%d", p, w.name, n), func(b *testing.B) {
					cs := make([]Candidate, n)
					for i := range cs {
						cs[i] = Candidate{Weight: w.weights[i%len(w.weights)], Load: new(Load)}
					}
					picker := p.New(cs)
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							i, _ := picker.Pick(Query{})
							cs[i].Release()
						}
					})
				})
			}
		}
	}
}
