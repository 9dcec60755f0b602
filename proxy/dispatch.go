package proxy

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"longshore/balancer"
	"longshore/discovery"
	"longshore/health"
	"longshore/internal/upstream"
)

// maxAttempts bounds how often a request that may have reached an application is sent, not counting what
// Docker or the user did to its backend.
const maxAttempts = 3

// minBudget is how many requests of a service may be on a repeated attempt at a time; where there are
// many, a fifth of those in flight may.
const minBudget = 3

// maxFelled is how many containers may end by themselves under a request: it may well be what ends them.
const maxFelled = 2

// verdictTime is how long a request that may be repeated, but no more at its backend's expense, waits to
// hear how the container ends, or that it does not. Docker says so some milliseconds after the connection broke.
const verdictTime = time.Second

// statusClientClosed is nginx's 499: the client left before there was a response.
const statusClientClosed = 499

var (
	errNoBackend = errors.New("no backend is ready")
	errTooLarge  = errors.New("request body too large")
	errLeft      = errors.New("the client has left")
	errUnusual   = errors.New("the response is not plain") // the general path must read it
	errMoved     = errors.New("the route is another service's by now")
)

// A dispatch finds a backend that answers one request: it picks or waits, has the request sent, and decides
// what a failure means. Every lane embeds one; this is what they have in common. It is used by one goroutine.
type dispatch struct {
	carrier carrier
	server  *Server
	svc     *Service // as of the start: the settings the request is held to
	route   *discovery.Route
	start   time.Time

	backend   *member          // holds a reservation until the end; nil: none
	begun     *member          // likewise, and has been sent the request; its response is still to be read
	tried     []*balancer.Load // not to be had again
	attempts  int              //
	sent      int              // those that may have reached an application, at the backend's expense
	broke     []*member        // of those, whose connection broke: their containers may have ended by themselves
	repeating bool             // counts in the retry budget
	key       uint64           // affinity, see balancer.Query
	bound     string           // to which backend, see stickiness
	sentAt    time.Time        // the attempt under way began; zero: the policy does not want to know
	admitted  *time.Timer      // the attempt under way holds a place in its backend's window until then; nil: none
	until     time.Time        // how long it may wait for a backend; zero: has not waited yet
	via       string           // addresses of all attempts, as nginx's $upstream_addr
	failed    *member          // the last that failed; nil: none
	failure   Reason           // and why
	why       string           // we answer by ourselves, see explain
}

// A carrier is a lane's side of a dispatch: it has the request, and its client.
type carrier interface {
	inbound

	// send makes one attempt and returns when there is a response. Errors are *upstream.Error, or errUnusual
	// if there is one which this lane cannot read.
	send(b *member, fresh bool) error

	// mayRepeat reports whether a request that an application may have had can be sent again: its method
	// allows it, and its body is there from the beginning. It ends what earlier attempts still do with that.
	mayRepeat() bool

	// left reports whether the client has left, or is sent away. gone is closed then; if it may not be, left is
	// asked now and then.
	left() bool
	gone() <-chan struct{}

	// client is the client's IP address.
	client() string

	// readAhead is for a request that must wait: it reads of its body what can be kept. What comes from the
	// channel is why that failed. resume ends it, and reports whether the request can be sent.
	readAhead() <-chan error
	resume() error
}

