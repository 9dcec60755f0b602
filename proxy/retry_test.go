package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"longshore/discovery"
	"longshore/health"
)

// refusing is a backend that listened once.
func refusing(t testing.TB, name string) *backend {
	t.Helper()
	b := listen(t, name)
	b.die()
	return b
}

// hanging is a backend to which no connection comes about: its backlog is full.
func hanging(t testing.TB, name string) *backend {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{name: name, Listener: fixedAddr(fmt.Sprint("127.0.0.1:", sa.(*syscall.SockaddrInet4).Port))}
	b.key = discovery.Key{ID: name, Run: int(runs.Add(1)), Port: 80}
	for {
		c, err := net.DialTimeout("tcp", b.addr(), blink)
		if err != nil {
			return b
		}
		t.Cleanup(func() { c.Close() })
	}
}

type fixedAddr string

func (a fixedAddr) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (a fixedAddr) Close() error              { return nil }
func (a fixedAddr) Addr() net.Addr            { return a }
func (a fixedAddr) Network() string           { return "tcp" }
func (a fixedAddr) String() string            { return string(a) }

const posted = "POST /a\nContent-Length: 5\n"

// TestUnsent: when no byte was sent, another backend gets the request, whatever its method.
func TestUnsent(t *testing.T) { run(t, testUnsent) }

func testUnsent(t *testing.T, in lane) {
	for _, c := range []struct {
		name string
		bad  func(testing.TB, string) *backend
	}{{"refused", refusing}, {"dial timeout", hanging}} {
		t.Run(c.name, func(t *testing.T) {
			one, two, three := c.bad(t, "one"), c.bad(t, "two"), startBackend(t, "three", nil)
			s := web(one, two, three)
			s.Settings.ConnectTimeout = blink
			p := serve(t, in, s)
			for range 3 { // whoever is first in turn
				for _, r := range []struct {
					request string
					body    []string
					want    string
				}{
					{"GET /a", nil, "200 three /a"},
					{posted, []string{"hello"}, "200 three /a hello"},
					{"PATCH /a\nTransfer-Encoding: chunked\n", []string{"2\r\nhe\r\n", "3\r\nllo\r\n0\r\n\r\n"}, "200 three /a hello"},
					{"BREW /a", nil, "200 three /a"},
				} {
					if got := p.do(r.request, r.body...).String(); got != r.want {
						t.Errorf("%q: got %q, want %q", r.request, got, r.want)
					}
					via := strings.Split(p.record().Upstream, ", ")
					slices.Sort(via)
					if len(slices.Compact(via)) != len(via) {
						t.Errorf("a backend was tried twice: %q", via)
					}
				}
			}
		})
	}
}

// TestNobodyLeft: every backend has been had.
func TestNobodyLeft(t *testing.T) { run(t, testNobodyLeft) }

func testNobodyLeft(t *testing.T, in lane) {
	one, two := refusing(t, "one"), refusing(t, "two")
	p := newProxy(t, in)
	var mu sync.Mutex
	heard := map[string]int{}
	p.heard = func(k health.Key, o health.Outcome) {
		mu.Lock()
		defer mu.Unlock()
		if o != health.Refused {
			t.Errorf("health heard %v of %s, want Refused", o, k.ID)
		}
		heard[k.ID]++
	}
	p.serve(web(one, two))
	res := p.do(posted, "hello")
	if got, want := res.String(), "503 503 Service Unavailable"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if res.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	if got, want := len(strings.Split(p.record().Upstream, ", ")), 2; got != want {
		t.Errorf("%d attempts, want %d", got, want)
	}
	mu.Lock()
	defer mu.Unlock()
	if heard["one"] != 1 || heard["two"] != 1 {
		t.Errorf("health heard %v, want one report of each", heard)
	}
}

// TestOnlyUp: a backend gets nothing before it is up, and nothing after it has failed, while another is up.
func TestOnlyUp(t *testing.T) { run(t, testOnlyUp) }

