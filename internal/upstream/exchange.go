package upstream

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"longshore/internal/http1"
)

// A Phase is how far an attempt came.
type Phase uint8

const (
	Dial   Phase = iota // no connection, so nothing was sent
	Send                // the request was being written, or waited for its response
	Answer              // the response had begun
	Client              // the client's request body could not be read
)

// An Error is why an exchange failed before there was a response.
type Error struct {
	Phase  Phase
	Unsent bool // no byte of the request was written to the backend
	Reused bool // it was a kept-alive connection: the backend may just have closed it for its age
	Err    error
}

func (e *Error) Error() string {
	return [...]string{"dial", "no response", "response", "request body"}[e.Phase] + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// An Attempt says how a request is sent once.
type Attempt struct {
	Fresh bool // over a new connection
	Once  bool // the request must not be sent twice: not over a connection that may just be closed for its age

	// Movable reports whether the request could still be sent to another backend although it was sent to
	// this one; nil: it could not. It matters while the backend is paused, see [Pool.Pause]. Any goroutine
	// may call it.
	Movable func() bool

	// Under ends what Begin does when it is done, its dials at once and the rest by [Pool.Abandon]; nil: nothing
	// does. Send goes by its request's context.
	Under context.Context
}

// RoundTrip is Send without anything special.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) { return p.Send(req, Attempt{}) }

// Send sends a request over one connection, once, and returns the response when its header has
// come. The request is the inbound one of a server: its RequestURI goes out byte for byte, and of
// its header everything but what frames a message on this hop.
//
// Errors are *Error. The caller reads the response's Body to its end or closes it. Interim (1xx)
// responses go to the Got1xxResponse hook of an httptrace.ClientTrace in the request's context.
// req.Body is read until it ends, by another goroutine, which may still be at it when Send
// returns or the response ends: who owns the body must know how to end a Read.
func (p *Pool) Send(req *http.Request, a Attempt) (*http.Response, error) {
	a.Once = !IsIdempotent(req.Method)
	c, err := p.get(req.Context(), time.Now(), a)
	if err != nil {
		return nil, &Error{Phase: Dial, Unsent: true, Err: err}
	}
	x := exchange{c: c, req: req, opts: p.opts.Load(), stop: c.watch(req.Context())}
	err = x.begin()
	return x.await(err)
}

// IsIdempotent lists the methods that RFC 9110, 9.2.2 lets a client repeat.
func IsIdempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// An exchange is one request and its response over one connection.
type exchange struct {
	c    *Conn
	req  *http.Request
	opts *Options
	stop func() bool // ends the watch on the request's context
	up   *upload     // nil: the request has no body
}

// begin sends the request, or has an upload send it.
func (x *exchange) begin() error {
	c := x.c
	c.buffered()
	c.written = 0
	hasBody := x.req.Body != nil && x.req.Body != http.NoBody
	writeHead(c.bw, x.req, hasBody)
	// The head goes out before the body is read: while nothing was sent, another backend can have the
	// request, body and all.
	err := c.bw.Flush()
	if err != nil && c.written == 0 {
		return &Error{Phase: Send, Unsent: true, Err: c.why(err)}
	}
	switch {
	case !hasBody:
		c.expectBy(time.Now(), x.opts.ReadTimeout)
	case err == nil:
		// The time to the response header counts from the end of the body, which sets the deadline.
		c.expectBy(time.Time{}, 0)
		x.up = &upload{c: c, body: x.req.Body, req: x.req, timeout: x.opts.ReadTimeout}
		go x.up.run()
	default: // a server may answer and close without reading on
		c.expectBy(time.Now(), streamGrace)
		x.up = new(upload) // not whole
	}
	return nil
}

// await returns the response to what was sent, or why there is none; err: nothing was sent.
func (x *exchange) await(err error) (res *http.Response, _ error) {
	defer func() {
		if res == nil { // or a hook has panicked
			x.stop()
			x.c.pool.discard(x.c)
		}
	}()
	if err == nil {
		res, err = x.read()
	}
	if err != nil {
		err.(*Error).Reused = x.c.reused
		return nil, err
	}
	return res, nil
}

// read reads interim responses and the head of the final one.
func (x *exchange) read() (*http.Response, error) {
	c := x.c
	c.headLeft, c.headErr = maxHead, nil
	if _, err := c.br.Peek(1); err != nil {
		return nil, x.failed(Send, err)
	}
	c.answered.Store(true)
	for interim := 0; ; interim++ {
		come, _ := c.br.Peek(c.br.Buffered()) // readSide has the rest
		c.head = http1.Head{}
		c.head.Next(come)
		res, err := http.ReadResponse(c.br, x.req)
		if err != nil {
			return nil, x.failed(Answer, cmp.Or(c.headErr, err))
		}
		switch code := res.StatusCode; {
		case c.head.Spaced: // RFC 9112, 5.1: not to be passed on; and without it the response ends elsewhere
			return nil, x.failed(Answer, errors.New("space behind the name of a field that frames"))
		case code < 100: // which ReadResponse lets pass, also as "+20"
			return nil, x.failed(Answer, fmt.Errorf("status %d", code))
		case code >= 200:
			c.headLeft = -1
			x.up.headCame()
			return x.deliver(res), nil
		case code == http.StatusSwitchingProtocols:
			if x.req.Header.Get("Upgrade") == "" {
				return nil, x.failed(Answer, errors.New("101 without a request to switch protocols"))
			}
			c.headLeft = -1
			x.up.headCame()
			c.expectBy(time.Time{}, 0)
			res.Body = &Upgraded{c: c, stop: x.stop}
			return res, nil
		case code == http.StatusContinue:
			// Meant for this hop: the client was told to go on when its body was first read.
		default:
			if trace := httptrace.ContextClientTrace(x.req.Context()); trace != nil && trace.Got1xxResponse != nil {
				if err := trace.Got1xxResponse(code, textproto.MIMEHeader(res.Header)); err != nil {
					return nil, x.failed(Answer, err)
				}
			}
		}
		if interim == 100 {
			return nil, x.failed(Answer, errors.New("too many interim responses"))
		}
		if x.up.complete() {
			c.expectBy(time.Now(), x.opts.ReadTimeout)
		}
	}
}

// failed says why there is no response to a request that was sent.
func (x *exchange) failed(phase Phase, err error) error {
	if err = x.c.why(err); errors.Is(err, io.EOF) {
		err = errors.New("connection closed")
	}
	if x.up != nil {
		// The uploader still writes to the connection unless it is closed and has ended.
		x.c.abort(err)
		if err := x.up.clientErr(); err != nil {
			return &Error{Phase: Client, Err: err}
		}
	}
	return &Error{Phase: phase, Err: err}
}

// deliver prepares a final response for its reader.
func (x *exchange) deliver(res *http.Response) *http.Response {
	plainLength(res.Header)
	b := &Body{x: *x, res: res, inner: res.Body, timeout: x.opts.ReadTimeout, connection: res.Header["Connection"]}
	DropTrailers(res.Trailer, b.connection) // announced ones
	if ct := res.Header.Get("Content-Type"); strings.HasPrefix(strings.ToLower(ct), "text/event-stream") {
		b.timeout = 0
	}
	if res.Body == http.NoBody || res.ContentLength == 0 {
		b.finish()
	} else {
		x.c.body = b
	}
	res.Body = b
	return res
}

// A Body is the body of a response. Its methods are for one goroutine.
type Body struct {
	onWait     func() // see OnWait; nil: nobody
	x          exchange
	res        *http.Response
	inner      io.ReadCloser
	timeout    time.Duration
	connection []string // the response's field, which its reader may remove
	err        error    // sticky: io.EOF after the end
}

// OnWait has f called before a Read waits for the backend or fails: what has been read so far should go
// out now.
func (b *Body) OnWait(f func()) { b.onWait = f }

var errBodyClosed = errors.New("response body closed")

func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil {
		if b.Failed() && b.onWait != nil {
			b.onWait()
		}
		return 0, b.err
	}
	c := b.x.c
	n, err := b.inner.Read(p)
	switch {
	case err == io.EOF:
		DropTrailers(b.res.Trailer, b.connection)
		b.finish()
	case err != nil:
		b.err = fmt.Errorf("response body: %w", c.why(err))
		b.x.stop()
		c.pool.discard(c)
	}
	if b.Failed() {
		if n == 0 {
			return b.Read(p)
		}
		return n, nil // the error comes with the next Read
	}
	return n, b.err
}