// find returns when a backend has answered, or is not to be had. errMoved: the request may still be sent, and is
// to be routed anew.
func (d *dispatch) find() error {
	last := errNoBackend // or why the last backend failed that was sent the request
	var reason Reason    // of the last failure
	for {
		b := d.begun
		if b == nil {
			if b = d.pick(); b == nil && d.attempts > 0 && reason == Timeout {
				return last // to wait for the one that did not answer would double the time, and its load
			}
			if b == nil {
				var err error
				if b, err = d.park(); err == errNoBackend {
					return last
				} else if err != nil {
					return err
				}
			}
			if d.take(b); d.attempts > 1 {
				d.svc.group.retries[reason].Add(1)
			}
		}
		d.begun = nil
		err := d.attempt(b, false)
		broke := false // it was sent, before an attempt that failed unsent
		if d.wasStale(err) {
			d.svc.group.retries[Stale].Add(1)
			broke = !err.(*upstream.Error).Unsent
			err = d.attempt(b, true)
		}
		if err != nil && health.Exhausted(err) && d.server.spare() {
			d.svc.group.retries[Exhausted].Add(1)
			err = d.attempt(b, false)
		}
		switch err {
		case nil:
			d.backend = b
			return nil
		case errUnusual:
			d.begun = b
			return err
		}
		b.Release()
		d.leaveWindow(b, false)
		failure := err.(*upstream.Error)
		if broke || !failure.Unsent {
			last = err
		}
		var again bool
		if again, reason = d.judge(b, failure, broke); !again {
			return err
		}
	}
}

// attempt sends the request to b. If that panics, nobody but this holds the reservation.
func (d *dispatch) attempt(b *member, fresh bool) (err error) {
	if d.svc.timing != balancer.Untimed && !fresh {
		d.sentAt = time.Now()
	}
	returned := false
	defer func() {
		if !returned {
			b.Release()
			d.leaveWindow(b, false)
		}
	}()
	err = d.carrier.send(b, fresh)
	returned = true
	return err
}

// pick reserves a backend that this request has not had, of the newest snapshot; nil: there is none, or
// others were waiting for it first.
func (d *dispatch) pick() *member {
	svc := d.svc
	if svc.group.queue.length.Load() > 0 {
		return nil
	}
	if d.attempts > 0 {
		if svc = svc.newest(); svc == nil {
			return nil
		}
	} else if d.bound != "" {
		if b := svc.sticky.have(d.bound); b != nil {
			return b
		}
	}
	return svc.pick(balancer.Query{Key: d.key, Tried: d.tried})
}

// take notes that the next attempt is with b.
func (d *dispatch) take(b *member) {
	b.requests.Add(1)
	d.attempts++
	d.tried = append(d.tried, &b.Load)
	if d.via != "" {
		d.via += ", "
	}
	d.via += b.addr
}

// park waits until the request is granted a backend, and returns that with a reservation. Otherwise it
// returns errNoBackend, or what is wrong with the client.
func (d *dispatch) park() (*member, error) {
	q, settings := &d.svc.group.queue, d.svc.spec.Settings
	now := time.Now()
	first := d.until.IsZero()
	if first {
		d.until = now.Add(settings.QueueTimeout)
	}
	if settings.Queue == 0 || !now.Before(d.until) || !d.svc.hope(now) {
		return nil, errNoBackend
	}
	w := q.join(d.start, addrKey(d.carrier.client()), d.key, d.tried, settings.Queue)
	if w == nil {
		return nil, errNoBackend
	}
	if first {
		q.total.Add(1)
	}
	q.release(d.svc.newest) // one may have become ready just now
	b, err := d.wait(w, d.carrier.readAhead())
	if b == nil {
		if b = q.leave(w); b == nil {
			return nil, err
		}
		if err != errNoBackend { // the client's doing
			b.Release()
			b.window.leave(false)
			d.svc.freed(b)
			return nil, err
		}
	}
	d.tried = w.tried
	svc := d.svc // d may serve another request by then
	d.admitted = time.AfterFunc(svc.router.place, func() {
		b.window.leave(false)
		svc.freed(b)
	})
	if err := d.carrier.resume(); err != nil {
		b.Release()
		d.leaveWindow(b, false)
		return nil, &upstream.Error{Phase: upstream.Client, Err: err}
	}
	return b, nil
}

