package proxy

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"time"

	"longshore/balancer"
	"longshore/discovery"
	"longshore/internal/upstream"
)

// always is Movable for requests that can be sent again at any time.
func always() bool { return true }

// An exchange is one request on the general path: it is what httputil.ReverseProxy writes the
// response to, and the transport it sends the request with. It is used by one goroutine, the
// handler's, and is reused for other requests afterwards.
type exchange struct {
	dispatch
	http.ResponseWriter // the server's
	proxy               httputil.ReverseProxy
	in                  *http.Request
	fast                *plain         // the request as the fast lane has it, which has sent it already; nil: it has not
	out                 *http.Request  // as ReverseProxy has made it
	found               *http.Response // of the attempt that was answered

	body    clientBody
	hasBody bool
	shared  bool // somebody else reads the body, or did

	response   responseBody
	switched   upgraded // of a 101 response: the backend's connection
	tunnel     *tunnel  // has that; nil: none
	outbox     *outbox  // the client's, once there is a response; nil: there is none
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
	x.ResponseWriter, x.in = w, r
	if x.fast = pendingOf(r); x.fast != nil {
		x.dispatch = x.fast.dispatch
		x.carrier = x
	} else {
		x.carrier, x.server, x.svc, x.route, x.start = x, srv, s, route, start
	}
	defer x.finish()
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
		x.body.memory = &srv.buffered
		x.body.repeat = upstream.IsIdempotent(r.Method)
		x.body.open(r, int64(s.spec.Settings.MaxBody))
		if c, ok := r.Context().Value(connKey{}).(*clientConn); ok {
			c.came = func() { x.body.expect() }
		}
		x.body.client, x.body.timeout = http.NewResponseController(w), srv.BodyTimeout
		if err := x.gather(); err != nil {
			x.closeAfter = true
			x.fail(x, r, &upstream.Error{Phase: upstream.Client, Err: err})
			return
		}
		in := *r // the server must go on seeing its own body: it looks at how far that was read
		in.Body = x.body.reader()
		if n, ok := x.body.length(); ok && r.ContentLength < 0 {
			in.ContentLength, in.TransferEncoding = n, nil
		}
		r = &in
	}
	x.choose()
	x.proxy.ServeHTTP(x, r)
}

// gather reads the body before a backend is picked, so that a slow client holds none. The messages of gRPC answer each
// other, so a body of them that has no known end is not waited for, unless every body that is allowed can be kept:
// otherwise a name in a field would get a slow client past a limit that was set against it.
func (x *exchange) gather() error {
	r, max, dir := x.in, int64(x.svc.spec.Settings.BodyBuffer), x.server.BodyDir
	if x.fast != nil || max == 0 || r.ContentLength > max && dir == "" {
		return nil
	}
	limit := int64(x.svc.spec.Settings.MaxBody)
	if r.ContentLength < 0 && (limit == 0 || limit > max) && isGRPC(r.Header.Get("Content-Type")) {
		return nil
	}
	came := func() {}
	c, ok := clientOf(r)
	if ok {
		came = func() { c.touch(time.Now()) }
		c.touch(x.start)
		c.state.CompareAndSwap(connBusy, connNew) // nobody has its request yet, so it may be closed for others
	}
	err, unwritten := x.body.gather(int(max)+1, dir, came) // the end of one of max bytes too
	if ok && !c.state.CompareAndSwap(connNew, connBusy) && err == nil {
		err = errLeft
	}
	if unwritten != nil {
		if unsaid, ok := x.server.unwritten.allow(time.Now(), 1); ok {
			x.server.Log.Warn("a request's body could not be written to LONGSHORE_BODY_DIR; the rest of it passes as it comes", "err", unwritten, "method", r.Method, "path", shorten(r.URL.Path), "unsaid", unsaid)
		}
	}
	return err
}

