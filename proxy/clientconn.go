package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"

	"longshore/internal/http1"
	"longshore/internal/sock"
)

// A listener wraps the clients it accepts.
type listener struct {
	net.Listener
	server *Server
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &clientConn{Conn: c, stream: sock.NewStream(c), server: l.server}, nil
}

// A clientConn is a client's connection on the general path. It gives net/http's server the bytes of one request at
// a time, and keeps what is behind that in a buffer of its own: so the server's buffer is empty when the request
// has been read, and the connection with all that was read ahead can be handed on: back to the fast lane, which it
// came from, when the server waits for the next request, or to the two sides of an upgrade.
//
// It also drops empty lines before a request (RFC 9112, 2.2), which net/http takes for a malformed one, and notices
// what net/http removes from a head: the Content-Length of a request that is also chunked, and the Transfer-Encoding
// of one of HTTP/1.0.
type clientConn struct {
	net.Conn
	server *Server
	stream *sock.Stream // of Conn; nil: it has none
	active bool         // in the middle of a request; the server's goroutine for this connection owns it

	fast    *fastConn             // what it was before, and will be; nil: it stays here
	pending atomic.Pointer[plain] // the request that comes first has been sent, and its response is to be read; nil: it has not
	back    atomic.Bool           // it has gone back
	tunnel  atomic.Bool           // the connection was upgraded: there are no more requests

	accounted atomic.Bool // the request was recorded, or has a handler, which will do that

	// The rest belongs to whoever reads: the server's goroutine, or that of the handler.
	ahead  []byte // was read of the client, and the server has not had it
	owed   *loan  // for that
	at     part
	line   requestLine // of the request, until it is accounted for
	head   http1.Head
	left   int64 // bytes of the body still to come, or http1.Chunked
	chunks http1.Chunks
	came   func() // some of the body has; nil: nobody wants to know. The server may read on before it says so
	idle   bool   // the server waits for the next request
	mute   bool   // the client has its last answer
}

// A part of a request is what the server reads next.
type part uint8

const (
	atStart part = iota // empty lines may come
	inHead
	afterHead // what follows is not known yet: whatever the server reads now is not this request's
	inBody
	afterBody // the request was read
	lost      // where the request ends is not known: the server may have read ahead, and the connection ends
)

func (c *clientConn) Read(p []byte) (int, error) {
	if c.tunnel.Load() {
		if len(c.ahead) > 0 {
			n := copy(p, c.ahead)
			c.ahead = c.ahead[n:]
			return n, nil
		}
		return c.receive(p)
	}
	switch {
	case len(p) == 1 && c.at >= afterHead && c.stream != nil:
		// The server reads ahead by one byte while it handles a request, to notice that the client has left. It reads
		// all else through a buffer.
		return 0, c.stream.AwaitEnd()
	case c.mute:
		return 0, c.line.err
	case c.idle && c.at == lost:
		return 0, io.EOF
	case c.idle && c.fast != nil:
		c.back.Store(true)
		return 0, io.EOF
	case c.idle:
		c.idle, c.at = false, atStart
	case c.at == afterHead || c.at == afterBody:
		return 0, io.ErrUnexpectedEOF
	}
	for {
		got := c.ahead
		var err error
		if len(got) == 0 {
			var n int
			n, err = c.receive(p)
			got = p[:n]
			if n > 0 && c.at == inBody && c.came != nil {
				c.came()
			}
		}
		if c.at == atStart {
			if got = bytes.TrimLeft(got, "\r\n"); len(got) > 0 {
				c.at, c.head = inHead, http1.Head{}
				c.accounted.Store(false)
				c.line.begin()
			} else if err == nil {
				c.ahead = nil
				continue
			}
		}
		inLine := c.at == inHead
		own := c.follow(got[:min(len(got), len(p))])
		if inLine {
			if c.line.read(got[:own], err); errors.Is(err, os.ErrDeadlineExceeded) {
				c.late()
			}
		}
		if behind := got[own:]; len(c.ahead) == 0 {
			c.ahead = append([]byte(nil), behind...) // they are in p
		} else {
			c.ahead = behind
		}
		n := copy(p, got[:own])
		if len(c.ahead) == 0 { // so that nothing holds its memory
			c.ahead = nil
			c.owed.settle()
		}
		return n, err
	}
}

// receive reads of the client.
func (c *clientConn) receive(p []byte) (int, error) {
	if c.stream != nil {
		return c.stream.Read(p)
	}
	return c.Conn.Read(p)
}

// follow reports how many of the next bytes belong to the request.
func (c *clientConn) follow(p []byte) (n int) {
	switch c.at {
	case inHead:
		if n = c.head.Next(p); c.head.Over {
			c.at = afterHead
		}
	case inBody:
		if c.left != http1.Chunked {
			n = int(min(c.left, int64(len(p))))
			if c.left -= int64(n); c.left == 0 {
				c.at = afterBody
			}
			return n
		}
		n, done, ok := c.chunks.Follow(p)
		switch {
		case !ok: // what is wrong with it the server will say
			c.at = lost
			return len(p)
		case done:
			c.at = afterBody
		}
		return n
	default:
		n = len(p)
	}
	return n
}

// begins notes how long the body is of the request that is handled now; http1.Chunked: it is in chunks. The server
// does not read it before that.
func (c *clientConn) begins(body int64) {
	c.accounted.Store(true)
	c.came = nil
	if body != 0 && c.at == afterHead {
		c.at, c.left, c.chunks = inBody, body, http1.Chunks{}
	}
}

func (c *clientConn) Write(p []byte) (int, error) {
	if !c.accounted.Load() {
		c.refused(p)
	} else if c.mute {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// Close closes the connection, unless it has gone back.
func (c *clientConn) Close() error {
	if x := c.pending.Swap(nil); x != nil {
		x.giveUp()
	}
	c.owed.settle() // the fast lane counts anew what it gets back
	if c.back.Load() {
		return nil
	}
	return c.Conn.Close()
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

// clientOf returns the client that a request has come from.
func clientOf(r *http.Request) (*client, bool) {
	c, ok := r.Context().Value(connKey{}).(*clientConn)
	if !ok {
		return nil, false
	}
	cl, ok := c.Conn.(*client)
	return cl, ok
}

// mixesFramings reports whether it is not certain where a request ends: it has both Content-Length and
// Transfer-Encoding, or the latter in HTTP/1.0, which has none. The connection must be closed after the answer
// (RFC 9112, 6.1), since a proxy in front may have believed the other field.
func mixesFramings(r *http.Request) bool {
	c, ok := r.Context().Value(connKey{}).(*clientConn)
	return ok && (c.at == lost || c.head.Coding && (c.head.Length || !r.ProtoAtLeast(1, 1)))
}

// pendingOf takes the request from the fast lane, if that has sent it already.
func pendingOf(r *http.Request) *plain {
	c, ok := r.Context().Value(connKey{}).(*clientConn)
	if !ok {
		return nil
	}
	return c.pending.Swap(nil)
}