// wait comes before a read that may have to wait for the backend.
func (b *Body) wait() {
	if b.onWait != nil {
		b.onWait()
	}
	b.x.c.expectBy(time.Now(), b.timeout)
}

// Failed reports whether the body ended before it was whole, by the backend's doing.
func (b *Body) Failed() bool {
	return b.err != nil && b.err != io.EOF && b.err != errBodyClosed
}

// Close ends the exchange. A body that was not read to its end costs the connection.
func (b *Body) Close() error {
	if b.err == nil {
		b.err = errBodyClosed
		b.x.stop()
		b.x.c.pool.discard(b.x.c)
	}
	return nil
}

// finish gives the connection back after the last byte of the response.
func (b *Body) finish() {
	b.err = io.EOF
	c := b.x.c
	c.body = nil
	if b.x.stop() && !b.res.Close && !mixed(&c.head, b.res) && c.br.Buffered()+len(c.plain.ahead) == 0 {
		b.x.up.giveBack(c)
	} else {
		c.pool.discard(c)
	}
}

// An upload sends one request's head and body, in its own goroutine.
type upload struct {
	c       *Conn
	req     *http.Request
	body    io.Reader
	timeout time.Duration

	readErr atomic.Pointer[error] // reading the client's body failed

	mu    sync.Mutex // guards the following, and the read deadline until the header has come
	last  bool       // the body was read to its end; its last bytes are being sent
	ended bool       // nothing more is sent
	whole bool       // the whole body was
	head  bool       // the response's header has come: from now on the deadline is its reader's
	over  bool       // the response has ended: who ends the upload gives the connection back
}

