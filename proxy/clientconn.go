package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"longshore/internal/sock"
)

// A listener wraps the clients it accepts, because net/http hides two things of a request's head.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &clientConn{Conn: c, stream: sock.NewStream(c)}, nil
}

// A clientConn is a client's connection. It drops empty lines before a request (RFC 9112, 2.2), which
// net/http takes for a malformed one, and notices what net/http removes from a head: the Content-Length
// of a request that is also chunked, and the Transfer-Encoding of one of HTTP/1.0.
//
// One that the fast lane has left to the general path goes back when it waits for its next request: to the
// server that looks like its end.
type clientConn struct {
	net.Conn
	stream *sock.Stream // of Conn; nil: it has none
	active bool         // in the middle of a request; the server's goroutine for this connection owns it

	fast    *fastConn             // what it was before, and will be; nil: it stays here
	ahead   []byte                // was read before, and is to be read first
	pending atomic.Pointer[plain] // the request that comes first has been sent, and its response is to be read; nil: it has not
	back    atomic.Bool           // it has gone back

	// To know that the server has nothing left in its buffer, one must know how much belongs to the request.
	total, head int64        // bytes read since the request began, and of its head; -1: not known
	whole       atomic.Int64 // of the request; zero: not known
	newlines    int          // at the end of what was read of the head

	// When a Read begins a request: the first does, and one while the server waits for the next. It does
	// not wait if its buffer holds some of that already: there an empty line may be the end of a head.
	begun bool         // something was read
	wait  atomic.Int32 // waitNot, or how far the server is on its way to wait for the next request
	// The server also reads a byte ahead while it handles a request without a body.
	alone  bool        // the request's head came in one piece, and nothing with it
	noBody atomic.Bool // the request under way has none

	sawLength atomic.Bool // this request, or one before or behind it in a pipeline, has a Content-Length
	sawCoding atomic.Bool // the same of Transfer-Encoding
	name      string      // what the current line may begin with
	matched   int         // how much of name it has matched; -1: it is another line
}

const (
	waitNot  = iota
	waitSoon // the connection is idle; the server sets a deadline, then waits, then sets another one
	waitNow
)

// SetReadDeadline follows the server into its wait and out of it.
func (c *clientConn) SetReadDeadline(t time.Time) error {
	switch c.wait.Load() {
	case waitSoon:
		c.wait.Store(waitNow)
	case waitNow:
		c.wait.Store(waitNot)
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *clientConn) Read(p []byte) (int, error) {
	begins := !c.begun || c.wait.Load() == waitNow
	if begins && c.fast != nil && c.begun {
		if c.head > 0 && c.total == c.whole.Load() {
			c.back.Store(true)
			return 0, io.EOF
		}
		c.head = -1 // this request does not begin here, or may not
	}
	if len(p) == 1 && c.head > 0 && (c.total == c.head || c.total == c.whole.Load()) {
		return 0, c.watch()
	}
	for {
		n, err := c.read(p)
		if n > 0 && (begins || c.alone && c.noBody.Load()) {
			rest := bytes.TrimLeft(p[:n], "\r\n")
			if len(rest) == 0 && err == nil {
				continue
			}
			n = copy(p, rest)
		}
		if n > 0 {
			c.begun = true
			c.alone = begins && bytes.Index(p[:n], []byte("\n\r\n")) == n-3 && !bytes.Contains(p[:n], []byte("\n\n"))
		}
		if n > 0 && begins {
			c.wait.Store(waitNot)
			c.sawLength.Store(false)
			c.sawCoding.Store(false)
			c.matched = 0
		}
		if !c.sawLength.Load() || !c.sawCoding.Load() {
			c.look(p[:n])
		}
		if c.fast != nil {
			c.measure(p[:n])
		}
		return n, err
	}
}

func (c *clientConn) read(p []byte) (int, error) {
	switch {
	case len(c.ahead) > 0:
		n := copy(p, c.ahead)
		c.ahead = c.ahead[n:]
		return n, nil
	case c.stream != nil:
		return c.stream.Read(p)
	}
	return c.Conn.Read(p)
}

func (c *clientConn) Write(p []byte) (int, error) {
	if c.stream != nil {
		return c.stream.Write(p)
	}
	return c.Conn.Write(p)
}

// watch waits until the client has left, or the read deadline. It is what becomes of the server's reading ahead
// while it handles a request, which is one byte's: that byte would be in its buffer when the connection is to go
// back.
func (c *clientConn) watch() error {
	left := false
	err := c.fast.raw.Read(func(fd uintptr) bool {
		left = sock.Look(fd) == sock.Closed
		return left
	})
	if left {
		return io.EOF
	}
	return err
}

// begins notes how long the request is that is handled now; body -1: not known.
func (c *clientConn) begins(body int64) {
	c.noBody.Store(body == 0)
	if c.head > 0 && body >= 0 {
		c.whole.Store(c.head + body)
	}
}

// measure notes where the head of a request ends.
func (c *clientConn) measure(p []byte) {
	for i := 0; i < len(p) && c.head == 0; i++ {
		switch p[i] {
		case '\n':
			if c.newlines++; c.newlines == 2 {
				c.head = c.total + int64(i) + 1
			}
		case '\r':
		default:
			c.newlines = 0
		}
	}
	c.total += int64(len(p))
}

// Close closes the connection, unless it has gone back.
func (c *clientConn) Close() error {
	if x := c.pending.Swap(nil); x != nil {
		x.giveUp()
	}
	if c.back.Load() {
		return nil
	}
	return c.Conn.Close()
}

// look searches lines for those that begin with one of the two names, however reads divide them.
func (c *clientConn) look(p []byte) {
	for len(p) > 0 {
		if c.matched < 0 {
			i := bytes.IndexByte(p, '\n')
			if i < 0 {
				return
			}
			c.matched, p = 0, p[i+1:]
			continue
		}
		b := p[0] | 0x20 // lower case, and no other letter or "-" becomes one of ours
		if c.matched == 0 {
			c.name = "content-length"
			if b == 't' {
				c.name = "transfer-encoding"
			}
		}
		switch {
		case p[0] == '\n':
			c.matched = 0
		case b != c.name[c.matched]:
			c.matched = -1
		default:
			c.matched++
		}
		p = p[1:]
		if c.matched == len(c.name) {
			c.matched = -1
			if b == 'h' {
				c.sawLength.Store(true)
			} else {
				c.sawCoding.Store(true)
			}
		}
	}
}

// CloseWrite ends our direction of an upgraded connection.
func (c *clientConn) CloseWrite() error {
	if tc, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return tc.CloseWrite()
	}
	return nil
}

type connKey struct{}

// withConn makes the connection known to its requests.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// mixesFramings reports whether a request may have had both Content-Length and Transfer-Encoding, or
// the latter in HTTP/1.0, which has none: the connection must be closed after the answer (RFC 9112, 6.1),
// since somebody in front may have believed the other one. A false alarm, because of a body or a
// pipeline, costs the client a new connection and nothing else.
func mixesFramings(r *http.Request) bool {
	c, ok := r.Context().Value(connKey{}).(*clientConn)
	if !ok {
		return false
	}
	if len(r.TransferEncoding) > 0 {
		return c.sawLength.Load()
	}
	return !r.ProtoAtLeast(1, 1) && c.sawCoding.Load()
}

// pendingOf takes the request from the fast lane, if that has sent it already.
func pendingOf(r *http.Request) *plain {
	c, ok := r.Context().Value(connKey{}).(*clientConn)
	if !ok {
		return nil
	}
	return c.pending.Swap(nil)
}
