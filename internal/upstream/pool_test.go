package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"longshore/internal/testaddr"
)

const patience = 10 * time.Second

// noLeak fails the test if goroutines are left after its other cleanups.
func noLeak(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		t.Helper()
		for end := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines are left, %d were there before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
				return
			}
		}
	})
}

// until waits for a state.
func until(t testing.TB, state string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", state)
		}
	}
}

// A server serves each connection with a function and closes it after that.
type server struct {
	net.Listener
	conns, open atomic.Int64
	mu          sync.Mutex // guards the following
	live        map[net.Conn]bool
}

func serve(t testing.TB, talk func(net.Conn, *bufio.Reader)) *server {
	t.Helper()
	ln, err := net.Listen("tcp", testaddr.New())
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: ln, live: make(map[net.Conn]bool)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			s.open.Add(1)
			s.mu.Lock()
			s.live[c] = true
			s.mu.Unlock()
			all.Go(func() {
				talk(c, bufio.NewReader(c))
				c.Close()
				s.open.Add(-1)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.hangUp()
		all.Wait()
	})
	return s
}

func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.live {
		c.Close()
	}
	clear(s.live)
}

// say answers each request on a connection with the same bytes.
func say(response string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			io.WriteString(c, response)
		}
	}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

var usual = Options{ConnectTimeout: time.Second, ReadTimeout: time.Minute, MaxIdle: 100, IdleTimeout: time.Minute}

func newPool(t testing.TB, addr string, o Options) *Pool {
	t.Helper()
	noLeak(t)
	p := NewPool(addr, o)
	t.Cleanup(func() { p.Close(nil) })
	return p
}

// request is what a server would have read.
func request(t testing.TB, raw string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return r.WithContext(t.Context())
}

func get(t testing.TB) *http.Request {
	t.Helper()
	return request(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
}

func post(t testing.TB, body string) *http.Request {
	t.Helper()
	return request(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
}

// do does a whole exchange and returns the response's body.
func do(t testing.TB, p *Pool, r *http.Request) string {
	t.Helper()
	res, err := p.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// busy is how many connections are held.
func (p *Pool) busyNow() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.busy)
}

// TestLatestFirst: the connection that was used last is used next, so that the others can age.
func TestLatestFirst(t *testing.T) {
	s := serve(t, func(c net.Conn, r *bufio.Reader) {
		addr := c.RemoteAddr().String()
		say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(addr), addr))(c, r)
	})
	p := newPool(t, s.Addr().String(), usual)
	var bodies []io.ReadCloser
	for range 3 {
		res, err := p.RoundTrip(get(t))
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, res.Body)
	}
	if got := p.busyNow(); got != 3 {
		t.Errorf("%d connections are held, want 3", got)
	}
	var last []byte
	for _, i := range []int{2, 0, 1} {
		last, _ = io.ReadAll(bodies[i])
	}
	for range 3 {
		if got := do(t, p, get(t)); got != string(last) {
			t.Errorf("got connection %s, want %s", got, last)
		}
	}
	if got := p.Idle(); got != 3 || p.busyNow() != 0 {
		t.Errorf("%d idle and %d held, want 3 and none", got, p.busyNow())
	}
}

func TestMaxIdle(t *testing.T) {
	for _, most := range []int{0, 2} {
		s := serve(t, say(ok))
		o := usual
		o.MaxIdle = most
		p := newPool(t, s.Addr().String(), o)
		var bodies []io.ReadCloser
		for range 5 {
			res, err := p.RoundTrip(get(t))
			if err != nil {
				t.Fatal(err)
			}
			bodies = append(bodies, res.Body)
		}
		for _, b := range bodies {
			io.Copy(io.Discard, b)
		}
		if got := p.Idle(); got != most {
			t.Errorf("%d idle, want %d", got, most)
		}
		until(t, "the rest is closed", func() bool { return s.open.Load() == int64(most) })
	}
}

