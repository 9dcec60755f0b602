package proxy

import (
	"maps"
	"sync/atomic"
	"time"
)

// DurationBounds are the upper bounds of the request duration histogram's buckets, in seconds.
var DurationBounds = [...]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// A group is what a service has beyond its snapshots: the requests that wait for a backend, the retry
// budget, and its counters. The data path adds to atomics, and who wants to know reads them.
type group struct {
	queue    queue
	retrying atomic.Int64 // requests on a repeated attempt, see exchange.repeat
	learnt   sessions
	ramp     *time.Timer // rebuilds the service while a backend's weight grows; guarded by the Router's mu

	backends map[string]*counters // by name; guarded by the Router's mu
	left     time.Time            // when the service left the State, zero: it is in it; guarded so too

	codes   [600]atomic.Uint64 // requests by status code
	buckets [len(DurationBounds) + 1]atomic.Uint64
	nanos   atomic.Int64 // sum of durations
	retries [reasons]atomic.Uint64
	felled  atomic.Uint64 // requests under which containers ended by themselves, one after another
	feller  limiter       // of lines about them
}

// counters are a backend's, by name: they go on when its container is restarted or recreated.
type counters struct {
	requests atomic.Uint64
	failures [reasons]atomic.Uint64
	blamed   [reasons]limiter // of lines about answers of ours that are its fault
	left     time.Time        // when the name left the State, zero: it is in it; guarded by the Router's mu

	_ [128]byte // or the next backend's would share a cache line, and requests to one slow down those to the other
}

// memory is how long counters outlive what they are about, so that a scrape sees the last of it.
const memory = time.Hour

// counterLocked returns the counters for a backend's name.
func (g *group) counterLocked(name string) *counters {
	c := g.backends[name]
	if c == nil {
		if g.backends == nil {
			g.backends = make(map[string]*counters)
		}
		c = new(counters)
		g.backends[name] = c
	}
	c.left = time.Time{}
	return c
}

// forgetLocked drops the counters of backends that left long ago.
func (g *group) forgetLocked(now time.Time) {
	maps.DeleteFunc(g.backends, func(_ string, c *counters) bool { return !c.left.IsZero() && now.Sub(c.left) > memory })
}

func (g *group) count(code int, d time.Duration) {
	if code < 100 || code > 599 {
		code = 599 // such as 999: the sum must be right
	}
	g.codes[code].Add(1)
	i, s := 0, d.Seconds()
	for i < len(DurationBounds) && s > DurationBounds[i] {
		i++
	}
	g.buckets[i].Add(1)
	g.nanos.Add(int64(d))
}

// Stats is a group's counters at one moment.
type Stats struct {
	Codes   map[int]uint64 // requests by status code
	Count   uint64
	Seconds float64            // sum of durations
	Buckets map[float64]uint64 // cumulative, by upper bound in seconds
	Retries [reasons]uint64    // by Reason
	Parked  uint64             // requests that ever waited for a backend
	Felled  uint64             // requests under which maxFelled containers ended by themselves
}

func (g *group) view() Stats {
	s := Stats{Codes: make(map[int]uint64), Buckets: make(map[float64]uint64), Parked: g.queue.total.Load(), Felled: g.felled.Load()}
	for code := range g.codes {
		if n := g.codes[code].Load(); n > 0 {
			s.Codes[code] = n
		}
	}
	for i, bound := range DurationBounds {
		s.Count += g.buckets[i].Load()
		s.Buckets[bound] = s.Count
	}
	s.Count += g.buckets[len(DurationBounds)].Load()
	s.Seconds = time.Duration(g.nanos.Load()).Seconds()
	for i := range s.Retries {
		s.Retries[i] = g.retries[i].Load()
	}
	return s
}

// Unrouted is the count of requests that no route was for.
func (r *Router) Unrouted() Stats { return r.unrouted.view() }
