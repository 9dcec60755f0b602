package proxy

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"longshore/discovery"
	"longshore/health"
)

// queued is a service whose requests may wait.
func queued(s discovery.Service) discovery.Service {
	s.Settings.Queue, s.Settings.QueueTimeout = 1000, patience
	return s
}

// old is a proxy that has run for longer than it hopes without a reason.
func old(t testing.TB, in lane) *testProxy {
	p := newProxy(t, in)
	p.Router.started = time.Now().Add(-2 * hopeful)
	return p
}

// parked is how many requests wait in the service "web".
func (p *testProxy) parked() int {
	return p.Router.Table().byName("web").View().Parked
}

func (p *testProxy) untilParked(n int) {
	p.t.Helper()
	until(p.t, fmt.Sprintf("%d requests wait", n), func() bool { return p.parked() == n })
}

var probing = health.Status{State: health.Probing}

// TestPark: a request waits for a backend to become ready, whatever its method, and its body with it.
func TestPark(t *testing.T) { run(t, testPark) }

func testPark(t *testing.T, in lane) {
	for _, size := range []int{0, 5, maxReplay, maxReplay + 1, 3 * maxReplay} {
		for _, method := range []string{"GET", "POST", "PUT"} {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprint(method, size, chunked), func(t *testing.T) {
					b := startBackend(t, "one", nil)
					p := newProxy(t, in)
					p.Router.Mark(b.key, probing)
					p.serve(queued(web(b)))
					body := strings.Repeat("x", size)
					request := fmt.Sprintf("%s /a\nContent-Length: %d\n", method, size)
					sent := body
					if chunked {
						request = method + " /a\nTransfer-Encoding: chunked\n"
						sent = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size, body)
						if size == 0 {
							sent = "0\r\n\r\n"
						}
					}
					w := p.dial()
					w.ask(request)
					half := len(sent) / 2
					done := make(chan bool)
					go func() { // the proxy does not read all of it while the request waits
						defer close(done)
						w.send(sent[:half])
						p.untilParked(1)
						p.Router.Mark(b.key, up)
						w.send(sent[half:])
					}()
					want := strings.TrimSpace("200 one /a " + body)
					if got := w.reply(method).String(); got != want {
						t.Errorf("got %.40q of %d bytes, want %.40q of %d", got, len(got), want, len(want))
					}
					soon(t, done, "the body to be sent")
					if n := b.requests.Load(); n != 1 {
						t.Errorf("%d requests at the backend, want 1", n)
					}
				})
			}
		}
	}
}

// TestParkOrder: requests are let go in the order of arrival, one at first, then twice as many with each
// answer, and who comes meanwhile waits behind.
func TestParkOrder(t *testing.T) { run(t, testParkOrder) }

func testParkOrder(t *testing.T, in lane) {
	arrived, finish := make(chan string, 100), make(chan bool)
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.URL.Path
		<-finish
	})
	p := newProxy(t, in)
	p.Router.place = patience
	p.Router.Mark(b.key, probing)
	p.serve(queued(web(b)))
	var clients sync.WaitGroup
	defer clients.Wait()
	ask := func(i int) {
		w := p.dial()
		clients.Go(func() { w.do(fmt.Sprint("GET /", i)) })
	}
	const n = 20
	for i := range n {
		ask(i)
		p.untilParked(i + 1)
	}
	p.Router.Mark(b.key, up)
	next := 0
	expect := func(more, left int) {
		t.Helper()
		var got, want []string
		for range more {
			got = append(got, soon(t, arrived, "a request"))
			want = append(want, fmt.Sprint("/", next))
			next++
		}
		slices.Sort(got) // each has a connection of its own, so that some overtake others
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if p.parked() != left || len(arrived) > 0 {
			t.Errorf("%d wait and %d more have arrived, want %d and none", p.parked(), len(arrived), left)
		}
	}
	expect(1, n-1)
	ask(n)
	p.untilParked(n) // does not get ahead
	finish <- true
	expect(2, n-2) // a window of two
	finish <- true
	expect(3, n-5) // of four, one of which is taken
	finish <- true
	expect(5, n-10) // of eight
	close(finish)
}

