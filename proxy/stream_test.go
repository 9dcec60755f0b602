package proxy

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const upgradeHead = "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n"

// noise is n bytes that no two tests share.
func noise(n int) string {
	b := make([]byte, n)
	seed := [32]byte{byte(n), byte(rand.Int())}
	rand.NewChaCha8(seed).Read(b)
	return string(b)
}

func sum(s string) string { return fmt.Sprintf("%d %x", len(s), sha256.Sum256([]byte(s))) }

// TestWebSocket exchanges bytes after 101 in both directions, many at once, and ends one direction at a time.
func TestWebSocket(t *testing.T) { run(t, testWebSocket) }

func testWebSocket(t *testing.T, in lane) {
	up, down := noise(4<<20), noise(4<<20)
	got := make(chan string, 1)
	b := rawBackend(t, "one", func(w *wire) {
		head := w.head()
		if !strings.Contains(head, "Connection: Upgrade\n") || !strings.Contains(head, "Upgrade: websocket\n") || !strings.Contains(head, "Sec-Websocket-Key: k\n") {
			return
		}
		w.send(switching + "first")
		w.send("got " + w.bytes(4))
		var both sync.WaitGroup
		both.Go(func() { w.send(down) })
		got <- w.rest() // the client's half-close
		both.Wait()
		w.send("after the end")
	})
	p := serve(t, in, web(b))
	w := p.dial()
	w.send(upgradeHead)
	res := w.header("GET")
	if res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Connection") != "Upgrade" || res.Header.Get("Sec-Websocket-Accept") != "a" {
		t.Fatalf("got %d %v", res.StatusCode, res.Header)
	}
	if got, want := w.bytes(5), "first"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	w.send("ping")
	if got, want := w.bytes(8), "got ping"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	go func() {
		w.send(up)
		w.Conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if got, want := sum(w.bytes(len(down))), sum(down); got != want {
		t.Errorf("down: got %s, want %s", got, want)
	}
	if got, want := sum(soon(t, got, "what went up")), sum(up); got != want {
		t.Errorf("up: got %s, want %s", got, want)
	}
	if got, want := w.rest(), "after the end"; got != want {
		t.Errorf("after our end: got %q, want %q", got, want)
	}
	r := p.record()
	if want := int64(5 + 8 + len(down) + len("after the end")); r.Status != 101 || r.Bytes < want {
		t.Errorf("record: %d with %d bytes, want 101 with %d", r.Status, r.Bytes, want)
	}
}

// TestWebSocketEnds: when one side goes away, so does the other.
func TestWebSocketEnds(t *testing.T) { run(t, testWebSocketEnds) }

func testWebSocketEnds(t *testing.T, in lane) {
	hangUp := make(chan bool)
	gone := make(chan bool, 2)
	b := rawBackend(t, "one", func(w *wire) {
		w.head()
		w.send(switching)
		go func() { w.rest(); gone <- true }()
		<-hangUp
	})
	p := serve(t, in, web(b))
	for range 2 {
		w := p.dial()
		w.send(upgradeHead)
		w.header("GET")
		w.Close() // our end is a half-close to the backend, until it ends too
		soon(t, gone, "the backend to see the end")
		hangUp <- true
		p.record()
	}
	w := p.dial()
	w.send(upgradeHead)
	w.header("GET")
	hangUp <- true
	if got := w.rest(); got != "" {
		t.Errorf("got %q, want the end", got)
	}
	w.Close()
	p.record()
}

// TestRefusedUpgrade: a backend may answer an Upgrade with something else, and the connection goes on.
func TestRefusedUpgrade(t *testing.T) { run(t, testRefusedUpgrade) }

