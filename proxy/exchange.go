package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// verdictTime is how long a request that may be repeated, but no more at its backend's expense, waits to
// hear whether the container is stopping. Docker says so some milliseconds after the connection broke.
const verdictTime = time.Second

// statusClientClosed is nginx's 499: the client left before there was a response.
const statusClientClosed = 499

var (
	errNoBackend = errors.New("no backend is ready")
	errTooLarge  = errors.New("request body too large")
)

// always is Movable for requests that can be sent again at any time.
func always() bool { return true }

// An exchange is one request on the general path: it is what httputil.ReverseProxy writes the
// response to, and the transport it sends the request with. It is used by one goroutine, the
// handler's, and is reused for other requests afterwards.
type exchange struct {
	http.ResponseWriter // the server's
	proxy               httputil.ReverseProxy
	server              *Server
	svc                 *Service // as of the start: the settings the request is held to
	route               *discovery.Route
	in                  *http.Request
	start               time.Time

	body    clientBody
	hasBody bool
	shared  bool // somebody else reads the body, or did

	backend   *member          // holds a reservation until the end; nil: none
	tried     []*balancer.Load // not to be had again
	attempts  int              //
	sent      int              // those that may have reached an application, at the backend's expense
	repeating bool             // counts in the retry budget
	key       uint64           // affinity, see balancer.Query
	sentAt    time.Time        // the attempt under way began; zero: the policy does not want to know
	admitted  *time.Timer      // the attempt under way holds a place in its backend's window until then; nil: none
	until     time.Time        // how long it may wait for a backend; zero: has not waited yet
	via       string           // addresses of all attempts, as nginx's $upstream_addr

	response   *upstream.Body
	switched   io.Closer // of a 101 response: the backend's connection
	upgraded   *hijacked
	upgrade    []string // the Upgrade field of a 426, which ReverseProxy takes for hop-by-hop
	closeAfter bool     // close the client's connection after the response
	status     int      // 0: nothing written
	written    int64    // bytes of the response's body
	dirty      bool     // something is written that may sit in a buffer
	told       Record   // what Server.Record was shown
}

var exchanges = sync.Pool{New: func() any {
	x := new(exchange)
	x.proxy = httputil.ReverseProxy{
		Rewrite:        x.rewrite,
		Transport:      x,
		ModifyResponse: x.modifyResponse,
		ErrorHandler:   x.fail,
		ErrorLog:       log.New(io.Discard, "", 0), // records and counters say it
		BufferPool:     buffers{},
	}
	return x
}}

// buffers lends ReverseProxy what it copies bodies with.
type buffers struct{}

var bufferPool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (buffers) Get() []byte  { return bufferPool.Get().(*[32 << 10]byte)[:] }
func (buffers) Put(b []byte) { bufferPool.Put((*[32 << 10]byte)(b)) }

// ServeHTTP answers a request for this service.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request, srv *Server, route *discovery.Route, start time.Time) {
	x := exchanges.Get().(*exchange)
	x.ResponseWriter, x.server, x.svc, x.route, x.in, x.start = w, srv, s, route, r, start
	defer x.end()
	x.closeAfter = mixesFramings(r)
	x.hasBody = r.ContentLength != 0 && r.Body != http.NoBody
	if x.turnAway() {
		return
	}
	if max := int64(s.spec.Settings.MaxBody); max > 0 && r.ContentLength > max {
		x.closeAfter = true
		x.fail(x, r, errTooLarge)
		return
	}
	if x.hasBody {
		x.body.repeat = upstream.IsIdempotent(r.Method)
		x.body.open(r, int64(s.spec.Settings.MaxBody))
		in := *r // the server must go on seeing its own body: it looks at how far that was read
		in.Body = x.body.reader()
		r = &in
	}
	if s.key != nil {
		x.key = s.key(x)
	}
	x.proxy.ServeHTTP(x, r)
}

// end releases what the request held and counts it. It also runs when ReverseProxy panics to break
// off a response.
func (x *exchange) end() {
	if b := x.backend; b != nil {
		if x.response != nil && x.response.Failed() && x.in.Context().Err() == nil {
			b.failures[Truncated].Add(1)
		}
		if x.svc.timing == balancer.ToLastByte {
			x.observe(b)
		}
		b.Release()
		x.svc.freed(b)
	}
	if x.repeating {
		x.svc.group.retrying.Add(-1)
	}
	if x.switched != nil {
		x.switched.Close() // ReverseProxy does not when it refuses to switch
	}
	if x.hasBody && !x.body.whole() {
		if x.shared {
			x.body.detach(x.ResponseWriter)
		}
		linger(x.ResponseWriter)
	}
	x.server.record(x)
	if x.hasBody || x.upgraded != nil {
		return // an uploader or a copier may still hold it
	}
	*x = exchange{proxy: x.proxy, tried: x.tried[:0]}
	exchanges.Put(x)
}

