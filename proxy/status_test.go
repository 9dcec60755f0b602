package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRecords: what the access log hears of each kind of end.
func TestRecords(t *testing.T) { run(t, testRecords) }

func testRecords(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	s := web(b)
	s.Routes[0].Path = "/a"
	p := serve(t, in, s)
	w := p.dial()
	w.do("POST /a?b\nContent-Length: 5\nReferer: there\nUser-Agent: me\nAuthorization: Basic Ym9iOnB3\n", "hello")
	r := p.record()
	got := fmt.Sprint(r.ClientIP, r.User, r.Method, r.URI, r.Proto, r.Host, r.Status, r.Bytes, r.Referer, r.UserAgent, r.Service, r.Upstream, r.ContentLen)
	if want := fmt.Sprint("127.0.0.1", "bob", "POST", "/a?b", "HTTP/1.1", "x", 200, int64(12), "there", "me", "web", b.addr(), int64(5)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if r.Duration <= 0 || time.Since(r.Time) > patience {
		t.Errorf("it took %v from %v on", r.Duration, r.Time)
	}
	w.do("GET /")
	if r := p.record(); r.Status != 404 || r.Service != "" || r.Upstream != "" || r.Bytes == 0 {
		t.Errorf("without a route: got %+v", r)
	}
}

// TestClientLeaves: the request ends for the backend too, and counts as 499. The general path notices at once,
// the fast lane when it next looks.
func TestClientLeaves(t *testing.T) { run(t, testClientLeaves) }

func testClientLeaves(t *testing.T, in lane) {
	for _, c := range []struct{ request, body string }{
		{"GET /", ""},
		{posted, "hello"},
		{"POST /\nContent-Length: 9\n", "half"},
		{"POST /\nTransfer-Encoding: chunked\n", "5\r\nhalf \r\n"},
	} {
		t.Run(c.request, func(t *testing.T) {
			arrived, ended := make(chan bool, 1), make(chan bool, 1)
			b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
				arrived <- true
				io.Copy(io.Discard, r.Body) // the server notices an end only behind the body
				<-r.Context().Done()
				ended <- true
			})
			p := serve(t, in, web(b))
			w := p.dial()
			w.ask(c.request, c.body)
			soon(t, arrived, "the request")
			until(t, "the body has arrived", func() bool { return strings.HasSuffix(b.got(), c.body) })
			start := time.Now()
			w.Close()
			soon(t, ended, "the end of the backend's request")
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("it took %v, want a second at most", d)
			}
			if got, want := p.record().Status, 499; got != want {
				t.Errorf("status %d, want %d", got, want)
			}
			if got := p.Router.Table().Services()[0].View().Backends[0]; got.InFlight != 0 || got.Failed() != 0 {
				t.Errorf("%d in flight and %d failures, want none: it is not the backend's fault", got.InFlight, got.Failed())
			}
		})
	}
}

// TestReadTimeout: READ_TIMEOUT is for the wait for the header and between two reads of the body.
func TestReadTimeout(t *testing.T) { run(t, testReadTimeout) }

