package proxy

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// A Server answers clients. Its fields are set before Serve.
type Server struct {
	Router        *Router
	Trusted       []netip.Prefix // peers whose X-Forwarded-* are believed; none: nobody
	HeaderTimeout time.Duration  // a request's header must be complete by then; zero: no limit
	IdleTimeout   time.Duration  // how long a connection is kept open between requests; zero: no limit
	BodyTimeout   time.Duration  // between two reads of a request's body; zero: no limit
	SendTimeout   time.Duration  // between two writes that a client takes something of; zero: no limit
	MaxHeader     int            // bytes; larger ones get 431; zero: 1 MB
	Underscores   bool           // fields with an underscore in their names are passed on
	FastLane      bool           // plain requests do not go through net/http
	Grace         time.Duration  // how long requests in flight may take at the end; zero: none
	Queue         int            // requests that may wait for the Router's first State; zero: none
	QueueTimeout  time.Duration  // how long they wait
	BodyDir       string         // where bodies are gathered that are larger than their service's BodyBuffer; empty: they are not
	BufferMemory  int64          // bytes of all that may be buffered for clients and backends; zero: no limit

	MaxClients        int           // connections of clients; more close those that have been idle for longest; zero: no limit
	MaxClientsPerAddr int           // of them from one address (IPv6: one /64), where that is not Trusted; zero: no limit
	Record            func(*Record) // told of each request after it; must not block, nor keep the Record; nil: nobody
	Log               *slog.Logger  // nil: discard

	buffered  budget                   // of BufferMemory
	unwritten limiter                  // of lines about bodies that BodyDir does not take
	restTime  time.Duration            // for tests; zero: the constant of that name
	clients   atomic.Pointer[clients]  // set by Serve
	fast      atomic.Pointer[fastLane] // nil: all requests go through net/http
	handed    atomic.Int64             // connections left to the general path, as often as they were
	active    atomic.Int64             // connections that are in the middle of a request
	early     atomic.Int64             // requests that wait for the first State
	life      context.Context          // of upgraded connections; set by Serve
	lastCall  chan struct{}            // closed when whoever waits for a backend must be answered; set by Serve
}

// A Record is what an access log may say of one request. It and its strings are the Server's, and valid
// only until Server.Record returns: the next request may use the same memory. Who keeps any of them clones it.
type Record struct {
	Time       time.Time // when the request had come
	Duration   time.Duration
	ClientIP   string // or "unknown"
	User       string // of Basic authentication
	Method     string
	URI        string // as the client wrote it
	Proto      string
	Host       string
	Status     int
	Bytes      int64 // of the response's body, or of an upgraded connection
	Referer    string
	UserAgent  string
	Service    string // empty: no route
	Upstream   string // addresses of all attempts, comma-separated, as nginx's $upstream_addr
	Reason     string // why we answered by ourselves; empty: we did not, or the status says it
	ContentLen int64  // of the request; -1: not known
}

