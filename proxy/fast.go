package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"longshore/internal/http1"
	"longshore/internal/sock"
)

// A connection that waits for its next request is looked after when it has been quiet for lookTime. After
// restTime it goes to the lounge.
const (
	lookTime = 250 * time.Millisecond
	restTime = 2 * time.Second
	forever  = 100 * 365 * 24 * time.Hour
)

// pieceTime is how long the fast lane waits with a buffer for the rest of a request that has begun. After that it keeps
// what there is of a head, and no more; one with a body is the general path's, which sends that on as it comes.
const pieceTime = 200 * time.Millisecond

// A fastLane serves connections as long as their requests are plain: see [http1.Request]. Any other is left to
// the general path, with its connection and before any of it has gone to a backend; that gives the
// connection back when it waits for the next request.
//
// Each connection has a goroutine, which lives in the callback of a RawConn's Read: it is called when there is
// something to read, and while it waits to be called it holds no buffer. The runtime notes that more has
// come also while the callback runs, so that nothing is read before it is there. One that has been quiet for a
// while has no goroutine either, see [lounge].
type fastLane struct {
	server  *Server
	general chan net.Conn // *clientConn, for the general path to accept
	ended   chan struct{} // closed when the general path accepts no more
	addr    net.Addr

	restTime time.Duration
	stopping atomic.Bool        // connections end with their response
	life     context.Context    // what is under way ends with it, whatever it waits for
	end      context.CancelFunc // of life

	mu     sync.Mutex // guards the following
	conns  map[*fastConn]struct{}
	empty  chan struct{} // closed when conns is; nil: nobody waits for that
	lounge *lounge       // nil: there is none
}

func newFastLane(s *Server, addr net.Addr) *fastLane {
	l := &fastLane{server: s, addr: addr, restTime: cmp.Or(s.restTime, restTime), general: make(chan net.Conn), ended: make(chan struct{}), conns: make(map[*fastConn]struct{})}
	l.life, l.end = context.WithCancel(context.Background())
	return l
}

// accept serves the connections of ln until that is closed.
func (l *fastLane) accept(ln net.Listener) error {
	var pause time.Duration
	for {
		nc, err := ln.Accept()
		if isPassing(err) {
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
			continue
		} else if err != nil {
			return err
		}
		pause = 0
		c := &fastConn{client: nc.(*client), lane: l, nc: nc, peer: peerIP(nc.RemoteAddr().String())}
		c.fast = c
		if c.raw, err = c.SyscallConn(); err != nil {
			c.stays = true
			c.handOver(nil)
			continue
		}
		c.rules = http1.Rules{Trusted: l.server.trusts(c.peer), Underscores: l.server.Underscores}
		c.ready = c.serve
		l.enter(c, connNew, nil)
	}
}

// isPassing reports whether accepting may do better in a moment: see accept(2).
func isPassing(err error) bool {
	for _, e := range [...]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// enter serves a connection that is new, or idle after the general path has served it and has read ahead.
func (l *fastLane) enter(c *fastConn, state int32, ahead []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopping.Load() && state == connIdle || l.life.Err() != nil {
		c.nc.Close()
		return
	}
	if len(ahead) > 0 {
		c.take().begin(ahead)
	}
	l.conns[c] = struct{}{}
	c.state.Store(state)
	go c.run()
}

func (l *fastLane) leave(c *fastConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaveLocked(c)
}

func (l *fastLane) leaveLocked(c *fastConn) {
	delete(l.conns, c)
	if l.empty != nil && len(l.conns) == 0 {
		close(l.empty)
		l.empty = nil
	}
}

// drain closes what waits for its next request, and with all also what has not sent its first one whole. What is
// busy ends with its response. It returns how many those are.
func (l *fastLane) drain(all bool) (busy int) {
	l.stopping.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if c.state.CompareAndSwap(connIdle, connClosed) || all && c.state.CompareAndSwap(connNew, connClosed) {
			l.closeLocked(c)
		} else if c.state.Load() == connBusy {
			busy++
		}
	}
	return busy
}

// close ends everything, and returns when that is counted and told. All hear of it before it waits for any:
// those that wait for their client, for a backend's answer, for a connection to it, or for a backend.
func (l *fastLane) close() {
	l.stopping.Store(true)
	empty := make(chan struct{})
	l.mu.Lock()
	for c := range l.conns {
		c.state.Store(connClosed)
		l.closeLocked(c)
	}
	if l.lounge != nil && !l.lounge.closed {
		l.lounge.closed = true
		l.lounge.set.SetDeadline(time.Now())
	}
	if len(l.conns) == 0 {
		close(empty)
	} else {
		l.empty = empty
	}
	l.mu.Unlock()
	l.end()
	l.server.Router.abandon()
	select {
	case <-empty:
	case <-time.After(answerTime): // the process is about to end, whatever this one does
	}
}

