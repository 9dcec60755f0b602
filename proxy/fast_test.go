package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"longshore/discovery"
)

var fastest = lane{"fast", func(s *Server) { s.FastLane = true }}

// handed is how often the fast lane has left a connection to the general path.
func (p *testProxy) handed() int64 { return p.Server.handed.Load() }

// TestNoAllocation: a request on the fast lane allocates nothing, its record included.
func TestNoAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	noLeak(t)
	const response = "HTTP/1.1 200 OK\r\nDate: Wed, 25 Nov 2026 12:00:00 GMT\r\nConnection: keep-alive\r\n"
	for _, c := range []struct{ name, request, response string }{
		{"GET", "GET /a%20b?c HTTP/1.1\r\nHost: shop:8080\r\nUser-Agent: me\r\nAccept: */*\r\n\r\n", response + "Content-Length: 2\r\n\r\nok"},
		{"GET in chunks", "GET / HTTP/1.1\r\nHost: shop\r\n\r\n", response + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"GET of more than a buffer", "GET / HTTP/1.1\r\nHost: shop\r\n\r\n", response + "Content-Length: 300000\r\n\r\n" + strings.Repeat("x", 300000)},
		{"POST", "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 16384\r\n\r\n" + strings.Repeat("x", 16384), response + "Content-Length: 2\r\n\r\nok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := listen(t, "one")
			go func() {
				nc, err := b.Listener.Accept()
				if err != nil {
					return
				}
				defer nc.Close()
				buf, got, answer := make([]byte, 32<<10), 0, []byte(c.response)
				for {
					n, err := nc.Read(buf)
					if err != nil {
						return
					}
					// Every request is as long as the first, which ends with a pause.
					if got += n; buf[n-1] == '\n' && strings.HasPrefix(c.request, "GET") || got%(len(c.request)+forwarded) == 0 {
						nc.Write(answer)
					}
				}
			}()
			p := newProxy(t, fastest)
			var told int
			p.Record = func(r *Record) {
				if r.Status == 200 {
					told++
				}
			}
			p.serve(web(b))
			w := p.dial()
			request, answer := []byte(c.request), make([]byte, len(c.response))
			answer = answer[:len(c.response)-len("Connection: keep-alive\r\n")]
			const runs = 200
			n := testing.AllocsPerRun(runs, func() {
				w.Conn.Write(request)
				if _, err := io.ReadFull(w.Conn, answer); err != nil {
					t.Fatal(err)
				}
			})
			if n >= 1 {
				t.Errorf("%v allocations per request, want none", n)
			}
			if got := p.handed(); got != 0 {
				t.Errorf("%d connections were left to the general path, want none", got)
			}
			until(t, "all are told of", func() bool { return told == runs+1 })
		})
	}
}

// forwarded is how many bytes the fields have that are added to the POST above.
const forwarded = len("X-Forwarded-For: 127.0.0.1\r\nX-Real-Ip: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: shop\r\nX-Forwarded-Port: 80\r\n")

// TestThereAndBack: a connection is left to the general path for what is not plain, and comes back behind it, with
// nothing lost or answered twice.
func TestThereAndBack(t *testing.T) {
	noLeak(t)
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/stream" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		if r.URL.Path == "/away" {
			w.Header().Set("Location", "http://"+r.Host+"/there")
		}
		fmt.Fprintf(w, "%s%s", r.URL.Path, body)
	})
	p := serve(t, fastest, web(b))
	w := p.dial()
	for i, c := range []struct {
		request, body, want string
		handed              int64 // so far
	}{
		{"GET /a", "", "200 /a", 0},
		{"GET /b\nTE: trailers\nConnection: TE\n", "", "200 /b", 1},
		{"GET /c", "", "200 /c", 1},
		{"POST /d\nContent-Length: 2\n", "ok", "200 /dok", 1},
		{"POST /e\nContent-Length: 100000\n", strings.Repeat("e", 100000), "200 /e" + strings.Repeat("e", 100000), 2},
		{"GET /f", "", "200 /f", 2},
		{"GET /stream", "", "200 /stream", 3}, // this was sent before
		{"GET /g", "", "200 /g", 3},
		{"POST /stream\nContent-Length: 2\n", "ok", "200 /streamok", 4},
		{"GET /h", "", "200 /h", 4},
		{"GET /away", "", "200 /away", 5},
		{"GET /i", "", "200 /i", 5},
	} {
		if got := w.do(c.request, c.body).String(); got != c.want {
			t.Fatalf("%d: got %.80q, want %.80q", i, got, c.want)
		}
		if got := p.handed(); got != c.handed {
			t.Errorf("%d: %d times left to the general path so far, want %d", i, got, c.handed)
		}
		if got := b.requests.Load(); got != int64(i+1) {
			t.Errorf("%d: the backend had %d requests, want %d", i, got, i+1)
		}
	}
	if got := b.conns.Load(); got > 3 { // at times one is not yet given back when the next request comes
		t.Errorf("%d connections to the backend, want one that both lanes use", got)
	}
}