// TestIdleTimeout: connections are closed when they have idled, each in its time, also without traffic.
func TestIdleTimeout(t *testing.T) {
	s := serve(t, say(ok))
	o := usual
	o.IdleTimeout = 200 * time.Millisecond
	p := newPool(t, s.Addr().String(), o)
	first, _ := p.RoundTrip(get(t))
	do(t, p, get(t)) // a second connection, which idles from now on
	start := time.Now()
	for range 3 {
		time.Sleep(o.IdleTimeout / 4)
		do(t, p, get(t)) // and again
	}
	io.Copy(io.Discard, first.Body)
	last := time.Now()
	if got := p.Idle(); got != 2 {
		t.Errorf("%d idle, want 2", got)
	}
	until(t, "all are closed", func() bool { return s.open.Load() == 0 })
	if d := time.Since(last); d < o.IdleTimeout/2 || time.Since(start) < o.IdleTimeout {
		t.Errorf("closed after %v, want %v", d, o.IdleTimeout)
	}
	if got := s.conns.Load(); got != 2 {
		t.Errorf("%d connections, want 2", got)
	}
	do(t, p, get(t)) // the sweep starts over
	until(t, "it is closed", func() bool { return s.open.Load() == 0 })
}

// TestDead: idle connections that were closed, or that say something unasked, are not used.
func TestDead(t *testing.T) {
	var talk atomic.Bool
	unasked := make(chan bool)
	s := serve(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, ok)
		if talk.Load() {
			<-unasked
			io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\n\r\n") // what some servers do
			unasked <- true
			io.Copy(io.Discard, c)
		}
	})
	p := newPool(t, s.Addr().String(), usual)
	for _, r := range []*http.Request{get(t), post(t, "hello"), get(t), post(t, "")} {
		if got := do(t, p, r); got != "ok" {
			t.Errorf("got %q, want ok", got)
		}
		until(t, "the server has closed", func() bool { return s.open.Load() == 0 })
	}
	talk.Store(true)
	do(t, p, get(t))
	unasked <- true
	<-unasked
	talk.Store(false)
	if got := do(t, p, get(t)); got != "ok" {
		t.Errorf("got %q, want ok", got)
	}
}

// TestCloseCause: who waits learns why.
func TestCloseCause(t *testing.T) {
	cause := errors.New("the cause")
	arrived := make(chan bool, 1)
	s := serve(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		switch req.URL.Path {
		case "/stream":
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
		case "/upgrade":
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		case "/idle":
			io.WriteString(c, ok)
		}
		arrived <- true
		io.Copy(io.Discard, c)
	})
	p := newPool(t, s.Addr().String(), usual)
	open := func(path string) *http.Response {
		t.Helper()
		res, err := p.RoundTrip(request(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		<-arrived
		return res
	}
	stream, upgrade := open("/stream"), open("/upgrade")
	waits := make(chan error, 2)
	go func() {
		_, err := p.RoundTrip(get(t))
		waits <- err
	}()
	<-arrived
	io.Copy(io.Discard, open("/idle").Body)

	start := time.Now()
	p.Close(cause)
	p.Close(errors.New("another"))
	if err := <-waits; !errors.Is(err, cause) || err.(*Error).Unsent {
		t.Errorf("who waits got %v, want the cause, and that it was sent", err)
	}
	until(t, "the idle one is closed", func() bool { return s.open.Load() <= 2 })
	if d := time.Since(start); d > streamGrace/2 {
		t.Errorf("that took %v, want at once", d)
	}
	if b, err := io.ReadAll(stream.Body); string(b) != "hello" || !errors.Is(err, cause) {
		t.Errorf("the stream got %q, %v, want all that had come and the cause", b, err)
	}
	if d := time.Since(start); d < streamGrace || d > 2*streamGrace {
		t.Errorf("the stream ended after %v, want %v", d, streamGrace)
	}
	if _, err := upgrade.Body.Read(make([]byte, 1)); err == nil {
		t.Error("the upgraded connection goes on")
	}
	upgrade.Body.Close()
	if _, err := p.RoundTrip(get(t)); !errors.Is(err, cause) || !err.(*Error).Unsent {
		t.Errorf("afterwards: got %v, want the cause, unsent", err)
	}
	if p.busyNow() != 0 || p.Idle() != 0 {
		t.Errorf("%d held and %d idle, want none", p.busyNow(), p.Idle())
	}
}

// TestCloseBeforeAnswer: on a connection that has answered before, a request that waits ends at once too.
func TestCloseBeforeAnswer(t *testing.T) {
	arrived := make(chan bool, 1)
	s := serve(t, func(c net.Conn, r *bufio.Reader) {
		for n := 0; ; n++ {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			if n == 0 {
				io.WriteString(c, ok)
			} else {
				arrived <- true
			}
		}
	})
	p := newPool(t, s.Addr().String(), usual)
	do(t, p, get(t))
	ended := make(chan error)
	go func() {
		_, err := p.RoundTrip(get(t))
		ended <- err
	}()
	<-arrived
	start := time.Now()
	p.Close(nil)
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want %v", err, ErrClosed)
	}
	if d := time.Since(start); d > streamGrace/2 {
		t.Errorf("it took %v, want at once", d)
	}
}

