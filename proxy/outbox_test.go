package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// smallBuffers has sockets keep little, so that a client that does not read is noticed soon.
func smallBuffers(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4<<10)
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
	})
}

// dialSmall opens a connection that can hold little which is not read.
func (p *testProxy) dialSmall() *wire {
	p.t.Helper()
	d := net.Dialer{Control: smallBuffers}
	c, err := d.Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	w := newWire(c, func(format string, args ...any) {
		p.t.Helper()
		p.t.Fatalf(format, args...)
	})
	return w
}

// numbers is n bytes none of which can be missing or twice without being noticed.
func numbers(n int) string { return allNumbers()[:n] }

var allNumbers = sync.OnceValue(func() string {
	var b []byte
	for i := 0; len(b) < 8000000; i++ {
		b = append(strconv.AppendInt(b, int64(i), 10), ',')
	}
	return string(b)
})

// bigBackend answers with a body of a size and framing that the path says.
func bigBackend(t *testing.T, more chan bool) *backend {
	return rawBackend(t, "one", func(w *wire) {
		for {
			w.SetDeadline(time.Now().Add(patience))
			line, _, _ := strings.Cut(w.head(), "\n")
			path := strings.Fields(line)[1]
			var size int
			fmt.Sscanf(path[strings.LastIndex(path, "/"):], "/%d", &size)
			body, fields := numbers(size), ""
			chunked := fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", size, body)
			sized := fmt.Sprintf("Content-Length: %d\r\n\r\n%s", size, body)
			switch strings.Split(path, "/")[1] {
			case "unbuffered":
				fields = "X-Accel-Buffering: no\r\n"
			case "grpc":
				fields = "Content-Type: application/grpc-web\r\n"
			case "chunked":
				sized = chunked + "0\r\n\r\n"
			case "events":
				fields, sized = "Content-Type: text/event-stream\r\n", chunked
			case "pauses":
				w.send("HTTP/1.1 200 OK\r\n" + chunked)
				<-more
				fields, sized = "", ""
				w.send("4\r\nmore\r\n0\r\n\r\n")
				continue
			case "closes":
				w.send("HTTP/1.1 200 OK\r\n\r\n" + body)
				return
			}
			w.send("HTTP/1.1 200 OK\r\n" + fields + sized)
		}
	})
}

// newSlowProxy serves one backend that takes ten requests at a time, and none waits for it.
func newSlowProxy(t *testing.T, in lane, b *backend) *testProxy {
	p := newProxy(t, in)
	p.control = smallBuffers
	s := web(b)
	s.Endpoints[0].Server.MaxConns = 10
	s.Settings.ResponseBuffer = 256 << 10
	p.serve(s)
	return p
}

// TestSlowReaders: clients that do not read hold no place at the backend, and miss nothing.
func TestSlowReaders(t *testing.T) { run(t, testSlowReaders) }

func testSlowReaders(t *testing.T, in lane) {
	for _, path := range []string{"/sized/40000", "/sized/65000", "/sized/65537", "/sized/250000", "/chunked/30000", "/chunked/250000", "/closes/200000"} {
		b := bigBackend(t, nil)
		p := newSlowProxy(t, in, b)
		slow := make([]*wire, 10)
		for i := range slow {
			slow[i] = p.dialSmall()
			slow[i].ask("GET " + path)
		}
		until(t, path+": the backend is free", func() bool {
			return p.view(b).Requests == 10 && p.backend(b).InFlight() == 0
		})
		for range 20 {
			if got, want := p.do("GET /sized/2").String(), "200 0,"; got != want {
				t.Fatalf("%s: beside slow readers: got %q, want %q", path, got, want)
			}
		}
		var size int
		fmt.Sscanf(path[strings.LastIndex(path, "/"):], "/%d", &size)
		for _, w := range slow {
			if got := w.reply("GET"); got.StatusCode != 200 || got.err != nil || got.body != numbers(size) {
				t.Fatalf("%s: a slow reader got %d, %d bytes, %v", path, got.StatusCode, len(got.body), got.err)
			}
			if path[1] != 'c' || path[2] != 'l' { // the connection goes on
				if got, want := w.do("GET /sized/3").String(), "200 0,1"; got != want {
					t.Fatalf("%s: the next answer: got %q, want %q", path, got, want)
				}
			}
		}
		until(t, path+": nothing is buffered", func() bool { return p.buffered.used.Load() == 0 })
	}
}

