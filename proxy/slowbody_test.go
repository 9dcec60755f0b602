package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"longshore/discovery"
)

// TestSlowBodies: clients whose bodies take their time hold no place at the backend, which gets them whole.
func TestSlowBodies(t *testing.T) { run(t, testSlowBodies) }

func testSlowBodies(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	p := newProxy(t, in)
	p.BodyTimeout = patience
	s := web(b)
	s.Endpoints[0].Server.MaxConns = 10
	s.Settings.BodyBuffer = 64 << 10
	p.serve(s)
	slow := make([]*wire, 20)
	for i := range slow {
		slow[i] = p.dial()
		if i < 10 {
			slow[i].ask("POST /slow\nContent-Length: 10\n", "01234")
		} else {
			slow[i].ask("POST /slow\nTransfer-Encoding: chunked\n", "5\r\n01234\r\n")
		}
	}
	until(t, "all are read ahead", func() bool { return p.buffered.used.Load() >= 20*5 })
	for range 20 {
		if got, want := p.do("POST /a\nContent-Length: 2\n", "ok").String(), "200 one /a ok"; got != want {
			t.Fatalf("beside slow bodies: got %q, want %q", got, want)
		}
	}
	if got := b.requests.Load(); got != 20 {
		t.Errorf("the backend had %d requests, want 20", got)
	}
	for i, w := range slow {
		if i < 10 {
			w.send("56789")
		} else {
			w.send("5\r\n56789\r\n0\r\n\r\n")
		}
		if got, want := w.reply("POST").String(), "200 one /slow 0123456789"; got != want {
			t.Errorf("a slow body: got %q, want %q", got, want)
		}
	}
	until(t, "nothing is buffered", func() bool { return p.buffered.used.Load() == 0 })
}

// TestSlowBodiesOfAllKinds: where all bodies that are allowed fit the buffer, nothing that a client says of its body
// gets it a place at the backend before that has come.
func TestSlowBodiesOfAllKinds(t *testing.T) { run(t, testSlowBodiesOfAllKinds) }

func testSlowBodiesOfAllKinds(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	p := newProxy(t, in)
	s := web(b)
	s.Settings.BodyBuffer, s.Settings.MaxBody = 10, 10
	p.serve(s)
	for _, c := range []struct{ fields, part, rest string }{
		{"Content-Length: 10\nConnection: Upgrade\nUpgrade: chat\n", "01234", "56789"},
		{"Content-Length: 10\nContent-Type: application/grpc\n", "01234", "56789"},
		{"Transfer-Encoding: chunked\nContent-Type: application/grpc\n", "5\r\n01234\r\n", "5\r\n56789\r\n0\r\n\r\n"},
		{"Transfer-Encoding: chunked\n", "a\r\n0123456789", "\r\n0\r\n\r\n"},
		{"Transfer-Encoding: chunked\n", "a\r\n0123456789\r\n", "0\r\n\r\n"},
	} {
		w := p.dial()
		before := b.requests.Load()
		w.ask("POST /slow\n"+c.fields, c.part)
		until(t, "it is read ahead", func() bool { return p.buffered.used.Load() >= 5 })
		if got, want := p.do("GET /a\n").String(), "200 one /a"; got != want {
			t.Errorf("%q: beside it: got %q, want %q", c.fields, got, want)
		}
		if got := b.requests.Load() - before; got != 1 {
			t.Errorf("%q: the backend had %d requests before the body was there, want 1", c.fields, got)
		}
		w.send(c.rest)
		if got, want := w.reply("POST").String(), "200 one /slow 0123456789"; got != want {
			t.Errorf("%q: got %q, want %q", c.fields, got, want)
		}
		until(t, "nothing is buffered", func() bool { return p.buffered.used.Load() == 0 })
	}
}

// TestBodyTimeout: a body that stops coming is 408, before its request has taken a backend and after; one that moves is
// not cut, nor is one that an event stream answers.
func TestBodyTimeout(t *testing.T) { run(t, testBodyTimeout) }