// TestPipelineMixed: requests of both kinds in one segment are all answered, in order.
func TestPipelineMixed(t *testing.T) {
	noLeak(t)
	b := startBackend(t, "one", nil)
	p := serve(t, fastest, web(b))
	const plain, odd = "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", "POST /%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
	for _, order := range []string{"pp", "po", "op", "ppopoop", "oopp"} {
		w := p.dial()
		var all strings.Builder
		for i, kind := range order {
			if kind == 'p' {
				fmt.Fprintf(&all, plain, i)
			} else {
				fmt.Fprintf(&all, odd, i)
			}
		}
		w.send(all.String())
		for i, kind := range order {
			want := fmt.Sprintf("200 one /%d", i)
			if kind == 'o' {
				want += " ok"
			}
			if got := w.reply("GET").String(); got != want {
				t.Errorf("%s, %d: got %q, want %q", order, i, got, want)
			}
		}
		if got := w.do("GET /last").String(); got != "200 one /last" {
			t.Errorf("%s: behind it got %q", order, got)
		}
		w.Close()
	}
}

// TestPieces: a head or a body that comes in pieces is waited for, and when that takes long the body is sent on as
// it comes.
func TestPieces(t *testing.T) {
	noLeak(t)
	b := startBackend(t, "one", nil)
	p := serve(t, fastest, web(b))
	w := p.dial()
	request := "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
	for cut := 1; cut < len(request); cut++ {
		w.send(request[:cut], request[cut:])
		if got, want := w.reply("POST").String(), "200 one /a hello"; got != want {
			t.Fatalf("cut at %d: got %q, want %q", cut, got, want)
		}
	}
	if got := p.handed(); got != 0 {
		t.Errorf("%d times left to the general path, want never", got)
	}
	w.send(request[:len(request)-2])
	until(t, "the backend has the beginning", func() bool { return strings.HasSuffix(b.got(), "hel") })
	w.send("lo")
	if got, want := w.reply("POST").String(), "200 one /a hello"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := w.do("GET /b").String(); got != "200 one /b" {
		t.Errorf("behind it got %q", got)
	}
}

// TestHalfClosed: the connection of a client that says at once that it will send no more ends at once, be it after
// the answer or, where that is taken to mean that the client has left, without it.
func TestHalfClosed(t *testing.T) { run(t, testHalfClosed) }

func testHalfClosed(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	p := serve(t, in, web(b))
	for range 20 {
		w := p.dial()
		w.send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
		w.Conn.(*net.TCPConn).CloseWrite()
		start := time.Now()
		if got := w.rest(); got != "" && !strings.HasSuffix(got, "one /a") && !strings.HasPrefix(got, "HTTP/1.1 499 ") {
			t.Errorf("got %q, want the answer, or none", got)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("the connection ended after %v, want at once", d)
		}
	}
}

