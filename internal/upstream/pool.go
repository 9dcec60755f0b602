// Package upstream holds the connections to one backend and carries requests over them.
//
// It speaks HTTP/1.1 and stands where http.Transport would stand behind a reverse proxy, because a
// proxy must know what that hides: whether a byte of a request was sent, and every attempt. One
// goroutine carries an exchange from the first byte to the last; only a request body is sent by a
// second one, since the response may begin before the body ends.
package upstream

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options say how a pool dials, waits and keeps. Zero durations mean no limit.
type Options struct {
	ConnectTimeout time.Duration // to dial
	ReadTimeout    time.Duration // to the response header, and between two reads of the body
	MaxIdle        int           // idle connections kept; zero: none
	IdleTimeout    time.Duration // how long they are kept
}

// staleAfter is how long a connection may have idled and still take a request that must not be sent
// twice: a server that closes it at this very moment would leave in doubt whether the request ran.
const staleAfter = time.Second

// streamGrace is how long a response that has begun may go on after its backend went down. What the
// kernel has received by then is still delivered.
const streamGrace = time.Second

// ErrClosed is the cause of what fails because its Pool was closed without another cause.
var ErrClosed = errors.New("the backend is gone")

// A Pool holds the connections to one backend. It dies with the backend: Close ends what uses them.
// Its methods may be called by any goroutine.
type Pool struct {
	addr string
	opts atomic.Pointer[Options]

	mu     sync.Mutex         // guards the following
	idle   []*Conn            // most recently used last, so that the rest ages out
	busy   []*Conn            // held by an exchange, upgraded ones included
	dials  map[*dial]struct{} // under way
	sweep  *time.Timer        // closes idle connections that are too old; nil: none is due
	relief relief             // of who waits for a server with one connection at a time
	refuse error              // why nothing new may begin: it is paused or closed; nil: it may
	closed bool
}

// A dial is a connection being made.
type dial struct {
	cancel context.CancelCauseFunc
}

// NewPool returns a pool for host:port without connections.
func NewPool(addr string, o Options) *Pool {
	p := &Pool{addr: addr, dials: make(map[*dial]struct{})}
	p.opts.Store(&o)
	return p
}

// SetOptions changes the options for what comes.
func (p *Pool) SetOptions(o Options) { p.opts.Store(&o) }

// Close ends everything: dials and exchanges without a response fail at once with cause, responses
// that have begun and upgraded connections a moment later. It does not wait, and may be repeated.
func (p *Pool) Close(cause error) {
	if cause == nil {
		cause = ErrClosed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		p.refuseLocked(cause)
	}
	cause = p.refuse // the first one stays
	p.dropIdleLocked()
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	if p.relief.timer != nil {
		p.relief.timer.Stop()
	}
	for _, c := range p.busy {
		if !c.answered.Load() {
			c.abort(cause)
			continue
		}
		time.AfterFunc(streamGrace, func() { c.abort(cause) })
	}
}

// Pause is for a backend that is frozen: nothing new begins, and dials fail at once with cause, since
// they have sent nothing. With evict, so do exchanges without a response that are Movable. Everything
// else waits for Resume. It may be repeated.
func (p *Pool) Pause(cause error, evict bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.refuseLocked(cause)
	for _, c := range p.busy {
		if evict && !c.answered.Load() && c.movable != nil && c.movable() {
			c.abort(cause)
		}
	}
}

// Resume ends a Pause.
func (p *Pool) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.refuse = nil
	}
}

// Abandon ends at once what Begin has begun under contexts that are done.
func (p *Pool) Abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.busy {
		if c.under != nil && c.under.Err() != nil {
			c.abort(context.Cause(c.under))
		}
	}
}

// refuseLocked lets nothing begin from now on, and ends what has only begun.
func (p *Pool) refuseLocked(cause error) {
	p.refuse = cause
	for d := range p.dials {
		d.cancel(cause)
	}
}

// DropIdle closes the idle connections, and returns how many there were.
func (p *Pool) DropIdle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropIdleLocked()
}

