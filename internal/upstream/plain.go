package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"syscall"
	"time"

	"longshore/internal/sock"
)

// sweepTime is how often an exchange that takes long looks after its client and its time limit. Read deadlines
// are moved no more than twice in that time, whatever the number of requests.
const sweepTime = time.Second

var errDead = errors.New("the connection was closed while idle")

// A plainExchange is what a Conn needs for an exchange whose bytes the caller makes and reads.
type plainExchange struct {
	step   func(fd uintptr) bool // read, as a func; nil until it is first used
	head   []byte                // to be sent before anything is read, with body
	body   []byte
	toSend bool
	in     func() []byte // where to read to; asked when there is something to read
	since  time.Time     // when the request was sent
	n      int           // bytes read
	err    error         // of step, errDead too
	late   chan struct{}
	ahead  []byte // of the response, for who reads it through a buffer
}

// Begin sends the bytes of a request over one connection, and waits for the first bytes of the response, which it
// reads into what in returns. The caller reads on with [Conn.Read]. head and body are not looked at after it returns.
//
// Begin is Send for a caller that reads and writes messages itself: errors are the same. left is asked
// now and then whether the client has left, if it takes long: then the Error has the Phase Client. now is the
// present time.
func (p *Pool) Begin(now time.Time, a Attempt, head, body []byte, in func() []byte, left func() bool) (c *Conn, n int, err error) {
	if a.Under == nil {
		a.Under = context.Background()
	}
	for {
		if c = p.takeIdle(now, a); c == nil {
			if c, err = p.dial(a.Under, a); err != nil {
				return nil, 0, &Error{Phase: Dial, Unsent: true, Err: err}
			}
			if c.raw == nil {
				p.discard(c)
				return nil, 0, &Error{Phase: Dial, Unsent: true, Err: errors.New("not a socket")}
			}
		}
		if a.Under.Err() != nil { // Abandon may not have seen this connection
			c.Drop()
			return nil, 0, &Error{Phase: Dial, Unsent: true, Err: context.Cause(a.Under)}
		}
		n, err = c.begin(now, head, body, in, left)
		if err == nil {
			return c, n, nil
		}
		reused := c.reused
		c.Drop()
		if err != errDead {
			err.(*Error).Reused = reused
			return nil, 0, err
		}
	}
}

func (c *Conn) begin(now time.Time, head, body []byte, in func() []byte, left func() bool) (int, error) {
	x := &c.plain
	if x.step == nil {
		x.step = c.step
	}
	c.written = 0
	x.head, x.body, x.in, x.toSend, x.err, x.since = head, body, in, true, nil, now
	err := c.await(now, now, x.step, left)
	if sent := int(c.written); err == nil && x.err == syscall.EAGAIN { // the rest does not fit into the socket's buffer
		c.sendLate(slices.Concat(head, body)[sent:])
		x.err = nil
		err = c.await(now, now, x.step, left)
	}
	x.head, x.body, x.in = nil, nil, nil
	if err == nil {
		err = x.err
	}
	switch {
	case err == errDead:
		return 0, err
	case errors.Is(err, errClientLeft):
		return 0, &Error{Phase: Client, Err: err}
	case err != nil && c.written == 0:
		return 0, &Error{Phase: Send, Unsent: true, Err: c.why(err)}
	case err != nil:
		return 0, &Error{Phase: Send, Err: c.why(ended(err))}
	}
	c.answered.Store(true)
	return x.n, nil
}

// ended words the end of a stream.
func ended(err error) error {
	if err == io.EOF {
		return errors.New("connection closed")
	}
	return err
}

// step is called when the connection is to be used, and then whenever there may be something to read. When it
// is to send, it does so before the first wait and reads after that: an answer cannot be there before.
func (c *Conn) step(fd uintptr) bool {
	x := &c.plain
	if x.toSend {
		x.toSend = false
		if c.reused && sock.Look(fd) != sock.Quiet {
			x.err = errDead
			return true
		}
		n, err := sock.Write(fd, x.head, x.body)
		c.written = int64(n)
		if err == nil && n < len(x.head)+len(x.body) {
			err = syscall.EAGAIN
		}
		x.err = err
		return err != nil
	}
	x.n, x.err = sock.Read(fd, x.in())
	return x.err != syscall.EAGAIN
}

