package balancer

import (
	"math"
	"strings"
	"testing"
)

func randomTwoPolicy(t testing.TB) (p Policy) {
	t.Helper()
	if err := p.UnmarshalText([]byte("random two")); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSharesAreTheWeights(t *testing.T) {
	for _, weights := range [][]int{{1, 1}, {5, 1, 1}, {1, 1, 5}, {65535, 1}, {1, 2, 3, 4, 5, 6, 7}, {3, 3, 3, 1}} {
		p := newRandomTwo(candidates(weights...)).(*randomTwo)
		got, sum := make([]float64, len(weights)), 0
		for i, s := range p.shares {
			keep := float64(s.keep) / (1 << 32)
			got[i] += keep / float64(len(weights))
			got[s.other] += (1 - keep) / float64(len(weights))
			sum += weights[i]
		}
		for i, w := range weights {
			if want := float64(w) / float64(sum); math.Abs(got[i]-want) > 1e-9 {
				t.Errorf("weights %v: candidate %d is drawn with probability %v, want %v", weights, i, got[i], want)
			}
		}
	}
}

// Of two candidates both are drawn, however small the weight of one.
func TestRandomTwoDrawsAreDistinct(t *testing.T) {
	for _, weights := range [][]int{{1, 1}, {65535, 1}} {
		cs := candidates(weights...)
		cs[0].inFlight.Store(1 << 20)
		if got := sequence(t, randomTwoPolicy(t).New(cs), cs, 1000); strings.Contains(got, "a") {
			t.Errorf("weights %v, a is busy: it got %d of 1000", weights, strings.Count(got, "a"))
		}
	}
}

// The busiest of three is picked only if it is drawn twice, which never happens.
func TestRandomTwoAvoidsTheBusiest(t *testing.T) {
	cs := candidates(5, 1, 1)
	cs[0].inFlight.Store(11) // more than 2 for its weight
	cs[1].inFlight.Store(2)
	cs[2].inFlight.Store(2)
	if got := sequence(t, randomTwoPolicy(t).New(cs), cs, 1000); strings.Contains(got, "a") {
		t.Errorf("a is the busiest: it got %d of 1000", strings.Count(got, "a"))
	}
}

func TestRandomTwoLevelsTheLoad(t *testing.T) {
	cs := candidates(5, 1, 1)
	p := randomTwoPolicy(t).New(cs)
	for range 7000 {
		pick(t, p, Query{})
	}
	for _, c := range cs {
		got, want := c.InFlight(), int64(c.Weight)*1000
		if got < want-50 || got > want+50 {
			t.Errorf("%s has weight %d: %d in flight, want %d ± 50", c.Name, c.Weight, got, want)
		}
	}
}
