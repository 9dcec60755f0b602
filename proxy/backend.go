package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"longshore/balancer"
	"longshore/discovery"
	"longshore/health"
	"longshore/internal/upstream"
)

// A Backend is one run of one port of one container: its load and its connections. The Router owns it; it
// outlives every Table and ends with the container.
type Backend struct {
	balancer.Load
	key  discovery.Key
	addr string
	pool transport

	window  window                   // for requests that waited for it
	shared  atomic.Pointer[[]string] // the services that it belongs to; nil: to one only
	watched atomic.Bool              // health wants to hear of the next answer: after a trial begins or an attempt fails
	trouble atomic.Int64             // when connections began to break, in Unix nanoseconds; 0: the last attempt was answered
	ending  atomic.Pointer[ending]   // never nil; changed with the Router's mu held
	paused  bool                     // guarded by the Router's mu
	rose    time.Time                // when it came up; guarded so too
	prior   *Backend                 // the run before a pause, in whose connections requests may still wait; guarded so too
}

// A transport carries requests to one backend. It is an upstream.Pool; tests have http.Transport, too.
type transport interface {
	Send(*http.Request, upstream.Attempt) (*http.Response, error)
	Begin(now time.Time, a upstream.Attempt, head, body []byte, in func() []byte, left func() bool) (*upstream.Conn, int, error)
	SetOptions(upstream.Options)
	Pause(cause error, evict bool)
	Resume()
	Close(cause error)
	Abandon()
	Idle() int
	DropIdle() int // closes what Idle counts
}

func newBackend(e discovery.Endpoint, pool transport) *Backend {
	b := &Backend{key: e.Key, addr: e.Addr, pool: pool}
	b.goesOn()
	return b
}

// An ending is what Docker says of the end of a container's run.
type ending struct {
	told  chan struct{} // closed when it is known
	crash bool          // nobody had told the container to end; not changed once told is closed
}

func (e *ending) known() bool {
	select {
	case <-e.told:
		return true
	default:
		return false
	}
}

// isLeaving reports whether somebody is known to have ended its container, or to be about to.
func (b *Backend) isLeaving() bool {
	e := b.ending.Load()
	return e.known() && !e.crash
}

// hear waits to hear of the end of its container, until verdictTime after connections to it began to break, or
// cancel. A container that just runs on is EndUnknown.
func (b *Backend) hear(cancel <-chan struct{}) discovery.End {
	e, left := b.ending.Load(), verdictTime
	if since := b.trouble.Load(); since != 0 { // else somebody has been answered this very moment
		left -= time.Duration(time.Now().UnixNano() - since)
	}
	if !e.known() && left > 0 {
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case <-e.told:
		case <-timer.C:
		case <-cancel:
		}
	}
	switch {
	case !e.known():
		return discovery.EndUnknown
	case e.crash:
		return discovery.EndCrash
	}
	return discovery.EndOrdered
}

// ends says that its container has ended by itself, or was told to end. It is called with the Router's mu held.
func (b *Backend) ends(crash bool) {
	if e := b.ending.Load(); !e.known() {
		e.crash = crash
		close(e.told)
	}
	if b.prior != nil {
		b.prior.ends(crash)
	}
}

// goesOn says that it is not about to end: at first, and after a container has outlived its stop timeout. It is
// called with the Router's mu held, or before the Router has the backend.
func (b *Backend) goesOn() {
	if e := b.ending.Load(); e == nil || e.known() {
		b.trouble.Store(0)
		b.ending.Store(&ending{told: make(chan struct{})})
	}
}

// cause is why its connections are closed when it is no more.
func (b *Backend) cause() error {
	switch e := b.ending.Load(); {
	case !e.known():
		return errLost
	case e.crash:
		return errCrashed
	}
	return errGone
}

// A Reason is why an attempt failed, as metrics name it.
type Reason uint8

const (
	Refused     Reason = iota // connection refused, or nothing at that address
	DialTimeout               // no connection within CONNECT_TIMEOUT
	Gone                      // somebody stopped the container while the attempt was under way
	Paused                    // it was paused, and the attempt could go elsewhere
	Broken                    // the connection broke before the response began; perhaps the container ended by itself
	Timeout                   // no response within READ_TIMEOUT
	Malformed                 // the response was not HTTP
	Truncated                 // the response ended early
	Stale                     // a kept-alive connection was closed by the backend; no failure, tried again at once
	Exhausted                 // the proxy itself had no descriptor or port left; no failure of the backend
	reasons
)

func (r Reason) String() string {
	return [...]string{"refused", "dial_timeout", "gone", "paused", "broken", "timeout", "malformed", "truncated", "stale", "exhausted"}[r]
}

// free reports whether an attempt failed for what was done to its container: that is no sign of overload,
// and repeating the request spends nothing.
func (r Reason) free() bool { return r == Gone || r == Paused }

// Reasons lists all reasons.
func Reasons() []Reason {
	all := make([]Reason, reasons)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// reasonOf classifies an attempt's error.
func reasonOf(err *upstream.Error) Reason {
	var ne net.Error
	timeout := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
	switch {
	case errors.Is(err, errGone), err.Unsent && (errors.Is(err, errCrashed) || errors.Is(err, errLost)):
		return Gone
	case errors.Is(err, errPaused):
		return Paused
	case health.Exhausted(err):
		return Exhausted
	case err.Phase == upstream.Dial && timeout:
		return DialTimeout
	case err.Phase == upstream.Dial:
		return Refused
	case timeout:
		return Timeout
	case err.Phase == upstream.Answer:
		return Malformed
	}
	return Broken
}

// outcomeOf says what health should hear of a failed attempt. Nothing is said of a container that is
// gone or paused: Docker has said it. Nor for what the proxy itself lacks.
func outcomeOf(err *upstream.Error, r Reason) (o health.Outcome, tell bool) {
	switch r {
	case Gone, Paused, Exhausted:
		return 0, false
	case Refused:
		for _, certain := range []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH} {
			if errors.Is(err, certain) {
				return health.Refused, true
			}
		}
		return health.DialFailed, true
	case DialTimeout:
		return health.DialFailed, true
	}
	return health.Failed, !err.Unsent // an idle connection that died tells nothing of what listens now
}