func testOnlyUp(t *testing.T, in lane) {
	one, two := startBackend(t, "one", nil), startBackend(t, "two", nil)
	p := newProxy(t, in)
	p.serve()
	p.Router.Apply(discovery.State{Services: []discovery.Service{web(one, two)}})
	w := p.dial()
	expect := func(when, want string) {
		t.Helper()
		for range 4 {
			if got := w.do("GET /").String(); got != want {
				t.Errorf("%s: got %q, want %q", when, got, want)
			}
		}
	}
	expect("none is up", "503 503 Service Unavailable")
	p.Router.Mark(two.key, up)
	expect("two is up", "200 two /")
	p.Router.Mark(two.key, health.Status{State: health.Failing, Reachable: true})
	expect("two failed, but accepts", "200 two /")
	p.Router.Mark(one.key, up)
	expect("one is up", "200 one /")
	p.Router.Mark(one.key, health.Status{State: health.Failing})
	p.Router.Mark(two.key, health.Status{State: health.Failing})
	expect("none accepts", "503 503 Service Unavailable")
}

// TestIdleClosed: backends close idle connections all the time, and no request may notice.
func TestIdleClosed(t *testing.T) { run(t, testIdleClosed) }

func testIdleClosed(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	p := serve(t, in, web(b))
	w := p.dial()
	for i := range 20 {
		request, body := "GET /a", ""
		if i%2 == 1 {
			request, body = posted, "hello"
		}
		want := strings.TrimSpace("200 one /a " + body)
		if got := w.do(request, body).String(); got != want {
			t.Fatalf("request %d: got %q, want %q", i, got, want)
		}
		until(t, "the connection is idle", func() bool { return p.backend(b).pool.Idle() == 1 })
		b.hangUp()
		until(t, "it is closed", func() bool { return b.open.Load() == 0 })
	}
}

// TestStale: what must not be sent twice does not go over a connection that has idled for long.
func TestStale(t *testing.T) { run(t, testStale) }

func testStale(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	p := serve(t, in, web(b))
	w := p.dial()
	w.do("GET /a")
	w.do(posted, "hello")
	if got := b.conns.Load(); got != 1 {
		t.Errorf("%d connections, want 1: it has hardly idled", got)
	}
	time.Sleep(1100 * time.Millisecond) // the one second of rule 3; nothing is waited for
	w.do("GET /a")
	if got := b.conns.Load(); got != 1 {
		t.Errorf("%d connections, want 1: a GET may use it", got)
	}
	time.Sleep(1100 * time.Millisecond)
	w.do(posted, "hello")
	if got := b.conns.Load(); got != 2 {
		t.Errorf("%d connections, want 2: a POST may not", got)
	}
}

// TestManyIdle: more than the two idle connections that http.Transport would keep are used again.
func TestManyIdle(t *testing.T) { run(t, testManyIdle) }

func testManyIdle(t *testing.T, in lane) {
	const n = 20
	var inside sync.WaitGroup
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		inside.Done()
		inside.Wait() // all are in flight at once
	})
	p := serve(t, in, web(b))
	for range 3 {
		inside.Add(n)
		var clients sync.WaitGroup
		for range n {
			w := p.dial()
			clients.Go(func() { w.do("GET /") })
		}
		clients.Wait()
		until(t, "all are idle", func() bool { return p.backend(b).pool.Idle() == n })
	}
	if got := b.conns.Load(); got != n {
		t.Errorf("%d connections, want %d", got, n)
	}
}

// TestSent: once a request was sent, it is sent again only if its method allows that and it has no body.
func TestSent(t *testing.T) { run(t, testSent) }

