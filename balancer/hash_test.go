package balancer

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// keys are n different ones.
func keys(n int) []uint64 {
	ks := make([]uint64, n)
	for i := range ks {
		var h Hasher
		h.Add(fmt.Sprint("/page/", i))
		ks[i] = h.Sum()
	}
	return ks
}

// TestHashShares: different keys are spread by weight.
func TestHashShares(t *testing.T) {
	for _, weights := range [][]int{{1, 1}, {1, 1, 1}, {5, 1, 1}, {1, 2, 3, 4}} {
		cs := candidates(weights...)
		p, counts, sum := newHash(newList(cs)), make([]int, len(cs)), 0
		for _, w := range weights {
			sum += w
		}
		const n = 100000
		for _, k := range keys(n) {
			i := pick(t, p, Query{Key: k})
			cs[i].Release()
			counts[i]++
		}
		for i, w := range weights {
			if want := float64(n*w) / float64(sum); math.Abs(float64(counts[i])-want) > .02*n {
				t.Errorf("weights %v: %v of %d keys, want %.0f for the one of weight %d", weights, counts, n, want, w)
			}
		}
	}
}

// TestHashStays: a key keeps its backend while others come, go and are recreated; only keys of one that
// left move, and they come back with it.
func TestHashStays(t *testing.T) {
	cs := candidates(1, 1, 1, 1)
	home := make(map[uint64]string)
	owners := func(cs []Candidate, what string, moved func(from, to string) bool) {
		t.Helper()
		p := newHash(newList(cs))
		for _, k := range keys(5000) {
			i := pick(t, p, Query{Key: k})
			cs[i].Release()
			if was, is := home[k], cs[i].Name; was == "" {
				home[k] = is
			} else if was != is && !moved(was, is) {
				t.Errorf("%s: a key moved from %s to %s", what, was, is)
				return
			}
		}
	}
	never := func(_, _ string) bool { return false }
	owners(cs, "first", never)
	owners(slices.Concat(cs[2:], cs[:2]), "another order", never)
	owners(candidates(1, 1, 1, 1), "recreated", never)
	owners(cs[:3], "d left", func(from, _ string) bool { return from == "d" })
	owners(candidates(1, 1, 1, 1, 1), "e came", func(_, to string) bool { return to == "e" })
}

// TestHashTried: the next one of a key is always the same, too.
func TestHashTried(t *testing.T) {
	cs := candidates(1, 1, 1)
	p := newHash(newList(cs))
	for _, k := range keys(50) {
		var first []int
		for range 2 {
			var order []int
			var q Query
			for q = (Query{Key: k}); len(q.Tried) < len(cs); {
				i := pick(t, p, q)
				cs[i].Release()
				order = append(order, i)
				q.Tried = append(q.Tried, cs[i].Load)
			}
			if first != nil && !slices.Equal(order, first) {
				t.Errorf("a key's order was %v and is %v", first, order)
			}
			first = order
		}
	}
}

// TestHashBound: a hot key spills over when its backend has a quarter more than its share; with ip_hash it
// never does.
func TestHashBound(t *testing.T) {
	for _, test := range []struct {
		new  func(list) Picker
		most int64
	}{{newHash, 50}, {newIPHash, 120}} {
		cs := candidates(1, 1, 1)
		p := test.new(newList(cs))
		for range 120 {
			pick(t, p, Query{Key: 77})
		}
		most := max(cs[0].InFlight(), cs[1].InFlight(), cs[2].InFlight())
		if most != test.most {
			t.Errorf("of 120 requests with one key %d are at its backend, want %d", most, test.most)
		}
	}
}

func TestHasher(t *testing.T) {
	var a, b, empty Hasher
	a.Add("x")
	a.Add("yz")
	b.Add("xy")
	b.Add("z")
	empty.Add("")
	if a.Sum() != b.Sum() || a.Sum() == 0 || empty.Sum() != 0 {
		t.Errorf("sums %x, %x and %x, want the same twice, and 0 of nothing", a.Sum(), b.Sum(), empty.Sum())
	}
}