// TestCancel: the request's context ends it in each phase, and its cause is told.
func TestCancel(t *testing.T) {
	cause := errors.New("the cause")
	s := serve(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.URL.Path == "/stream" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
		}
		io.Copy(io.Discard, c)
	})
	p := newPool(t, s.Addr().String(), usual)
	ctx, cancel := context.WithCancelCause(t.Context())
	res, err := p.RoundTrip(request(t, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan error)
	go func() {
		_, err := p.RoundTrip(get(t).WithContext(ctx))
		waits <- err
	}()
	until(t, "both are there", func() bool { return s.open.Load() == 2 })
	cancel(cause)
	if err := <-waits; !errors.Is(err, cause) {
		t.Errorf("who waits got %v, want the cause", err)
	}
	if _, err := io.ReadAll(res.Body); !errors.Is(err, cause) {
		t.Errorf("the stream got %v, want the cause", err)
	}
	if _, err := p.RoundTrip(get(t).WithContext(ctx)); err == nil || !err.(*Error).Unsent {
		t.Errorf("afterwards: got %v, want an error, unsent", err)
	}
	until(t, "all are closed", func() bool { return s.open.Load() == 0 && p.busyNow() == 0 })
}

// TestHeadLimit: a header section must end some time.
func TestHeadLimit(t *testing.T) {
	for _, c := range []struct {
		size int
		ok   bool
	}{{maxHead / 2, true}, {maxHead + 1, false}, {8 * maxHead, false}} {
		s := serve(t, func(conn net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			for range c.size / 1024 {
				io.WriteString(conn, "A: "+strings.Repeat("x", 1019)+"\r\n")
			}
			io.WriteString(conn, "Content-Length: 2000000\r\n\r\n")
			io.CopyN(conn, zeros{}, 2000000) // a body is not counted
		})
		p := newPool(t, s.Addr().String(), usual)
		res, err := p.RoundTrip(get(t))
		if c.ok {
			if err != nil {
				t.Fatalf("%d bytes: %v", c.size, err)
			}
			if n, err := io.Copy(io.Discard, res.Body); n != 2000000 || err != nil {
				t.Errorf("%d bytes: the body had %d, %v", c.size, n, err)
			}
		} else if !errors.Is(err, errHeadTooLarge) {
			t.Errorf("%d bytes: got %v, want %v", c.size, err, errHeadTooLarge)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestPhases: an Error says how far the attempt came.
func TestPhases(t *testing.T) {
	broken := func(req string) *http.Request {
		return request(t, req)
	}
	for _, c := range []struct {
		name string
		talk func(net.Conn, *bufio.Reader)
		req  *http.Request
		want Phase
	}{
		{"closed", func(c net.Conn, r *bufio.Reader) { http.ReadRequest(r) }, get(t), Send},
		{"closed after a post", func(c net.Conn, r *bufio.Reader) { r.ReadString('o') }, post(t, "hello"), Send},
		{"half a head", func(c net.Conn, r *bufio.Reader) { http.ReadRequest(r); io.WriteString(c, "HTTP/1.1 200") }, get(t), Answer},
		{"no http", func(c net.Conn, r *bufio.Reader) { http.ReadRequest(r); io.WriteString(c, "hello\r\n\r\n") }, get(t), Answer},
		{"interim only", func(c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n")
		}, get(t), Answer},
		{"body too short", func(c net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) },
			broken("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"), Client},
		{"body broken", func(c net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) },
			broken("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nXX\r\n"), Client},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, c.talk)
			p := newPool(t, s.Addr().String(), usual)
			_, err := p.RoundTrip(c.req)
			var e *Error
			if !errors.As(err, &e) || e.Phase != c.want || e.Unsent {
				t.Errorf("got %#v, want phase %d and that it was sent", err, c.want)
			}
			until(t, "the connection is let go", func() bool { return s.open.Load() == 0 && p.busyNow() == 0 })
		})
	}
	p := newPool(t, "127.0.0.1:1", usual)
	if _, err := p.RoundTrip(get(t)); err == nil || err.(*Error).Phase != Dial || !err.(*Error).Unsent {
		t.Errorf("refused: got %v, want phase Dial and unsent", err)
	}
}