func testSent(t *testing.T, in lane) {
	for _, c := range []struct {
		request string
		body    string
		want    string
	}{
		{"GET /", "", "200 ok"},
		{"HEAD /", "", "200 "},
		{"OPTIONS /", "", "200 ok"},
		{"PUT /\nContent-Length: 0\n", "", "200 ok"},
		{"DELETE /", "", "200 ok"},
		{"POST /", "", "502 502 Bad Gateway"},
		{"POST /\nContent-Length: 0\n", "", "502 502 Bad Gateway"},
		{"POST /\nContent-Length: 0\nIdempotency-Key: x\n", "", "502 502 Bad Gateway"}, // http.Transport would
		{"PATCH /", "", "502 502 Bad Gateway"},
		{"BREW /", "", "502 502 Bad Gateway"},
		{posted, "hello", "502 502 Bad Gateway"},
	} {
		t.Run(c.request, func(t *testing.T) {
			breaks := func(w *wire) { w.head() } // and closes
			one, two := rawBackend(t, "one", breaks), rawBackend(t, "two", answers(ok))
			s := web(one, two)
			s.Endpoints[1].Backup = true // so that one comes first
			p := serve(t, in, s)
			if got := p.do(c.request, c.body).String(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if got := one.conns.Load(); got != 1 {
				t.Errorf("one was tried %d times, want once", got)
			}
		})
	}
}

// TestAttempts: a request that may have reached an application is sent three times at most.
func TestAttempts(t *testing.T) { run(t, testAttempts) }

func testAttempts(t *testing.T, in lane) {
	var attempts atomic.Int64
	var bs []*backend
	for i := range 5 {
		bs = append(bs, rawBackend(t, fmt.Sprint(i), func(w *wire) {
			w.head()
			attempts.Add(1)
		}))
	}
	p := serve(t, in, web(bs...))
	if got, want := p.do("GET /").String(), "502 502 Bad Gateway"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := attempts.Load(); got != 3 {
		t.Errorf("%d attempts, want 3", got)
	}
}

// TestSentThenRefused: what the client is told is why the request failed that was sent, and it is not
// told to come again.
func TestSentThenRefused(t *testing.T) { run(t, testSentThenRefused) }

func testSentThenRefused(t *testing.T, in lane) {
	one, two := rawBackend(t, "one", func(w *wire) { w.head() }), refusing(t, "two")
	s := web(one, two)
	s.Endpoints[1].Backup = true
	p := serve(t, in, s)
	if got, want := p.do("GET /").String(), "502 502 Bad Gateway"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestStopping: a stopping backend finishes what it has and gets nothing new, not even over connections
// that are open.
func TestStopping(t *testing.T) { run(t, testStopping) }

func testStopping(t *testing.T, in lane) {
	arrived, finish := make(chan string), make(chan bool)
	slow := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				io.WriteString(w, "begun ")
				w.(http.Flusher).Flush()
				arrived <- name
				<-finish
			}
			io.WriteString(w, name)
		}
	}
	one, two := startBackend(t, "one", slow("one")), startBackend(t, "two", slow("two"))
	defer close(finish)
	p := serve(t, in, web(one, two))
	w := p.dial()
	for range 4 { // both have idle connections
		w.do("GET /")
	}
	w.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	stopping := soon(t, arrived, "the slow request")
	s := web(one, two)
	left := "200 two"
	if stopping == "two" {
		left = "200 one"
	}
	for i := range s.Endpoints {
		s.Endpoints[i].Stopping = s.Endpoints[i].Name == stopping
	}
	p.serve(s)
	other := p.dial()
	for range 10 {
		if got := other.do("GET /").String(); got != left {
			t.Errorf("while %s stops: got %q, want %q", stopping, got, left)
		}
	}
	finish <- true
	if got, want := w.reply("GET").String(), "200 begun "+stopping; got != want {
		t.Errorf("in flight: got %q, want %q", got, want)
	}

	// A last resort, when there is nothing else: a shell as PID 1 goes on until it is killed.
	s.Endpoints = slices.Clone(s.Endpoints)
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; !e.Stopping {
			e.Down, e.Addr = "exited", ""
		}
	}
	p.serve(s)
	if got, want := other.do("GET /").String(), "200 "+stopping; got != want {
		t.Errorf("nothing else: got %q, want %q", got, want)
	}
}