// busy is how many connections are in the middle of a request.
func (l *fastLane) busy() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if c.state.Load() == connBusy {
			n++
		}
	}
	return n
}

// open is how many connections there are.
func (l *fastLane) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// A generalListener accepts what the fast lane leaves to the general path.
type generalListener struct{ *fastLane }

func (l generalListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.general:
		return c, nil
	case <-l.ended:
		return nil, net.ErrClosed
	}
}

func (l generalListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.ended:
	default:
		close(l.ended)
	}
	return nil
}

func (l generalListener) Addr() net.Addr { return l.addr }

// An outcome is what becomes of a connection after its callback.
type outcome uint8

const (
	goOn    outcome = iota
	hangUp          // close it
	general         // leave it to the general path
)

// A fastConn is a client's connection on the fast lane. Its goroutine owns it, but for the state.
type fastConn struct {
	*client
	lane     *fastLane
	nc       net.Conn
	raw      syscall.RawConn
	ready    func(fd uintptr) bool // serve, as a func
	peer     string                // its IP address
	fd       uintptr               // good while in ready
	end      outcome               // why ready has returned true
	rules    http1.Rules
	stays    bool      // once it is left to the general path
	pieces   bool      // some of a request has come, and the deadline is for the rest
	held     []byte    // that, while it waits without a buffer; nil: it does not
	headBy   time.Time // when the head of that must be whole
	rests    bool      // it is in the lane's lounge, and has no goroutine; guarded by the lane's mu
	deadline time.Time // of reads, as the runtime knows it
	x        *plain    // the request that has begun to come; nil: none
}

func (c *fastConn) run() {
	defer func() {
		if p := recover(); p != nil {
			c.lane.server.Log.Error("fast lane: a connection is closed", "panic", p, "stack", string(debug.Stack()))
			c.lane.leave(c)
			c.nc.Close()
			c.unhold()
			if c.x != nil {
				c.x.shrink()
			}
		}
	}()
	now := time.Now()
	if c.held == nil {
		c.touch(now)
		c.expect(now)
	} else {
		c.deadline = now.Add(pieceTime)
		c.nc.SetReadDeadline(c.deadline)
	}
	for {
		err := c.raw.Read(c.ready)
		late := errors.Is(err, os.ErrDeadlineExceeded)
		if late && c.pieces && c.hold() {
			if c.overdue(time.Now()) {
				c.late()
			} else if c.lane.rest(c) {
				return
			} else {
				c.deadline = c.headBy
				c.nc.SetReadDeadline(c.deadline)
				continue
			}
		}
		if late && !c.pieces {
			// Since requests keep the deadline away, it has been quiet. It is read from again, since an end that
			// came together with the last request has gone unnoticed.
			now := time.Now()
			quiet, patience := c.quiet(now), c.patience()
			if quiet < patience {
				rest := c.lane.restTime
				if quiet >= rest && c.lane.rest(c) {
					return
				}
				if quiet >= rest || rest > patience {
					rest = patience
				}
				c.deadline = now.Add(rest - quiet)
				c.nc.SetReadDeadline(c.deadline)
				continue
			}
		}
		c.lane.leave(c)
		x := c.x
		c.x = nil
		if err == nil && c.end == general || late && x != nil && x.lacksBody {
			c.handOver(x)
			return
		}
		c.nc.Close()
		c.unhold()
		if x != nil {
			x.release()
		}
		return
	}
}

// patience is how long it may wait for its next request. net/http has another limit for the first one.
func (c *fastConn) patience() time.Duration {
	limit := c.lane.server.IdleTimeout
	if c.state.Load() == connNew {
		limit = c.lane.server.HeaderTimeout
	}
	if limit <= 0 {
		return forever
	}
	return limit
}

// overdue reports whether it has waited for too long, while it has no request under way.
func (c *fastConn) overdue(now time.Time) bool {
	if c.held != nil {
		return !now.Before(c.headBy)
	}
	return c.quiet(now) >= c.patience()
}

// hold keeps what has come of a head, and nothing else. It reports false if that is not to be waited for.
func (c *fastConn) hold() bool {
	if x := c.x; x != nil {
		if x.lacksBody {
			return false
		}
		c.held = bytes.Clone(x.in[:x.filled])
		c.lane.server.buffered.force(c.heldBeyond()) // no more than x gives back
		c.drop()
	}
	return c.held != nil
}

// heldBeyond is how much of held counts in the server's budget, as with the buffer of a plain.
func (c *fastConn) heldBeyond() int {
	if len(c.held) <= smallBuffer {
		return 0
	}
	return len(c.held)
}

// unhold ends that, and returns what was held.
func (c *fastConn) unhold() []byte {
	held := c.held
	c.lane.server.buffered.give(c.heldBeyond())
	c.held = nil
	return held
}