func testRefusedUpgrade(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	p := serve(t, in, web(b))
	w := p.dial()
	for range 3 {
		w.send(upgradeHead)
		if got, want := w.reply("GET").String(), "200 one /chat"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestEvents: each event goes out when it comes, and so does the head before the first.
func TestEvents(t *testing.T) { run(t, testEvents) }

func testEvents(t *testing.T, in lane) {
	for _, head := range []string{
		"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n",
		"Content-Type: text/event-stream; charset=utf-8\r\n",
		"Content-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n",
		"Content-Length: 300\r\n",
		"",
	} {
		t.Run(head, func(t *testing.T) {
			next := make(chan string)
			b := rawBackend(t, "one", func(w *wire) {
				w.head()
				w.send("HTTP/1.1 200 OK\r\n" + head + "\r\n")
				for event := range next {
					if strings.Contains(head, "chunked") {
						event = fmt.Sprintf("%x\r\n%s\r\n", len(event), event)
					}
					w.send(event)
				}
				if strings.Contains(head, "chunked") {
					w.send("0\r\n\r\n")
				}
			})
			p := serve(t, in, web(b))
			w := p.dial()
			w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			body := w.header("GET").Body
			event := make([]byte, 6)
			for i := range 50 {
				next <- fmt.Sprintf("data%02d", i)
				if _, err := io.ReadFull(body, event); err != nil || string(event) != fmt.Sprintf("data%02d", i) {
					t.Fatalf("event %d: got %q, %v", i, event, err)
				}
			}
			close(next)
			if rest, err := io.ReadAll(body); len(rest) > 0 || err != nil {
				t.Errorf("at the end: got %q, %v", rest, err)
			}
		})
	}
}

// TestFullDuplex: bytes go up while others come down, over one request.
func TestFullDuplex(t *testing.T) { run(t, testFullDuplex) }

func testFullDuplex(t *testing.T, in lane) {
	chunk := "6\r\nhello!\r\n"
	for _, c := range []struct{ head, piece string }{
		{"Transfer-Encoding: chunked\r\n", chunk},
		{"Content-Length: 240\r\n", "hello!"},
	} {
		b := rawBackend(t, "one", func(w *wire) {
			w.head()
			w.send("HTTP/1.1 200 OK\r\n" + c.head + "\r\n")
			io.Copy(w.Conn, w.r)
		})
		p := serve(t, in, web(b))
		w := p.dial()
		w.send("POST / HTTP/1.1\r\nHost: x\r\n" + c.head + "\r\n")
		res := w.header("POST")
		for i := range 40 {
			w.send(c.piece)
			echo := make([]byte, 6)
			if _, err := io.ReadFull(res.Body, echo); err != nil || string(echo) != "hello!" {
				t.Fatalf("echo %d: got %q, %v", i, echo, err)
			}
		}
		if c.piece == chunk {
			w.send("0\r\n\r\n")
		}
		if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
			t.Errorf("at the end: got %q, %v", rest, err)
		}
	}
}

// TestEarlyAnswer: a backend may answer before it has the whole body. The client gets that, and then the end
// of its connection, even if it sends on without looking.
func TestEarlyAnswer(t *testing.T) { run(t, testEarlyAnswer) }

func testEarlyAnswer(t *testing.T, in lane) {
	for _, c := range []struct {
		name string
		talk func(*wire)
	}{
		{"closes", func(w *wire) {
			w.head()
			w.send("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
		}},
		{"goes on", func(w *wire) { w.head(); w.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"); w.rest() }},
	} {
		for _, size := range []int{100, 1 << 20, 64 << 20} {
			t.Run(fmt.Sprint(c.name, "/", size), func(t *testing.T) {
				b := rawBackend(t, "one", c.talk)
				p := serve(t, in, web(b))
				w := p.dial()
				w.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size))
				if size > 100 {
					go io.CopyN(w.Conn, zeros{}, int64(size)) // it breaks off some time
				}
				res := w.reply("POST")
				if got, want := res.String(), "403 no"; got != want {
					t.Errorf("got %q, want %q", got, want)
				}
				if size == 1<<20 && !res.Close {
					return // all went up before the answer came
				}
				if !res.Close {
					t.Error("no Connection: close")
				}
				if size == 100 {
					if err := closed(w); err != nil {
						t.Error(err)
					}
				}
				until(t, "the backend is let go", func() bool {
					return b.open.Load() == 0 || size > 100 && p.backend(b).pool.Idle() == 1 // all went up after the answer had come
				})
			})
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestLarge: 10 MB up and down, by length and chunked, arrive as they were.
func TestLarge(t *testing.T) { run(t, testLarge) }

func testLarge(t *testing.T, in lane) {
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if r.ContentLength >= 0 {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		w.Write(body)
	})
	p := serve(t, in, web(b))
	w := p.dial()
	want := noise(10 << 20)
	go w.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(want), want))
	if res := w.reply("POST"); sum(res.body) != sum(want) || res.err != nil || res.ContentLength != int64(len(want)) {
		t.Errorf("by length: got %s, %v, want %s", sum(res.body), res.err, sum(want))
	}
	w = p.dial()
	go func() {
		w.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
		for rest := want; rest != ""; {
			n := min(len(rest), 1+rand.IntN(100<<10))
			w.send(fmt.Sprintf("%x\r\n%s\r\n", n, rest[:n]))
			rest = rest[n:]
		}
		w.send("0\r\n\r\n")
	}()
	if res := w.reply("POST"); sum(res.body) != sum(want) || res.err != nil || res.ContentLength != -1 {
		t.Errorf("chunked: got %s, %v, want %s", sum(res.body), res.err, sum(want))
	}
}

// TestTrailers: announced or not, they come behind the body.
func TestTrailers(t *testing.T) { run(t, testTrailers) }

func testTrailers(t *testing.T, in lane) {
	for _, announced := range []string{"Trailer: Sum, Other\r\n", ""} {
		b := rawBackend(t, "one", answers("HTTP/1.1 200 OK\r\n"+announced+"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nSum: 42\r\nOther: x\r\n\r\n"))
		p := serve(t, in, web(b))
		w := p.dial()
		for range 3 {
			res := w.do("GET /")
			if got, want := fmt.Sprint(res, res.Trailer), "200 hello map[Other:[x] Sum:[42]]"; got != want {
				t.Errorf("%q: got %q, want %q", announced, got, want)
			}
		}
		if got := b.conns.Load(); got != 1 {
			t.Errorf("%d connections, want 1", got)
		}
	}
}

// TestForgedTrailers: what the header must not say without us a trailer must not say either.
func TestForgedTrailers(t *testing.T) { run(t, testForgedTrailers) }

func testForgedTrailers(t *testing.T, in lane) {
	forged := "Host: y\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\nConnection: close\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n" +
		"X_Forwarded_For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nProxy: y\r\nAuthorization: Basic eDp5\r\nCookie: a=b\r\nHop: z\r\n"
	for _, announced := range []string{"", "Trailer: Host, X-Forwarded-For, X-Real-IP, Authorization, Hop\r\n", "Trailer: Sum\r\n"} {
		b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
			announced := slices.Sorted(maps.Keys(r.Trailer))
			body, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %v %s %v", body, err, announced, r.Trailer)
		})
		p := serve(t, in, web(b))
		w := p.dial()
		res := w.do("POST /\nConnection: hop\nTransfer-Encoding: chunked\n"+strings.ReplaceAll(announced, "\r\n", "\n"),
			"5\r\nhello\r\n0\r\n"+forged+"Sum: 42\r\n\r\n")
		names := "[]"
		if strings.Contains(announced, "Sum") {
			names = "[Sum]"
		}
		if got, want := res.String(), "200 hello <nil> "+names+" map[Sum:[42]]"; got != want {
			t.Errorf("%q: got %s, want %s", announced, got, want)
		}
	}
}