// finish ends the request and counts it. It also runs when ReverseProxy panics to break off a response.
func (x *exchange) finish() {
	if b := x.backend; b != nil && x.response != nil && x.response.Failed() && !x.left() {
		b.failures[Truncated].Add(1)
	}
	if x.tunnel == nil {
		x.end()
		x.deliver()
	} else if x.hasBody { // somebody may still read that
		<-x.tunnel.ended
	}
	if x.switched != nil {
		x.switched.Close()
	}
	if x.hasBody && !x.body.whole() {
		if x.shared {
			x.body.detach(x.ResponseWriter)
		}
		linger(x.ResponseWriter)
	}
	x.body.release()
	if x.tunnel == nil {
		x.server.record(x)
	}
	if x.fast != nil {
		if x.fast.found != nil { // nobody has read on
			x.fast.found.Drop()
			x.fast.found = nil
		}
		x.fast.tried = nil // they are ours
		x.fast.release()
	}
	if x.hasBody {
		return // an uploader may still hold it
	}
	*x = exchange{proxy: x.proxy, dispatch: dispatch{tried: x.tried[:0]}}
	exchanges.Put(x)
}

// A responseBody is an upstream.Body, or what tests have in its place.
type responseBody interface {
	OnWait(func())
	Failed() bool
}

// RoundTrip finds a backend that answers, and returns its response.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	x.out = req
	err := x.find()
	for err == errMoved {
		if err = x.reroute(); err == nil {
			err = x.find()
		}
	}
	if err != nil {
		return nil, err
	}
	b, res := x.backend, x.found
	x.found = nil
	switch body := res.Body.(type) {
	case responseBody:
		x.response = body
		body.OnWait(x.flush)
		if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") && x.svc.timing == balancer.ToLastByte {
			x.sentAt = time.Time{}
		}
	case upgraded:
		x.switched = body
		x.sentAt = time.Time{}
	}
	x.openOutbox(res)
	x.answered(res.StatusCode)
	if st := x.svc.sticky; st != nil {
		st.answered(x, b, res.Header)
	}
	if res.StatusCode == http.StatusUpgradeRequired {
		x.upgrade = res.Header["Upgrade"]
	}
	return res, nil
}

// reroute hands a request that waits to the service that has its route by now, unless what was made of it for
// the other one is not right for this one.
func (x *exchange) reroute() error {
	svc, route := x.server.Router.Table().Lookup(x.in.Host, x.in.URL.Path)
	if svc == nil || route.Dest != x.route.Dest || svc.spec.Internal != x.svc.spec.Internal ||
		x.hasBody && svc.spec.Settings.MaxBody != x.svc.spec.Settings.MaxBody {
		return errNoBackend
	}
	x.svc, x.route, x.until = svc, route, time.Time{}
	x.choose()
	if err := x.resume(); err != nil {
		return &upstream.Error{Phase: upstream.Client, Err: err}
	}
	return nil
}

// choose finds out what ties the request to a backend.
func (x *exchange) choose() {
	x.key, x.bound = 0, ""
	if x.svc.key != nil {
		x.key = x.svc.key(x)
	}
	if x.svc.sticky != nil {
		x.bound = x.svc.sticky.token(x)
	}
}

// openOutbox prepares to send a response.
func (x *exchange) openOutbox(res *http.Response) {
	c, ok := x.in.Context().Value(connKey{}).(*clientConn)
	if !ok {
		return
	}
	x.outbox = c.Conn.(*client).outbox()
	keep, timeout := int(x.svc.spec.Settings.ResponseBuffer), x.server.SendTimeout
	switch kind := res.Header.Get("Content-Type"); {
	case x.switched != nil, isEventStream(kind):
		keep, timeout = 0, 0
		x.body.noTimeout() // they answer each other
	case isGRPC(kind), strings.EqualFold(res.Header.Get("X-Accel-Buffering"), "no"):
		keep = 0
	}
	x.outbox.open(keep, timeout)
}

// isEventStream reports whether a Content-Type is that of server-sent events, which may be silent for hours.
func isEventStream(kind string) bool {
	return len(kind) >= len(eventStream) && strings.EqualFold(kind[:len(eventStream)], eventStream)
}

const eventStream = "text/event-stream"

// isGRPC reports whether a Content-Type is one of gRPC: its messages answer each other, so none may wait for the next.
func isGRPC(kind string) bool {
	const grpc = "application/grpc"
	return len(kind) >= len(grpc) && strings.EqualFold(kind[:len(grpc)], grpc)
}

