package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"longshore/health"
	"longshore/internal/upstream"
)

// atEnd waits until the proxy has closed a connection, and fails if it sends anything before.
func (w *wire) atEnd() {
	if got := w.rest(); got != "" {
		w.stop("got %q, want the end", got)
	}
}

// isOpen fails the test if the proxy has closed a connection that has a request under way.
func isOpen(t testing.TB, w *wire) {
	t.Helper()
	w.SetReadDeadline(time.Now().Add(blink))
	defer w.SetDeadline(time.Now().Add(patience))
	if _, err := w.r.Peek(1); !os.IsTimeout(err) {
		t.Fatalf("a connection in use was closed, or answered: %v", err)
	}
}

// dialFrom connects from another address of this machine.
func (p *testProxy) dialFrom(ip string) *wire {
	p.t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return newWire(c, func(format string, args ...any) {
		p.t.Helper()
		p.t.Fatalf(format, args...)
	})
}

// idle is how many clients have no request under way.
func (p *testProxy) idle() int { return p.quietFor(-1) }

// quietFor is how many of them have had none for that long.
func (p *testProxy) quietFor(d time.Duration) (n int) {
	cs, now := p.clients.Load(), time.Now()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.open {
		if s := c.state.Load(); (s == connNew || s == connIdle) && c.quiet(now) > d {
			n++
		}
	}
	return n
}

func TestMaxClients(t *testing.T) { run(t, testMaxClients) }

// testMaxClients fills all places: with one that has a request under way, one that has sent half a head, one that
// had a response, and silent ones. Who comes then is served, in place of those that have been idle for longest.
func testMaxClients(t *testing.T, in lane) {
	answer := make(chan struct{})
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-answer
		}
		io.WriteString(w, r.URL.Path)
	})
	p := newProxy(t, in)
	p.MaxClients = 4
	p.serve(web(b))

	busy := p.dial()
	busy.ask("GET /slow")
	until(t, "the slow request has come", func() bool { return b.requests.Load() == 1 })
	kept := p.dial()
	if got := kept.do("GET /kept").String(); got != "200 /kept" {
		t.Fatalf("got %q", got)
	}
	until(t, "it is idle", func() bool { return p.idle() == 1 })
	silent := p.dial()
	until(t, "it is accepted", func() bool { return p.View().Clients == 3 })
	half := p.dial()
	half.send("GET /half HTTP/1.1\r\n")
	until(t, "all places are taken", func() bool { return p.View().Clients == 4 })

	for i, closed := range []*wire{kept, silent, half} { // in this order they became idle
		path := fmt.Sprint("/", i)
		w := p.dial()
		if got, want := w.do("GET "+path).String(), "200 "+path; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		closed.atEnd()
		until(t, "it is counted", func() bool { v := p.View(); return v.Clients == 4 && v.Closed[ClosedIdle] == uint64(i+1) })
	}
	isOpen(t, busy)
	close(answer)
	if got := busy.reply("GET").String(); got != "200 /slow" {
		t.Errorf("the busy one got %q", got)
	}
}

func TestMaxClientsAllBusy(t *testing.T) { run(t, testMaxClientsAllBusy) }

// testMaxClientsAllBusy has more connect when each place has a request under way: they wait, and none is cut.
func testMaxClientsAllBusy(t *testing.T, in lane) {
	answer := make(chan struct{})
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		<-answer
		io.WriteString(w, "ok")
	})
	p := newProxy(t, in)
	p.MaxClients = 2
	p.serve(web(b))
	var ws []*wire
	for i := range 6 {
		w := p.dial()
		w.ask("GET /")
		ws = append(ws, w)
		// As many as may are busy, and one is accepted beyond. The others wait.
		until(t, "its request has come", func() bool { return b.requests.Load() == int64(min(i+1, 3)) })
	}
	for _, w := range ws {
		isOpen(t, w)
	}
	close(answer)
	for i, w := range ws {
		if got := w.reply("GET").String(); got != "200 ok" {
			t.Errorf("%d got %q", i, got)
		}
	}
}

func TestMaxClientsUnfinished(t *testing.T) { run(t, testMaxClientsUnfinished) }

