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

	ctx    context.Context // done when closed: ends dials
	cancel context.CancelCauseFunc

	mu    sync.Mutex         // guards the following
	idle  []*conn            // most recently used last, so that the rest ages out
	busy  map[*conn]struct{} // held by an exchange, upgraded ones included
	sweep *time.Timer        // closes idle connections that are too old; nil: none is due
}

// NewPool returns a pool for host:port without connections.
func NewPool(addr string, o Options) *Pool {
	p := &Pool{addr: addr, busy: make(map[*conn]struct{})}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
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
	p.cancel(cause)
	cause = context.Cause(p.ctx) // the first one stays

	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.nc.Close()
	}
	p.idle = nil
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	for c := range p.busy {
		if !c.answered.Load() {
			c.abort(cause)
			continue
		}
		time.AfterFunc(streamGrace, func() { c.abort(cause) })
	}
}

// Idle returns how many idle connections there are.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// get returns a connection that the caller holds: an idle one that is alive, or a new one. Every
// error of get means that nothing was sent. once: the request must not be sent twice.
func (p *Pool) get(ctx context.Context, now time.Time, once, fresh bool) (*conn, error) {
	o := p.opts.Load()
	if fresh {
		return p.dial(ctx, o)
	}
	oldest := o.IdleTimeout
	if once && (oldest <= 0 || oldest > staleAfter) {
		oldest = staleAfter
	}
	for {
		c := p.takeIdle(now, oldest)
		if c == nil {
			return p.dial(ctx, o)
		}
		if c.alive() {
			c.reused = true
			return c, nil
		}
		p.discard(c)
	}
}

// takeIdle takes the most recently used idle connection, unless it has idled longer than oldest.
func (p *Pool) takeIdle(now time.Time, oldest time.Duration) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 || oldest > 0 && now.Sub(p.idle[n-1].idleSince) > oldest {
		return nil
	}
	c := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	p.busy[c] = struct{}{}
	return c
}

func (p *Pool) dial(ctx context.Context, o *Options) (*conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ctx, func() { cancel(context.Cause(p.ctx)) })()
	d := net.Dialer{Timeout: o.ConnectTimeout}
	nc, err := d.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		if cause := context.Cause(p.ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	c := newConn(p, nc)
	p.mu.Lock()
	defer p.mu.Unlock()
	if cause := context.Cause(p.ctx); cause != nil {
		nc.Close()
		return nil, cause
	}
	p.busy[c] = struct{}{}
	return c, nil
}

// put takes back a connection that can carry another request.
func (p *Pool) put(c *conn, now time.Time) {
	o := p.opts.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, c)
	if p.ctx.Err() != nil || len(p.idle) >= o.MaxIdle {
		c.nc.Close()
		return
	}
	c.idleSince = now
	c.answered.Store(false)
	p.idle = append(p.idle, c)
	if p.sweep == nil && o.IdleTimeout > 0 {
		p.sweep = time.AfterFunc(o.IdleTimeout, p.closeOld)
	}
}

// discard closes a connection that the caller held.
func (p *Pool) discard(c *conn) {
	c.nc.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, c)
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