// RoundTrip finds a backend that answers: it picks or waits, sends, and decides what a failure means.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	last := errNoBackend // or why the last backend failed that was sent the request
	var reason Reason    // of the last failure
	for {
		b := x.pick()
		if b == nil && x.attempts > 0 && reason == Timeout {
			return nil, last // to wait for the one that did not answer would double the time, and its load
		}
		if b == nil {
			var err error
			if b, err = x.park(req.Context()); err == errNoBackend {
				return nil, last
			} else if err != nil {
				return nil, err
			}
		}
		if x.take(b); x.attempts > 1 {
			x.svc.group.retries[reason].Add(1)
		}
		res, err := x.send(b, req, false)
		if x.wasStale(err, req) {
			x.svc.group.retries[Stale].Add(1)
			res, err = x.send(b, req, true)
		}
		if err == nil {
			x.answered(b, res)
			return res, nil
		}
		b.Release()
		x.leaveWindow(b, false)
		failure := err.(*upstream.Error)
		if !failure.Unsent {
			last = err
		}
		var again bool
		if again, reason = x.judge(b, failure, req); !again {
			return nil, err
		}
	}
}

// send makes one attempt.
func (x *exchange) send(b *member, req *http.Request, fresh bool) (*http.Response, error) {
	a := upstream.Attempt{Fresh: fresh}
	if upstream.IsIdempotent(req.Method) {
		a.Movable = always
	}
	if x.hasBody {
		// An uploader of an earlier attempt may still look at its request.
		body, attempt := x.body.reader(), *req
		attempt.Body, attempt.Trailer = body, body.trailers
		req = &attempt
		if a.Movable != nil {
			a.Movable = x.body.replayable
		}
	}
	if x.svc.timing != balancer.Untimed {
		x.sentAt = time.Now()
	}
	res, err := b.pool.Send(req, a)
	if failure, ok := err.(*upstream.Error); !ok || !failure.Unsent {
		x.shared = x.hasBody
	}
	return res, err
}

// bodyRemains reports whether the body is not known to be read to its end, though reading has begun.
// Then the connection must be closed after the answer: where the next request begins is not known, and
// what comes could be smuggled (RFC 9112, 11.2). It also keeps the server from waiting for the rest
// before it sends the answer.
func (x *exchange) bodyRemains() bool { return x.shared && !x.body.whole() }

// pick reserves a backend that this request has not had, of the newest snapshot; nil: there is none, or
// others were waiting for it first.
func (x *exchange) pick() *member {
	svc := x.svc
	if svc.group.queue.length.Load() > 0 {
		return nil
	}
	if x.attempts > 0 {
		if svc = svc.newest(); svc == nil {
			return nil
		}
	} else if svc.sticky != nil {
		if b := svc.sticky.bound(x); b != nil {
			return b
		}
	}
	return svc.pick(balancer.Query{Key: x.key, Tried: x.tried})
}

// take notes that the next attempt is with b.
func (x *exchange) take(b *member) {
	b.requests.Add(1)
	x.attempts++
	x.tried = append(x.tried, &b.Load)
	if x.via != "" {
		x.via += ", "
	}
	x.via += b.addr
}

// park waits until the request is granted a backend, and returns that with a reservation. Otherwise it
// returns errNoBackend, or what is wrong with the client.
func (x *exchange) park(ctx context.Context) (*member, error) {
	q, settings := &x.svc.group.queue, x.svc.spec.Settings
	now := time.Now()
	first := x.until.IsZero()
	if first {
		x.until = now.Add(settings.QueueTimeout)
	}
	if settings.Queue == 0 || !now.Before(x.until) || !x.svc.hope(now) {
		return nil, errNoBackend
	}
	w := q.join(x.start, x.key, x.tried, settings.Queue)
	if w == nil {
		return nil, errNoBackend
	}
	if first {
		q.total.Add(1)
	}
	q.release(x.svc.newest) // one may have become ready just now
	unreadable := make(chan error, 1)
	if x.hasBody {
		x.shared = true
		go x.body.fill(unreadable)
	}
	b, err := x.wait(ctx, w, unreadable)
	if b == nil {
		if b = q.leave(w); b == nil {
			return nil, err
		}
		if err != errNoBackend { // the client's doing
			b.Release()
			b.window.leave(false)
			x.svc.freed(b)
			return nil, err
		}
	}
	x.tried = w.tried
	svc := x.svc // x may serve another request by then
	x.admitted = time.AfterFunc(svc.router.place, func() {
		b.window.leave(false)
		svc.freed(b)
	})
	if x.hasBody && !x.body.rewind() {
		b.Release()
		x.leaveWindow(b, false)
		return nil, &upstream.Error{Phase: upstream.Client, Err: x.body.failure()}
	}
	return b, nil
}

