package proxy

import (
	"strings"
	"testing"
	"time"
)

// TestHeadWaitsWithoutBuffer has a head come in pieces with pauses, in which the connection keeps what has come and
// nothing else: no buffer, no goroutine. It never leaves the fast lane.
func TestHeadWaitsWithoutBuffer(t *testing.T) {
	noLeak(t)
	p := newProxy(t, fastest)
	p.restTime = blink
	p.serve(web(startBackend(t, "one", nil)))
	w := p.dial()
	held := func() string {
		l := p.fast.Load()
		l.mu.Lock()
		defer l.mu.Unlock()
		for c := range l.conns {
			if c.rests && c.x == nil {
				return string(c.held)
			}
		}
		return ""
	}
	all := ""
	for _, piece := range []string{"GET /a HT", "TP/1.1\r\nHost: x\r\n", "X: " + strings.Repeat("x", smallBuffer)} {
		w.send(piece)
		all += piece
		until(t, "it rests with what has come", func() bool { return held() == all })
	}
	if got := p.View().Buffered; got != int64(len(all)) {
		t.Errorf("%d bytes of buffers are in use, want the %d that are held", got, len(all))
	}
	other := p.dial() // leaves with its head half sent
	other.send(all)
	until(t, "both rest with what has come", func() bool { return p.View().Buffered == int64(2*len(all)) })
	other.Close()
	until(t, "what the other has sent is forgotten", func() bool { return p.View().Buffered == int64(len(all)) })
	w.send("\r\n\r\n")
	if got := w.reply("GET").String(); got != "200 one /a" {
		t.Errorf("got %q", got)
	}
	until(t, "nothing is held", func() bool { return p.View().Buffered == 0 })
	if got := p.handed(); got != 0 {
		t.Errorf("%d connections were left to the general path", got)
	}
}

func TestHeadTimeEnds(t *testing.T) { run(t, testHeadTimeEnds) }

// testHeadTimeEnds has a head come a byte at a time, and never whole: that does not prolong its time.
func testHeadTimeEnds(t *testing.T, in lane) {
	p := newProxy(t, in)
	p.HeaderTimeout = 3 * pieceTime
	p.serve(web(startBackend(t, "one", nil)))
	w := p.dial()
	w.send("GET / HTTP/1.1\r\nHost: x\r\nX: ")
	start := time.Now()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(pieceTime / 4); ; {
			select {
			case <-tick.C:
				w.Conn.Write([]byte("x"))
			case <-stop:
				return
			}
		}
	}()
	got := w.rest()
	close(stop)
	<-done
	if took := time.Since(start); !strings.HasPrefix(got, "HTTP/1.1 408 Request Timeout\r\n") || took < p.HeaderTimeout || took > patience/2 {
		t.Errorf("got %q after %v, want 408 after %v", got, took, p.HeaderTimeout)
	}
	if r := p.record(); r.Status != 408 || r.URI != "/" {
		t.Errorf("recorded as %+v", r)
	}
}

// TestLargeRequestsWithinBudget has clients send most of a body. What is kept of it is no more than the budget has, nothing is left
// taken behind them, and a request that finds nothing left is sent on as it comes.
func TestLargeRequestsWithinBudget(t *testing.T) { run(t, testLargeRequestsWithinBudget) }

func testLargeRequestsWithinBudget(t *testing.T, in lane) {
	p := newProxy(t, in)
	p.BufferMemory = 200 << 10
	b := startBackend(t, "one", nil)
	p.serve(web(b))
	const size, most = 61000, 60000
	var ws []*wire
	for range 10 {
		w := p.dial()
		w.ask("PUT /a\nContent-Length: 61000\n", strings.Repeat("x", most))
		ws = append(ws, w)
	}
	for _, w := range ws { // all of them go on
		w.send(strings.Repeat("x", size-most))
		if got := w.reply("PUT").String(); got != "200 one /a "+strings.Repeat("x", size) {
			t.Fatalf("got %.80q", got)
		}
	}
	if in.name == "fast" {
		if v := p.View(); v.Unbuffered == 0 {
			t.Error("there was enough for all of them")
		}
	}
	for _, w := range ws {
		w.Close()
	}
	until(t, "all is given back", func() bool { return p.View().Buffered == 0 })
}