// TestForgedResponseTrailers: nor may those of a backend frame anything, or set what its header would; others pass.
func TestForgedResponseTrailers(t *testing.T) { run(t, testForgedResponseTrailers) }

func testForgedResponseTrailers(t *testing.T, in lane) {
	if in.name == "transport" {
		return // it passes what CGI takes for a length
	}
	const chunks = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nSum: 42\r\nContent-Length: 3\r\nConnection: close\r\nSet-Cookie: a=b\r\nContent_Length: 3\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Type: x/y\r\n"
	for _, fields := range []string{"", "Connection: hop\r\n", "Trailer: Sum, Connection, Set-Cookie\r\n", "Trailer: Sum\r\n"} {
		hop := ""
		if strings.HasPrefix(fields, "Connection") {
			hop = "Hop: z\r\n"
		}
		b := rawBackend(t, "one", answers("HTTP/1.1 200 OK\r\n"+fields+chunks+hop+"\r\n"))
		p := serve(t, in, web(b))
		w := p.dial()
		for range 2 {
			w.ask("GET /")
			m, err := readStrict(w.r, "GET")
			if err != nil || m.status != "200" || m.body != "hello" {
				t.Fatalf("%q: got %s %q, %v", fields, m.status, m.body, err)
			}
			res := w.do("GET /")
			if got, want := fmt.Sprint(res, res.Trailer), "200 hello map[Sum:[42]]"; got != want {
				t.Errorf("%q: got %s, want %s", fields, got, want)
			}
		}
	}
}