// complete reports whether the whole body is sent. A nil upload has nothing to send.
func (u *upload) complete() bool {
	if u == nil {
		return true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.whole
}

// headCame takes the read deadline from the uploader.
func (u *upload) headCame() {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.head = true
}

// giveBack ends the exchange after the response. A server often answers before the uploader, which has
// sent the last byte, gets to say so: then it is the one to give the connection back.
func (u *upload) giveBack(c *Conn) {
	if u != nil {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.last && !u.ended {
			u.over = true
			return
		}
		if !u.whole {
			c.pool.discard(c)
			return
		}
	}
	c.pool.put(c, time.Now())
}

// clientErr says that the client is to blame, when it is.
func (u *upload) clientErr() error {
	if err := u.readErr.Load(); err != nil {
		return *err
	}
	return nil
}

var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (u *upload) run() {
	whole := u.send()
	timeout := u.timeout
	if !whole { // a server may answer and close without reading on
		timeout = min(timeout, streamGrace)
	}

	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended, u.whole = true, whole
	if timeout > 0 && !u.head { // the header is due from now on
		u.c.nc.SetReadDeadline(time.Now().Add(timeout))
	}
	switch {
	case u.over && whole:
		u.c.pool.put(u.c, time.Now())
	case u.over:
		u.c.pool.discard(u.c)
	}
}

// A Lender is a request body that says whether there is memory for a buffer of n bytes to read it into; negative: they
// are given back.
type Lender interface{ Lend(n int) bool }

// An uploadBuffer is what a body is read into: a small one, since it is held while the client is waited for, and a large
// one as long as the client fills that.
type uploadBuffer struct {
	small  [2 << 10]byte
	large  *[32 << 10]byte // nil: the small one is in use
	lender Lender          // nil: nobody asks
}

// next is where to read to, after a read of n bytes.
func (b *uploadBuffer) next(n int) []byte {
	switch {
	case b.large == nil && n == len(b.small) && (b.lender == nil || b.lender.Lend(len(b.large))):
		b.large = copyBuffers.Get().(*[32 << 10]byte)
	case b.large != nil && n < len(b.small):
		b.shrink()
	}
	if b.large != nil {
		return b.large[:]
	}
	return b.small[:]
}

func (b *uploadBuffer) shrink() {
	if b.large == nil {
		return
	}
	copyBuffers.Put(b.large)
	b.large = nil
	if b.lender != nil {
		b.lender.Lend(-len(b.large))
	}
}

// send reports whether the whole body went out.
func (u *upload) send() bool {
	buffer, got := new(uploadBuffer), 0
	buffer.lender, _ = u.body.(Lender)
	defer buffer.shrink()
	c, chunked := u.c, u.req.ContentLength < 0
	left := u.req.ContentLength
	for {
		buf := buffer.next(got)
		n, err := u.body.Read(buf)
		got = n
		if err == io.EOF {
			u.mu.Lock()
			u.last = true
			u.mu.Unlock()
		}
		if n > 0 {
			if !chunked && int64(n) > left {
				err = errors.New("body longer than its Content-Length")
				n = 0
			}
			left -= int64(n)
		}
		if n > 0 {
			if chunked {
				c.bw.WriteString(strconv.FormatInt(int64(n), 16))
				c.bw.WriteString("\r\n")
			}
			c.bw.Write(buf[:n])
			if chunked {
				c.bw.WriteString("\r\n")
			}
			if !u.flush() {
				return false
			}
		}
		if err == io.EOF && !chunked && left > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			u.readErr.Store(&err)
			c.abort(err) // the backend must see that the body is not whole
			return false
		}
	}
	if chunked {
		c.bw.WriteString("0\r\n")
		for k, vv := range u.req.Trailer {
			for _, v := range vv {
				writeField(c.bw, k, v)
			}
		}
		c.bw.WriteString("\r\n")
	}
	if !u.flush() {
		return false
	}
	if u.timeout > 0 {
		c.nc.SetWriteDeadline(time.Time{})
	}
	return true
}