// TestFeatures: what only the general path has is left to it, for good; the rest is not.
func TestFeatures(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*discovery.Service)
		handed int64
	}{
		{"plain", func(s *discovery.Service) {}, 0},
		{"internal", func(s *discovery.Service) { s.Internal = true }, 0},
		{"cookie", func(s *discovery.Service) {
			s.Settings.Sticky = discovery.Sticky{Mode: discovery.StickyCookie, Cookie: "a"}
		}, 0},
		{"learn", func(s *discovery.Service) {
			s.Settings.Sticky = discovery.Sticky{Mode: discovery.StickyLearn, Create: "$upstream_cookie_a", Lookup: "$cookie_a"}
		}, 1},
		{"dest", func(s *discovery.Service) { s.Routes[0].Dest = "/b" }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeak(t)
			b := startBackend(t, "one", nil)
			svc := web(b)
			c.change(&svc)
			p := serve(t, fastest, svc)
			w := p.dial()
			for range 3 {
				if got := w.do("GET /a").StatusCode; got != 200 {
					t.Errorf("got %d", got)
				}
			}
			if got := p.handed(); got != c.handed {
				t.Errorf("%d times left to the general path, want %d", got, c.handed)
			}
		})
	}
}

// TestLounge: a connection that is quiet for long has no goroutine. It is served when it has a request, notices when
// its client leaves or has waited for too long, and does not hold up the end.
func TestLounge(t *testing.T) {
	noLeak(t)
	b := startBackend(t, "one", nil)
	p := newProxy(t, fastest)
	p.restTime = 50 * time.Millisecond
	p.IdleTimeout = 3 * time.Second
	p.serve(web(b))
	resting := func() (n int) {
		l := p.Server.fast.Load()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.lounge == nil {
			return 0
		}
		return len(l.lounge.guests)
	}
	ws := make([]*wire, 20)
	for i := range ws {
		ws[i] = p.dial()
		ws[i].do("GET /a")
	}
	silent := p.dial()
	until(t, "all rest", func() bool { return resting() == len(ws)+1 })
	for range 3 {
		for _, w := range ws {
			if got := w.do("POST /b\nContent-Length: 2\n", "ok").String(); got != "200 one /b ok" {
				t.Fatalf("got %q", got)
			}
		}
		until(t, "all rest again", func() bool { return resting() == len(ws)+1 })
	}
	if got := silent.do("GET /c").String(); got != "200 one /c" {
		t.Errorf("the first request after long: got %q", got)
	}
	ws[0].Close()
	until(t, "one has left", func() bool { return p.Server.fast.Load().open() == len(ws) })
	until(t, "the others rest", func() bool { return resting() == len(ws) })
	start := time.Now()
	if got := ws[1].rest(); got != "" {
		t.Errorf("got %q, want the end", got)
	}
	if d := time.Since(start); d < time.Second || d > 5*time.Second {
		t.Errorf("it came after %v, want about %v", d, p.IdleTimeout)
	}
	until(t, "nobody is left", func() bool { return p.Server.fast.Load().open() == 0 })
	w := p.dial()
	w.do("GET /a")
	until(t, "it rests", func() bool { return resting() == 1 })
	p.stop()
	if got := w.rest(); got != "" {
		t.Errorf("got %q, want the end", got)
	}
	if err := soon(t, p.stopped, "Serve to return"); err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// TestShutdownStays: a connection that stays with the general path ends at once when it waits for a request, also
// while the fast lane still has one in flight.
func TestShutdownStays(t *testing.T) {
	noLeak(t)
	b, arrived, finish := slowBackend(t)
	elsewhere := web(b)
	elsewhere.Name, elsewhere.Routes = "elsewhere", []discovery.Route{{Path: "/below", Dest: "/"}}
	p := newProxy(t, fastest)
	p.Grace = patience
	p.serve(web(b), elsewhere)
	stays, slow := p.dial(), p.dial()
	if got := stays.do("GET /below/a").String(); got != "200 done" {
		t.Fatalf("got %q", got)
	}
	slow.ask("GET /slow")
	soon(t, arrived, "the slow request")
	start := time.Now()
	p.stop()
	if got := stays.rest(); got != "" {
		t.Errorf("got %q, want the end", got)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("it came after %v, want at once", d)
	}
	finish <- true
	if got := slow.reply("GET"); got.String() != "200 done" || !got.Close {
		t.Errorf("in flight: got %q, close %v; want 200 done and to close", got, got.Close)
	}
	if err := soon(t, p.stopped, "Serve to return"); err != nil {
		t.Errorf("Serve returned %v", err)
	}
}
