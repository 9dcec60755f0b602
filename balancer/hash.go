package balancer

import "math"

// bound is how far above its share of what is in flight a backend may go before a hot key spills over to the next one
// (consistent hashing with bounded loads, Mirrokni et al. 2016). In small numbers there is nothing to even out.
const (
	bound    = 1.25
	minBound = 4
)

// hash sends the same key to the same backend (nginx: hash, ip_hash) by rendezvous: each candidate scores the key, the
// highest score wins. When one leaves, only its keys move, each to the second in its order; when it is back, they are
// back. A candidate is known by its name, which survives recreation: nginx goes by addresses, and its consistent ring
// by the configured name, which all replicas of a compose service have in common.
type hash struct {
	list
	seeds   []uint64 // of the names
	equal   bool     // all weights are
	sum     int64    // of the weights
	bounded bool
	rest    Picker // for requests without a key (nginx: round robin)
}

func newHash(l list) Picker {
	p := newIPHash(l).(*hash)
	p.bounded = true
	return p
}

// newIPHash makes one that never spills over: sessions may live there.
func newIPHash(l list) Picker {
	p := &hash{list: l, equal: true, rest: newRoundRobin(l)}
	for _, c := range l {
		var h Hasher
		h.Add(c.Name)
		p.seeds = append(p.seeds, h.Sum())
		p.equal = p.equal && c.Weight == l[0].Weight
		p.sum += int64(c.Weight)
	}
	return p
}

// mix spreads every bit of x over all of the result (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// score is greater than another candidate's with a probability by weight: -w / ln u of a uniform u.
func (p *hash) score(i int, key uint64) float64 {
	u := (float64(mix(key^mix(p.seeds[i]))>>11) + .5) / (1 << 53)
	if p.equal {
		return u
	}
	return -float64(p.list[i].Weight) / math.Log(u)
}

func (p *hash) Pick(q Query) (int, bool) {
	if q.Key == 0 {
		return p.rest.Pick(q)
	}
	if p.bounded {
		total := int64(1)
		for i := range p.list {
			total += p.list[i].inFlight.Load()
		}
		if i, ok := p.walk(q, total); ok {
			return i, true
		}
	}
	return p.walk(q, 0)
}

// walk takes the first candidate that can be had, in the order of the key. With total, which is what is in flight, those
// above their bound are passed over.
func (p *hash) walk(q Query, total int64) (int, bool) {
	for last := math.Inf(1); ; {
		best, highest := -1, math.Inf(-1)
		for i := range p.list {
			if s := p.score(i, q.Key); s < last && s > highest {
				best, highest = i, s
			}
		}
		if best < 0 {
			return 0, false
		}
		last = highest
		c := &p.list[best]
		if total > 0 && float64(c.inFlight.Load()+1) > max(minBound, math.Ceil(bound*float64(total)*float64(c.Weight)/float64(p.sum))) {
			continue
		}
		if p.take(best, q) {
			return best, true
		}
	}
}