// deliver has the client take what was kept for it, when the backend is free.
func (x *exchange) deliver() {
	if x.outbox == nil {
		return
	}
	if x.outbox.isSlow() {
		http.NewResponseController(x.ResponseWriter).Flush()
		x.outbox.flush()
	}
	x.outbox.open(0, x.server.SendTimeout)
}

// send is the carrier's.
func (x *exchange) send(b *member, fresh bool) (err error) {
	req, a := x.out, upstream.Attempt{Fresh: fresh}
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
	if x.fast != nil && x.fast.found != nil {
		up := x.fast.found
		x.fast.found = nil
		x.found, err = up.Adopt(req, x.fast.back[:x.fast.got])
		return err
	}
	x.found, err = b.pool.Send(req, a)
	if failure, ok := err.(*upstream.Error); !ok || !failure.Unsent {
		x.shared = x.hasBody
	}
	return err
}

func (x *exchange) mayRepeat() bool {
	return upstream.IsIdempotent(x.out.Method) && (!x.hasBody || x.body.rewind())
}

func (x *exchange) left() bool            { return x.in.Context().Err() != nil }
func (x *exchange) gone() <-chan struct{} { return x.in.Context().Done() }

func (x *exchange) readAhead() <-chan error {
	if !x.hasBody {
		return nil
	}
	x.shared = true
	failed := make(chan error, 1) // so that who reads ahead does not wait
	go x.body.fill(failed)
	return failed
}

func (x *exchange) resume() error {
	if x.hasBody && !x.body.rewind() {
		return x.body.failure()
	}
	return nil
}

// bodyRemains reports whether the body is not known to be read to its end, though reading has begun.
// Then the connection must be closed after the answer: where the next request begins is not known, and
// what comes could be smuggled (RFC 9112, 11.2). It also keeps the server from waiting for the rest
// before it sends the answer.
func (x *exchange) bodyRemains() bool { return x.shared && !x.body.whole() }

// modifyResponse mends what ReverseProxy and the server would do to a response that is not theirs.
func (x *exchange) modifyResponse(res *http.Response) error {
	x.mendResponse(res.Header)
	dropDirectives(res.Header)
	if res.StatusCode == http.StatusSwitchingProtocols {
		return x.switchProtocols(res)
	}
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
	if x.status != 0 {
		return // an upgrade
	}
	code := x.statusFor(err)
	if code == statusClientClosed && x.hasBody && x.body.timedOut() {
		code = http.StatusRequestTimeout
	}
	x.explain(code, err)
	if code == http.StatusServiceUnavailable {
		x.Header().Set("Retry-After", "1")
	}
	writeError(x, code)
}

// errorText is what our own answers say.
func errorText(code int) string {
	text := http.StatusText(code)
	if text == "" {
		text = "Client Closed Request"
	}
	return strconv.Itoa(code) + " " + text + "\n"
}

// writeError sends a short answer of our own.
func writeError(w http.ResponseWriter, code int) {
	text := errorText(code)
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	if code == statusClientClosed { // nobody waits for an answer to what was sent behind it
		h.Set("Connection", "close")
	}
	w.WriteHeader(code)
	io.WriteString(w, text)
}

// Unwrap lets http.ResponseController reach the server's ResponseWriter.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// WriteHeader passes the status on, except interim ones to clients that cannot know them (RFC 9110, 15.2).
func (x *exchange) WriteHeader(code int) {
	if code < 200 && code != http.StatusSwitchingProtocols {
		if x.in.ProtoAtLeast(1, 1) {
			dropDirectives(x.Header())
			x.ResponseWriter.WriteHeader(code)
		}
		return
	}
	if x.closeAfter || x.bodyRemains() {
		x.Header().Set("Connection", "close")
	}
	if code == http.StatusNotModified {
		keepMetadata(x.Header())
	}
	x.status = code
	x.dirty = true
	x.ResponseWriter.WriteHeader(code)
}

// keepMetadata has a 304 say what the server would drop: type and length of what was not modified, which caches
// update theirs by (RFC 9110, 15.4.5). The server knows them by their usual spelling only.
func keepMetadata(h http.Header) {
	for _, name := range [...]string{"Content-Type", "Content-Length"} {
		if v := h[name]; len(v) > 0 {
			delete(h, name)
			h[strings.ToLower(name)] = v
		}
	}
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