// TestInterim: 1xx responses pass, as many as there are.
func TestInterim(t *testing.T) { run(t, testInterim) }

func testInterim(t *testing.T, in lane) {
	b := rawBackend(t, "one", answers("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"+
		"HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	p := serve(t, in, web(b))
	w := p.dial()
	for range 2 {
		w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		for _, want := range []string{"103 </a>", "103 </b>", "200 "} {
			res := w.header("GET")
			if got := fmt.Sprint(res.StatusCode, " ", res.Header.Get("Link")); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		w.bytes(2)
	}
}

// TestExpect: the client is told to go on once a backend is there for its body, and not before.
func TestExpect(t *testing.T) { run(t, testExpect) }

func testExpect(t *testing.T, in lane) {
	const head = "POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	b := startBackend(t, "one", nil)
	p := serve(t, in, web(b))
	w := p.dial()
	for range 3 {
		w.send(head)
		if got := w.header("POST").StatusCode; got != 100 {
			t.Fatalf("got %d, want 100", got)
		}
		w.send("hello")
		if got, want := w.reply("POST").String(), "200 one /a hello"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	p.serve(web(refusing(t, "two")))
	w.send(head)
	if got, want := w.reply("POST").String(), "503 503 Service Unavailable"; got != want {
		t.Errorf("nobody there: got %q, want %q", got, want)
	}
	if err := closed(w); err != nil { // whether the body comes is not known
		t.Error(err)
	}
}

// TestHTTP10: the old protocol, with and without keep-alive.
func TestHTTP10(t *testing.T) { run(t, testHTTP10) }

func testHTTP10(t *testing.T, in lane) {
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			io.WriteString(w, "a")
			w.(http.Flusher).Flush()
			io.WriteString(w, "b")
			return
		}
		fmt.Fprint(w, r.Proto, " ", r.Host)
	})
	p := serve(t, in, web(b))
	w := p.dial()
	for range 3 {
		w.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		res := w.reply("GET")
		if got, want := fmt.Sprint(res.Proto, " ", res), "HTTP/1.0 200 HTTP/1.1 "; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := res.Header.Get("Connection"); got != "keep-alive" {
			t.Errorf("Connection: %q, want keep-alive", got)
		}
	}
	w.send("GET / HTTP/1.0\r\nHost: y\r\n\r\n")
	if got, want := w.reply("GET").String(), "200 HTTP/1.1 y"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := closed(w); err != nil {
		t.Error(err)
	}
	w = p.dial()
	w.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
	res := w.reply("GET")
	if got, want := res.String(), "200 ab"; got != want || len(res.TransferEncoding) > 0 {
		t.Errorf("stream: got %q %v, want %q until the end", got, res.TransferEncoding, want)
	}
}

// TestPipeline: requests that do not wait for each other's answers are answered in order, however they are cut.
func TestPipeline(t *testing.T) { run(t, testPipeline) }

func testPipeline(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	p := serve(t, in, web(b))
	const n = 8
	var all strings.Builder
	for i := range n {
		if i%3 == 2 {
			fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\r\n\r\n", i) // a body of empty lines
		} else {
			fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
		}
	}
	expect := func(w *wire, from, cut int) {
		t.Helper()
		for i := from; i < n; i++ {
			want := fmt.Sprintf("200 one /%d", i)
			if i%3 == 2 {
				want += " \r\n\r\n"
			}
			if got := w.reply("GET"); strings.TrimSpace(got.String()) != strings.TrimSpace(want) || i%3 == 2 && !strings.HasSuffix(got.body, " \r\n\r\n") {
				t.Fatalf("cut at %d, answer %d: got %q, want %q", cut, i, got, want)
			}
		}
	}
	w := p.dial()
	w.send(all.String())
	expect(w, 0, 0)
	// In two parts, with the answers to the first in between: the second may begin with what looks like an empty line.
	for cut := 28; cut < 2*28; cut++ {
		w := p.dial()
		w.send(all.String()[:cut])
		if got, want := w.reply("GET").String(), "200 one /0"; got != want {
			t.Fatalf("cut at %d: got %q, want %q", cut, got, want)
		}
		w.send(all.String()[cut:])
		expect(w, 1, cut)
		w.Close()
	}
}

// TestPipelineAhead: the rest of a pipelined request comes while the one before is being handled, and the
// server reads ahead. What looks like an empty line there is none.
func TestPipelineAhead(t *testing.T) { run(t, testPipelineAhead) }

func testPipelineAhead(t *testing.T, in lane) {
	arrived, finish := make(chan bool), make(chan bool)
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/0" {
			arrived <- true
			<-finish
		}
		fmt.Fprint(w, r.URL.Path, r.Header["A"])
	})
	p := serve(t, in, web(b))
	const first, second = "GET /0 HTTP/1.1\r\nHost: x\r\n\r\n", "GET /1 HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n"
	for cut := range len(second) {
		w := p.dial()
		w.send(first + second[:cut])
		soon(t, arrived, "the first request")
		w.send(second[cut:])
		time.Sleep(time.Millisecond) // so that it is read ahead, mostly; nothing depends on it
		finish <- true
		if got, want := w.reply("GET").String()+", "+w.reply("GET").String(), "200 /0[], 200 /1[b]"; got != want {
			t.Errorf("cut at %d: got %q, want %q", cut, got, want)
		}
		w.Close()
	}
}