// TestTrial: a backend on trial has one request at a time while others can take the rest.
func TestTrial(t *testing.T) { run(t, testTrial) }

func testTrial(t *testing.T, in lane) {
	const n = 20
	finish := make(chan bool)
	var most, now atomic.Int64
	var all sync.WaitGroup
	all.Add(n)
	handler := func(w http.ResponseWriter, r *http.Request) { all.Done(); <-finish }
	old := startBackend(t, "old", handler)
	trial := startBackend(t, "new", func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		handler(w, r)
	})
	answered := make(chan string, n)
	p := newProxy(t, in)
	p.heard = func(k health.Key, o health.Outcome) {
		if o == health.Answered {
			answered <- k.ID
		}
	}
	p.Router.Mark(trial.key, health.Status{State: health.Up, Reachable: true, Trial: true})
	p.serve(web(old, trial))
	var clients sync.WaitGroup
	for range n {
		w := p.dial()
		clients.Go(func() { w.do("GET /") })
	}
	all.Wait()
	if got := trial.requests.Load(); got != 1 {
		t.Errorf("%d requests to the backend on trial, want 1 of %d", got, n)
	}
	close(finish)
	clients.Wait()
	if got, want := soon(t, answered, "the trial's answer"), "new"; got != want {
		t.Errorf("health heard of %q, want %q", got, want)
	}
}

// without is the state after a container has died.
func without(s discovery.Service, name string) discovery.Service {
	s.Endpoints = slices.DeleteFunc(slices.Clone(s.Endpoints), func(e discovery.Endpoint) bool { return e.Name == name })
	return s
}

// TestHardDown: what waits for a backend that is gone does not wait on.
func TestHardDown(t *testing.T) { run(t, testHardDown) }

func testHardDown(t *testing.T, in lane) {
	for _, c := range []struct {
		request, body string
		want          string
	}{
		{"GET /a", "", "200 two /a"},
		{"DELETE /a", "", "200 two /a"},
		{"POST /a", "", "502 502 Bad Gateway"},
		{posted, "hello", "502 502 Bad Gateway"},
		{"POST /a\nContent-Length: 9\n", "half ", "502 502 Bad Gateway"}, // still uploading
		{"POST /a\nTransfer-Encoding: chunked\n", "5\r\nhalf \r\n", "502 502 Bad Gateway"},
	} {
		t.Run(c.request, func(t *testing.T) {
			one := rawBackend(t, "one", func(w *wire) { w.rest() }) // never answers
			two := startBackend(t, "two", nil)
			s := web(one, two)
			s.Endpoints[1].Backup = true
			p := serve(t, in, s)
			w := p.dial()
			got := make(chan string, 1)
			go func() { got <- w.do(c.request, c.body).String() }()
			body := c.body
			until(t, "it has been sent", func() bool { return strings.HasSuffix(one.got(), "\r\n\r\n"+body) })
			start := time.Now()
			p.serve(without(s, "one"))
			if got := soon(t, got, "the answer"); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if d := time.Since(start); d > 500*time.Millisecond {
				t.Errorf("it took %v, want at once", d)
			}
			until(t, "the connection is closed", func() bool { return one.open.Load() == 0 })
		})
	}
}

// TestHardDownWhileDialling: nothing was sent, so any method goes elsewhere.
func TestHardDownWhileDialling(t *testing.T) { run(t, testHardDownWhileDialling) }