// TestUnbuffered: what must not wait holds its backend until the client has it, and so does what is too large.
func TestUnbuffered(t *testing.T) { run(t, testUnbuffered) }

func testUnbuffered(t *testing.T, in lane) {
	for _, path := range []string{"/unbuffered/250000", "/grpc/250000", "/events/250000", "/sized/1000000", "/chunked/1000000"} {
		b := bigBackend(t, nil)
		p := newSlowProxy(t, in, b)
		w := p.dialSmall()
		w.ask("GET " + path)
		res := w.header("GET")
		time.Sleep(blink)
		if got := p.backend(b).InFlight(); got != 1 {
			t.Errorf("%s: %d in flight, want 1", path, got)
		}
		if path[1] == 'e' {
			continue
		}
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != numbers(len(body)) || len(body) < 250000 {
			t.Errorf("%s: got %d bytes, %v", path, len(body), err)
		}
		until(t, path+": the backend is free", func() bool { return p.backend(b).InFlight() == 0 })
	}
}

// TestKeptGoesOut: what is kept for a client goes out when it reads again, though the backend says nothing.
func TestKeptGoesOut(t *testing.T) { run(t, testKeptGoesOut) }

func testKeptGoesOut(t *testing.T, in lane) {
	more := make(chan bool)
	b := bigBackend(t, more)
	p := newSlowProxy(t, in, b)
	w := p.dialSmall()
	w.ask("GET /pauses/200000")
	until(t, "it is slow", func() bool { return p.buffered.used.Load() > 0 })
	res := w.header("GET")
	got := make([]byte, 200000)
	if n, err := io.ReadFull(res.Body, got); err != nil || string(got) != numbers(len(got)) {
		t.Fatalf("got %d bytes, %v", n, err)
	}
	more <- true
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "more" {
		t.Errorf("got %q, %v, want more", rest, err)
	}
}

// TestBufferBudget: where there is no memory for it, a response streams.
func TestBufferBudget(t *testing.T) { run(t, testBufferBudget) }

func testBufferBudget(t *testing.T, in lane) {
	b := bigBackend(t, nil)
	p := newProxy(t, in)
	p.BufferMemory = 1000
	p.control = smallBuffers
	s := web(b)
	s.Settings.ResponseBuffer = 256 << 10
	p.serve(s)
	for _, path := range []string{"/sized/250000", "/chunked/250000"} {
		w := p.dialSmall()
		w.ask("GET " + path)
		until(t, "it is refused memory", func() bool { return p.buffered.refused.Load() > 0 })
		if got := p.backend(b).InFlight(); got != 1 {
			t.Errorf("%s: %d in flight, want 1", path, got)
		}
		if got := w.reply("GET"); got.body != numbers(250000) {
			t.Errorf("%s: got %d bytes, %v", path, len(got.body), got.err)
		}
		p.buffered.refused.Store(0)
	}
}

// TestSendTimeout: a client that takes nothing for so long is sent away; one that takes little is not, nor is one of
// an event stream.
func TestSendTimeout(t *testing.T) { run(t, testSendTimeout) }