// flush reports whether all went out. When it did not, the reader of the response finds out why.
func (u *upload) flush() bool {
	if u.timeout > 0 {
		u.c.nc.SetWriteDeadline(time.Now().Add(u.timeout))
	}
	return u.c.bw.Flush() == nil
}

// writeHead writes the request line and header. What frames a message belongs to this hop and is
// made anew.
func writeHead(w *bufio.Writer, req *http.Request, hasBody bool) {
	w.WriteString(req.Method)
	w.WriteByte(' ')
	w.WriteString(target(req))
	w.WriteString(" HTTP/1.1\r\nHost: ")
	w.WriteString(req.Host)
	w.WriteString("\r\n")
	for k, vv := range req.Header {
		switch k {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer", "Expect":
			continue
		}
		for _, v := range vv {
			writeField(w, k, v)
		}
	}
	switch {
	case hasBody && req.ContentLength < 0:
		w.WriteString("Transfer-Encoding: chunked\r\n")
		if len(req.Trailer) > 0 {
			keys := make([]string, 0, len(req.Trailer))
			for k := range req.Trailer {
				keys = append(keys, k)
			}
			writeField(w, "Trailer", strings.Join(keys, ", "))
		}
	case hasBody || req.Header["Content-Length"] != nil:
		w.WriteString("Content-Length: ")
		w.Write(strconv.AppendInt(w.AvailableBuffer(), max(req.ContentLength, 0), 10))
		w.WriteString("\r\n")
	}
	w.WriteString("\r\n")
}

func writeField(w *bufio.Writer, k, v string) {
	w.WriteString(k)
	w.WriteString(": ")
	w.WriteString(v)
	w.WriteString("\r\n")
}

// target is the request target as the client wrote it, in origin form (RFC 9112, 3.2): a proxy that
// parses and prints it again changes /a|b%2Fc, //x|y and a lone "?".
func target(req *http.Request) string {
	uri := req.RequestURI
	if uri == "" {
		return req.URL.RequestURI()
	}
	if uri[0] == '/' || uri == "*" {
		return uri
	}
	_, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return uri
	}
	switch i := strings.IndexAny(rest, "/?"); {
	case i < 0 && req.Method == "OPTIONS":
		return "*"
	case i < 0:
		return "/"
	case rest[i] == '?':
		return "/" + rest[i:]
	default:
		return rest[i:]
	}
}
