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

// second is the stride of weight 1. All weights to 16, tens to 100 and quarters of 100 divide it, so that their shares
// are exact; and an int64 lasts for 10^12 picks of weight 1.
const second = 3603600

func stride(c *Candidate) int64 { return second / int64(c.Weight) }

func newLeastConn(l list) Picker {
	p := &leastConn{list: l}
	latest := int64(0)
	for i := range l {
		p.longest = max(p.longest, stride(&l[i]))
		latest = max(latest, l[i].pass.Load())
	}
	// All passes are less than the longest stride apart (see Pick). Newcomers start in there, each somewhere else.
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
		latest := int64(0)
		for i := range p.list {
			c := &p.list[i]
			// The pass first: if it was read before another Pick moved it, the swap below notices.
			at, n, w := c.pass.Load(), c.inFlight.Load(), int64(c.Weight)
			latest = max(latest, at)
			if n*weight > load*w || n*weight == load*w && at >= pass {
				continue
			}
			if c.Limit != 0 && n >= c.Limit || slices.Contains(q.Tried, c.Load) {
				continue
			}
			best, load, weight, pass = i, n, w, at
		}
		if best < 0 {
			return 0, false
		}
		c := &p.list[best]
		// One that was busy or away for long is behind the others. It does not catch up: it would get a burst.
		next := max(pass, latest-p.longest+1) + stride(c)
		// If another Pick was faster, its choice may be the better second best of ours. A few times: this must end.
		if !c.pass.CompareAndSwap(pass, next) && try < 3 {
			continue
		}
		if c.reserve(c.Limit) {
			return best, true
		}
	}
}
