package balancer

import "math/rand/v2"

// random draws a candidate by weight (nginx: random).
type random struct{ randomTwo }

func newRandom(l list) Picker { return &random{*newRandomTwo(l).(*randomTwo)} }

func (p *random) Pick(q Query) (int, bool) {
	i := p.draw(rand.Uint32())
	if p.take(i, q) {
		return i, true
	}
	return p.scan(i, q)
}