func (p *Pool) dropIdleLocked() int {
	n := len(p.idle)
	for _, c := range p.idle {
		c.nc.Close()
	}
	p.idle = nil
	return n
}

// Idle returns how many idle connections there are.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// get returns a connection that the caller holds: an idle one that is alive, or a new one. Every
// error of get means that nothing was sent.
func (p *Pool) get(ctx context.Context, now time.Time, a Attempt) (*Conn, error) {
	for {
		c := p.takeIdle(now, a)
		if c == nil {
			return p.dial(ctx, a)
		}
		if c.alive() {
			return c, nil
		}
		p.discard(c)
	}
}

// takeIdle takes the most recently used idle connection; nil: there is none that may be used. Whether it is
// alive is for the caller to find out.
func (p *Pool) takeIdle(now time.Time, a Attempt) *Conn {
	if a.Fresh {
		return nil
	}
	oldest := p.opts.Load().IdleTimeout
	if a.Once && (oldest <= 0 || oldest > staleAfter) {
		oldest = staleAfter
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 || p.refuse != nil || oldest > 0 && now.Sub(p.idle[n-1].idleSince) > oldest {
		return nil
	}
	c := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	c.reused = true
	p.holdLocked(c, a)
	return c
}

func (p *Pool) holdLocked(c *Conn, a Attempt) {
	c.movable, c.under = a.Movable, a.Under
	c.slot = len(p.busy)
	p.busy = append(p.busy, c)
}

// letGoLocked may be repeated.
func (p *Pool) letGoLocked(c *Conn) {
	if c.slot >= len(p.busy) || p.busy[c.slot] != c {
		return
	}
	last := len(p.busy) - 1
	p.busy[c.slot] = p.busy[last]
	p.busy[c.slot].slot = c.slot
	p.busy[last] = nil
	p.busy = p.busy[:last]
}

func (p *Pool) dial(ctx context.Context, a Attempt) (*Conn, error) {
	timeout := p.opts.Load().ConnectTimeout
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &dial{cancel}
	p.mu.Lock()
	if p.refuse != nil {
		defer p.mu.Unlock()
		return nil, p.refuse
	}
	p.dials[d] = struct{}{}
	p.mu.Unlock()

	nc, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", p.addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.dials, d)
	if cause := context.Cause(ctx); cause != nil { // the pool's, or that of the request
		if err == nil {
			nc.Close()
		}
		return nil, cause
	}
	if err != nil {
		return nil, err
	}
	c := newConn(p, nc)
	p.lookAfterLocked(c)
	p.holdLocked(c, a)
	return c, nil
}

// put takes back a connection that can carry another request.
func (p *Pool) put(c *Conn, now time.Time) {
	o := p.opts.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.letGoLocked(c)
	if p.closed || len(p.idle) >= o.MaxIdle || p.relievesLocked(c, now) {
		c.nc.Close()
		return
	}
	c.idleSince = now
	c.movable, c.under = nil, nil // it holds on to a request and its body
	c.answered.Store(false)
	p.idle = append(p.idle, c)
	if p.sweep == nil && o.IdleTimeout > 0 {
		p.sweep = time.AfterFunc(o.IdleTimeout, p.closeOld)
	}
}

// discard closes a connection that the caller held.
func (p *Pool) discard(c *Conn) {
	c.nc.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.letGoLocked(c)
}

// closeOld closes connections that have idled too long, and comes back when the next one is due.
func (p *Pool) closeOld() {
	timeout := p.opts.Load().IdleTimeout
	p.mu.Lock()
	defer p.mu.Unlock()
	now, n := time.Now(), 0
	for n < len(p.idle) && now.Sub(p.idle[n].idleSince) >= timeout {
		p.idle[n].nc.Close()
		n++
	}
	p.idle = append(p.idle[:0], p.idle[n:]...)
	p.sweep = nil
	if len(p.idle) > 0 {
		p.sweep = time.AfterFunc(timeout-now.Sub(p.idle[0].idleSince), p.closeOld)
	}
}
