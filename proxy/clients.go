package proxy

import (
	"cmp"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"longshore/internal/sock"
)

// clients are the connections that clients have open, in both lanes. It bounds how many they are: beyond limit
// those are closed that have been idle for longest, so that whoever connects is served however many others
// only sit there. One that has a request under way is never closed for another.
type clients struct {
	limit   int                  // zero: none
	perAddr int                  // most from one address; zero: no limit
	exempt  func(ip string) bool // from perAddr: proxies that are trusted bring many clients' connections
	log     *slog.Logger         //

	sendTimeout time.Duration // of the Server, as the following
	buffered    *budget

	room   chan struct{}              // a connection has ended; full: who waits for that is told already
	closed [closeCauses]atomic.Uint64 // by us, to make room

	mu     sync.Mutex           // guards the following
	open   map[*client]struct{} //
	byAddr map[netip.Addr]int   // how many of open come from where; nil: nobody wants to know
	peak   int                  // most that were open since memory was last given back
	tidies bool                 // it is about to be
	said   time.Time            // when the log was last told that the limit was reached
}

// A CloseCause is why the proxy closed a client's connection to make room for others, as metrics name it.
type CloseCause uint8

const (
	ClosedIdle   CloseCause = iota // it was idle for longest when the most clients were connected
	ClosedByAddr                   // its address had the most connections that one may have
	closeCauses
)

func (c CloseCause) String() string { return [...]string{"idle", "address"}[c] }

// CloseCauses lists all causes.
func CloseCauses() []CloseCause { return []CloseCause{ClosedIdle, ClosedByAddr} }

// A ServerView is what a Server shows to metrics.
type ServerView struct {
	Clients int                 // connections
	Closed  [closeCauses]uint64 // to make room, by CloseCause

	Buffered   int64  // bytes of BufferMemory that are in use
	Unbuffered uint64 // how often there were not enough
}

// View reads the server as it is now.
func (s *Server) View() (v ServerView) {
	v.Buffered, v.Unbuffered = s.buffered.used.Load(), s.buffered.refused.Load()
	cs := s.clients.Load()
	if cs == nil { // not yet served
		return v
	}
	v.Clients = cs.count()
	for i := range v.Closed {
		v.Closed[i] = cs.closed[i].Load()
	}
	return v
}

// What a client's connection does. Who takes it from connNew or connIdle decides what becomes of it.
const (
	connNew    = iota // waits for its first request to be whole, or for a body that no backend has yet
	connIdle          // for another one
	connBusy          // has a request under way
	connClosed        // was closed by us
)

// A client is one client's connection. Its state is changed by whoever serves it, and by clients.
type client struct {
	net.Conn
	of    *clients
	addr  netip.Addr // what counts as its address
	fast  *fastConn  // as the fast lane has it; nil: it is only for the general path
	state atomic.Int32
	since atomic.Int64 // when it was last busy, came, or began to send a request: nanoseconds since epoch
	ended atomic.Bool  // it is no longer in open
	out   *outbox      // of whoever has the request; nil: all has fitted into the socket so far
}

// epoch is where the time of clients begins.
var epoch = time.Now()

// touch notes that the client shows signs of life.
func (c *client) touch(now time.Time) { c.since.Store(int64(now.Sub(epoch))) }

// quiet is how long it has been idle.
func (c *client) quiet(now time.Time) time.Duration {
	return now.Sub(epoch) - time.Duration(c.since.Load())
}

// Close closes the connection and gives up its place.
func (c *client) Close() error {
	if c.ended.CompareAndSwap(false, true) {
		c.of.remove(c)
	}
	return c.Conn.Close()
}

// SyscallConn is for who reads and writes the socket itself.
func (c *client) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// CloseWrite ends our direction.
func (c *client) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

// dismiss closes the connection if it is idle.
func (c *client) dismiss() bool {
	if !c.state.CompareAndSwap(connIdle, connClosed) && !c.state.CompareAndSwap(connNew, connClosed) {
		return false
	}
	if c.fast == nil {
		c.Close()
		return true
	}
	l := c.fast.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeLocked(c.fast)
	return true
}

// addrKey is what counts as one address: who has one of IPv6 has a network of them.
func addrKey(ip string) netip.Addr {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.Addr{}
	}
	if a = a.Unmap().WithZone(""); a.Is6() {
		p, _ := a.Prefix(64)
		return p.Addr()
	}
	return a
}

func newClients(s *Server) *clients {
	cs := &clients{limit: s.MaxClients, perAddr: s.MaxClientsPerAddr, exempt: s.trusts, log: s.Log, sendTimeout: s.SendTimeout, buffered: &s.buffered, room: make(chan struct{}, 1), open: make(map[*client]struct{})}
	if cs.perAddr > 0 {
		cs.byAddr = make(map[netip.Addr]int)
	}
	return cs
}

