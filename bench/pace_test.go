package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"longshore/internal/testaddr"
)

// serve is a server that counts its connections.
func serve(t *testing.T, h http.HandlerFunc) (addr string, conns *atomic.Int64) {
	t.Helper()
	conns = new(atomic.Int64)
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), conns
}

// TestPace: as many requests as the rate says, over the connections that there are.
func TestPace(t *testing.T) {
	var asked atomic.Int64
	addr, conns := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		io.WriteString(w, "hello\n")
	})
	p := pace{Addr: addr, Rate: 1000, Connections: 8, Warm: 100 * time.Millisecond, Length: 400 * time.Millisecond}
	got, err := p.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Requests != 400 || asked.Load() != 500 || conns.Load() != 8 {
		t.Errorf("%d counted, %d sent over %d connections, want 400, 500 and 8", got.Requests, asked.Load(), conns.Load())
	}
	if got.P50 <= 0 || got.P50 > got.P99 || got.P99 > got.Max {
		t.Errorf("latencies %+v", got)
	}
}

// TestPaceStall: while the server stalls requests go on being due, also those that find no connection free, and
// the wait is in their latency.
func TestPaceStall(t *testing.T) {
	const stall = 300 * time.Millisecond
	var until atomic.Pointer[time.Time]
	addr, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		end := time.Now().Add(stall)
		until.CompareAndSwap(nil, &end) // the first request begins it
		time.Sleep(time.Until(*until.Load()))
		io.WriteString(w, "hello\n")
	})
	p := pace{Addr: addr, Rate: 200, Connections: 2, Length: 600 * time.Millisecond}
	got, err := p.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Half of the requests are due during the stall, evenly, so a quarter of all wait for half of it or longer.
	if got.Requests != 120 || got.Max < 290 {
		t.Errorf("%d requests, slowest %.0f ms, want 120 and 300 ms", got.Requests, got.Max)
	}
	if got.P99 < 250 {
		t.Errorf("p99 %.0f ms, want almost the whole stall: two connections hide it from no one", got.P99)
	}
}

// TestPaceFails: nothing that went wrong is in any figure.
func TestPaceFails(t *testing.T) {
	say := func(s string) string { return origin(t, func(c *net.TCPConn) { io.WriteString(c, s) }) }
	for answer, want := range map[string]string{
		"": "closed before an answer",
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nweb":                "truncated",
		"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n":          `answered "HTTP/1.1 502 Bad Gateway"`,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "answered without a Content-Length",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nweb":                "answered 3 bytes with",
	} {
		p := pace{Addr: say(answer), Rate: 100, Connections: 1, Length: 100 * time.Millisecond}
		if got, err := p.run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %q", answer, got, err, want)
		}
	}
	if _, err := (pace{Addr: free(t), Rate: 1, Connections: 1, Length: time.Second}).run(t.Context()); err == nil {
		t.Error("nobody listens, and it does not say so")
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	addr, _ := serve(t, func(http.ResponseWriter, *http.Request) {})
	if _, err := (pace{Addr: addr, Rate: 100, Connections: 1, Length: time.Minute}).run(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// TestWholeAnswer: byte by byte, an answer is whole only at its end.
func TestWholeAnswer(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length:  5 \r\n\r\nhello"
	for n := range len(answer) + 1 {
		whole, err := wholeAnswer([]byte(answer[:n]))
		if err != nil || whole != (n == len(answer)) {
			t.Errorf("%q: whole %t, %v", answer[:n], whole, err)
		}
	}
}

// TestCrowd: all stay, each on a connection of its own, and who is sent away is noticed.
func TestCrowd(t *testing.T) {
	addr, conns := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello\n") })
	c, err := gather(t.Context(), addr, 50)
	if err != nil {
		t.Fatal(err)
	}
	defer c.leave()
	if err := c.stays(); err != nil || conns.Load() != 50 {
		t.Errorf("%d connections, %v, want 50 that stay", conns.Load(), err)
	}
	c[7].(*net.TCPConn).CloseRead()
	if err := c.stays(); err == nil || err.Error() != "1 of 50 idle connections are closed" {
		t.Errorf("one is gone: %v", err)
	}

	addr, _ = serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") })
	if _, err := gather(t.Context(), addr, 3); err == nil || !strings.Contains(err.Error(), "keeps the connection: false") {
		t.Errorf("a server that keeps none: %v", err)
	}
}

// free is an address where nobody listens.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", testaddr.New())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