// TestNoBody: responses without one, after which the connections go on at both ends.
func TestNoBody(t *testing.T) { run(t, testNoBody) }

func testNoBody(t *testing.T, in lane) {
	for _, c := range []struct{ method, response, want string }{
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "200 5"},
		{"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "200 -1"},
		{"HEAD", "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n", "404 5"},
		{"GET", "HTTP/1.1 204 No Content\r\n\r\n", "204 0"},
		{"GET", "HTTP/1.1 304 Not Modified\r\nEtag: x\r\n\r\n", "304 0"},
		{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200 0"},
		{"POST", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200 0"},
		{"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "200 0 or -1"}, // chunked or not
	} {
		t.Run(c.method+c.response, func(t *testing.T) {
			b := rawBackend(t, "one", answers(c.response))
			p := serve(t, in, web(b))
			w := p.dial()
			for range 3 {
				res := w.do(c.method + " /")
				if got := fmt.Sprint(res.StatusCode, " ", res.ContentLength); got != c.want && (c.want != "200 0 or -1" || got != "200 0" && got != "200 -1") || res.body != "" || res.err != nil {
					t.Errorf("got %s %q %v, want %s", got, res.body, res.err, c.want)
				}
			}
			if got := b.conns.Load(); got != 1 {
				t.Errorf("%d connections, want 1", got)
			}
		})
	}
}

// TestReuse: connections to backends are used again after every kind of request.
func TestReuse(t *testing.T) { run(t, testReuse) }

func testReuse(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	p := serve(t, in, web(b))
	body := strings.Repeat("x", 100)
	for range 100 {
		w := p.dial()
		w.do("GET /a")
		w.do("POST /a\nContent-Length: 100\n", body)
		w.Close()
		w = p.dial()
		w.do("POST /a\nTransfer-Encoding: chunked\n", "64\r\n"+body+"\r\n0\r\n\r\n")
		w.Close()
	}
	// Sometimes the next request is faster than the goroutine that has just sent a body.
	if got := b.conns.Load(); got > 10 {
		t.Errorf("%d connections for 300 requests, want 1 or few", got)
	}
}

// TestSplitHead: a request in single bytes, and a response too.
func TestSplitHead(t *testing.T) { run(t, testSplitHead) }

func testSplitHead(t *testing.T, in lane) {
	const response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n5;ext=1\r\nhello\r\n0\r\nA: b\r\n\r\n"
	b := rawBackend(t, "one", func(w *wire) {
		readRequest(w)
		for _, c := range []byte(response) {
			w.send(string(c))
		}
	})
	p := serve(t, in, web(b))
	w := p.dial()
	for _, c := range []byte("POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\n\r\n") {
		w.send(string(c))
	}
	if got, want := w.reply("POST"), "200 hello"; got.String() != want || got.Trailer.Get("A") != "b" {
		t.Errorf("got %q %v, want %q", got, got.Trailer, want)
	}
	if !bytes.Contains([]byte(b.got()), []byte("2\r\nab\r\n0\r\n\r\n")) {
		t.Errorf("the backend got %q", b.got())
	}
}

// TestBrokenUpload: a client that breaks off its body leaves the backend with an error, not with half a body.
func TestBrokenUpload(t *testing.T) { run(t, testBrokenUpload) }

func testBrokenUpload(t *testing.T, in lane) {
	result := make(chan error, 1)
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		result <- err
	})
	p := serve(t, in, web(b))
	for _, body := range []string{"Content-Length: 9\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n5\r\nhalf \r\n"} {
		w := p.dial()
		w.send("POST / HTTP/1.1\r\nHost: x\r\n" + body)
		until(t, "half has arrived", func() bool { return strings.Contains(b.got(), "half") })
		w.Conn.(interface{ CloseWrite() error }).CloseWrite()
		if err := soon(t, result, "the end of the body"); err == nil {
			t.Error("the backend took half a body for a whole one")
		}
		if got := p.record().Status; got != 499 && got != 400 {
			t.Errorf("status %d, want 499", got)
		}
	}
}

// TestSlowHead: the time limit is for the whole head, however its bytes come.
func TestSlowHead(t *testing.T) { run(t, testSlowHead) }

func testSlowHead(t *testing.T, in lane) {
	const limit = 200 * time.Millisecond
	b := rawBackend(t, "one", func(w *wire) {
		w.head()
		for _, c := range "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + strings.Repeat("X-Long: y\r\n", 100) {
			w.send(string(c))
			time.Sleep(limit / 10)
		}
		w.send("\r\nok")
	})
	svc := web(b)
	svc.Settings.ReadTimeout = limit
	p := serve(t, in, svc)
	start := time.Now()
	if got, want := p.do("GET /").String(), "504 504 Gateway Timeout"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if took := time.Since(start); took < limit || took > 10*limit {
		t.Errorf("it took %v, want about %v", took, limit)
	}
}