// wait returns when w is granted a backend, or has waited in vain.
func (d *dispatch) wait(w *waiter, unreadable <-chan error) (*member, error) {
	q := &d.svc.group.queue
	timer := time.NewTimer(min(again, time.Until(d.until)))
	defer timer.Stop()
	for {
		select {
		case b, granted := <-w.granted:
			if !granted { // another address needs the place
				return nil, errNoBackend
			}
			return b, nil
		case <-d.carrier.gone():
			return nil, errLeft
		case err := <-unreadable:
			return nil, &upstream.Error{Phase: upstream.Client, Err: err}
		case <-d.server.lastCall:
			return nil, errNoBackend
		case now := <-timer.C:
			if !now.Before(d.until) || !d.svc.hope(now) {
				return nil, errNoBackend
			}
			if d.carrier.left() {
				return nil, errLeft
			}
			if d.moved() {
				return nil, errMoved
			}
			q.forget(w)
			q.release(d.svc.newest)
			timer.Reset(min(again, d.until.Sub(now)))
		}
	}
}

// moved reports whether the request would now be for another service than the one that it waits for. If so, it
// is no more in the retry budget of that.
func (d *dispatch) moved() bool {
	holder := d.svc.router.Table().holderOf(d.route.Match())
	if holder == nil || holder.spec.Name == d.svc.spec.Name {
		return false
	}
	if d.repeating {
		d.repeating = false
		d.svc.group.retrying.Add(-1)
	}
	return true
}

// leaveWindow gives back the place that a request from the queue had, and lets the next ones go.
func (d *dispatch) leaveWindow(b *member, answered bool) {
	held := d.admitted
	d.admitted = nil
	switch {
	case held == nil && answered:
		b.window.open()
	case held != nil && held.Stop():
		b.window.leave(answered)
	case held != nil && answered:
		b.window.grow()
	}
	d.svc.freed(b)
}

// wasStale reports whether an attempt failed because a kept-alive connection was closed at this very
// moment, as far as one can tell, and the request may be sent once more: to the same backend, over a new
// connection. It says nothing against the backend. (nginx and http.Transport do the same.)
func (d *dispatch) wasStale(err error) bool {
	failure, ok := err.(*upstream.Error)
	return ok && failure.Reused && !d.carrier.left() &&
		(failure.Unsent || failure.Phase == upstream.Send && reasonOf(failure) == Broken && d.carrier.mayRepeat())
}

// judge counts a failed attempt, tells health, and decides whether the request may go to another
// backend. Always, when nothing was sent, whatever the method. Once something was, only when method and
// body allow it: freely when its container was stopped or paused under it, else within limits that keep
// a sick service from being asked ever more. broke says that it was sent before, over a connection that only
// seemed to be closed for its age. This is the one place that decides where a request goes on;
// wasStale comes before it, since what it finds is no failure of the backend.
func (d *dispatch) judge(b *member, err *upstream.Error, broke bool) (again bool, reason Reason) {
	if err.Phase == upstream.Client || d.carrier.left() {
		return false, 0 // the client's doing
	}
	reason = reasonOf(err)
	unsent := err.Unsent && !broke
	if broke = broke || reason == Broken; broke {
		b.trouble.CompareAndSwap(0, time.Now().UnixNano())
		switch {
		case b.isLeaving():
			reason = Gone
		case reason == Gone: // nothing could be sent again, since its container had ended by itself
			reason = Broken
		}
	}
	again = unsent || (err.Unsent || err.Phase == upstream.Send || reason.free()) && d.carrier.mayRepeat()
	if again && !unsent && !reason.free() {
		again, reason = d.spend(b, reason, broke)
	}
	if reason != Exhausted {
		b.failures[reason].Add(1)
		d.failed, d.failure = b, reason
	}
	if outcome, tell := outcomeOf(err, reason); tell {
		b.Penalize()
		b.watched.Store(true)
		d.svc.router.report(b.key, outcome)
	}
	return again, reason
}