// wait returns when w is granted a backend, or has waited in vain.
func (x *exchange) wait(ctx context.Context, w *waiter, unreadable <-chan error) (*member, error) {
	q := &x.svc.group.queue
	timer := time.NewTimer(min(again, time.Until(x.until)))
	defer timer.Stop()
	for {
		select {
		case b := <-w.granted:
			return b, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case err := <-unreadable:
			return nil, &upstream.Error{Phase: upstream.Client, Err: err}
		case <-x.server.lastCall:
			return nil, errNoBackend
		case now := <-timer.C:
			if !now.Before(x.until) || !x.svc.hope(now) {
				return nil, errNoBackend
			}
			q.forget(w)
			q.release(x.svc.newest)
			timer.Reset(min(again, x.until.Sub(now)))
		}
	}
}

// leaveWindow gives back the place that a request from the queue had, and lets the next ones go.
func (x *exchange) leaveWindow(b *member, answered bool) {
	held := x.admitted
	x.admitted = nil
	switch {
	case held == nil && answered:
		b.window.open()
	case held != nil && held.Stop():
		b.window.leave(answered)
	case held != nil && answered:
		b.window.grow()
	}
	x.svc.freed(b)
}

// wasStale reports whether an attempt failed because a kept-alive connection was closed at this very
// moment, as far as one can tell, and the request may be sent once more: to the same backend, over a new
// connection. It says nothing against the backend. (nginx and http.Transport do the same.)
func (x *exchange) wasStale(err error, req *http.Request) bool {
	failure, ok := err.(*upstream.Error)
	return ok && failure.Reused && req.Context().Err() == nil &&
		(failure.Unsent || failure.Phase == upstream.Send && reasonOf(failure) == Broken && x.mayRepeat(req))
}

// mayRepeat reports whether a request that an application may have had can be sent again: its method
// allows it, and its body, of which the reads so far end, is there from the beginning.
func (x *exchange) mayRepeat(req *http.Request) bool {
	return upstream.IsIdempotent(req.Method) && (!x.hasBody || x.body.rewind())
}

// judge counts a failed attempt, tells health, and decides whether the request may go to another
// backend. Always, when nothing was sent, whatever the method. Once something was, only when method and
// body allow it: freely when its container was stopped or paused under it, else within limits that keep
// a sick service from being asked ever more. This is the one place that decides where a request goes on;
// wasStale comes before it, since what it finds is no failure of the backend.
func (x *exchange) judge(b *member, err *upstream.Error, req *http.Request) (again bool, reason Reason) {
	if err.Phase == upstream.Client || req.Context().Err() != nil {
		return false, 0 // the client's doing
	}
	reason = reasonOf(err)
	if reason == Broken {
		b.trouble.CompareAndSwap(0, time.Now().UnixNano())
		if b.isLeaving() {
			reason = Gone
		}
	}
	movable := err.Unsent || (err.Phase == upstream.Send || reason.free()) && x.mayRepeat(req)
	if movable && !err.Unsent && !reason.free() {
		if x.sent++; x.sent >= maxAttempts || !x.repeat() {
			if movable = reason == Broken && b.willLeave(req.Context().Done()); movable {
				x.sent--
				reason = Gone
			}
		}
	}
	b.failures[reason].Add(1)
	if outcome, tell := outcomeOf(err, reason); tell {
		b.Penalize()
		b.watched.Store(true)
		x.svc.router.report(b.key, outcome)
	}
	return movable, reason
}

// repeat takes a place in the retry budget: 20 % of the requests in flight, at least minBudget.
func (x *exchange) repeat() bool {
	if x.repeating {
		return true
	}
	g, limit := x.svc.group, int64(minBudget)
	if svc := x.svc.newest(); svc != nil {
		limit = max(limit, svc.inFlight()/5)
	}
	if g.retrying.Add(1) > limit {
		g.retrying.Add(-1)
		return false
	}
	x.repeating = true
	return true
}

// answered takes a response from a backend.
func (x *exchange) answered(b *member, res *http.Response) {
	x.backend = b
	x.leaveWindow(b, true)
	if x.repeating { // or a stream would keep it for hours
		x.repeating = false
		x.svc.group.retrying.Add(-1)
	}
	if res.StatusCode >= 500 {
		b.Penalize()
		x.sentAt = time.Time{} // the time of a failure says nothing
	}
	if st := x.svc.sticky; st != nil {
		st.answered(x, b, res.Header)
	}
	if b.watched.Load() {
		b.watched.Store(false)
		b.trouble.Store(0)
		x.svc.router.report(b.key, health.Answered)
	}
	switch body := res.Body.(type) {
	case *upstream.Body:
		x.response = body
		body.OnWait = x.flush
	default:
		x.switched = body
		x.sentAt = time.Time{}
	}
	switch {
	case x.svc.timing == balancer.ToHeader:
		x.observe(b)
	case strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream"):
		x.sentAt = time.Time{}
	}
	if res.StatusCode == http.StatusUpgradeRequired {
		x.upgrade = res.Header["Upgrade"]
	}
}