// TestParkRefused: a request that its only backend has refused waits for it, and may have it again.
func TestParkRefused(t *testing.T) { run(t, testParkRefused) }

func testParkRefused(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	gone := refusing(t, "gone")
	p := newProxy(t, in)
	p.heard = func(k health.Key, o health.Outcome) { p.Router.Mark(k, probing) } // as health does
	s := queued(web(gone))
	p.serve(s)
	w := p.dial()
	w.ask(posted, "hello")
	p.untilParked(1)
	s.Endpoints = slices.Clone(s.Endpoints)
	s.Endpoints[0].Addr = b.addr() // it listens now
	p.Router.Apply(discovery.State{Services: []discovery.Service{s}})
	p.Router.Mark(gone.key, up)
	if got, want := w.reply("POST").String(), "200 one /a hello"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := p.Router.Table().byName("web").View().Stats.Parked; got != 1 {
		t.Errorf("%d requests were parked, want 1", got)
	}
}

// TestParkAgain: who has had all that is ready tries again after a while, since what did not answer then
// may do so now, and nobody will say so.
func TestParkAgain(t *testing.T) { run(t, testParkAgain) }

func testParkAgain(t *testing.T, in lane) {
	var n atomic.Int64
	b := rawBackend(t, "one", func(w *wire) {
		if n.Add(1) == 1 {
			w.head()
			return
		}
		answers(ok)(w)
	})
	p := serve(t, in, queued(web(b)))
	if got, want := p.do("GET /").String(), "200 ok"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestParkLimits: who does not wait is told at once, and to come again.
func TestParkLimits(t *testing.T) { run(t, testParkLimits) }

func testParkLimits(t *testing.T, in lane) {
	const busy = "503 503 Service Unavailable"
	t.Run("off", func(t *testing.T) {
		b := listen(t, "one")
		p := newProxy(t, in)
		p.Router.Mark(b.key, probing)
		p.serve(web(b))
		if got := p.do("GET /"); got.String() != busy || got.Header.Get("Retry-After") == "" {
			t.Errorf("got %v with Retry-After %q", got, got.Header.Get("Retry-After"))
		}
	})
	t.Run("full, then too long", func(t *testing.T) {
		b := listen(t, "one")
		p := newProxy(t, in)
		p.Router.Mark(b.key, probing)
		s := web(b)
		s.Settings.Queue, s.Settings.QueueTimeout = 1, 4*blink
		p.serve(s)
		start := time.Now()
		first := p.dial()
		first.ask("GET /")
		p.untilParked(1)
		if got := p.do("GET /"); got.String() != busy || got.Header.Get("Retry-After") == "" || p.parked() != 1 {
			t.Errorf("over the limit: got %v with Retry-After %q, %d wait", got, got.Header.Get("Retry-After"), p.parked())
		}
		if got := first.reply("GET"); got.String() != busy || time.Since(start) < 4*blink {
			t.Errorf("got %v after %v", got, time.Since(start))
		}
	})
	t.Run("hope", func(t *testing.T) {
		none := queued(web())
		p := old(t, in)
		p.serve(none)
		if got := p.do("GET /").String(); got != busy {
			t.Errorf("a service scaled to zero: got %v, want %v at once", got, busy)
		}
		// A container is on its way, as compose says before it stops the old one.
		b := startBackend(t, "one", nil)
		coming := none
		coming.Expected = true
		p.serve(coming)
		w := p.dial()
		w.ask("GET /")
		p.untilParked(1)
		there := queued(web(b))
		p.serve(there)
		if got, want := w.reply("GET").String(), "200 one /"; got != want {
			t.Errorf("expected, then there: got %q, want %q", got, want)
		}
		// There was one a moment ago.
		p.serve(none)
		w.ask("GET /")
		p.untilParked(1)
		p.serve(there)
		if got, want := w.reply("GET").String(), "200 one /"; got != want {
			t.Errorf("there a moment ago: got %q, want %q", got, want)
		}
	})
	t.Run("young", func(t *testing.T) {
		p := newProxy(t, in)
		p.serve(queued(web()))
		w := p.dial()
		w.ask("GET /")
		p.untilParked(1)
		p.serve(queued(web(startBackend(t, "one", nil))))
		if got, want := w.reply("GET").String(), "200 one /"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestParkLeft: a client that leaves frees its place; one whose body cannot be read is told so.
func TestParkLeft(t *testing.T) { run(t, testParkLeft) }

func testParkLeft(t *testing.T, in lane) {
	b := listen(t, "one")
	p := newProxy(t, in)
	p.Router.Mark(b.key, probing)
	s := queued(web(b))
	s.Settings.MaxBody = 10
	p.serve(s)
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe",
		"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	} {
		w := p.dial()
		w.send(request)
		p.untilParked(1)
		w.Close()
		p.untilParked(0)
		if r := p.record(); r.Status != statusClientClosed && r.Status != http.StatusBadRequest {
			t.Errorf("%q: status %d, want 499, or 400 of a body that ended", request, r.Status)
		}
	}
	for _, c := range []struct{ body, want string }{
		{"5\r\nhello\r\nzz\r\n", "400 400 Bad Request"},
		{"5\r\nhello\r\n7\r\n, world\r\n", "413 413 Request Entity Too Large"},
	} {
		w := p.dial()
		w.ask("POST /\nTransfer-Encoding: chunked\n", c.body)
		if res := w.reply("POST"); res.String() != c.want || !res.Close {
			t.Errorf("%q: got %v, close %v; want %q and to close", c.body, res, res.Close, c.want)
		}
		p.untilParked(0)
	}
}

// TestParkShutdown: at the end whoever still waits is answered, and before that may be served.
func TestParkShutdown(t *testing.T) { run(t, testParkShutdown) }

func testParkShutdown(t *testing.T, in lane) {
	for _, comes := range []bool{true, false} {
		b := startBackend(t, "one", nil)
		p := newProxy(t, in)
		p.Router.Mark(b.key, probing)
		p.Grace = 20 * blink
		p.serve(queued(web(b)))
		w := p.dial()
		w.ask("GET /")
		p.untilParked(1)
		p.stop()
		want := "503 503 Service Unavailable"
		if comes {
			want = "200 one /"
			p.Router.Mark(b.key, up)
		}
		if got := w.reply("GET").String(); got != want {
			t.Errorf("the backend comes: %v; got %q, want %q", comes, got, want)
		}
		if err := soon(t, p.stopped, "Serve to return"); err != nil {
			t.Errorf("Serve returned %v", err)
		}
	}
}

// TestFirstState: requests that come before it is known what exists wait for that.
func TestFirstState(t *testing.T) { run(t, testFirstState) }

func testFirstState(t *testing.T, in lane) {
	p := newProxy(t, in)
	p.Queue, p.QueueTimeout = 1, patience
	p.listen()
	w := p.dial()
	w.ask("GET /a")
	until(t, "it waits", func() bool { return p.early.Load() == 1 })
	if got, want := p.do("GET /").String(), "503 503 Service Unavailable"; got != want {
		t.Errorf("over the limit: got %q, want %q", got, want)
	}
	p.serve(web(startBackend(t, "one", nil)))
	if got, want := w.reply("GET").String(), "200 one /a"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestMissed: the route of a service that has left is remembered for a while, behind those there are.
func TestMissed(t *testing.T) { run(t, testMissed) }

func testMissed(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	p := old(t, in)
	s := queued(web(b))
	p.serve(s)
	p.serve()
	w := p.dial()
	w.ask("GET /a")
	p.untilParked(1)
	p.serve(s)
	if got, want := w.reply("GET").String(), "200 one /a"; got != want {
		t.Errorf("when it is back: got %q, want %q", got, want)
	}
	p.serve()
	other := web(startBackend(t, "two", nil))
	other.Name, other.Since = "other", time.Now()
	p.serve(other)
	w.ask("GET /b")
	p.untilParked(1) // the route is kept for the one that served a moment ago
	p.serve(s, other)
	if got, want := w.reply("GET").String(), "200 one /b"; got != want {
		t.Errorf("another wanted its route: got %q, want %q", got, want)
	}
	p.serve()
	p.Router.mu.Lock()
	for i := range p.Router.missed {
		p.Router.missed[i].until = time.Now()
	}
	p.Router.mu.Unlock()
	p.Router.forgetMissed()
	if got, want := w.do("GET /a").String(), "404 404 Not Found"; got != want {
		t.Errorf("forgotten: got %q, want %q", got, want)
	}
}

// TestReplay: a body that is kept goes out again, whole, to another backend.
func TestReplay(t *testing.T) { run(t, testReplay) }

func testReplay(t *testing.T, in lane) {
	for _, c := range []struct {
		method string
		size   int
		again  bool
	}{
		{"PUT", 5, true}, {"DELETE", 100, true}, {"PUT", maxReplay, true},
		{"PUT", maxReplay + 1, false}, {"POST", 5, false}, {"PATCH", 5, false},
	} {
		t.Run(fmt.Sprint(c.method, c.size), func(t *testing.T) {
			one := rawBackend(t, "one", func(w *wire) {
				w.head()
				w.bytes(c.size) // and closes
			})
			two := startBackend(t, "two", nil)
			s := web(one, two)
			s.Endpoints[1].Backup = true
			p := serve(t, in, s)
			body := strings.Repeat("x", c.size)
			want := "200 two /a " + body
			if !c.again {
				want = "502 502 Bad Gateway"
			}
			got := p.do(fmt.Sprintf("%s /a\nContent-Length: %d\n", c.method, c.size), body).String()
			if got != want {
				t.Errorf("got %.40q of %d bytes, want %.40q of %d", got, len(got), want, len(want))
			}
		})
	}
	t.Run("half sent", func(t *testing.T) { // the uploader of the first attempt is in the middle of a read
		var two *backend
		began := make(chan bool)
		one := rawBackend(t, "one", func(w *wire) {
			w.head()
			w.bytes(3)
			close(began)
		})
		two = startBackend(t, "two", nil)
		s := web(one, two)
		s.Endpoints[1].Backup = true
		p := serve(t, in, s)
		w := p.dial()
		w.ask("PUT /a\nContent-Length: 11\n", "hel")
		soon(t, began, "the first part")
		until(t, "it goes elsewhere", func() bool { return two.conns.Load() == 1 })
		w.send("lo", " world")
		if got, want := w.reply("PUT").String(), "200 two /a hello world"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestBudget: a service whose backends all break off is not asked ever more, unless Docker says that it
// is their containers that stop: that costs nobody a request.
func TestBudget(t *testing.T) { run(t, testBudget) }

func testBudget(t *testing.T, in lane) {
	const n = 40
	for _, stops := range []bool{false, true} {
		t.Run(fmt.Sprint("stops ", stops), func(t *testing.T) {
			var arrived, left sync.WaitGroup
			arrived.Add(n)
			breaks := make(chan bool)
			var here atomic.Int64
			one := rawBackend(t, "one", func(w *wire) {
				w.head()
				here.Add(1)
				arrived.Done()
				<-breaks
			})
			var more, most atomic.Int64
			release := make(chan bool)
			two := startBackend(t, "two", func(w http.ResponseWriter, r *http.Request) {
				most.Store(max(most.Load(), more.Add(1)))
				defer more.Add(-1)
				<-release
			})
			s := web(one, two)
			s.Endpoints[1].Backup = true
			p := serve(t, in, s)
			var fine, bad atomic.Int64
			for range n {
				w := p.dial()
				left.Go(func() {
					if w.do("GET /").StatusCode == 200 {
						fine.Add(1)
					} else {
						bad.Add(1)
					}
				})
			}
			arrived.Wait()
			close(breaks)
			if stops { // a moment after the connections broke
				until(t, "some go elsewhere", func() bool { return more.Load() > 0 })
				s.Endpoints = slices.Clone(s.Endpoints)
				s.Endpoints[0].Stopping = true
				p.serve(s)
				until(t, "all have gone elsewhere", func() bool { return more.Load() == n })
			} else {
				until(t, "the others are told", func() bool { return bad.Load()+more.Load() == n })
			}
			close(release)
			left.Wait()
			if stops && bad.Load() > 0 {
				t.Errorf("%d of %d failed, want none", bad.Load(), n)
			}
			// The budget is a fifth of what is in flight when it is asked, so at most of all.
			if limit := int64(n / 5); !stops && (most.Load() > limit || most.Load() < minBudget) {
				t.Errorf("%d were repeated at once, want %d to %d", most.Load(), minBudget, limit)
			}
		})
	}
}

// TestPause: what can go elsewhere leaves a paused backend, the rest waits for it.
func TestPause(t *testing.T) { run(t, testPause) }

func testPause(t *testing.T, in lane) {
	arrived, finish := make(chan string, 10), make(chan bool)
	one := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.Method + r.URL.Path
		if r.URL.Path == "/stream" {
			io.WriteString(w, "begun ")
			w.(http.Flusher).Flush()
		}
		<-finish
		io.WriteString(w, "one")
	})
	two := startBackend(t, "two", nil)
	s := queued(web(one, two))
	s.Endpoints[1].Backup = true
	p := serve(t, in, s)
	var ws []*wire
	for _, r := range []string{"GET /get", "POST /post", "GET /stream"} {
		w := p.dial()
		w.ask(r)
		soon(t, arrived, r)
		ws = append(ws, w)
	}
	stream := ws[2].header("GET")
	paused := s
	paused.Endpoints = slices.Clone(s.Endpoints)
	paused.Endpoints[0].Paused = true
	p.serve(paused)
	if got, want := ws[0].reply("GET").String(), "200 two /get"; got != want {
		t.Errorf("unanswered GET: got %q, want %q", got, want)
	}
	if got, want := p.do("GET /new").String(), "200 two /new"; got != want {
		t.Errorf("new GET: got %q, want %q", got, want)
	}
	for range 2 { // a new run, that is probed anew, over the same connections
		s.Endpoints[0].Key.Run++
	}
	p.Router.Apply(discovery.State{Services: []discovery.Service{s}})
	close(finish)
	if got, want := ws[1].reply("POST").String(), "200 one"; got != want {
		t.Errorf("unanswered POST: got %q, want %q", got, want)
	}
	if got, err := io.ReadAll(stream.Body); string(got) != "begun one" || err != nil {
		t.Errorf("stream: got %q, %v; want all of it", got, err)
	}
	if got := p.Router.Table().byName("web").View().Stats.Retries; got[Paused] != 1 {
		t.Errorf("retries %v, want 1 for the pause", got)
	}
}

// TestPauseAlone: with nowhere else to go, requests wait for their only backend.
func TestPauseAlone(t *testing.T) { run(t, testPauseAlone) }

func testPauseAlone(t *testing.T, in lane) {
	arrived, finish := make(chan bool, 10), make(chan bool)
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-finish
		io.WriteString(w, "one "+r.URL.Path)
	})
	s := queued(web(b))
	p := serve(t, in, s)
	before, during := p.dial(), p.dial()
	before.ask("GET /before")
	soon(t, arrived, "a request")
	s.Endpoints = slices.Clone(s.Endpoints)
	s.Endpoints[0].Paused = true
	p.serve(s)
	during.ask("POST /during")
	p.untilParked(1)
	s.Endpoints = slices.Clone(s.Endpoints)
	s.Endpoints[0].Paused = false
	s.Endpoints[0].Key.Run++
	close(finish)
	p.serve(s)
	if got, want := before.reply("GET").String(), "200 one /before"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := during.reply("POST").String(), "200 one /during"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := len(arrived); got != 1 {
		t.Errorf("%d more requests at the backend, want 1", got)
	}
}

// TestRetired: a backend that has gone leaves nothing behind after its last request: no goroutine (run
// sees to that), no socket.
func TestRetired(t *testing.T) { run(t, testRetired) }

func testRetired(t *testing.T, in lane) {
	p := newProxy(t, in)
	p.serve()
	w := p.dial()
	keep := startBackend(t, "keep", nil)
	for range 20 {
		b := startBackend(t, "one", nil)
		p.serve(queued(web(b, keep)))
		for range 4 {
			w.do("GET /")
		}
		p.serve(queued(web(keep)))
		until(t, "its connections are closed", func() bool { return b.open.Load() == 0 })
		b.die()
	}
	p.Router.mu.Lock()
	defer p.Router.mu.Unlock()
	if n := len(p.Router.backends) + len(p.Router.status) + len(p.Router.owners); n != 3 {
		t.Errorf("the Router remembers %d things, want 3 of one backend", n)
	}
}

// TestTrailersOfAttempts: the trailers of a body come while the next attempt begins.
func TestTrailersOfAttempts(t *testing.T) { run(t, testTrailersOfAttempts) }

func testTrailersOfAttempts(t *testing.T, in lane) {
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, r.Trailer.Get("X-A")+r.Trailer.Get("X-D"))
	})
	for range 20 {
		p := newProxy(t, in)
		p.Router.Mark(b.key, probing)
		p.serve(queued(web(b)))
		w := p.dial()
		w.ask("PUT /a\nTransfer-Encoding: chunked\nTrailer: X-A, X-B, X-C, X-D\n", "3\r\nhel\r\n")
		p.untilParked(1)
		marked := make(chan bool)
		go func() {
			defer close(marked)
			p.Router.Mark(b.key, up)
		}()
		w.send("0\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\nX-D: 4\r\n\r\n")
		if got, want := w.reply("PUT").String(), "200 14"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		<-marked
	}
}