// TestLeavesBehindMore: a client that leaves is noticed, whatever it has sent behind its request.
func TestLeavesBehindMore(t *testing.T) { run(t, testLeavesBehindMore) }

func testLeavesBehindMore(t *testing.T, in lane) {
	requests := map[string][]string{
		"plain":   {"GET /first"},
		"odd":     {"POST /first\nTE: gzip\nContent-Length: 5\n", "hello"},
		"chunked": {"PUT /first\nTransfer-Encoding: chunked\n", "5\r\nhello\r\n0\r\n\r\n"},
	}
	behind := map[string]string{
		"nothing": "", "byte": "G", "line end": "\r\n", "request": "GET /next HTTP/1.1\r\nHost: x\r\n\r\n",
		"body": "POST /next HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n" + strings.Repeat("b", 5000),
	}
	leave := map[string]func(*net.TCPConn){
		"FIN": func(c *net.TCPConn) { c.CloseWrite() },
		"RST": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	}
	atOnce(t, func(start func(string, func(*testing.T))) {
		for kind, request := range requests {
			for what, more := range behind {
				for way, leave := range leave {
					start(kind+"/"+what+"/"+way, func(t *testing.T) {
						asked := make(chan bool, 2)
						b := rawBackend(t, "silent", func(w *wire) {
							if m, err := readStrict(w.r, ""); err == nil && m.target == "/first" {
								asked <- true
							}
							w.rest()
						})
						p := serve(t, in, web(b))
						w := p.dial()
						w.ask(request[0], request[1:]...)
						soon(t, asked, "the request")
						w.send(more)
						leave(w.Conn.(*net.TCPConn))
						if r := p.record(); r.Status != 499 || r.URI != "/first" {
							t.Errorf("the record is of %d %s, want 499 /first", r.Status, r.URI)
						}
						if way == "FIN" {
							w.rest()
							if strings.Contains(b.got(), "/next") {
								t.Error("the request behind it was sent, whose client has left as well")
							}
						}
					})
				}
			}
		}
	})
}