// observe tells how long an attempt took.
func (x *exchange) observe(b *member) {
	if !x.sentAt.IsZero() {
		b.Observe(time.Since(x.sentAt))
	}
}

// modifyResponse mends what ReverseProxy and the server would do to a response that is not theirs.
func (x *exchange) modifyResponse(res *http.Response) error {
	x.mendResponse(res.Header)
	if len(x.upgrade) > 0 { // RFC 9110, 15.5.22: a 426 must say what to upgrade to
		res.Header["Upgrade"] = x.upgrade
		res.Header.Set("Connection", "Upgrade")
	}
	// ReverseProxy flushes event streams and responses of unknown length by a timer, which races with
	// us, and after each write. OnWait does that for every response, exactly when there is nothing more
	// to read. So let it see neither. Without a type, nil keeps the server from guessing one.
	x.Header()["Content-Type"] = res.Header["Content-Type"]
	delete(res.Header, "Content-Type")
	if res.ContentLength == -1 {
		res.ContentLength = -2
	}
	return nil
}

// fail answers a request that no backend has answered.
func (x *exchange) fail(_ http.ResponseWriter, _ *http.Request, err error) {
	code := http.StatusBadGateway
	var ue *upstream.Error
	switch {
	case x.status != 0:
		return // an upgrade that broke off
	case errors.Is(err, errTooLarge):
		code = http.StatusRequestEntityTooLarge
	case x.in.Context().Err() != nil:
		code = statusClientClosed
	case errors.Is(err, errNoBackend):
		code = http.StatusServiceUnavailable
		x.Header().Set("Retry-After", "1")
	case errors.As(err, &ue) && ue.Phase == upstream.Client:
		code = http.StatusBadRequest
	case errors.As(err, &ue) && reasonOf(ue) == Timeout:
		code = http.StatusGatewayTimeout
	}
	writeError(x, code)
}

// writeError sends a short answer of our own.
func writeError(w http.ResponseWriter, code int) {
	text := http.StatusText(code)
	if text == "" {
		text = "Client Closed Request"
	}
	text = strconv.Itoa(code) + " " + text + "\n"
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(code)
	io.WriteString(w, text)
}

// Unwrap lets http.ResponseController reach the server's ResponseWriter.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// WriteHeader passes the status on, except interim ones to clients that cannot know them (RFC 9110, 15.2).
func (x *exchange) WriteHeader(code int) {
	if code < 200 && code != http.StatusSwitchingProtocols {
		if x.in.ProtoAtLeast(1, 1) {
			x.ResponseWriter.WriteHeader(code)
		}
		return
	}
	if x.closeAfter || x.bodyRemains() {
		x.Header().Set("Connection", "close")
	}
	x.status = code
	x.dirty = true
	x.ResponseWriter.WriteHeader(code)
}

func (x *exchange) Write(p []byte) (int, error) {
	x.dirty = true
	n, err := x.ResponseWriter.Write(p)
	x.written += int64(n)
	return n, err
}

// flush sends what has been written. It is called when the backend has no more for now.
func (x *exchange) flush() {
	if x.dirty {
		x.dirty = false
		http.NewResponseController(x.ResponseWriter).Flush()
	}
}

// Hijack gives ReverseProxy the client's connection for an upgrade, and with it the bytes that the
// client sent right behind its request, which would be lost in the server's buffer.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	x.status = http.StatusSwitchingProtocols
	c := &hijacked{Conn: conn}
	x.upgraded = c
	if n := brw.Reader.Buffered(); n > 0 {
		c.early, _ = brw.Reader.Peek(n)
	}
	return c, brw, nil
}

// A hijacked is a client's connection after an upgrade.
type hijacked struct {
	net.Conn
	early   []byte // read before the upgrade, to be read first
	written atomic.Int64
}

func (h *hijacked) Read(p []byte) (int, error) {
	if len(h.early) > 0 {
		n := copy(p, h.early)
		h.early = h.early[n:]
		return n, nil
	}
	return h.Conn.Read(p)
}

func (h *hijacked) Write(p []byte) (int, error) {
	n, err := h.Conn.Write(p)
	h.written.Add(int64(n))
	return n, err
}

// CloseWrite passes on that the backend has ended its direction.
func (h *hijacked) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}