// expect moves the read deadline to when it is to be looked after if it is quiet until then, give or take the
// half: most requests do not touch a timer.
func (c *fastConn) expect(now time.Time) {
	look := min(lookTime, c.patience())
	if left := c.deadline.Sub(now); left < look/2 || left > look {
		c.deadline = now.Add(look)
		c.nc.SetReadDeadline(c.deadline)
	}
}

// serve reads and serves requests as long as there are any. It reports false to be called again when there is
// more to read.
func (c *fastConn) serve(fd uintptr) bool {
	c.fd = fd
	if c.x != nil && !c.pieces && c.answer() { // the general path has read ahead
		return true
	}
	for {
		room := c.take().room()
		if room == nil {
			c.end = general
			return true
		}
		n, err := sock.Read(fd, room)
		switch {
		case err == syscall.EAGAIN:
			if c.x.filled == 0 {
				c.drop()
			}
			return false
		case err != nil:
			c.brokenOff()
			c.drop()
			c.end = hangUp
			return true
		}
		c.x.filled += n
		if c.answer() {
			return true
		}
		if n < len(room) { // there was no more
			return false
		}
	}
}

// take returns the request that has begun to come, or may begin.
func (c *fastConn) take() *plain {
	if c.x == nil {
		c.x = plains.Get().(*plain)
		c.x.conn = c
		if c.held != nil {
			c.x.begin(c.unhold())
		}
	}
	return c.x
}

// drop ends the use of that.
func (c *fastConn) drop() {
	c.x.release()
	c.x = nil
}

// answer serves the requests that are there whole. It reports whether the connection's time on the lane is over.
func (c *fastConn) answer() bool {
	x := c.x
	for c.end = goOn; x.filled > 0 && c.end == goOn; {
		if whole, ok := x.parse(); !ok {
			c.end = general
		} else if !whole {
			c.awaitRest()
			return false
		} else {
			c.pieces = false
			c.end = x.serve()
		}
	}
	if c.end != general {
		c.drop()
	}
	return c.end != goOn
}

// awaitRest limits the time for the rest of a request.
func (c *fastConn) awaitRest() {
	if !c.pieces {
		c.pieces = true
		now := time.Now()
		c.touch(now)
		c.headBy = now.Add(forever)
		if limit := c.lane.server.HeaderTimeout; limit > 0 {
			c.headBy = now.Add(limit)
		}
		c.deadline = now.Add(pieceTime)
		c.nc.SetReadDeadline(c.deadline)
	}
}

// begin takes the connection for a request. It reports false if it was closed meanwhile.
func (c *fastConn) begin() bool {
	return c.state.CompareAndSwap(connIdle, connBusy) || c.state.CompareAndSwap(connNew, connBusy)
}

// done makes it idle after a request. It reports false if it was closed meanwhile, or is to be.
func (c *fastConn) done() bool {
	return c.state.CompareAndSwap(connBusy, connIdle) && !c.lane.stopping.Load()
}

// left reports whether the client has left.
func (c *fastConn) left() bool { return c.state.Load() == connClosed || sock.Ended(c.fd) }

// write writes two pieces to the client, or keeps up to keep bytes of them if the client is slow. It reports whether it
// had to wait.
func (c *fastConn) write(a, b []byte, keep int) (waited bool, err error) {
	n := 0
	if !c.isSlow() {
		n, err = sock.Write(c.fd, a, b)
	}
	switch {
	case err != nil && err != syscall.EAGAIN:
		return false, err
	case n == len(a)+len(b):
		return false, nil
	}
	out := c.outbox()
	if !out.isSlow() {
		out.open(keep, c.of.sendTimeout)
	}
	if n < len(a) {
		if _, err := out.Write(a[n:]); err != nil {
			return true, err
		}
		n = len(a)
	}
	_, err = out.Write(b[n-len(a):])
	return true, err
}

// isSlow reports whether something is kept for the client.
func (c *fastConn) isSlow() bool { return c.out != nil && c.out.isSlow() }

// handOver leaves the connection to the general path, with what was read of it: x, which may have a request
// under way; nil: nothing.
func (c *fastConn) handOver(x *plain) {
	c.lane.server.handed.Add(1)
	cc := &clientConn{Conn: c.nc, server: c.lane.server, stream: sock.NewStream(c.nc)}
	c.pieces, c.deadline = false, time.Time{}
	c.nc.SetReadDeadline(c.deadline)
	if !c.stays {
		cc.fast = c
	}
	if x != nil {
		if x.begun != nil {
			cc.ahead = bytes.Clone(x.in[:x.filled])
			cc.pending.Store(x)
		} else {
			cc.ahead, cc.owed = x.takeRead()
			x.release()
		}
	}
	select {
	case c.lane.general <- cc:
	case <-c.lane.ended:
		cc.Close()
	}
}
