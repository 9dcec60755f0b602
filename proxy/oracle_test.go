package proxy

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"longshore/internal/sock"
	"longshore/internal/upstream"
)

// An oracle is an http.Transport in the place of an [upstream.Pool], in a lane of its own: what both can do,
// they must do alike. It passes on as much as http.Transport lets one know.
type oracle struct {
	transport // none: there is no Begin
	addr      string

	mu     sync.Mutex // guards the following
	opts   upstream.Options
	http   *http.Transport
	calls  map[*oracleCall]bool // those whose response has not ended
	refuse error                // nil: requests may begin
	closed bool

	conns sync.Map        // of *oracleConn, those that are open
	dials context.Context // done once it is closed: http.Transport dials on when nobody waits for that
	stop  context.CancelFunc
}

func newOracle(addr string, opts upstream.Options) transport {
	o := &oracle{addr: addr, calls: make(map[*oracleCall]bool)}
	o.dials, o.stop = context.WithCancel(context.Background())
	o.SetOptions(opts)
	return o
}

func (o *oracle) SetOptions(opts upstream.Options) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.http != nil && o.opts == opts {
		return
	}
	if o.http != nil {
		o.http.CloseIdleConnections()
	}
	o.opts = opts
	o.http = &http.Transport{
		DisableCompression:     true,
		MaxIdleConnsPerHost:    opts.MaxIdle,
		IdleConnTimeout:        opts.IdleTimeout,
		ResponseHeaderTimeout:  opts.ReadTimeout,
		MaxResponseHeaderBytes: 1 << 20,
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{Timeout: opts.ConnectTimeout}).DialContext(o.dials, network, addr)
			if err != nil {
				return nil, err
			}
			conn := &oracleConn{Conn: c, o: o, timeout: opts.ReadTimeout}
			o.conns.Store(conn, nil)
			return conn, nil
		},
	}
	if opts.MaxIdle == 0 {
		o.http.MaxIdleConnsPerHost = -1 // none
	}
}

func (o *oracle) DropIdle() (n int) {
	n = o.Idle()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.http.CloseIdleConnections()
	return n
}

func (o *oracle) Abandon() {}

func (o *oracle) Idle() (n int) {
	for range o.idle {
		n++
	}
	return n
}

func (o *oracle) idle(yield func(*oracleConn) bool) {
	o.conns.Range(func(c, _ any) bool { return c.(*oracleConn).holder.Load() != nil || yield(c.(*oracleConn)) })
}

func (o *oracle) Pause(cause error, evict bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.refuse = cause
	for c := range o.calls {
		if !c.connected() || evict && !c.answered.Load() && c.movable != nil && c.movable() {
			c.cancel(cause)
		}
	}
}

func (o *oracle) Resume() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.refuse = nil
	}
}

func (o *oracle) Close(cause error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed, o.refuse = true, cause
	o.stop()
	o.http.CloseIdleConnections()
	for c := range o.calls {
		if !c.answered.Load() {
			c.cancel(cause)
			continue
		}
		time.AfterFunc(time.Second, func() { c.cancel(cause) })
	}
}

func (o *oracle) Send(req *http.Request, a upstream.Attempt) (*http.Response, error) {
	// Without the values of the request's context: among them are the hooks of ReverseProxy.
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &oracleCall{o: o, cancel: cancel, movable: a.Movable}
	o.mu.Lock()
	t, timeout, refuse := o.http, o.opts.ReadTimeout, o.refuse
	if refuse == nil {
		o.calls[c] = true
	}
	o.mu.Unlock()
	if refuse != nil {
		return nil, &upstream.Error{Phase: upstream.Dial, Unsent: true, Err: refuse}
	}
	unwatch := context.AfterFunc(req.Context(), func() { cancel(context.Cause(req.Context())) })
	for conn := range o.idle {
		for conn.holder.Load() == nil && conn.over() { // our client looks; http.Transport is told in a moment
			time.Sleep(time.Millisecond)
		}
	}
	if a.Fresh {
		t.CloseIdleConnections()
	}
	hooks := &httptrace.ClientTrace{
		GotConn:              c.gotConn,
		PutIdleConn:          c.putIdleConn,
		GotFirstResponseByte: func() { c.answered.Store(true) },
	}
	if outer := httptrace.ContextClientTrace(req.Context()); outer != nil {
		hooks.Got1xxResponse = func(code int, h textproto.MIMEHeader) error {
			if code == http.StatusContinue { // see upstream
				return nil
			}
			return outer.Got1xxResponse(code, h)
		}
	}
	out := req.WithContext(httptrace.WithClientTrace(ctx, hooks))
	out.URL = o.url(req)
	out.Header = req.Header.Clone()
	out.Header.Del("Expect")
	if req.Body != nil {
		out.Body = &oracleUpload{ReadCloser: req.Body, failure: &c.unreadable}
	}
	res, err := t.RoundTrip(out)
	switch {
	case err != nil:
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		c.end()
		return nil, c.explain(err)
	case res.StatusCode == http.StatusSwitchingProtocols:
		conn := res.Body
		context.AfterFunc(ctx, func() { conn.Close() })
		if conn, ok := conn.(io.ReadWriteCloser); ok { // it is not without an Upgrade
			res.Body = &oracleUpgraded{conn, c, unwatch}
		}
	default:
		if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
			timeout = 0
		}
		res.Body = &oracleBody{ReadCloser: res.Body, call: c, timeout: timeout}
	}
	return res, nil
}

