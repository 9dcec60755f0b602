package proxy

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"sync/atomic"
)

// A listener wraps the connections it accepts, because net/http hides two things of a request's head.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	cc := &clientConn{Conn: c}
	cc.betweenRequests.Store(true)
	return cc, nil
}

// A clientConn is a client's connection. It drops empty lines before a request (RFC 9112, 2.2), which
// net/http takes for a malformed one, and notices a Content-Length, which net/http removes from a
// request that is also chunked.
type clientConn struct {
	net.Conn
	active bool // in the middle of a request; the server's goroutine for this connection owns it

	betweenRequests atomic.Bool // nothing of the next request has been read yet
	sawLength       atomic.Bool // some request on this connection had a Content-Length; stays
	line            int         // how much of contentLength the current line has matched; -1: it is another line
}

var contentLength = []byte("content-length")

func (c *clientConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if n > 0 && c.betweenRequests.Load() {
			rest := bytes.TrimLeft(p[:n], "\r\n")
			if len(rest) == 0 && err == nil {
				continue
			}
			n = copy(p, rest)
			c.betweenRequests.Store(n == 0)
		}
		if !c.sawLength.Load() {
			c.look(p[:n])
		}
		return n, err
	}
}

// look searches lines for one that begins with Content-Length, however reads divide it.
func (c *clientConn) look(p []byte) {
	for len(p) > 0 {
		if c.line < 0 {
			i := bytes.IndexByte(p, '\n')
			if i < 0 {
				return
			}
			c.line, p = 0, p[i+1:]
			continue
		}
		b := p[0]
		p = p[1:]
		switch {
		case b == '\n':
			c.line = 0
		case b|0x20 != contentLength[c.line] && b != contentLength[c.line]:
			c.line = -1
		default:
			if c.line++; c.line == len(contentLength) {
				c.sawLength.Store(true)
				return
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

// mixesFramings reports whether a request may have had both Content-Length and Transfer-Encoding:
// the connection must be closed after the answer (RFC 9112, 6.1), since somebody in front may have
// believed the other one. A Content-Length earlier on the connection counts too, which costs such a
// client a new connection and nothing else.
func mixesFramings(r *http.Request) bool {
	if len(r.TransferEncoding) == 0 {
		return false
	}
	c, ok := r.Context().Value(connKey{}).(*clientConn)
	return ok && c.sawLength.Load()
}