// spend decides whether a request that may have reached an application is sent once more at its backends'
// expense. Where that depends on it, it waits to hear how the containers ended under which the request broke:
// those that somebody ended cost it nothing, and of those that ended by themselves it is taken to be the reason
// once there are maxFelled. The first of them spends no budget, or the requests beside a fatal one would be lost.
func (d *dispatch) spend(b *member, reason Reason, broke bool) (again bool, _ Reason) {
	d.sent++
	if broke {
		d.broke = append(d.broke, b)
	}
	if len(d.broke) < maxFelled && d.sent < maxAttempts && d.repeat() {
		return true, reason
	}
	if !broke {
		return false, reason
	}
	end, felled := discovery.EndUnknown, 0 // end: of b, which is the last
	d.broke = slices.DeleteFunc(d.broke, func(m *member) bool {
		switch end = m.hear(d.carrier.gone()); end {
		case discovery.EndOrdered:
			d.sent--
			return true
		case discovery.EndCrash:
			felled++
		}
		return false
	})
	switch {
	case felled >= maxFelled:
		d.felled()
		return false, reason
	case end == discovery.EndOrdered:
		return true, Gone
	}
	return d.sent < maxAttempts && (end == discovery.EndCrash || d.repeat()), reason
}

// felled notes that containers have ended by themselves under the request, one after another.
func (d *dispatch) felled() {
	d.svc.group.felled.Add(1)
	unsaid, ok := d.svc.group.feller.allow(time.Now(), 5) // some of them are innocent
	if !ok {
		return
	}
	names := make([]string, len(d.broke))
	for i, m := range d.broke {
		names[i] = m.endpoint.Name
	}
	d.say("containers ended by themselves under a request, which is not sent to another", unsaid,
		"service", d.svc.spec.Name, "backends", strings.Join(names, ", "))
}

// repeat takes a place in the retry budget: 20 % of the requests in flight, at least minBudget.
func (d *dispatch) repeat() bool {
	if d.repeating {
		return true
	}
	g, limit := d.svc.group, int64(minBudget)
	if svc := d.svc.newest(); svc != nil {
		limit = max(limit, svc.inFlight()/5)
	}
	if g.retrying.Add(1) > limit {
		g.retrying.Add(-1)
		return false
	}
	d.repeating = true
	return true
}

// answered takes a response from the backend that find found, and its status.
func (d *dispatch) answered(status int) {
	b := d.backend
	d.leaveWindow(b, true)
	if d.repeating { // or a stream would keep it for hours
		d.repeating = false
		d.svc.group.retrying.Add(-1)
	}
	if status >= 500 {
		b.Penalize()
		d.sentAt = time.Time{} // the time of a failure says nothing
	}
	if b.watched.Load() {
		b.watched.Store(false)
		b.trouble.Store(0)
		d.svc.router.report(b.key, health.Answered)
	}
	if d.svc.timing == balancer.ToHeader {
		d.observe(b)
	}
}

// observe tells how long an attempt took.
func (d *dispatch) observe(b *member) {
	if !d.sentAt.IsZero() {
		b.Observe(time.Since(d.sentAt))
	}
}

// end releases what the request held.
func (d *dispatch) end() {
	if b := d.backend; b != nil {
		if d.svc.timing == balancer.ToLastByte {
			d.observe(b)
		}
		b.Release()
		d.svc.freed(b)
	}
	if b := d.begun; b != nil {
		b.Release()
		d.leaveWindow(b, false)
	}
	if d.repeating {
		d.svc.group.retrying.Add(-1)
	}
}

// statusFor is the status that answers a request which no backend has answered.
func (d *dispatch) statusFor(err error) int {
	var ue *upstream.Error
	switch {
	case errors.Is(err, errTooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.As(err, &ue) && ue.Phase == upstream.Client && reasonOf(ue) == Timeout:
		return http.StatusRequestTimeout
	case errors.Is(err, errLeft), d.carrier.left():
		return statusClientClosed
	case errors.Is(err, errNoBackend):
		return http.StatusServiceUnavailable
	case errors.As(err, &ue) && ue.Phase == upstream.Client:
		return http.StatusBadRequest
	case errors.As(err, &ue) && reasonOf(ue) == Timeout:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}