// TestSlowFirst: a slow request at the head of the queue, or one that broke off, does not hold up the rest.
func TestSlowFirst(t *testing.T) { run(t, testSlowFirst) }

func testSlowFirst(t *testing.T, in lane) {
	finish := make(chan bool)
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			<-finish
		case "/crash":
			panic(http.ErrAbortHandler)
		}
	})
	p := newProxy(t, in)
	p.Router.Mark(b.key, probing)
	p.serve(queued(web(b)))
	slow := p.dial()
	slow.ask("GET /slow")
	p.untilParked(1)
	fast := p.dial()
	fast.ask("GET /fast")
	p.untilParked(2)
	p.Router.Mark(b.key, up)
	if got, want := fast.reply("GET").String(), "200 "; got != want {
		t.Errorf("behind a slow one: got %q, want %q", got, want)
	}
	crash := p.dial()
	crash.ask("GET /crash")
	p.untilParked(1)
	other := p.dial()
	other.ask("GET /slow")
	start := time.Now()
	if got, want := fast.do("GET /fast").String(), "200 "; got != want || time.Since(start) > again {
		t.Errorf("behind one that broke off: got %q after %v, want %q", got, time.Since(start), want)
	}
	close(finish)
	slow.reply("GET")
	other.reply("GET")
}

