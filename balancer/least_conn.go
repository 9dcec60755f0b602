package balancer

import "slices"

// leastConn picks the fewest requests in flight per weight (nginx: least_conn). Counts are exact, since there is only
// one proxy, so that looking at all beats looking at two.
//
// Ties, which are the rule when there is little to do, go to the earliest pass. The pass of a backend is a virtual
// time: each pick moves it on by a stride, which is the shorter the greater the weight (stride scheduling, Waldspurger
// 1995). That is a smooth weighted round robin, and for equal weights the least recently picked. The pass is kept in
// the Load, not here, so that a new list goes on where the old one was.
type leastConn struct {
	list
	longest int64 // stride of the least weight
}

// unit is the stride of weight 1. All weights to 16, tens to 100 and quarters of 100 divide it, so that their shares
// are exact; and an int64 has room for 10¹² such strides.
const unit = 3603600

func stride(c *Candidate) int64 { return unit / int64(c.Weight) }

func newLeastConn(l list) Picker {
	p := &leastConn{list: l}
	latest := int64(0)
	for i := range l {
		p.longest = max(p.longest, stride(&l[i]))
		latest = max(latest, l[i].pass.Load())
	}
	// The others take turns within the longest stride, see Pick. Newcomers join there, each at another point: soon, but
	// not all at once, and none with a debt of picks to catch up.
	for i := range l {
		share := stride(&l[i]) * int64(2*i+1) / int64(2*len(l))
		l[i].pass.CompareAndSwap(0, max(latest-p.longest, 0)+share+1)
	}
	return p
}

func (p *leastConn) Pick(q Query) (int, bool) {
	for try := 0; ; try++ {
		best := -1
		load, weight, pass := int64(1), int64(0), int64(0) // of the best; 1/0 is more than any other has
		flight := int64(0)                                 // what of its load is in flight
		latest := int64(0)
		for i := range p.list {
			c := &p.list[i]
			// In this order: a request that has ended before n is read has moved the pass.
			f, at, w := c.inFlight.Load(), c.pass.Load(), int64(c.Weight)
			n := f + c.penalty.Load()
			latest = max(latest, at)
			if n*weight > load*w || n*weight == load*w && at >= pass {
				continue
			}
			if c.Limit != 0 && f >= c.Limit || slices.Contains(q.Tried, c.Load) {
				continue
			}
			best, load, flight, weight, pass = i, n, f, w, at
		}
		if best < 0 {
			return 0, false
		}
		if p.reserve(best, flight, try) {
			p.advance(best, pass, latest)
			return best, true
		}
	}
}

// reserve takes a place with the best. If what it has in flight has changed, most likely another Pick was faster, and
// our second best is the best now. We look again, but not for ever.
func (p *leastConn) reserve(best int, flight int64, try int) bool {
	c := &p.list[best]
	return c.inFlight.CompareAndSwap(flight, flight+1) || try > 2 && c.Load.reserve(c.Limit)
}

// advance moves its pass on. One that was busy or away for long is behind the others. It does not catch up: that would
// be a burst.
func (p *leastConn) advance(best int, pass, latest int64) {
	c := &p.list[best]
	c.pass.Store(max(pass, latest-p.longest+1) + stride(c))
}
