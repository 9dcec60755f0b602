package balancer

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sync/atomic"
)

// roundRobin picks in turn, by weight (nginx: the default). The turns are worked out beforehand; what is left to do is
// to count. nginx works out each turn under a lock, gRPC's static stride scheduler counts on until it hits one.
type roundRobin struct {
	list
	turns []int32 // a cycle of candidates, each as often as its weight

	_    [cacheLine]byte
	next atomic.Uint64 // turn, modulo their number
	_    [cacheLine]byte
}

func newRoundRobin(l list) Picker {
	p := &roundRobin{list: l, turns: turns(l)}
	p.next.Store(p.resume())
	return p
}

// resume returns the turn to count on from: the last one that another picker gave to one of the candidates, as far as
// it has a place in this cycle. Rotation goes on when the list changes; without history it begins anywhere.
func (p *roundRobin) resume() uint64 {
	n, latest, last := uint64(len(p.turns)), uint64(0), 0
	for i, c := range p.list {
		if t := c.turn.Load(); t > latest {
			latest, last = t, i
		}
	}
	if latest == 0 {
		return rand.Uint64N(n)
	}
	at := latest % n
	if int(p.turns[at]) != last {
		at = uint64(slices.Index(p.turns, int32(last)))
	}
	return latest + (at+n-latest%n)%n
}

func (p *roundRobin) Pick(q Query) (int, bool) {
	k, n := p.next.Add(1), uint64(len(p.turns))
	for skipped := range n { // usually none; a cycle has everyone
		i := int(p.turns[(k+skipped)%n])
		if p.take(i, q) {
			if skipped > 0 {
				p.next.Add(skipped) // else the one after a full one would get twice its share
			}
			p.list[i].turn.Store(k + skipped)
			return i, true
		}
	}
	return 0, false
}

// maxTurns bounds memory and the time to build. Weights with a greater sum are rounded.
const maxTurns = 1 << 14

// turns spreads the turns of each candidate evenly over a cycle, and the candidates evenly against each other:
// turn k of candidate i is at (k + i/n) / weight, the heavier first if two are at the same place. For weights 5, 1, 1
// that is a a b a a c a. On average it is as smooth as nginx's, with shorter runs of one candidate.
func turns(l list) []int32 {
	sum := 0
	for _, c := range l {
		sum += c.Weight
	}
	type turn struct{ at, weight, i int } // at: in n-th parts of the distance between two turns
	var all []turn
	for i, c := range l {
		w := c.Weight
		if sum > maxTurns {
			w = max((w*maxTurns+sum/2)/sum, 1)
		}
		for k := range w {
			all = append(all, turn{k*len(l) + i, w, i})
		}
	}
	slices.SortFunc(all, func(a, b turn) int {
		return cmp.Or(a.at*b.weight-b.at*a.weight, b.weight-a.weight, a.i-b.i)
	})
	order := make([]int32, len(all))
	for k, t := range all {
		order[k] = int32(t.i)
	}
	return order
}