// testMaxClientsUnfinished has each place taken by a body that does not come to its end: no backend has it, so it is
// closed for those who have something to say.
func testMaxClientsUnfinished(t *testing.T, in lane) {
	for name, head := range map[string]string{
		"chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
		"odd":     "TE: gzip\r\nContent-Length: 100\r\n\r\nab",
		"known":   "Content-Length: 100\r\n\r\nab",
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, in)
			p.MaxClients = 2
			s := web(startBackend(t, "one", nil))
			s.Settings.BodyBuffer = 64 << 10
			p.serve(s)
			for range p.MaxClients {
				p.dial().send("POST / HTTP/1.1\r\nHost: x\r\n" + head)
			}
			until(t, "all places are taken", func() bool { return p.View().Clients == p.MaxClients && p.quietFor(quietTime) == p.MaxClients })
			if got := p.dial().do("GET /").String(); got != "200 one /" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestMaxClientsPerAddress(t *testing.T) { run(t, testMaxClientsPerAddress) }

func testMaxClientsPerAddress(t *testing.T, in lane) {
	answer := make(chan struct{})
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-answer
		}
		io.WriteString(w, "ok")
	})
	p := newProxy(t, in)
	p.MaxClientsPerAddr = 2
	p.serve(web(b))

	busy, silent := p.dial(), p.dial()
	busy.ask("GET /slow")
	until(t, "both are there", func() bool { return b.requests.Load() == 1 && p.View().Clients == 2 })
	until(t, "one is idle", func() bool { return p.quietFor(quietTime) == 1 })
	elsewhere := p.dialFrom("127.0.0.2")
	if got := elsewhere.do("GET /").String(); got != "200 ok" {
		t.Errorf("another address got %q", got)
	}

	third := p.dial()
	third.ask("GET /slow")
	silent.atEnd() // it was idle
	until(t, "the third request has come", func() bool { return b.requests.Load() == 3 })
	fourth := p.dial()
	if got := fourth.reply("GET"); got.String() != "503 503 Service Unavailable" || got.Header.Get("Retry-After") != "1" {
		t.Errorf("a third busy one got %q", got)
	}
	close(answer)
	for _, w := range []*wire{busy, third} {
		if got := w.reply("GET").String(); got != "200 ok" {
			t.Errorf("got %q", got)
		}
	}
	if got := p.View().Closed[ClosedByAddr]; got != 2 {
		t.Errorf("%d were closed for their address, want 2", got)
	}

	p.Server.clients.Load().mu.Lock()
	defer p.Server.clients.Load().mu.Unlock()
	if n := p.Server.clients.Load().byAddr[netip.MustParseAddr("127.0.0.1")]; n != 2 {
		t.Errorf("%d connections are counted, want 2", n)
	}
}

// TestTrustedProxyIsNoAddress connects more often than an address may, as a proxy does that is trusted.
func TestTrustedProxyIsNoAddress(t *testing.T) { run(t, testTrustedProxyIsNoAddress) }

func testTrustedProxyIsNoAddress(t *testing.T, in lane) {
	p := newProxy(t, in)
	p.MaxClientsPerAddr = 1
	p.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	p.serve(web(startBackend(t, "one", nil)))
	for range 3 {
		if got := p.dial().do("GET /a").String(); got != "200 one /a" {
			t.Errorf("got %q", got)
		}
	}
	if v := p.View(); v.Clients != 3 {
		t.Errorf("%d connections are open, want 3", v.Clients)
	}
}

func TestAddrKey(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.7":            "192.0.2.7",
		"::ffff:192.0.2.7":     "192.0.2.7",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::",
		"fe80::1%eth0":         "fe80::",
		"nonsense":             "invalid IP",
	} {
		if got := addrKey(ip).String(); got != want {
			t.Errorf("%s counts as %s, want %s", ip, got, want)
		}
	}
}

// A scarcePool fails to dial as often as there is no descriptor left.
type scarcePool struct {
	transport
	err      error
	failures atomic.Int64
	dropped  atomic.Int64
}