func testHardDownWhileDialling(t *testing.T, in lane) {
	one, two := hanging(t, "one"), startBackend(t, "two", nil)
	s := web(one, two)
	s.Settings.ConnectTimeout = time.Minute
	s.Endpoints[1].Backup = true
	p := serve(t, in, s)
	w := p.dial()
	got := make(chan string, 1)
	go func() { got <- w.do(posted, "hello").String() }()
	until(t, "it dials", func() bool { return p.backend(one).InFlight() == 1 })
	p.serve(without(s, "one"))
	if got, want := soon(t, got, "the answer"), "200 two /a hello"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestHardDownStreams: a disconnected container sends no FIN. Its streams end soon, its idle connections at once.
func TestHardDownStreams(t *testing.T) { run(t, testHardDownStreams) }

func testHardDownStreams(t *testing.T, in lane) {
	b := rawBackend(t, "one", func(w *wire) {
		if head := w.head(); strings.Contains(head, "Upgrade") {
			w.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nhello")
		} else if strings.HasPrefix(head, "GET /idle") {
			w.send(ok)
		} else {
			w.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		}
		w.rest()
	})
	p := serve(t, in, web(b))
	idle, stream, upgrade := p.dial(), p.dial(), p.dial()
	stream.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	body := stream.header("GET").Body
	io.ReadFull(body, make([]byte, 5))
	upgrade.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
	upgrade.header("GET")
	upgrade.bytes(5)
	idle.do("GET /idle")

	until(t, "three connections are open", func() bool { return b.open.Load() == 3 })
	start := time.Now()
	p.serve()
	until(t, "the idle one is closed", func() bool { return b.open.Load() <= 2 })
	if d := time.Since(start); d > 500*time.Millisecond {
		t.Errorf("closing the idle connection took %v, want at once", d)
	}
	if rest, err := io.ReadAll(body); err == nil {
		t.Errorf("the stream ended well, with %q; want an error", rest)
	}
	if got := upgrade.rest(); got != "" {
		t.Errorf("the upgraded connection got %q, want its end", got)
	}
	until(t, "all are closed", func() bool { return b.open.Load() == 0 })
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("it took %v, want about a second", d)
	}
}

// TestNewRun: the same container after a restart, at the same address or another, has connections of its own.
func TestNewRun(t *testing.T) { run(t, testNewRun) }

func testNewRun(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	p := serve(t, in, web(b))
	w := p.dial()
	w.do("GET /")
	b.key.Run += 1000
	p.serve(web(b))
	if got, want := w.do("GET /").String(), "200 one /"; got != want {
		t.Errorf("after a restart: got %q, want %q", got, want)
	}
	if got := b.conns.Load(); got != 2 {
		t.Errorf("%d connections, want a second one", got)
	}
	until(t, "the first is closed", func() bool { return b.open.Load() == 1 })

	two := startBackend(t, "two", nil)
	two.key, two.name = b.key, b.name
	p.serve(web(two))
	if got, want := w.do("GET /").String(), "200 two /"; got != want {
		t.Errorf("with another address: got %q, want %q", got, want)
	}
	until(t, "the second is closed", func() bool { return b.open.Load() == 0 })
}

// TestSwapsUnderLoad: scaling up and down, restarts and new settings cost no request.
func TestSwapsUnderLoad(t *testing.T) { run(t, testSwapsUnderLoad) }

func testSwapsUnderLoad(t *testing.T, in lane) {
	var bs []*backend
	for i := range 4 {
		bs = append(bs, startBackend(t, fmt.Sprint(i), nil))
	}
	p := serve(t, in, web(bs...))
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 4 {
		w := p.dial()
		clients.Go(func() {
			for ctx.Err() == nil {
				// A GET may be sent again when its backend dies under it. A POST may not, and is not here.
				if res := w.do("GET /a"); res.StatusCode != 200 || !strings.HasSuffix(res.body, " /a") {
					t.Errorf("got %q, want 200", res)
				}
			}
		})
	}
	for i := range 300 {
		gone, stopping := bs[i%4], bs[(i+1)%4]
		if i%3 == 0 {
			gone.key.Run += 1000
		}
		s := web(bs...)
		if i%2 == 0 {
			s = without(s, gone.name)
		}
		for j := range s.Endpoints {
			s.Endpoints[j].Stopping = i%5 == 0 && s.Endpoints[j].Name == stopping.name
		}
		p.serve(s)
		p.Router.Mark(bs[(i+2)%4].key, health.Status{State: health.State(i % 3), Reachable: true})
		p.Router.Mark(bs[(i+2)%4].key, up)
		time.Sleep(time.Millisecond)
	}
	cancel()
	clients.Wait()
	for range len(p.records) {
		if r := p.record(); r.Status != 200 {
			t.Errorf("a request ended with %d", r.Status)
		}
	}
	for _, b := range bs {
		until(t, b.name+" has none in flight", func() bool { got := p.backend(b); return got == nil || got.InFlight() == 0 })
	}
}