// sendLate sends what did not fit at once. A server may answer before it reads that.
func (c *Conn) sendLate(rest []byte) {
	c.written = max(c.written, 1) // nobody knows
	timeout := c.pool.opts.Load().ReadTimeout
	late := make(chan struct{})
	c.plain.late = late
	go func() {
		if timeout > 0 {
			c.nc.SetWriteDeadline(time.Now().Add(timeout))
		}
		if _, err := c.nc.Write(rest); err == nil {
			c.nc.SetWriteDeadline(time.Time{})
			close(late)
		}
	}()
}

// Broken is the Error of an attempt whose response has begun, and ended with err of [Conn.Read].
func Broken(err error) *Error {
	if err == errClientLeft {
		return &Error{Phase: Client, Err: err}
	}
	return &Error{Phase: Answer, Err: ended(err)}
}

var errClientLeft = errors.New("the client has left")

// Await calls f at once, and then whenever there may be something to read, until it reports true. It ends with
// an error when that takes longer than the pool's ReadTimeout, the client has left, or the connection is closed.
func (c *Conn) Await(f func(fd uintptr) bool, left func() bool) error {
	now := time.Now()
	return c.await(now, now, f, left)
}

// await is Await for what began before now.
func (c *Conn) await(since, now time.Time, f func(fd uintptr) bool, left func() bool) error {
	limit := c.pool.opts.Load().ReadTimeout
	period := sweepTime
	if limit > 0 {
		period = min(period, limit)
	}
	next := period
	if limit > 0 {
		if next = min(next, limit-now.Sub(since)); next <= 0 {
			return os.ErrDeadlineExceeded
		}
	}
	if ahead := c.deadline.Sub(now); ahead < next/2 || ahead > next {
		c.deadline = now.Add(next)
		c.nc.SetReadDeadline(c.deadline)
	}
	for {
		err := c.raw.Read(f)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if left() {
			return errClientLeft
		}
		now, next = time.Now(), period
		if limit > 0 {
			if next = min(next, limit-now.Sub(since)); next <= 0 {
				return os.ErrDeadlineExceeded
			}
		}
		c.deadline = now.Add(next)
		c.nc.SetReadDeadline(c.deadline)
	}
}

// Read reads what there is of the response, or waits for that as Await does. Its errors are not *Error.
func (c *Conn) Read(in func() []byte, left func() bool) (int, error) {
	return c.read(time.Now(), in, left)
}

// ReadHead is Read for more of the response's head. That must be whole within the pool's ReadTimeout after the
// request.
func (c *Conn) ReadHead(in func() []byte, left func() bool) (int, error) {
	return c.read(c.plain.since, in, left)
}

func (c *Conn) read(since time.Time, in func() []byte, left func() bool) (int, error) {
	x := &c.plain
	x.in = in
	err := c.await(since, time.Now(), x.step, left)
	x.in = nil
	if err == nil {
		err = x.err
	}
	if err != nil {
		return 0, c.why(err)
	}
	return x.n, nil
}

// Keep gives the connection back after the last byte of the response.
func (c *Conn) Keep(now time.Time) {
	if late := c.plain.late; late != nil {
		c.plain.late = nil
		select {
		case <-late:
		default: // it was answered before it was all sent
			c.pool.discard(c)
			return
		}
	}
	c.pool.put(c, now)
}

// Drop closes the connection.
func (c *Conn) Drop() { c.pool.discard(c) }

// Free has the exchange go on whatever becomes of the Attempt's Under.
func (c *Conn) Free() {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	c.under = nil
}

// Adopt goes on with an exchange that Begin has begun, as Send would: got is what has come of the response, and
// req the request that was sent.
func (c *Conn) Adopt(req *http.Request, got []byte) (*http.Response, error) {
	c.buffered()
	c.plain.ahead = got
	x := exchange{c: c, req: req, opts: c.pool.opts.Load(), stop: c.watch(req.Context())}
	if late := c.plain.late; late != nil {
		c.plain.late = nil
		select {
		case <-late:
		default:
			x.up = new(upload) // not whole
		}
	}
	c.expectBy(c.plain.since, x.opts.ReadTimeout)
	return x.await(nil)
}