func (s *scarcePool) fail() error {
	if s.failures.Load() == 0 {
		return nil
	}
	s.failures.Add(-1)
	return &upstream.Error{Phase: upstream.Dial, Unsent: true, Err: &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", s.err)}}
}

func (s *scarcePool) Begin(now time.Time, a upstream.Attempt, head, body []byte, in func() []byte, left func() bool) (*upstream.Conn, int, error) {
	if err := s.fail(); err != nil {
		return nil, 0, err
	}
	return s.transport.Begin(now, a, head, body, in, left)
}

func (s *scarcePool) Send(r *http.Request, a upstream.Attempt) (*http.Response, error) {
	if err := s.fail(); err != nil {
		return nil, err
	}
	return s.transport.Send(r, a)
}

func (s *scarcePool) DropIdle() int {
	s.dropped.Add(1)
	return s.transport.DropIdle()
}

func TestOwnExhaustion(t *testing.T) { run(t, testOwnExhaustion) }

// testOwnExhaustion has dials fail for what the proxy lacks. That gives up idle connections, the request is served,
// and nobody says a word against the backend.
func testOwnExhaustion(t *testing.T, in lane) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL} {
		t.Run(errno.Error(), func(t *testing.T) {
			b := startBackend(t, "one", nil)
			pool := &scarcePool{err: errno}
			p := newProxy(t, in)
			p.heard = func(k health.Key, o health.Outcome) { t.Errorf("health was told %v of %v", o, k) }
			make := p.Router.newPool
			p.Router.newPool = func(addr string, o upstream.Options) transport {
				pool.transport = make(addr, o)
				return pool
			}
			service := web(b)
			service.Settings.Queue, service.Settings.QueueTimeout = 10, patience
			p.serve(service)
			idle := p.dial()
			if got := idle.do("GET /a").String(); got != "200 one /a" {
				t.Fatalf("got %q", got)
			}
			pool.failures.Store(1)
			if got := p.do("GET /b").String(); got != "200 one /b" {
				t.Errorf("got %q", got)
			}
			if pool.dropped.Load() != 1 {
				t.Errorf("idle connections to backends were dropped %d times, want 1", pool.dropped.Load())
			}
			if errno != syscall.EMFILE {
				return
			}
			pool.failures.Store(2) // the second time with none left to give up but the client's
			if got := p.do("POST /c\nContent-Length: 1\n", "x").String(); got != "200 one /c x" {
				t.Errorf("got %q", got)
			}
			v := p.Router.Table().Services()[0].View()
			if got := v.Backends[0].Failed(); got != 0 || v.Backends[0].State != "up" {
				t.Errorf("the backend has %d failures and is %s: %s", got, v.Backends[0].State, v.Backends[0].Why)
			}
		})
	}
}

func TestDismissTakesTheLongestIdle(t *testing.T) {
	cs := newClients(&Server{})
	begin := time.Now().Add(-time.Hour)
	var all []*client
	for i := range 400 {
		server, _ := net.Pipe()
		c := &client{Conn: server, of: cs}
		c.touch(begin.Add(time.Duration((i*7)%400) * time.Second)) // in no order
		cs.open[c] = struct{}{}
		all = append(all, c)
	}
	if n := cs.dismiss(crowd, time.Now(), func(*client) bool { return true }); n != crowd {
		t.Fatalf("%d were closed, want %d", n, crowd)
	}
	var kept []string
	for i, c := range all {
		if closed := c.state.Load() == connClosed; closed != ((i*7)%400 < crowd) {
			kept = append(kept, fmt.Sprint(i))
		}
	}
	if len(kept) > 0 {
		t.Errorf("of %d that were idle for longest others were closed: %s", crowd, strings.Join(kept, " "))
	}
}

func TestQueueShare(t *testing.T) { run(t, testQueueShare) }

// testQueueShare has one address take all places in the queue. Another gets its half of them, in place of those
// of the first that came last, and neither gets more than that while both want it.
func testQueueShare(t *testing.T, in lane) {
	const busy = "503 503 Service Unavailable"
	b := startBackend(t, "one", nil)
	p := newProxy(t, in)
	p.Router.Mark(b.key, probing)
	s := queued(web(b))
	s.Settings.Queue = 4
	p.serve(s)

	var greedy, modest []*wire
	for i := range 4 {
		w := p.dial()
		w.ask(fmt.Sprint("GET /greedy", i))
		p.untilParked(i + 1)
		greedy = append(greedy, w)
	}
	if got := p.do("GET /").String(); got != busy {
		t.Errorf("a fifth of the same address: %q, want %q", got, busy)
	}
	for i := range 2 {
		w := p.dialFrom("127.0.0.2")
		w.ask(fmt.Sprint("GET /modest", i))
		if got := greedy[3-i].reply("GET").String(); got != busy {
			t.Errorf("who had to give way got %q, want %q", got, busy)
		}
		p.untilParked(4)
		modest = append(modest, w)
	}
	for _, ip := range []string{"127.0.0.1", "127.0.0.2"} {
		if got := p.dialFrom(ip).do("GET /").String(); got != busy {
			t.Errorf("one more of %s: %q, want %q", ip, got, busy)
		}
	}
	p.Router.Mark(b.key, up)
	for i := range 2 {
		for who, w := range map[string]*wire{"greedy": greedy[i], "modest": modest[i]} {
			if got, want := w.reply("GET").String(), fmt.Sprintf("200 one /%s%d", who, i); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	}
	q := &p.Router.Table().Services()[0].group.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.places) != 0 {
		t.Errorf("places are counted of nobody: %v", q.places)
	}
}