// TestGoneIsFree: failovers that Docker announced do not count as attempts.
func TestGoneIsFree(t *testing.T) { run(t, testGoneIsFree) }

func testGoneIsFree(t *testing.T, in lane) {
	arrived := make(chan string)
	var bs []*backend
	for i := range 6 {
		name := fmt.Sprint(i)
		bs = append(bs, rawBackend(t, name, func(w *wire) {
			w.head()
			arrived <- name
			w.rest() // never answers
		}))
	}
	bs = append(bs, startBackend(t, "last", nil))
	s := web(bs...)
	s.Endpoints[6].Backup = true
	p := serve(t, in, s)
	w := p.dial()
	got := make(chan string, 1)
	go func() { got <- w.do("GET /a").String() }()
	for range 6 {
		s = without(s, soon(t, arrived, "the request"))
		p.serve(s)
	}
	if got, want := soon(t, got, "the answer"), "200 last /a"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := p.Router.Table().Services()[0].View().Stats.Retries[Gone]; got != 6 {
		t.Errorf("%d retries were counted, want 6", got)
	}
}

// TestClosedAtThisMoment: a kept-alive connection may be closed while a request is on its way. What may be
// repeated goes to the same backend, over a new connection; what may not ends in 502.
func TestClosedAtThisMoment(t *testing.T) { run(t, testClosedAtThisMoment) }

func testClosedAtThisMoment(t *testing.T, in lane) {
	b := rawBackend(t, "one", func(w *wire) { // answers once, and hangs up on the second request
		w.head()
		w.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		w.line()
	})
	p := serve(t, in, web(b))
	w := p.dial()
	for i := range 5 {
		if got := w.do("GET /a").String(); got != "200 ok" {
			t.Errorf("GET %d: got %q, want the answer of a new connection", i, got)
		}
	}
	if got := w.do(posted, "hello").StatusCode; got != 502 {
		t.Errorf("POST: got %d, want 502: it may have been executed", got)
	}
	if got := p.Router.Table().Services()[0].View().Stats.Retries[Stale]; got != 4 {
		t.Errorf("%d repeated for a stale connection, want 4", got)
	}
}

// A fragile panics when it is to pass on an interim response.
type fragile struct{ *httptest.ResponseRecorder }

func (f fragile) WriteHeader(code int) {
	if code < 200 {
		panic("fragile")
	}
	f.ResponseRecorder.WriteHeader(code)
}

// TestPanickingAttempt: a request that panics while it is sent is not in flight any more.
func TestPanickingAttempt(t *testing.T) {
	b := rawBackend(t, "one", answers("HTTP/1.1 103 Early Hints\r\n\r\n"+ok))
	p := serve(t, lanes[0], web(b))
	func() {
		defer func() {
			if recover() != "fragile" {
				t.Error("it has not panicked")
			}
		}()
		p.Server.ServeHTTP(fragile{httptest.NewRecorder()}, httptest.NewRequest("GET", "/", nil))
	}()
	if got := p.backend(b).InFlight(); got != 0 {
		t.Errorf("%d are in flight, want 0", got)
	}
	until(t, "the connection is closed", func() bool { return b.open.Load() == 0 })
}

// crashing answers every path but /crash, which ends it: its connections break, and it refuses new ones.
func crashing(t testing.TB, name string, crashed chan<- string) *backend {
	var self atomic.Pointer[backend]
	b := startBackend(t, name, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/crash" {
			self.Load().die()
			crashed <- name
			return
		}
		fmt.Fprintf(w, "%s %s", name, r.URL.Path)
	})
	self.Store(b)
	return b
}

