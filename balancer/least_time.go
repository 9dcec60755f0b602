package balancer

import (
	"math"
	"slices"
	"time"
)

// memory is the time constant of latencies: how long ago they were does not matter if it is much less, and what is
// much older is forgotten, so that a backend that was slow is tried again.
const memory = 10 * time.Second

// epoch is what stamps count from; they are good for 49 days, after which a latency may seem fresh once.
var epoch = time.Now()

// Observe tells how long a request took that was answered, if the policy wants to know (see [Policy.Timing]); not of
// streams and upgrades, which take as long as they like. A longer time counts at once, shorter ones by and by
// (peak-EWMA, as in Finagle).
func (l *Load) Observe(took time.Duration) {
	now := stamp(time.Now())
	for {
		old := l.latency.Load()
		ms, _ := cost(old, now)
		if t := float32(took.Seconds() * 1000); old == 0 || t > ms {
			ms = t
		} else {
			ms += (t - ms) * (1 - decay(old, now))
		}
		if l.latency.CompareAndSwap(old, uint64(math.Float32bits(max(ms, 1e-3)))<<32|uint64(now)) {
			return
		}
	}
}

func stamp(t time.Time) uint32 { return uint32(t.Sub(epoch).Milliseconds()) }

// decay is how much of a latency is left after its age.
func decay(latency uint64, now uint32) float32 {
	age := time.Duration(now-uint32(latency)) * time.Millisecond
	return float32(math.Exp(-age.Seconds() / memory.Seconds()))
}

// cost is the latency in milliseconds that is still remembered; known is false if none was ever observed.
func cost(latency uint64, now uint32) (ms float32, known bool) {
	return math.Float32frombits(uint32(latency>>32)) * decay(latency, now), latency != 0
}

// eta is about how long a request would take with this candidate, per weight. One that has never answered is the best
// as long as it is idle, and the worst while its first request is under way: it is tried by one.
func (c *Candidate) eta(now uint32) float64 {
	n := c.burden()
	ms, known := cost(c.latency.Load(), now)
	switch {
	case known:
		// In steps of √2, so that those that are about equally fast take turns.
		ms = float32(math.Exp2(math.Round(2*math.Log2(float64(ms))) / 2))
		return float64(ms) * float64(n+1) / float64(c.Weight)
	case n == 0:
		return 0
	}
	return math.MaxFloat64
}

// leastTime picks who is likely to be done first (nginx: least_time): latency times requests in flight, per weight.
// Equals take turns as with leastConn.
type leastTime struct{ leastConn }

func newLeastTime(l list) Picker { return &leastTime{*newLeastConn(l).(*leastConn)} }

func (p *leastTime) Pick(q Query) (int, bool) {
	now := stamp(time.Now())
	for try := 0; ; try++ {
		best, least, pass, latest, flight := -1, math.Inf(1), int64(0), int64(0), int64(0)
		for i := range p.list {
			c := &p.list[i]
			f, at := c.inFlight.Load(), c.pass.Load()
			latest = max(latest, at)
			t := c.eta(now)
			if t > least || t == least && at >= pass || c.Limit != 0 && f >= c.Limit || slices.Contains(q.Tried, c.Load) {
				continue
			}
			best, least, pass, flight = i, t, at, f
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