// TestManners does everything at once, and what is left in the end must be right: nothing is held, no
// goroutine is left, and no answer has gone to another request.
func TestManners(t *testing.T) {
	s := serve(t, func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			id := req.Header.Get("Id")
			switch rand.IntN(6) {
			case 0: // answer early, and go on
			case 1: // go away
				return
			default:
				if _, err := io.Copy(io.Discard, req.Body); err != nil {
					return
				}
			}
			body := strings.Repeat(id+" ", 1+rand.IntN(5000))
			switch rand.IntN(4) {
			case 0:
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nId: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", id, len(body), body)
			case 1:
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nId: %s\r\nConnection: close\r\n\r\n%s", id, body)
				return
			case 2:
				fmt.Fprintf(c, "HTTP/1.1 204 No Content\r\nId: %s\r\n\r\n", id)
			default:
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nId: %s\r\nContent-Length: %d\r\n\r\n%s", id, len(body), body)
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
		}
	})
	o := usual
	o.MaxIdle, o.IdleTimeout, o.ReadTimeout = 4, 5*time.Millisecond, 200*time.Millisecond
	p := newPool(t, s.Addr().String(), o)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 200 {
				id := fmt.Sprint(i, ".", j)
				raw := "GET / HTTP/1.1\r\nHost: x\r\nId: " + id + "\r\n\r\n"
				if body := strings.Repeat("x", rand.IntN(100<<10)); rand.IntN(2) == 0 {
					raw = fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nId: %s\r\nContent-Length: %d\r\n\r\n%s", id, len(body), body)
				}
				ctx, cancel := context.WithCancel(t.Context())
				if rand.IntN(5) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(1000))*time.Microsecond, cancel)
				}
				res, err := p.RoundTrip(request(t, raw).WithContext(ctx))
				if err == nil {
					if got := res.Header.Get("Id"); got != id {
						t.Errorf("request %s got the answer to %s", id, got)
					}
					if rand.IntN(5) > 0 {
						b, _ := io.ReadAll(res.Body)
						if rest := strings.ReplaceAll(string(b), id+" ", ""); rest != "" && !strings.HasPrefix(id+" ", rest) {
							t.Errorf("request %s got %q", id, rest)
						}
					}
					res.Body.Close()
				}
				cancel()
			}
		})
	}
	all.Wait()
	until(t, "nothing is held", func() bool { return p.busyNow() == 0 })
	until(t, "nothing is idle", func() bool { return p.Idle() == 0 && s.open.Load() == 0 })
}