// ended is a state after the container of an endpoint has ended.
func ended(s discovery.Service, name string, end discovery.End) discovery.Service {
	s.Endpoints = slices.Clone(s.Endpoints)
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; e.Name == name {
			e.Down, e.Addr, e.End = "exited (1)", "", end
		}
	}
	return s
}

// TestFelling: the second container that ends by itself under a request is the last one that gets it, over fresh
// connections and over kept ones. Where somebody ended the containers it goes on for as long as it likes.
func TestFelling(t *testing.T) { run(t, testFelling) }

func testFelling(t *testing.T, in lane) {
	for _, c := range []struct {
		name    string
		warm    bool // the connections have carried a request before
		lost    bool // the loss of the network is heard before the end, as newer engines have it
		end     discovery.End
		want    string
		crashes int
		felled  uint64
	}{
		{"by itself", false, false, discovery.EndCrash, "502 502 Bad Gateway", 2, 1},
		{"by itself, kept connections", true, false, discovery.EndCrash, "502 502 Bad Gateway", 2, 1},
		{"by itself, disconnect first", false, true, discovery.EndCrash, "502 502 Bad Gateway", 2, 1},
		{"by order", false, false, discovery.EndOrdered, "200 last /crash", 4, 0},
		{"by order, kept connections", true, false, discovery.EndOrdered, "200 last /crash", 4, 0},
		{"by order, disconnect first", true, true, discovery.EndOrdered, "200 last /crash", 4, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			crashed := make(chan string, 10)
			var bs []*backend
			for i := range 4 {
				bs = append(bs, crashing(t, fmt.Sprint(i), crashed))
			}
			s := balanced(t, "round_robin", queued(web(append(bs, startBackend(t, "last", nil))...)))
			s.Endpoints[4].Backup = true
			p := serve(t, in, s)
			w := p.dial()
			for range 8 {
				if c.warm {
					w.do("GET /")
				}
			}
			got := make(chan reply, 1)
			go func() { got <- w.do("GET /crash?secret") }()
			crashes := 0
			for done := false; !done; {
				select {
				case name := <-crashed:
					crashes++
					if c.lost {
						s = ended(s, name, discovery.EndUnknown)
						p.serve(s)
					}
					s = ended(s, name, c.end)
					p.serve(s)
				case r := <-got:
					if r.String() != c.want {
						t.Errorf("got %q, want %q", r, c.want)
					}
					done = true
				case <-time.After(patience):
					t.Fatal("no answer")
				}
			}
			until(t, "all that crashed has said so", func() bool { return crashes+len(crashed) >= c.crashes })
			if crashes += len(crashed); crashes != c.crashes {
				t.Errorf("%d crashes, want %d", crashes, c.crashes)
			}
			if got := p.Router.Table().byName("web").View().Stats.Felled; got != c.felled {
				t.Errorf("%d fatal requests were counted, want %d", got, c.felled)
			}
			line := `level=WARN msg="containers ended by themselves under a request, which is not sent to another" service=web backends="`
			if said := p.log.String(); (strings.Contains(said, line) && strings.Contains(said, "\" method=GET path=/crash\n")) != (c.felled > 0) || strings.Contains(said, "secret") {
				t.Errorf("the log says %s; want this line: %v", said, c.felled > 0)
			}
		})
	}
}

// TestFellingAlone: the only replica, which is started again each time, is ended twice.
func TestFellingAlone(t *testing.T) { run(t, testFellingAlone) }