func testBodyTimeout(t *testing.T, in lane) {
	b := rawBackend(t, "one", func(w *wire) {
		line, _, _ := strings.Cut(w.head(), "\n")
		if strings.Contains(line, "/events") {
			w.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata\n")
		}
		w.bytes(10)
		w.send(ok)
		w.rest()
	})
	for _, buffer := range []int{0, 64 << 10} {
		p := newProxy(t, in)
		p.BodyTimeout = 300 * time.Millisecond
		s := web(b)
		s.Settings.BodyBuffer = discovery.Size(buffer)
		p.serve(s)
		for _, c := range []struct{ request, part string }{
			{"POST /\nContent-Length: 10\n", "01234"},
			{"POST /\nContent-Length: 10\n", ""},
			{"POST /\nContent-Length: 100000\n", "01234"},
			{"PUT /\nTransfer-Encoding: chunked\n", "2\r\n01\r\n"},
		} {
			w := p.dial()
			start := time.Now()
			w.ask(c.request, c.part)
			res := w.reply("POST")
			if got, want := res.String(), "408 408 Request Timeout"; got != want || !res.Close {
				t.Errorf("buffer %d, %q: got %q, close %v; want %q", buffer, c.request, got, res.Close, want)
			}
			if d := time.Since(start); d < p.BodyTimeout || d > p.BodyTimeout+2*time.Second {
				t.Errorf("buffer %d, %q: after %v, want %v", buffer, c.request, d, p.BodyTimeout)
			}
			if got := w.rest(); got != "" {
				t.Errorf("buffer %d, %q: then %q, want the end", buffer, c.request, got)
			}
			until(t, "the backend is free", func() bool { return p.backend(b).InFlight() == 0 })
		}
		w := p.dial()
		w.ask("POST /\nContent-Length: 10\n")
		for i := range 10 {
			time.Sleep(p.BodyTimeout / 5)
			w.send(fmt.Sprint(i))
		}
		if got, want := w.reply("POST").String(), "200 ok"; got != want {
			t.Errorf("buffer %d: a body that moves: got %q, want %q", buffer, got, want)
		}
	}
	p := newProxy(t, in)
	p.BodyTimeout = 200 * time.Millisecond
	p.serve(web(b))
	w := p.dial()
	w.ask("POST /events\nContent-Length: 10\n", "01234")
	w.header("POST")
	time.Sleep(2 * p.BodyTimeout)
	if got := p.backend(b).InFlight(); got != 1 {
		t.Errorf("an event stream: %d in flight, want 1", got)
	}
}

func TestChunkThatMoves(t *testing.T) { run(t, testChunkThatMoves) }

// testChunkThatMoves has one chunk come a byte at a time: the server reads it to its end at once, and each byte has the
// client's time begin anew all the same.
func testChunkThatMoves(t *testing.T, in lane) {
	for _, buffer := range []discovery.Size{0, 64 << 10} {
		p := newProxy(t, in)
		p.BodyTimeout = 300 * time.Millisecond
		s := web(startBackend(t, "one", nil))
		s.Settings.BodyBuffer = buffer
		p.serve(s)
		w := p.dial()
		w.ask("POST /\nTransfer-Encoding: chunked\n", "a\r\n")
		for i := range 10 {
			time.Sleep(p.BodyTimeout / 5)
			w.send(fmt.Sprint(i))
		}
		w.send("\r\n0\r\n\r\n")
		if got, want := w.reply("POST").String(), "200 one / 0123456789"; got != want {
			t.Errorf("buffer %d: got %q, want %q", buffer, got, want)
		}
	}
}

// TestChunkedGetsLength: a body in chunks that is there before its request goes out goes out with its length: WSGI
// applications read no other.
func TestChunkedGetsLength(t *testing.T) { run(t, testChunkedGetsLength) }

func testChunkedGetsLength(t *testing.T, in lane) {
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.ContentLength, " ", r.Header["Content-Length"], " ", r.TransferEncoding, " ", len(body), " ", r.Trailer)
	})
	p := newProxy(t, in)
	s := web(b)
	s.Settings.BodyBuffer = 1000
	p.serve(s)
	w := p.dial()
	for _, c := range []struct{ fields, body, want string }{
		{"", "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n", "7 [7] [] 7 map[]"},
		{"", "0\r\n\r\n", "0 [0] [] 0 map[]"},
		{"", "3\r\nabc\r\n0\r\nA: b\r\n\r\n", "-1 [] [chunked] 3 map[A:[b]]"},
		{"Trailer: A\n", "3\r\nabc\r\n0\r\nA: b\r\n\r\n", "-1 [] [chunked] 3 map[A:[b]]"},
		{"", "800\r\n" + numbers(2048) + "\r\n0\r\n\r\n", "-1 [] [chunked] 2048 map[]"},
	} {
		if in.name == "transport" && c.body == "0\r\n\r\n" {
			continue // http.Transport takes a length of zero for one that is not known
		}
		if got, want := w.do("POST /\nTransfer-Encoding: chunked\n"+c.fields, c.body).String(), "200 "+c.want; got != want {
			t.Errorf("%.40q: got %q, want %q", c.fields+c.body, got, want)
		}
	}
}