// url has the request's target go out as it is, as far as a url.URL can.
func (o *oracle) url(req *http.Request) *url.URL {
	u := &url.URL{Scheme: "http", Host: o.addr}
	path, query := splitTarget(req.RequestURI)
	switch {
	case strings.HasPrefix(path, "//"): // what is opaque must not begin so
		u.Path, _ = url.PathUnescape(path)
		u.RawPath = path
		u.RawQuery, u.ForceQuery = strings.CutPrefix(query, "?")
	case req.Method == "OPTIONS" && strings.HasSuffix(req.RequestURI, "://"+req.Host):
		u.Opaque = "*"
	default:
		u.Opaque = path + query
	}
	return u
}

// An oracleCall is one request, which http.Transport may send several times.
type oracleCall struct {
	o          *oracle
	cancel     context.CancelCauseFunc
	movable    func() bool
	answered   atomic.Bool
	unreadable atomic.Pointer[error] // why its body is

	mu      sync.Mutex  // guards the following
	conn    *oracleConn // the last one; nil: none
	written int64       // to conn, before this request
	reused  bool
	sent    bool // over another one
}

// end forgets the call.
func (c *oracleCall) end() {
	c.cancel(nil)
	c.o.mu.Lock()
	defer c.o.mu.Unlock()
	delete(c.o.calls, c)
}

func (c *oracleCall) connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn != nil
}

func (c *oracleCall) gotConn(info httptrace.GotConnInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = c.sent || c.conn != nil && c.conn.written.Load() > c.written
	c.conn = info.Conn.(*oracleConn)
	c.written, c.reused = c.conn.written.Load(), info.Reused
	c.conn.holder.Store(c)
}

func (c *oracleCall) putIdleConn(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.conn.holder.CompareAndSwap(c, nil) // unless the next one has it already
	}
}

// explain is the error of our client for one of http.Transport.
func (c *oracleCall) explain(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &upstream.Error{Phase: upstream.Send, Reused: c.reused, Err: err}
	e.Unsent = !c.sent && (c.conn == nil || c.conn.written.Load() == c.written)
	switch unreadable := c.unreadable.Load(); {
	case unreadable != nil:
		e.Phase, e.Err = upstream.Client, *unreadable
	case c.conn == nil:
		e.Phase = upstream.Dial
	case c.answered.Load():
		e.Phase = upstream.Answer
	}
	return e
}

// An oracleConn counts what is written. A backend that does not read on fails it.
type oracleConn struct {
	net.Conn
	o       *oracle
	timeout time.Duration
	written atomic.Int64
	holder  atomic.Pointer[oracleCall] // nil: it is idle
	unasked atomic.Bool                // something came then
	closed  atomic.Bool
	writing sync.Mutex // held while a head goes out
}

func (c *oracleConn) Write(p []byte) (int, error) {
	if c.timeout > 0 {
		c.SetWriteDeadline(time.Now().Add(c.timeout))
	}
	if len(p) <= 4096 {
		c.writing.Lock()
		defer c.writing.Unlock()
	}
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

// Read returns after the Write of what is being answered: http.Transport gives up a connection whose writer
// needs 50 ms more than the backend, and on a loaded machine that happens.
func (c *oracleConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.holder.Load() == nil {
		c.unasked.Store(true)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	return n, err
}

func (c *oracleConn) Close() error {
	c.closed.Store(true)
	c.o.conns.Delete(c)
	return c.Conn.Close()
}

// over reports whether an idle connection is to be closed, for what the other side has done.
func (c *oracleConn) over() bool {
	over := c.unasked.Load()
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { over = over || sock.Look(fd) != sock.Quiet })
	}
	return over && !c.closed.Load()
}

func (c *oracleConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// An oracleUpload notes why a request's body cannot be read.
type oracleUpload struct {
	io.ReadCloser
	failure *atomic.Pointer[error]
}

func (u *oracleUpload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		u.failure.Store(&err)
	}
	return n, err
}

// An oracleBody keeps the promises of an [upstream.Body].
type oracleBody struct {
	io.ReadCloser
	call    *oracleCall
	onWait  func()
	timeout time.Duration // between two reads; 0: none
	err     error         // sticky
}

func (b *oracleBody) OnWait(f func()) { b.onWait = f }

func (b *oracleBody) Failed() bool { return b.err != nil && b.err != io.EOF }

func (b *oracleBody) Read(p []byte) (n int, err error) {
	b.onWait() // if it need not wait, there is no harm
	if b.err == nil {
		if b.timeout > 0 {
			defer time.AfterFunc(b.timeout, func() { b.call.cancel(os.ErrDeadlineExceeded) }).Stop()
		}
		n, b.err = b.ReadCloser.Read(p)
	}
	if n > 0 && b.Failed() {
		return n, nil // the error comes with the next Read
	}
	return n, b.err
}