// TestBudgetOfStreams: a repeated request that has its answer counts no more, however long that is.
func TestBudgetOfStreams(t *testing.T) { run(t, testBudgetOfStreams) }

func testBudgetOfStreams(t *testing.T, in lane) {
	one := rawBackend(t, "one", func(w *wire) { w.head() })
	finish := make(chan bool)
	two := startBackend(t, "two", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		if r.URL.Path == "/events" {
			<-finish
		}
	})
	defer close(finish)
	s := web(one, two)
	s.Endpoints[1].Backup = true
	p := serve(t, in, s)
	for range 2 * minBudget {
		w := p.dial()
		w.ask("GET /events")
		w.header("GET")
	}
	if got, want := p.do("GET /").String(), "200 "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestTimeoutAlone: the only backend is not asked again when it did not answer in time.
func TestTimeoutAlone(t *testing.T) { run(t, testTimeoutAlone) }

func testTimeoutAlone(t *testing.T, in lane) {
	finish := make(chan bool)
	b := startBackend(t, "one", func(http.ResponseWriter, *http.Request) { <-finish })
	defer close(finish)
	s := queued(web(b))
	s.Settings.ReadTimeout = blink
	p := serve(t, in, s)
	if got, want := p.do("GET /").String(), "504 504 Gateway Timeout"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := b.requests.Load(); got != 1 {
		t.Errorf("it was asked %d times, want once", got)
	}
}