// Serve answers the clients of ln until ctx is done. Then it stops accepting, lets requests in flight
// finish within Grace, and returns nil: at once when there are none. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	s.buffered.limit = s.BufferMemory
	cs := newClients(s)
	s.clients.Store(cs)
	ln = cs.listen(ln)
	lastCall := make(chan struct{})
	s.lastCall = lastCall
	base, end := context.WithCancel(context.Background())
	defer end() // of upgraded connections, which http.Server no longer knows
	s.life = base
	hs := &http.Server{
		Handler:                      s,
		ReadHeaderTimeout:            s.HeaderTimeout,
		IdleTimeout:                  s.IdleTimeout,
		MaxHeaderBytes:               netLimit(s.MaxHeader),
		DisableGeneralOptionsHandler: true, // OPTIONS * is the backend's to answer
		BaseContext:                  func(net.Listener) context.Context { return base },
		ConnContext:                  withConn,
		ConnState:                    s.connState,
		ErrorLog:                     log.New(serverLog{s.Log}, "", 0),
	}
	served := make(chan error, 2) // one for each lane
	if s.FastLane {
		fast := newFastLane(s, ln.Addr())
		s.fast.Store(fast)
		go func() { served <- fast.accept(ln) }()
		go func() { served <- hs.Serve(generalListener{fast}) }()
	} else {
		go func() { served <- hs.Serve(listener{ln, s}) }()
	}
	fast := s.fast.Load()
	select {
	case err := <-served: // without a listener there is nothing to stay for
		close(lastCall)
		ln.Close()
		if fast != nil {
			fast.close()
		}
		hs.Close()
		if fast != nil {
			<-served
		}
		return err
	case <-ctx.Done():
	}
	inFlight := s.active.Load()
	if fast != nil {
		inFlight += int64(fast.busy())
	}
	s.Log.Info("stopping: no new connections, finishing what is in flight", "in_flight", inFlight, "at_most", s.Grace)
	defer time.AfterFunc(s.Grace-min(s.Grace/2, answerTime), func() { close(lastCall) }).Stop()
	grace, cancel := context.WithTimeout(context.Background(), s.Grace)
	defer cancel()
	if fast != nil {
		ln.Close()
		fast.stopping.Store(true)      // first: who sees one connection end is told on the others too
		hs.SetKeepAlivesEnabled(false) // what is left to the general path ends with its response too
		drainFast(grace, fast)
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	s.shutdown(grace, hs)
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// drainFast lets what is in flight on the fast lane finish, and what was just accepted show its request.
func drainFast(grace context.Context, l *fastLane) {
	defer l.close()
	tick := time.NewTicker(quietTime / 10)
	defer tick.Stop()
	for quiet := time.Duration(0); l.drain(quiet >= quietTime) > 0 || l.open() > 0; quiet += quietTime / 10 {
		select {
		case <-tick.C:
		case <-grace.Done():
			return
		}
	}
}

// quietTime is how long nothing may be in flight until the server is taken to be done: a connection
// that was just accepted shows its request within that, and one that a browser keeps ready does not.
const quietTime = 100 * time.Millisecond

// answerTime is how long before the end of Grace requests that still wait for a backend are answered.
const answerTime = 500 * time.Millisecond

// shutdown ends a server gracefully. http.Server.Shutdown alone waits five seconds for a connection
// that has sent nothing.
func (s *Server) shutdown(grace context.Context, hs *http.Server) {
	ctx, cancel := context.WithCancel(grace)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		hs.Shutdown(ctx)
	}()
	tick := time.NewTicker(quietTime / 10)
	defer tick.Stop()
	for quiet := time.Duration(0); quiet < quietTime; {
		select {
		case <-done:
			hs.Close()
			return
		case <-tick.C:
			if quiet += quietTime / 10; s.active.Load() > 0 {
				quiet = 0
			}
		}
	}
	cancel()
	<-done
	hs.Close()
}

// connState counts connections that are in the middle of a request.
func (s *Server) connState(c net.Conn, state http.ConnState) {
	cc := c.(*clientConn)
	cl := cc.Conn.(*client)
	if state == http.StateClosed {
		cc.brokenOff()
	}
	if state == http.StateClosed && cc.back.Load() {
		defer cc.fast.lane.enter(cc.fast, connIdle, cc.ahead)
	}
	switch was := cc.active; state {
	case http.StateActive:
		if !was {
			cc.active = true
			s.active.Add(1)
		}
		if !cl.state.CompareAndSwap(connNew, connBusy) {
			cl.state.CompareAndSwap(connIdle, connBusy)
		}
	default:
		if was {
			cc.active = false
			s.active.Add(-1)
		}
		if state == http.StateIdle {
			cc.idle = true
			cl.touch(time.Now())
			cl.state.CompareAndSwap(connBusy, connIdle)
		}
	}
}

// ServeHTTP routes one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	if c, ok := r.Context().Value(connKey{}).(*clientConn); ok {
		length := r.ContentLength
		if r.Body == http.NoBody { // the preface of HTTP/2 has a length of -1 even so
			length = 0
		}
		c.begins(length)
		if x := c.pending.Load(); x != nil {
			x.svc.ServeHTTP(w, r, s, x.route, x.start)
			return
		}
	}
	switch {
	case r.Method == http.MethodConnect: // this is no forward proxy
		w.Header().Set("Connection", "close")
		w.Header().Set("Allow", allowed)
		s.refuse(w, r, http.StatusMethodNotAllowed, start)
		return
	case r.Method == http.MethodTrace: // it would show a script the fields that are hidden from it; nginx refuses it too
		w.Header().Set("Allow", allowed)
		s.refuse(w, r, http.StatusMethodNotAllowed, start)
		return
	case loops(r.Header.Get(hopsField)):
		s.refuse(w, r, http.StatusLoopDetected, start)
		return
	case s.MaxHeader > 0 && headSize(r) > s.MaxHeader:
		w.Header().Set("Connection", "close")
		s.refuse(w, r, http.StatusRequestHeaderFieldsTooLarge, start)
		return
	case r.ProtoMajor != 1: // net/http leaves the preface of HTTP/2 to its handler
		w.Header().Set("Connection", "close")
		s.refuse(w, r, http.StatusHTTPVersionNotSupported, start)
		return
	case r.URL.Host == "" && r.RequestURI[0] != '/' && r.RequestURI != "*", // http:/a, a:b
		strings.IndexByte(r.RequestURI, '#') >= 0, // RFC 9112, 3.2: what is before it may be all that a backend reads, and has another route
		strings.ContainsFunc(r.URL.Path, isControl):
		s.refuse(w, r, http.StatusBadRequest, start)
		return
	case r.RequestURI == "*" && r.Method != http.MethodOptions, !isHost(r.Host): // RFC 9112, 3.2.4 and 3.2
		w.Header().Set("Connection", "close")
		s.refuse(w, r, http.StatusBadRequest, start)
		return
	}
	if n, ok := maxForwards(r); ok && n == 0 { // the question is for us
		w.Header().Set("Allow", allowed)
		s.refuse(w, r, http.StatusOK, start)
		return
	}
	table := s.Router.Table()
	if !table.applied { // which routes there are is not known yet
		s.awaitFirst(r.Context())
		table = s.Router.Table()
	}
	svc, route := table.Lookup(r.Host, r.URL.Path)
	switch {
	case svc != nil:
		svc.ServeHTTP(w, r, s, route, start)
	case r.Context().Err() != nil:
		s.refuse(w, r, statusClientClosed, start)
	case !table.applied:
		w.Header().Set("Retry-After", "1")
		s.refuse(w, r, http.StatusServiceUnavailable, start)
	default:
		s.refuse(w, r, http.StatusNotFound, start)
	}
}