// TestNotModified: type and length of what was not modified are the origin's to say, also where the general path does.
func TestNotModified(t *testing.T) { run(t, testNotModified) }

func testNotModified(t *testing.T, in lane) {
	b := rawBackend(t, "one", answers("HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n"))
	w := serve(t, in, web(b)).dial()
	for _, fields := range []string{"", "TE: trailers\n", ""} {
		res := w.do("GET /\n" + fields)
		if got, want := fmt.Sprint(res, res.Header["Etag"], res.Header["Content-Type"], res.Header["Content-Length"]), "304  [x] [text/html] [5]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestTE: TE is for the next hop only, and says so.
func TestTE(t *testing.T) { run(t, testTE) }

func testTE(t *testing.T, in lane) {
	for fields, want := range map[string]string{
		"TE: trailers\nConnection: TE\n": `["trailers"] ["TE"]`, "TE: gzip, trailers\n": `["trailers"] ["TE"]`, "TE: gzip\n": `[] []`,
		"TE: trailers\nConnection: Upgrade\nUpgrade: chat\n": `["trailers"] ["Upgrade, TE"]`,
	} {
		b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%q %q", r.Header["Te"], r.Header["Connection"])
		})
		if got := serve(t, in, web(b)).do("GET /\n" + fields); in.name != "transport" && got.body != want {
			t.Errorf("%q: got %s, want %s", fields, got.body, want)
		}
	}
}

// TestEarlyTunnelBytes: what the client sends before the backend has agreed to an upgrade is the backend's, byte for byte.
func TestEarlyTunnelBytes(t *testing.T) { run(t, testEarlyTunnelBytes) }

func testEarlyTunnelBytes(t *testing.T, in lane) {
	const head = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n"
	for _, early := range []string{"\r", "\n", "\r\n", "\r\n\r\nhello", "hello\n", "GET /a HTTP/1.1\r\nHost: x\r\n\r\n", strings.Repeat("\n", 10000)} {
		for n := range min(len(early)+1, 3) { // bytes that come with the head
			agree := make(chan bool)
			b := rawBackend(t, "one", func(w *wire) {
				w.head()
				<-agree
				w.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
				w.send(w.bytes(len(early) + 1))
			})
			p := serve(t, in, web(b))
			w := p.dial()
			w.send(head + early[:n])
			until(t, "the request is there", func() bool { return strings.Contains(b.got(), "\r\n\r\n") })
			w.send(early[n:])
			time.Sleep(blink / 10) // so that it can be read too early
			close(agree)
			if got := w.header("GET").StatusCode; got != 101 {
				t.Fatalf("got %d, want 101", got)
			}
			w.send(".")
			if got := w.bytes(len(early) + 1); got != early+"." {
				t.Errorf("%.100q, %d bytes with the head: got %.100q", early, n, got)
			}
			w.Close()
		}
	}
}

// TestBackFromChunks: a connection goes back to the fast lane after an upload in chunks.
func TestBackFromChunks(t *testing.T) {
	p := serve(t, lane{set: func(s *Server) { s.FastLane = true }}, web(startBackend(t, "one", nil)))
	w := p.dial()
	for i := range int64(3) {
		if got, want := w.do("POST /a\nTransfer-Encoding: chunked\n", "5;x\r\nhello\r\n0\r\nSum: 1\r\n\r\n").String(), "200 one /a hello"; got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		for range 2 {
			if got, want := w.do("GET /b").String(), "200 one /b"; got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
		if got := p.handed(); got != i+1 {
			t.Fatalf("handed over %d times, want %d: plain requests are the fast lane's", got, i+1)
		}
	}
	until(t, "the connection is in the fast lane", func() bool { return p.fast.Load().open() == 1 })
}
