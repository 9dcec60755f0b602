package upstream

import "time"

// relieveAfter is how long a request waits for its first byte, over a connection that has brought none before, until
// idle connections are closed for it.
const relieveAfter = time.Second

// maxRelief is the longest pause between two times that idle connections are closed, when that is of no use.
const maxRelief = 5 * time.Second

// A relief gives way to requests that may wait for a server with one connection at a time: such a one reads on from the
// connection that it has, idle or not, and accepts the next when that ends. Others are just slow; they do not get better
// by it, so it is done to them less and less often. The Pool's mu guards it.
type relief struct {
	timer *time.Timer   // looks after who waits; nil: nobody does, over a new connection
	until time.Time     // up to then connections are closed after their answer, rather than kept
	next  time.Time     // idle ones are not closed before
	pause time.Duration // how long after that
}

// isWaiting reports whether the connection has brought no byte since it was made.
func (c *Conn) isWaiting() bool { return !c.reused && !c.answered.Load() }

// lookAfterLocked is called for a new connection.
func (p *Pool) lookAfterLocked(c *Conn) {
	c.since = time.Now()
	if p.relief.timer == nil {
		p.relief.timer = time.AfterFunc(relieveAfter, p.relieve)
	}
}

// relieve closes what is idle if somebody has waited for long, and comes back as long as anybody waits.
func (p *Pool) relieve() {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, now := &p.relief, time.Now()
	r.timer = nil
	waiting, long := false, false
	for _, c := range p.busy {
		if c.isWaiting() {
			waiting = true
			long = long || now.Sub(c.since) >= relieveAfter
		}
	}
	if !waiting || p.closed {
		return
	}
	if long && len(p.idle) > 0 && !now.Before(r.next) {
		p.dropIdleLocked()
		r.pause = min(max(2*r.pause, relieveAfter), maxRelief)
		r.next, r.until = now.Add(r.pause), now.Add(relieveAfter)
	}
	r.timer = time.AfterFunc(relieveAfter/4, p.relieve)
}

// relievesLocked reports whether an answered connection is closed for those who wait. When it was one of them, that was
// of use.
func (p *Pool) relievesLocked(c *Conn, now time.Time) bool {
	r := &p.relief
	if !now.Before(r.until) {
		return false
	}
	if !c.reused && now.Sub(c.since) >= relieveAfter {
		r.pause, r.next, r.until = 0, now, now.Add(relieveAfter)
	}
	return true
}
