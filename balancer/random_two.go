package balancer

import (
	"math/rand/v2"
	"slices"
	"time"
)

// randomTwo draws two candidates by weight and picks the one with fewer requests in flight per weight; the first, if
// they are equal (nginx: random two least_conn). The two are distinct: else the busier of two backends would get every
// fourth request.
//
// What it promises: without load, requests are spread by weight, as chance has it. Under load, requests in flight per
// weight stay close to each other (not: the least is picked). The cost does not depend on the number of candidates.
type randomTwo struct {
	list
	shares []share
	timed  bool // compare by latency, see leastTime, instead (nginx: random two least_time)
}

// A share is a column of Walker's alias table: of the n-th part of all draws that fall on a candidate, some go to another.
type share struct {
	keep  uint32 // of 2³²: how many stay
	other uint32 // where the others go
}

func newRandomTwoTimed(l list) Picker {
	p := newRandomTwo(l).(*randomTwo)
	p.timed = true
	return p
}

func newRandomTwo(l list) Picker {
	p := &randomTwo{list: l, shares: make([]share, len(l))}
	left := make([]uint64, len(l))
	sum := uint64(0)
	for i := range l {
		p.shares[i].other = uint32(i)
		left[i] = uint64(l[i].Weight) * uint64(len(l)) // so that sum is what a column holds
		sum += uint64(l[i].Weight)
	}
	for {
		least, most := slices.Min(left), slices.Max(left)
		if least == most {
			return p
		}
		i, rich := slices.Index(left, least), slices.Index(left, most)
		p.shares[i] = share{keep: uint32(least << 32 / sum), other: uint32(rich)}
		left[rich] -= sum - least
		left[i] = sum
	}
}

// draw turns 32 random bits into a candidate: the integer part of their n-fold is the column, the fraction decides there.
func (p *randomTwo) draw(bits uint32) int {
	x := uint64(bits) * uint64(len(p.shares))
	i := x >> 32
	s := p.shares[i]
	if uint32(x) >= s.keep {
		i = uint64(s.other)
	}
	return int(i)
}

func (p *randomTwo) Pick(q Query) (int, bool) {
	bits := rand.Uint64()
	first := p.draw(uint32(bits))
	second := p.draw(uint32(bits >> 32))
	if second == first {
		// Any of the others: to draw by weight again could take for ever where one has nearly all of it.
		second = (first + 1 + rand.IntN(len(p.list)-1)) % len(p.list)
	}
	if p.better(&p.list[second], &p.list[first]) {
		first, second = second, first
	}
	if p.take(first, q) {
		return first, true
	}
	if p.take(second, q) {
		return second, true
	}
	return p.scan(first, q)
}

// better reports whether b is to be preferred to a.
func (p *randomTwo) better(b, a *Candidate) bool {
	if p.timed {
		now := stamp(time.Now())
		return b.eta(now) < a.eta(now)
	}
	// If a carries nothing, nobody has less: then b is not even looked at, which spares a cache miss.
	n := a.burden()
	return n > 0 && b.burden()*int64(a.Weight) < n*int64(b.Weight)
}