func testSendTimeout(t *testing.T, in lane) {
	for _, c := range []struct {
		path string
		keep bool
	}{{"/sized/3000000", false}, {"/chunked/3000000", false}, {"/sized/200000", false}, {"/chunked/200000", false}, {"/events/3000000", true}} {
		b := bigBackend(t, nil)
		p := newProxy(t, in)
		p.control = smallBuffers
		p.SendTimeout = 300 * time.Millisecond
		s := web(b)
		s.Settings.ResponseBuffer = 256 << 10
		p.serve(s)

		// It moves, if only just.
		w := p.dialSmall()
		start := time.Now()
		w.ask("GET " + c.path)
		res := w.header("GET")
		var got bytes.Buffer
		for time.Since(start) < 3*p.SendTimeout {
			time.Sleep(p.SendTimeout / 6)
			if _, err := io.CopyN(&got, res.Body, 4<<10); err != nil {
				t.Fatalf("%s: after %d bytes and %v: %v", c.path, got.Len(), time.Since(start), err)
			}
		}
		if got.String() != numbers(got.Len()) {
			t.Errorf("%s: a slow reader got something else", c.path)
		}
		w.Close()
		until(t, "the backend is free", func() bool { return p.backend(b).InFlight() == 0 })

		start = time.Now()
		w = p.dialSmall()
		w.ask("GET " + c.path)
		until(t, "its request has come", func() bool { return p.view(b).Requests == 2 })
		for time.Since(start) < 3*p.SendTimeout && p.View().Clients > 0 {
			time.Sleep(time.Millisecond)
		}
		took := time.Since(start)
		switch gone := p.View().Clients == 0; {
		case gone == c.keep:
			t.Errorf("%s: closed after %v: %v, want %v", c.path, took, gone, !c.keep)
		case gone && took < p.SendTimeout:
			t.Errorf("%s: closed after %v, want %v", c.path, took, p.SendTimeout)
		}
		w.Close()
		until(t, "the backend is free", func() bool { return p.backend(b).InFlight() == 0 })
	}
}

// TestSendTimeoutLargeBuffer: a client moves as long as it takes anything, also when the kernel does not yet say that
// there is room again.
func TestSendTimeoutLargeBuffer(t *testing.T) { run(t, testSendTimeoutLargeBuffer) }

func testSendTimeoutLargeBuffer(t *testing.T, in lane) {
	b := bigBackend(t, nil)
	p := newProxy(t, in)
	p.SendTimeout = 300 * time.Millisecond
	p.serve(web(b))
	w := p.dialSmall()
	w.ask("GET /sized/8000000")
	res := w.header("GET")
	got := 0
	for start := time.Now(); time.Since(start) < 4*p.SendTimeout; got += 2 << 10 {
		time.Sleep(p.SendTimeout / 10)
		if _, err := io.CopyN(io.Discard, res.Body, 2<<10); err != nil {
			t.Fatalf("after %d bytes and %v: %v", got, time.Since(start), err)
		}
	}
	if body, err := io.ReadAll(res.Body); got+len(body) != 8000000 {
		t.Errorf("got %d bytes, %v", got+len(body), err)
	}
}

// TestUserTimeout: the kernel knows how long a client may be silent that is gone without a word.
func TestUserTimeout(t *testing.T) { run(t, testUserTimeout) }

func testUserTimeout(t *testing.T, in lane) {
	b := bigBackend(t, nil)
	p := newProxy(t, in)
	p.SendTimeout = 42 * time.Second
	p.serve(web(b))
	w := p.dial()
	w.do("GET /sized/5")
	timeout := func() (ms int) {
		cs := p.clients.Load()
		cs.mu.Lock()
		defer cs.mu.Unlock()
		for c := range cs.open {
			raw, _ := c.SyscallConn()
			raw.Control(func(fd uintptr) { ms, _ = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, 18) })
		}
		return ms
	}
	if got, want := timeout(), 42000; got != want {
		t.Errorf("TCP_USER_TIMEOUT is %d, want %d", got, want)
	}
	w.ask("GET /events/5")
	w.header("GET")
	if got := timeout(); got != 0 {
		t.Errorf("TCP_USER_TIMEOUT of an event stream is %d, want 0", got)
	}
}