func testFellingAlone(t *testing.T, in lane) {
	crashed := make(chan string, 10)
	b := crashing(t, "one", crashed)
	s := queued(web(b))
	p := serve(t, in, s)
	w := p.dial()
	w.ask("GET /crash")
	for range maxFelled {
		soon(t, crashed, "a crash")
		p.serve(ended(s, "one", discovery.EndCrash))
		again := crashing(t, "one", crashed)
		s = queued(web(again))
		p.serve(s)
	}
	if got, want := w.reply("GET").String(), "502 502 Bad Gateway"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := p.do("GET /a").String(), "200 one /a"; got != want {
		t.Errorf("another request: got %q, want %q", got, want)
	}
	if len(crashed) > 0 {
		t.Errorf("%d crashes more", len(crashed))
	}
}

// TestFellingBeside: what a crash cuts off is carried on, however much it is: only a fifth of the requests in
// flight could be by the budget.
func TestFellingBeside(t *testing.T) { run(t, testFellingBeside) }

func testFellingBeside(t *testing.T, in lane) {
	const n = 40
	var arrived sync.WaitGroup
	arrived.Add(n)
	crash := make(chan bool)
	one := rawBackend(t, "one", func(w *wire) {
		w.head()
		arrived.Done()
		<-crash
	})
	two := startBackend(t, "two", nil)
	s := web(one, two)
	s.Endpoints[1].Backup = true
	p := serve(t, in, s)
	answers := make(chan string, n)
	for range n {
		w := p.dial()
		go func() { answers <- w.do("GET /").String() }()
	}
	arrived.Wait()
	close(crash)
	one.die()
	p.serve(ended(s, "one", discovery.EndCrash))
	for range n {
		if got, want := soon(t, answers, "an answer"), "200 two /"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	until(t, "nothing is in flight", func() bool { return p.backend(two).InFlight() == 0 })
	if got := p.Router.Table().byName("web").group.retrying.Load(); got != 0 {
		t.Errorf("%d still count in the budget", got)
	}
}

// TestNetworkTakenAway: a container that has lost its network and runs on was taken from it by somebody.
func TestNetworkTakenAway(t *testing.T) { run(t, testNetworkTakenAway) }

func testNetworkTakenAway(t *testing.T, in lane) {
	arrived := make(chan string, 10)
	var bs []*backend
	for i := range 4 {
		name := fmt.Sprint(i)
		bs = append(bs, rawBackend(t, name, func(w *wire) {
			w.head()
			arrived <- name
			w.rest() // never answers
		}))
	}
	s := web(append(bs, startBackend(t, "last", nil))...)
	s.Endpoints[4].Backup = true
	p := serve(t, in, s)
	w := p.dial()
	w.ask("GET /a")
	for range 4 {
		name := soon(t, arrived, "the request")
		for _, end := range []discovery.End{discovery.EndUnknown, discovery.EndOrdered} { // the second with the answer to an inspect
			s = ended(s, name, end)
			p.serve(s)
		}
	}
	if got, want := w.reply("GET").String(), "200 last /a"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	p.Router.mu.Lock()
	defer p.Router.mu.Unlock()
	if len(p.Router.lost) != 0 {
		t.Errorf("%d backends are waited for to end", len(p.Router.lost))
	}
}

// TestOneAtATime: a server that has one connection at a time, and reads on from it for as long as that is open, answers
// all who come at once.
func TestOneAtATime(t *testing.T) { run(t, testOneAtATime) }

func testOneAtATime(t *testing.T, in lane) {
	if in.name == "transport" {
		t.Skip("http.Transport does not look after that")
	}
	b := listen(t, "one")
	go func() {
		for {
			c, err := b.Accept()
			if err != nil {
				return
			}
			served := make(chan bool)
			go func() { // one after another
				defer close(served)
				defer c.Close()
				answers(ok)(newWire(c, func(string, ...any) { runtime.Goexit() }))
			}()
			<-served
		}
	}()
	p := serve(t, in, web(b))
	const n = 20
	start := time.Now()
	got := make(chan string, n)
	for range n {
		w := p.dial()
		go func() { got <- w.do("GET /").String() }()
	}
	for range n {
		if got, want := soon(t, got, "an answer"), "200 ok"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v for %d, want little more than a second", took, n)
	}
}
