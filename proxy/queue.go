package proxy

import (
	"container/list"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"longshore/balancer"
)

// hopeful is how long a service is taken to come back that nothing speaks for: since one of its backends
// was ready, or since the proxy started. Routes are remembered that long too.
const hopeful = 60 * time.Second

// again is how often a waiting request may try once more what it has had already.
const again = time.Second

// A queue holds the requests of a service that wait for a backend ("parked"), first come first served. It
// lets them go as backends become ready, through the window of each: requests released all at once would
// overrun the backlog of a server that has only begun to listen.
//
// Who is alone may take all places. When they are taken, a request of an address that has fewer comes in place of the
// last one of the address that has most.
type queue struct {
	length atomic.Int64  // changed under mu; read without it by requests that find nobody waiting
	total  atomic.Uint64 // requests that ever waited

	mu      sync.Mutex         // guards the following
	waiting list.List          // of *waiter
	places  map[netip.Addr]int // how many of waiting come from where
}

// A waiter is a request in a queue.
type waiter struct {
	since   time.Time        // when the request came
	from    netip.Addr       // what counts as its client's address
	key     uint64           // affinity
	tried   []*balancer.Load // what it has had, until something changes; guarded by the queue's mu
	granted chan *member     // holds one, so that who grants does not wait; closed: its place was given away
	place   *list.Element    // nil: left, granted or given away; guarded by the queue's mu
}

// join takes a place in the order of arrival; nil: there are max already, and the client's address has its share.
func (q *queue) join(since time.Time, from netip.Addr, key uint64, tried []*balancer.Load, max int) *waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting.Len() >= max && !q.giveWayLocked(from) {
		return nil
	}
	w := &waiter{since: since, from: from, key: key, tried: tried, granted: make(chan *member, 1)}
	before := q.waiting.Back()
	for before != nil && before.Value.(*waiter).since.After(since) {
		before = before.Prev() // it comes back from an attempt, and was first
	}
	if before == nil {
		w.place = q.waiting.PushFront(w)
	} else {
		w.place = q.waiting.InsertAfter(w, before)
	}
	q.length.Add(1)
	if q.places == nil {
		q.places = make(map[netip.Addr]int)
	}
	q.places[from]++
	return w
}

// giveWayLocked takes the last place of the address that has most, for one that would still have fewer.
func (q *queue) giveWayLocked(from netip.Addr) bool {
	most, of := q.places[from]+1, from
	for addr, n := range q.places {
		if n > most {
			most, of = n, addr
		}
	}
	if of == from {
		return false
	}
	last := q.waiting.Back()
	for last.Value.(*waiter).from != of {
		last = last.Prev()
	}
	w := last.Value.(*waiter)
	q.removeLocked(w)
	close(w.granted)
	return true
}

// leave gives up a place, unless a backend has been granted meanwhile, which it returns.
func (q *queue) leave(w *waiter) *member {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place == nil {
		return <-w.granted
	}
	q.removeLocked(w)
	return nil
}

func (q *queue) removeLocked(w *waiter) {
	q.waiting.Remove(w.place)
	w.place = nil
	q.length.Add(-1)
	if q.places[w.from]--; q.places[w.from] == 0 {
		delete(q.places, w.from)
	}
}

// forget lets a waiter have again what it has had.
func (q *queue) forget(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.tried = nil
}

// changed says that the service is another than before, so that what was tried may be worth another try.
func (q *queue) changed() {
	if q.length.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for e := q.waiting.Front(); e != nil; e = e.Next() {
		e.Value.(*waiter).tried = nil
	}
}

// release grants backends to those who wait, as far as there are any. It is called whenever there may be
// one more: the table changed, a request joined, was answered or ended. newest returns the snapshot to
// choose from; it is asked under the lock, so that nobody is left waiting for a change that came before.
func (q *queue) release(newest func() *Service) {
	if q.length.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	s := newest()
	if s == nil || len(s.tiers) == 0 {
		return
	}
	var next *list.Element
	for e := q.waiting.Front(); e != nil; e = next {
		next = e.Next()
		w := e.Value.(*waiter)
		b := s.admit(balancer.Query{Key: w.key, Tried: w.tried})
		switch {
		case b != nil:
			q.removeLocked(w)
			w.granted <- b
		case len(w.tried) == 0:
			return // nor is there one for those behind
		}
	}
}

// A window bounds how many requests from the queue a backend has that it has not answered: one when it
// comes up, twice as many with each answer. The zero value is a window of one.
type window struct {
	wide atomic.Bool // more is maxWindow

	mu   sync.Mutex // guards the following
	more int        // above one
	used int
}

// A window grows to maxGrowth by itself: more at once would have to be connected, and come out in disorder.
// It is without bounds once requests are answered that did not have to wait.
const (
	maxGrowth = 64
	maxWindow = 1 << 30
)

// placeTime is how long a request holds its place in a window without an answer. By then it is not in the way
// of a server that has only begun to listen: it is slow, and who waits behind it is not to wait for that.
const placeTime = 100 * time.Millisecond

// enter takes a place, if there is one.
func (w *window) enter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.used > w.more {
		return false
	}
	w.used++
	return true
}

// leave gives a place back.
func (w *window) leave(answered bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used--
	if answered {
		w.growLocked()
	}
}

func (w *window) growLocked() {
	w.more = max(w.more, min(2*w.more+1, maxGrowth-1))
}

// grow notes an answer to a request that had a place for some time.
func (w *window) grow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.growLocked()
}

// open ends all bounds: the backend answers requests that did not have to wait.
func (w *window) open() {
	if w.wide.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.more = maxWindow
	w.wide.Store(true)
}

// reset begins anew, for a backend that comes up.
func (w *window) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.more = 0
	w.wide.Store(false)
}