func (b *oracleBody) Close() error {
	err := b.ReadCloser.Close()
	b.call.end()
	return err
}

// An oracleUpgraded keeps the promises of an [upstream.Upgraded].
type oracleUpgraded struct {
	io.ReadWriteCloser
	call    *oracleCall
	unwatch func() bool // of the request's context
}

func (u *oracleUpgraded) Detach() (io.ReadWriter, []byte) {
	u.unwatch()
	return u.ReadWriteCloser, nil
}

func (u *oracleUpgraded) Close() error {
	u.call.end()
	return u.ReadWriteCloser.Close()
}

// differs lists the tests, or subtests, of what http.Transport does not do, and what it does instead. They
// are skipped in its lane.
var differs = []struct{ test, why string }{
	// Its connections belong to goroutines of their own.
	{"TestReplay/half_sent", "to return, it waits for the read of the request's body that is under way"},
	{"TestHardDown/POST_/a_Content-Length:_9_", "likewise"},
	{"TestHardDown/POST_/a_Transfer-Encoding:_chunked_", "likewise"},
	{"TestEarlyAnswer/closes", "if writing fails before the response is read, there is none"},
	// When it sends, and what it waits for.
	{"TestStale", "it sends a POST over a connection that has idled for long"},
	{"TestClosedAtThisMoment", "it repeats requests without a word, so nobody counts that"},
	{"TestReadTimeout/interim_ones_in_time", "interim responses do not give the backend more time"},
	{"TestReadTimeout/interim_ones_in_time_after_a_post", "likewise"},
	{"TestMalformedResponses/interim/flood", "it reads any number of interim responses if somebody wants to know of them"},
	{"TestMalformedResponses/interim/flood_of_100", "likewise"},
	// What it makes of responses that are not right.
	{"TestMalformedResponses/lengths/leading_zeros", "it passes the length on as it was written"},
	{"TestMalformedResponses/lengths/and_chunked", "it uses the connection again"},
	{"TestMalformedResponses/chunks/over_HTTP/1.0", "likewise"},
	{"TestMalformedResponses/lengths/space_before_the_colon", "it drops such a field"},
	{"TestMalformedResponses/chunks/space_before_the_colon", "likewise"},
	{"TestMalformedResponses/chunks/trailer_Connection", "it passes such a trailer on"},
	{"TestMalformedResponses/chunks/trailer_Content-Length", "likewise"},
	{"TestMalformedResponses/chunks/trailer_Transfer-Encoding", "likewise"},
	{"TestMalformedResponses/heads/status_with_a_sign", "it takes it for an interim response"},
	{"TestMalformedResponses/heads/status_99", "likewise"},
	{"TestMalformedResponses/heads/status_0", "likewise"},
	// How it writes a request.
	{"TestRequestTarget/GET_//x|y", "it escapes a path that begins with two slashes"},
	{"TestRequestTarget/GET_http://host//x|y?", "likewise"},
	{"TestNothingAdded/post_with_nothing", "it adds Content-Length: 0"},
	{"TestNothingAdded/get_of_no_length", "it drops Content-Length: 0"},
	{"TestNothingAdded/empty_user_agent", "it drops the field"},
	{"TestHTTP10", "it puts the backend's address in an empty Host field"},
	{"TestSmuggledRequests/hosts/empty_host", "likewise"},
	{"TestSmuggledRequests/hosts/host_in_HTTP/1.0", "likewise"},
	{"TestTraps/request_trailers", "it lists the names of trailers without spaces"},
}

// pattern is what -run and -skip call a test in the oracle's lane.
func pattern(test string) string {
	name, sub, _ := strings.Cut(test, "/")
	parts := []string{name, "transport"}
	if sub != "" {
		parts = append(parts, strings.Split(sub, "/")...)
	}
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// TestMain skips what differs: subtests, too, which know nothing of it. ORACLE=all does not.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("ORACLE") != "all" {
		skip := flag.Lookup("test.skip").Value
		var all []string
		if s := skip.String(); s != "" {
			all = append(all, s)
		}
		for _, d := range differs {
			all = append(all, pattern(d.test))
		}
		skip.Set(strings.Join(all, "|"))
	}
	m.Run()
}

// TestDiffers checks with ORACLE=check that what differs still does: at least now and then.
func TestDiffers(t *testing.T) {
	if os.Getenv("ORACLE") != "check" {
		t.Skip("ORACLE is not check")
	}
	for _, d := range differs {
		c := exec.Command(os.Args[0], "-test.run="+pattern(d.test), "-test.count=20", "-test.failfast")
		c.Env = append(os.Environ(), "ORACLE=all")
		out, err := c.CombinedOutput()
		if failed := new(exec.ExitError); !errors.As(err, &failed) {
			t.Errorf("%s no longer differs (%s): %v\n%s", d.test, d.why, err, out)
		}
	}
}