// netSlop is how many bytes net/http reads of a head beyond MaxHeaderBytes.
const netSlop = 4096

// netLimit is the MaxHeaderBytes with which net/http reads that many bytes of a head. A smaller limit it cannot keep, nor
// can it for a request whose beginning stands in its buffer already, behind the one before: see headSize.
func netLimit(limit int) int {
	if limit <= 0 {
		return 0
	}
	return max(1, limit-netSlop)
}

// headSize is the size of a head, without what is optional in it.
func headSize(r *http.Request) int {
	const around = len(" ") + len(" ") + len("\r\n") + len("\r\n")
	const perField = len(":") + len("\r\n")
	n := len(r.Method) + len(r.RequestURI) + len(r.Proto) + around + len("Host") + len(r.Host) + perField
	for k, vs := range r.Header {
		for _, v := range vs {
			n += len(k) + len(v) + perField
		}
	}
	return n
}

// allowed are the methods that are surely passed on (RFC 9110, 15.5.6: a 405 must say so).
const allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// isControl reports whether a character may end a path for programs that take it for text of C or for lines. net/http
// refuses those that are not encoded.
func isControl(c rune) bool { return c < ' ' || c == 0x7f }

// awaitFirst waits for the Router's first State.
func (s *Server) awaitFirst(ctx context.Context) {
	defer s.early.Add(-1)
	if s.early.Add(1) > int64(s.Queue) {
		return
	}
	timer := time.NewTimer(s.QueueTimeout)
	defer timer.Stop()
	select {
	case <-s.Router.first:
	case <-timer.C:
	case <-ctx.Done():
	case <-s.lastCall:
	}
}

// refuse answers a request that no service gets to see.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, code int, start time.Time) {
	if mixesFramings(r) {
		w.Header().Set("Connection", "close")
	}
	x := exchange{ResponseWriter: w, in: r, dispatch: dispatch{server: s, start: start}}
	writeError(&x, code)
	if r.ContentLength != 0 {
		linger(w)
	}
	s.record(&x)
}

// record counts a request and tells the access log.
func (s *Server) record(x *exchange) {
	x.report(&x.told)
	x.told.Bytes = x.written
	s.tell(x.svc, &x.told, x.status, time.Since(x.start))
}

// tell counts a request that took d and tells the access log of it; svc is nil if it had no route.
func (s *Server) tell(svc *Service, rec *Record, status int, d time.Duration) {
	g := s.Router.unrouted
	if svc != nil {
		g, rec.Service = svc.group, svc.spec.Name
	}
	g.count(status, d)
	if s.Record != nil {
		rec.Status, rec.Duration = status, d
		s.Record(rec)
	}
}

// report fills in what a Record says of the request, without its outcome, if somebody wants to know.
func (x *exchange) report(rec *Record) {
	if x.server.Record == nil {
		return
	}
	r := x.in
	*rec = Record{
		Time: x.start, ClientIP: x.client(),
		Method: r.Method, URI: r.RequestURI, Proto: r.Proto, Host: r.Host,
		Referer: r.Referer(), UserAgent: r.UserAgent(),
		Upstream: x.via, Reason: x.why, ContentLen: r.ContentLength,
	}
	if _, ok := r.Header["Authorization"]; ok {
		rec.User, _, _ = r.BasicAuth()
	}
}

// serverLog takes what http.Server has to say, such as a client's broken TLS or a panic.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Write(p []byte) (int, error) {
	l.log.Debug("http server", "says", string(p))
	return len(p), nil
}