// enter gives a connection that was accepted its place. It returns nil if it was turned away: its address has as
// many as it may have, and each of them is busy.
func (cs *clients) enter(nc net.Conn) *client {
	now := time.Now()
	c := &client{Conn: nc, of: cs}
	c.touch(now)
	if raw, err := c.SyscallConn(); err == nil && cs.sendTimeout > 0 {
		raw.Control(func(fd uintptr) { sock.SetUserTimeout(fd, cs.sendTimeout) }) // for a client that is gone without a word
	}
	if cs.byAddr != nil {
		if ip := peerIP(nc.RemoteAddr().String()); !cs.exempt(ip) {
			c.addr = addrKey(ip)
		}
	}
	cs.mu.Lock()
	cs.open[c] = struct{}{}
	cs.peak = max(cs.peak, len(cs.open))
	if c.addr.IsValid() {
		cs.byAddr[c.addr]++
	}
	crowded := c.addr.IsValid() && cs.byAddr[c.addr] > cs.perAddr
	cs.mu.Unlock()
	if crowded {
		cs.closed[ClosedByAddr].Add(1)
		if cs.dismiss(1, now, func(o *client) bool { return o != c && o.addr == c.addr }) == 0 {
			nc.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 24\r\n\r\n503 Service Unavailable\n"))
			c.Close()
			return nil
		}
	}
	return c
}

func (cs *clients) over() bool { return cs.limit > 0 && cs.count() > cs.limit }

// count is how many there are.
func (cs *clients) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open)
}

func (cs *clients) remove(c *client) {
	cs.mu.Lock()
	delete(cs.open, c)
	if c.addr.IsValid() {
		if cs.byAddr[c.addr]--; cs.byAddr[c.addr] == 0 {
			delete(cs.byAddr, c.addr)
		}
	}
	if !cs.tidies && cs.peak >= manyLeft && len(cs.open) <= cs.peak/2 {
		cs.tidies = true
		time.AfterFunc(tidyTime, cs.tidy)
	}
	cs.mu.Unlock()
	select {
	case cs.room <- struct{}{}:
	default:
	}
}

// manyLeft is from how many clients on it is worth looking for memory when half of them have left.
const manyLeft = 64

// tidy gives back to the system what clients have left that are gone. The runtime would do so some minutes after the
// next collection, which may be far where requests allocate nothing.
func (cs *clients) tidy() {
	cs.mu.Lock()
	cs.peak, cs.tidies = len(cs.open), false
	cs.mu.Unlock()
	runtime.GC() // what is pooled lives until the second one
	debug.FreeOSMemory()
}

// crowd is how many are closed at once at most: each look at all of them is then worth something.
const crowd = 32

// makeRoom closes those that have been idle for longest, but not newest. It returns how many.
func (cs *clients) makeRoom(now time.Time, newest *client) int {
	n := cs.dismiss(crowd, now, func(c *client) bool { return c != newest })
	cs.closed[ClosedIdle].Add(uint64(n))
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.said.IsZero() || now.Sub(cs.said) > sayAgain {
		cs.said = now
		cs.log.Warn("clients that have been idle for longest are closed from now on, to make room for others", "connections", len(cs.open), "limit", cs.limit, "hint", "LONGSHORE_MAX_CLIENTS, and ulimit -n, which bounds it")
	}
	return n
}

// sayAgain is how often the log is told that the limit was reached.
const sayAgain = time.Hour

// dismiss closes those of the idle clients that may go and have been idle for longest: n, and no more than an eighth
// of them. One that has only just come, or been answered, is given the time to show its request. It returns how many.
func (cs *clients) dismiss(n int, now time.Time, mayGo func(*client) bool) (dismissed int) {
	type candidate struct {
		*client
		since int64
	}
	longest := make([]candidate, 0, n+1) // oldest first
	idle, youngest := 0, int64(now.Sub(epoch)-quietTime)
	cs.mu.Lock()
	for c := range cs.open {
		if s := c.state.Load(); s != connNew && s != connIdle || !mayGo(c) {
			continue
		}
		idle++
		since := c.since.Load()
		if since > youngest {
			continue
		}
		if len(longest) == n && since >= longest[n-1].since {
			continue
		}
		i, _ := slices.BinarySearchFunc(longest, since, func(a candidate, t int64) int { return cmp.Compare(a.since, t) })
		longest = slices.Insert(longest, i, candidate{c, since})
		longest = longest[:min(len(longest), n)]
	}
	cs.mu.Unlock()
	for _, c := range longest[:min(len(longest), max(1, idle/8))] {
		if c.dismiss() {
			dismissed++
		}
	}
	return dismissed
}

// spare closes idle connections of clients and to backends, for a request that found no descriptor left. It reports
// whether there were any.
func (s *Server) spare() bool {
	n := s.Router.dropIdle()
	if cs := s.clients.Load(); cs != nil && n == 0 {
		n = cs.makeRoom(time.Now(), nil)
	}
	return n > 0
}

// A clientListener accepts connections and keeps to the limits of clients.
type clientListener struct {
	net.Listener
	clients *clients
	newest  *client // shows its request before it is closed for others
	ended   chan struct{}
	once    sync.Once
}

func (cs *clients) listen(ln net.Listener) *clientListener {
	return &clientListener{Listener: ln, clients: cs, ended: make(chan struct{})}
}

// Accept returns the next connection, a *client. While there are too many, and each of them is busy, new ones wait
// where the kernel keeps them.
func (l *clientListener) Accept() (net.Conn, error) {
	for {
		for l.clients.over() && l.clients.makeRoom(time.Now(), l.newest) == 0 {
			select {
			case <-l.clients.room:
			case <-time.After(quietTime): // one may be idle by now
			case <-l.ended:
				return nil, net.ErrClosed
			}
		}
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.clients.enter(nc); c != nil {
			l.newest = c
			return c, nil
		}
	}
}

func (l *clientListener) Close() error {
	l.once.Do(func() { close(l.ended) })
	return l.Listener.Close()
}