func testReadTimeout(t *testing.T, in lane) {
	const timeout = 200 * time.Millisecond
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
	drip := func(w *wire) { // longer than the timeout in all
		for range 6 {
			w.send("1\r\n.\r\n")
			time.Sleep(timeout / 3)
		}
		w.send("0\r\n\r\n")
	}
	for _, c := range []struct {
		name    string
		request string
		body    string
		talk    func(*wire)
		want    string
	}{
		{"no header", "GET /", "", func(w *wire) { w.rest() }, "504 504 Gateway Timeout"},
		{"half a header", "GET /", "", func(w *wire) { w.head(); w.send("HTTP/1.1 200 OK\r\nA: "); w.rest() }, "504 504 Gateway Timeout"},
		{"no header after a post", posted, "hello", func(w *wire) { w.rest() }, "504 504 Gateway Timeout"},
		{"no header after an interim one", "GET /", "", func(w *wire) { w.head(); w.send("HTTP/1.1 100 Continue\r\n\r\n"); w.rest() }, "504 504 Gateway Timeout"},
		{"no header after a post and an interim one", posted, "hello", func(w *wire) {
			w.head()
			w.send("HTTP/1.1 100 Continue\r\n\r\n")
			w.rest()
		}, "504 504 Gateway Timeout"},
		{"interim ones in time", "GET /", "", func(w *wire) {
			w.head()
			for range 3 {
				w.send("HTTP/1.1 100 Continue\r\n\r\n")
				time.Sleep(timeout / 2)
			}
			w.send(ok)
		}, "200 ok"},
		{"interim ones in time after a post", posted, "hello", func(w *wire) {
			w.head()
			w.bytes(5)
			for range 3 {
				time.Sleep(timeout / 2)
				w.send("HTTP/1.1 100 Continue\r\n\r\n")
			}
			w.send(ok)
		}, "200 ok"},
		{"body stalls", "GET /", "", func(w *wire) { w.head(); w.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"); w.rest() }, "200 ab (broken off)"},
		{"chunked body stalls", "GET /", "", func(w *wire) { w.head(); w.send(chunked + "\r\n2\r\nab\r\n"); w.rest() }, "200 ab (broken off)"},
		{"body of unknown length stalls", "GET /", "", func(w *wire) { w.head(); w.send("HTTP/1.1 200 OK\r\n\r\nab"); w.rest() }, "200 ab (broken off)"},
		{"body stalls after a post", posted, "hello", func(w *wire) {
			w.head()
			w.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
			w.rest()
		}, "200 ab (broken off)"},
		{"body drips", "GET /", "", func(w *wire) { w.head(); w.send(chunked + "\r\n"); drip(w) }, "200 ......"},
		{"body drips after a post", posted, "hello", func(w *wire) { w.head(); w.bytes(5); w.send(chunked + "\r\n"); drip(w) }, "200 ......"},
		{"event stream", "GET /", "", func(w *wire) {
			w.head()
			w.send(chunked + "Content-Type: text/event-stream; charset=utf-8\r\n\r\n2\r\nab\r\n")
			time.Sleep(3 * timeout)
			w.send("0\r\n\r\n")
		}, "200 ab"},
		{"event stream after a post", posted, "hello", func(w *wire) {
			w.head()
			w.bytes(5)
			w.send(chunked + "Content-Type: text/event-stream\r\n\r\n2\r\nab\r\n")
			time.Sleep(3 * timeout)
			w.send("0\r\n\r\n")
		}, "200 ab"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := rawBackend(t, "one", c.talk)
			s := web(b)
			s.Settings.ReadTimeout = timeout
			p := serve(t, in, s)
			start := time.Now()
			if got := p.do(c.request, c.body).String(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if d := time.Since(start); d < timeout {
				t.Errorf("it took %v, less than %v", d, timeout)
			}
		})
	}
}

// TestReadTimeoutOfUpload: a slow client is no reason to give up a backend, one that stalls after its early
// answer is.
func TestReadTimeoutOfUpload(t *testing.T) { run(t, testReadTimeoutOfUpload) }

func testReadTimeoutOfUpload(t *testing.T, in lane) {
	const timeout = 200 * time.Millisecond
	b := rawBackend(t, "one", func(w *wire) {
		switch head := w.head(); {
		case strings.HasPrefix(head, "POST /late"):
			w.bytes(2)
			w.send(ok)
		case strings.HasPrefix(head, "POST /early"):
			w.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
			w.rest()
		default:
			w.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 2\r\n\r\n")
			w.bytes(2)
			time.Sleep(3 * timeout)
			w.send("ok")
		}
	})
	s := web(b)
	s.Settings.ReadTimeout = timeout
	p := serve(t, in, s)
	w := p.dial()
	w.send("POST /late HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
	time.Sleep(2 * timeout)
	w.send("b")
	if got, want := w.reply("POST").String(), "200 ok"; got != want {
		t.Errorf("slow upload: got %q, want %q", got, want)
	}
	until(t, "its connection is closed", func() bool { return b.open.Load() == 0 }) // a POST on it would be lost

	w = p.dial()
	w.send("POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
	res := w.header("POST")
	w.send("b")
	if body, err := io.ReadAll(res.Body); err == nil || string(body) != "ab" {
		t.Errorf("early answer that stalls: got %q, %v, want %q and an error", body, err, "ab")
	}
	until(t, "its connection is closed", func() bool { return b.open.Load() == 0 })

	w = p.dial()
	w.send("POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
	res = w.header("POST")
	w.send("b")
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "ok" {
		t.Errorf("early event stream: got %q, %v, want %q", body, err, "ok")
	}
}

// TestSlowClient: a download may take longer than READ_TIMEOUT when it is the client that takes its time.
func TestSlowClient(t *testing.T) { run(t, testSlowClient) }

func testSlowClient(t *testing.T, in lane) {
	const timeout = 300 * time.Millisecond
	chunk := "3e8\r\n" + strings.Repeat("x", 1000) + "\r\n"
	const chunks = 20000 // 20 MB: more than all buffers between
	b := rawBackend(t, "one", func(w *wire) {
		w.head()
		w.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for range chunks / 100 {
			w.send(strings.Repeat(chunk, 100))
		}
		w.send("0\r\n\r\n")
	})
	s := web(b)
	s.Settings.ReadTimeout = timeout
	p := serve(t, in, s)
	w := p.dial()
	w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	body := w.header("GET").Body
	var n int64
	for start := time.Now(); time.Since(start) < 4*timeout; time.Sleep(timeout / 60) {
		m, err := io.CopyN(io.Discard, body, 64<<10)
		if n += m; err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
	m, err := io.Copy(io.Discard, body)
	if n += m; err != nil || n != chunks*1000 {
		t.Errorf("got %d bytes, %v, want %d", n, err, chunks*1000)
	}
}

// TestTruncated: the client of a response that is not whole gets to know it.
func TestTruncated(t *testing.T) { run(t, testTruncated) }

func testTruncated(t *testing.T, in lane) {
	reset := func(w *wire) {
		w.Conn.(*recorded).Conn.(interface{ SetLinger(int) error }).SetLinger(0)
	}
	for _, c := range []struct {
		name, response string
		reset          bool
		want           string
	}{
		{"length", "Content-Length: 5\r\n\r\nab", false, "200 ab (broken off)"},
		{"length, reset", "Content-Length: 5\r\n\r\nab", true, "200 ab (broken off)"},
		{"in a chunk", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\nc", false, "200 abc (broken off)"},
		{"between chunks", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", false, "200 ab (broken off)"},
		{"between chunks, reset", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", true, "200 ab (broken off)"},
		{"no last line", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n", false, "200 ab (broken off)"},
		{"bad chunk", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nxyz\r\n", false, "200 ab (broken off)"},
		{"unknown length, reset", "\r\nab", true, "200 ab (broken off)"},
		{"unknown length", "\r\nab", false, "200 ab"},
	} {
		t.Run(c.name, func(t *testing.T) {
			read := make(chan bool)
			b := rawBackend(t, "one", func(w *wire) {
				w.head()
				w.send("HTTP/1.1 200 OK\r\n" + c.response)
				if c.reset {
					<-read // a reset also takes what is on its way
					reset(w)
				}
			})
			p := serve(t, in, web(b))
			w := p.dial()
			w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			res := w.header("GET")
			var body strings.Builder
			if c.reset {
				io.CopyN(&body, res.Body, 2)
				close(read)
			}
			_, err := io.Copy(&body, res.Body)
			if got := (reply{res, body.String(), err}).String(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			p.record()
			broken := p.Router.Table().Services()[0].View().Backends[0].Failures[Truncated]
			if got, want := broken == 1, strings.HasSuffix(c.want, "(broken off)"); got != want {
				t.Errorf("counted as truncated: %v, want %v", got, want)
			}
		})
	}
}

// TestMalformed: what is no HTTP response is a 502, and is not asked for again.
func TestMalformed(t *testing.T) { run(t, testMalformed) }

func testMalformed(t *testing.T, in lane) {
	for _, response := range []string{
		"hello\r\n\r\n",
		"HTTP/1.1\r\n\r\n",
		"HTTP/1.1 20 OK\r\n\r\n",
		"HTTP/1.1 abc OK\r\n\r\n",
		"HTTP/x 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: b",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 200),
		"\x15\x03\x01\x00\x02\x02\x46", // TLS
	} {
		name := response[:min(len(response), 40)]
		t.Run(name, func(t *testing.T) {
			b := rawBackend(t, "one", func(w *wire) { w.head(); w.send(response) })
			other := rawBackend(t, "two", answers(ok))
			s := web(b, other)
			s.Endpoints[1].Backup = true
			p := serve(t, in, s)
			w := p.dial()
			w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			res := w.reply("GET")
			for res.StatusCode == 102 {
				res = w.reply("GET")
			}
			if got, want := res.String(), "502 502 Bad Gateway"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			until(t, "the connection is closed", func() bool { return b.open.Load() == 0 })
		})
	}
}

// TestWrongUpgrade: a backend that switches to something else is refused, and let go.
func TestWrongUpgrade(t *testing.T) { run(t, testWrongUpgrade) }

func testWrongUpgrade(t *testing.T, in lane) {
	b := rawBackend(t, "one", func(w *wire) {
		w.head()
		w.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
		w.rest()
	})
	p := serve(t, in, web(b))
	if got, want := p.do("GET /\nConnection: Upgrade\nUpgrade: chat\n").String(), "502 502 Bad Gateway"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	until(t, "the connection is closed", func() bool { return b.open.Load() == 0 })
}

// TestMaxBody: a body that is too large gets 413, by its length at once, else when it has been counted.
func TestMaxBody(t *testing.T) { run(t, testMaxBody) }

func testMaxBody(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	s := web(b)
	s.Settings.MaxBody = 10
	p := serve(t, in, s)
	for _, c := range []struct{ name, head, body, want string }{
		{"just right", "Content-Length: 10\n", strings.Repeat("x", 10), "200 one / xxxxxxxxxx"},
		{"just right, chunked", "Transfer-Encoding: chunked\n", "a\r\nxxxxxxxxxx\r\n0\r\n\r\n", "200 one / xxxxxxxxxx"},
		{"length", "Content-Length: 11\n", "", "413 413 Request Entity Too Large"},
		{"length and all", "Content-Length: 11\n", "hello world", "413 413 Request Entity Too Large"},
		{"huge", "Content-Length: 1000000000\n", "", "413 413 Request Entity Too Large"},
		{"one chunk", "Transfer-Encoding: chunked\n", "b\r\nxxxxxxxxxxx\r\n0\r\n\r\n", "413 413 Request Entity Too Large"},
		{"two chunks", "Transfer-Encoding: chunked\n", "6\r\nxxxxxx\r\n6\r\nxxxxxx\r\n", "413 413 Request Entity Too Large"},
		{"expect", "Content-Length: 11\nExpect: 100-continue\n", "", "413 413 Request Entity Too Large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := p.dial()
			res := w.do("POST /\n"+c.head, c.body)
			if got := res.String(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if res.StatusCode == 413 {
				if !res.Close {
					t.Error("413 without Connection: close")
				}
				if err := closed(w); err != nil {
					t.Error(err)
				}
			}
			if got := p.record().Status; got != res.StatusCode {
				t.Errorf("status %d in the record, want %d", got, res.StatusCode)
			}
		})
	}
}

// TestLimitsOfHeads: heads that are too slow or too large.
func TestLimitsOfHeads(t *testing.T) { run(t, testLimitsOfHeads) }

func testLimitsOfHeads(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	p := newProxy(t, in)
	p.HeaderTimeout, p.IdleTimeout, p.MaxHeader = 300*time.Millisecond, 100*time.Millisecond, 16<<10
	p.serve(web(b))

	w := p.dial()
	w.send("GET / HTTP/1.1\r\nHost: x\r\n")
	if got := w.rest(); !strings.HasPrefix(got, "HTTP/1.1 408 ") || strings.Count(got, "HTTP/1.1") != 1 {
		t.Errorf("slow head: got %q, want 408 and the end", got)
	}
	w = p.dial()
	if got := w.rest(); got != "" {
		t.Errorf("no head: got %q, want the end", got)
	}
	w = p.dial()
	w.do("GET /")
	if got := w.rest(); got != "" {
		t.Errorf("idle: got %q, want the end", got)
	}
	w = p.dial()
	if got, want := w.do("GET /a\nLarge: "+strings.Repeat("x", 15<<10)+"\n").String(), "200 one /a"; got != want {
		t.Errorf("large head: got %q, want %q", got, want)
	}
	for _, head := range []string{"GET /\nLarge: " + strings.Repeat("x", 40<<10) + "\n", "GET /" + strings.Repeat("x", 40<<10)} {
		if got, want := p.do(head).StatusCode, 431; got != want {
			t.Errorf("too large a head: got %d, want %d", got, want)
		}
	}
	if got := b.requests.Load(); got != 2 {
		t.Errorf("the backend got %d requests, want 2", got)
	}
}

// TestDialErrors: who does not answer a dial is told apart from who refuses.
func TestDialErrors(t *testing.T) { run(t, testDialErrors) }

func testDialErrors(t *testing.T, in lane) {
	for _, c := range []struct {
		b    *backend
		want Reason
	}{{refusing(t, "refusing"), Refused}, {hanging(t, "hanging"), DialTimeout}} {
		s := web(c.b)
		s.Settings.ConnectTimeout = blink
		p := serve(t, in, s)
		if got, want := p.do("GET /").String(), "503 503 Service Unavailable"; got != want {
			t.Errorf("%s: got %q, want %q", c.b.name, got, want)
		}
		view := p.Router.Table().Services()[0].View()
		if got := view.Backends[0].Failures[c.want]; got != 1 {
			t.Errorf("%s: %d failures for %v, want 1", c.b.name, got, c.want)
		}
		if got := view.Stats.Retries[c.want]; got != 0 {
			t.Errorf("%s: %d retries, want none: there was nobody to go to", c.b.name, got)
		}
	}
}
