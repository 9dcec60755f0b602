// Package balancer chooses which backend serves a request.
//
// A [Policy] builds a [Picker] for one fixed list of candidates. When the list changes, build another. What must
// survive the change, the [Load] of each backend, is shared by all pickers that have the backend in their list;
// everything else in a picker does not change or is one counter. Hence no pick takes a lock, allocates or waits.
package balancer

import (
	"slices"
	"sync/atomic"
	"time"
)

// cacheLine is what two counters must be apart for writes to one not to slow down readers of the other:
// 128 bytes, because lines have 64 and processors fetch them in pairs.
const cacheLine = 128

// A Load is what a backend carries now. There is one per backend; it is shared with the data path and outlives any
// list and picker. The zero value is ready. A Load must not be copied after its first use.
type Load struct {
	inFlight atomic.Int64
	penalty  atomic.Int64  // failures of a moment ago, see Penalize
	pass     atomic.Int64  // virtual time of the next pick, see leastConn; 0: it has not seen one yet
	turn     atomic.Uint64 // the last one it was picked in, see roundRobin; 0: none
	latency  atomic.Uint64 // milliseconds as a float32, and when that was known, see Observe; 0: never
	_        [cacheLine - 40]byte
}

// penaltyTime is how long a failure counts as a request in flight.
const penaltyTime = time.Second

// InFlight returns how many requests are reserved and not released.
func (l *Load) InFlight() int64 { return l.inFlight.Load() }

// Penalize has a failed request count as one in flight for a second more, for policies that go by load: a backend
// that fails fast would look idle, and draw everything to it. It counts toward no limit.
func (l *Load) Penalize() {
	l.penalty.Add(1)
	time.AfterFunc(penaltyTime, func() { l.penalty.Add(-1) })
}

// burden is what policies go by: requests in flight, and failures of a moment ago.
func (l *Load) burden() int64 { return l.inFlight.Load() + l.penalty.Load() }

// Release ends what one Pick reserved.
func (l *Load) Release() { l.inFlight.Add(-1) }

// Reserve takes a place, as a Pick does, if there are fewer than limit in flight; limit 0: there always is one.
func (l *Load) Reserve(limit int64) bool { return l.reserve(limit) }

// reserve takes a place if there is one; limit 0: there always is. A compare and swap rather than add, look and undo:
// nobody sees more in flight than the limit, and nobody is turned away by a reservation that is about to be undone.
func (l *Load) reserve(limit int64) bool {
	if limit == 0 {
		l.inFlight.Add(1)
		return true
	}
	for n := l.inFlight.Load(); n < limit; n = l.inFlight.Load() {
		if l.inFlight.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// A Candidate is a backend as one list has it. Lists do not change, so neither does it; only its Load does.
type Candidate struct {
	Name   string // survives recreation (project/service/number): hash policies go by it
	Weight int    // relative share (nginx: weight), 1 to 65535; what is outside counts as the nearest
	Limit  int64  // most requests in flight (nginx: max_conns); 0: none
	*Load
}

// maxWeight keeps products of a weight and a counter far from overflowing 64 bits.
const maxWeight = 1<<16 - 1

// A Query is what a request says about where it wants to go.
type Query struct {
	Key   uint64  // affinity, for hash policies, see [Policy.Key] and [Hasher]; zero: none
	Tried []*Load // the backends this request has had: never picked again
}

// A Picker chooses among the candidates of one list; it is safe for concurrent use.
type Picker interface {
	// Pick returns the index of the chosen candidate, with one request reserved on its Load: the caller releases it,
	// once. ok is false if every candidate was tried or is full. Pick does not block and does not allocate.
	Pick(q Query) (i int, ok bool)
}

// A list is what all policies have in common: candidates, with weights in range.
type list []Candidate

func newList(cs []Candidate) list {
	l := slices.Clone(cs)
	for i := range l {
		l[i].Weight = min(max(l[i].Weight, 1), maxWeight)
	}
	return l
}

// take reserves candidate i, unless it was tried or is full.
func (l list) take(i int, q Query) bool {
	c := &l[i]
	return !slices.Contains(q.Tried, c.Load) && c.reserve(c.Limit)
}

// scan takes the first candidate that can be had, in the order of the list, from one on.
func (l list) scan(from int, q Query) (int, bool) {
	for i := from; i < len(l); i++ {
		if l.take(i, q) {
			return i, true
		}
	}
	for i := range min(from, len(l)) {
		if l.take(i, q) {
			return i, true
		}
	}
	return 0, false
}

// Pick is for lists without a choice.
func (l list) Pick(q Query) (int, bool) { return l.scan(0, q) }
