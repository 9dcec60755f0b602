package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"longshore/internal/http1"
	"longshore/internal/sock"
)

// maxHead bounds the bytes of a response's header section, interim responses included.
const maxHead = 1 << 20

var errHeadTooLarge = errors.New("response header too large")

// A Conn is one connection to a backend. It is held by one exchange at a time, whose goroutine owns
// the fields without another remark. The holder ends with either put or discard; outside of this package,
// with [Conn.Keep] or [Conn.Drop].
type Conn struct {
	pool *Pool
	nc   net.Conn

	// What an exchange needs that is read and written through buffers; nil until there is one.
	stream io.ReadWriter
	br     *bufio.Reader
	bw     *bufio.Writer

	body   *Body // of the response being read; nil: none
	reused bool  // has carried an exchange before this one

	written   int64      // bytes handed to the kernel for this exchange; the uploader's once there is one
	headLeft  int64      // bytes of the response header that may still come; negative: no limit
	headErr   error      // why it could not be read further, which a parser takes for its end
	head      http1.Head // of the response that is being read
	since     time.Time  // when it was made
	idleSince time.Time  // guarded by the pool's mu while idle

	// The read deadline that the kernel knows. It is moved only when less than the timeout is left, so
	// that most requests do not touch a timer; a timeout comes up to an eighth late, never early.
	deadline time.Time

	movable  func() bool           // of the Attempt; guarded by the pool's mu
	under    context.Context       // of the Attempt; guarded so too
	slot     int                   // where it is in the pool's busy; guarded so too
	answered atomic.Bool           // the response has begun: going down leaves it a grace; false while idle
	cause    atomic.Pointer[error] // why abort closed it

	raw   syscall.RawConn
	peek  func(fd uintptr) // asks the kernel, without waiting, what an idle connection would read
	quiet bool             // peek's answer: nothing to read, so not closed by the other side
	plain plainExchange
}

func newConn(p *Pool, nc net.Conn) *Conn {
	c := &Conn{pool: p, nc: nc}
	if tc, ok := nc.(*net.TCPConn); ok {
		c.raw, _ = tc.SyscallConn()
	}
	c.peek = func(fd uintptr) { c.quiet = sock.Look(fd) == sock.Quiet }
	return c
}

// buffered prepares the connection for an exchange that is read and written through buffers.
func (c *Conn) buffered() {
	if c.br == nil {
		c.stream = c.nc
		if s := sock.NewStream(c.nc); s != nil {
			c.stream = s
		}
		c.br = bufio.NewReader(readSide{c})
		c.bw = bufio.NewWriter(writeSide{c})
	}
}

// alive reports whether an idle connection is still open as far as the kernel knows. Data that comes
// unasked also means that it cannot be used.
func (c *Conn) alive() bool {
	if c.raw == nil {
		return true
	}
	c.quiet = false
	err := c.raw.Control(c.peek)
	return err == nil && c.quiet
}

// abort closes the connection under its holder, who will find the cause. Any goroutine may call it.
func (c *Conn) abort(cause error) {
	c.cause.CompareAndSwap(nil, &cause)
	c.nc.Close()
}

// why returns the cause of abort if there was one, else err.
func (c *Conn) why(err error) error {
	if cause := c.cause.Load(); cause != nil {
		return *cause
	}
	return err
}

// expectBy moves the read deadline. Zero timeout: none.
func (c *Conn) expectBy(now time.Time, timeout time.Duration) {
	switch {
	case timeout <= 0: // always, since the uploader may have set one that is not known here
		c.deadline = time.Time{}
		c.nc.SetReadDeadline(c.deadline)
	case timeout > 0 && (c.deadline.Sub(now) < timeout || c.deadline.Sub(now) > 2*timeout):
		c.deadline = now.Add(timeout + timeout/8)
		c.nc.SetReadDeadline(c.deadline)
	}
}

// readSide counts a response header against its limit, follows it, and tells a body before a read may
// have to wait: only here is it known, since what parses a body may hold some of it back.
type readSide struct{ c *Conn }

func (r readSide) Read(p []byte) (int, error) {
	c := r.c
	if c.body != nil {
		c.body.wait()
	}
	if c.headLeft == 0 {
		return 0, errHeadTooLarge
	}
	if c.headLeft > 0 && int64(len(p)) > c.headLeft {
		p = p[:c.headLeft]
	}
	var n int
	var err error
	if len(c.plain.ahead) > 0 {
		n = copy(p, c.plain.ahead)
		c.plain.ahead = c.plain.ahead[n:]
	} else {
		n, err = c.stream.Read(p)
	}
	if c.headLeft > 0 {
		c.headLeft -= int64(n)
		c.head.Next(p[:n])
		c.headErr = err
	}
	return n, err
}

// writeSide counts what was handed to the kernel: an exchange that wrote nothing was not sent.
type writeSide struct{ c *Conn }

func (w writeSide) Write(p []byte) (int, error) {
	n, err := w.c.stream.Write(p)
	w.c.written += int64(n)
	return n, err
}

// An Upgraded is the body of a 101 response: the connection itself, in both directions.
type Upgraded struct {
	c    *Conn
	stop func() bool
}

// Detach has the connection outlive its request, and gives up what was needed for that. It returns what the backend has
// sent behind its head. If the request has ended already, so has the connection. Who has it closes the Upgraded.
func (u *Upgraded) Detach() (conn io.ReadWriter, come []byte) {
	c := u.c
	u.stop()
	c.pool.mu.Lock()
	c.movable, c.under = nil, nil
	c.pool.mu.Unlock()
	come, _ = c.br.Peek(c.br.Buffered())
	come = append([]byte(nil), append(come, c.plain.ahead...)...)
	c.br, c.bw, c.plain = nil, nil, plainExchange{}
	return c.nc, come
}

func (u *Upgraded) Read(p []byte) (int, error) { return u.c.br.Read(p) }

// Close ends the connection. Any goroutine may call it, more than once.
func (u *Upgraded) Close() error {
	u.stop()
	u.c.pool.discard(u.c)
	return nil
}

// watch aborts the connection when ctx is done. The returned func ends that; it reports false when
// the abort has begun.
func (c *Conn) watch(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.abort(context.Cause(ctx)) })
}
