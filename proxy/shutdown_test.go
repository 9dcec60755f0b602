package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"longshore/discovery"
)

// slowBackend answers /slow when it is told to.
func slowBackend(t testing.TB) (b *backend, arrived chan bool, finish chan bool) {
	t.Helper()
	arrived, finish = make(chan bool, 10), make(chan bool)
	b = startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- true
			select {
			case <-finish:
			case <-r.Context().Done():
				return
			}
		}
		io.WriteString(w, "done")
	})
	return b, arrived, finish
}

// TestShutdown: what is in flight is finished; who is idle, silent or upgraded does not hold it up.
func TestShutdown(t *testing.T) { run(t, testShutdown) }

func testShutdown(t *testing.T, in lane) {
	b, arrived, finish := slowBackend(t)
	p := newProxy(t, in)
	p.Grace = patience
	p.serve(web(b))
	idle, silent, half, slow := p.dial(), p.dial(), p.dial(), p.dial()
	idle.do("GET /")
	half.send("GET / HTTP/1.1\r\n")
	slow.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	soon(t, arrived, "the slow request")
	p.stop()
	until(t, "new connections are refused", func() bool {
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if got := idle.rest(); got != "" {
		t.Errorf("idle connection: got %q, want its end", got)
	}
	select {
	case err := <-p.stopped:
		t.Fatalf("Serve returned %v with a request in flight", err)
	case <-time.After(3 * quietTime):
	}
	start := time.Now()
	finish <- true
	res := slow.reply("GET")
	if got, want := res.String(), "200 done"; got != want || !res.Close {
		t.Errorf("in flight: got %q, close %v; want %q and to close", got, res.Close, want)
	}
	if err := soon(t, p.stopped, "Serve to return"); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("it took %v after the last answer, want at once", d)
	}
	if got := silent.rest() + half.rest(); got != "" {
		t.Errorf("silent connections: got %q, want their end", got)
	}
}

// TestShutdownAtOnce: with nothing in flight there is nothing to wait for.
func TestShutdownAtOnce(t *testing.T) { run(t, testShutdownAtOnce) }

func testShutdownAtOnce(t *testing.T, in lane) {
	b := rawBackend(t, "one", func(w *wire) { w.head(); w.send(switching); w.rest() })
	p := newProxy(t, in)
	p.Grace = patience
	p.serve(web(b))
	silent, chat := p.dial(), p.dial()
	chat.send(upgradeHead)
	chat.header("GET")
	start := time.Now()
	p.stop()
	if err := soon(t, p.stopped, "Serve to return"); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("it took %v, want at once", d)
	}
	if got := silent.rest() + chat.rest(); got != "" {
		t.Errorf("got %q, want the end", got)
	}
	until(t, "the backend is let go", func() bool { return b.open.Load() == 0 })
}

// TestShutdownGrace: what takes longer is broken off.
func TestShutdownGrace(t *testing.T) { run(t, testShutdownGrace) }

func testShutdownGrace(t *testing.T, in lane) {
	b, arrived, _ := slowBackend(t)
	p := newProxy(t, in)
	p.Grace = 200 * time.Millisecond
	p.serve(web(b))
	slow := p.dial()
	slow.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	soon(t, arrived, "the slow request")
	start := time.Now()
	p.stop()
	if err := soon(t, p.stopped, "Serve to return"); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if d := time.Since(start); d < p.Grace || d > p.Grace+time.Second {
		t.Errorf("it took %v, want %v", d, p.Grace)
	}
	if got := slow.rest(); got != "" {
		t.Errorf("got %q, want the end", got)
	}
}

// stuck opens connections that each wait for something else, as many of the first kind as is said.
func stuck(t *testing.T, p *testProxy, silent int) {
	t.Helper()
	for range silent {
		p.dial().ask("GET /silent")
	}
	p.dial().ask("GET /dribbles")
	p.dial().ask("GET /nobody")
	steady := p.dial()
	steady.ask("GET /steady")
	steady.header("GET")
	go io.Copy(io.Discard, steady.Conn)
	full := p.dial()
	full.ask("GET /full")
	full.header("GET") // and no more
}

// stuckProxy serves what stuck asks for.
func stuckProxy(t *testing.T, in lane, silent int) *testProxy {
	t.Helper()
	var arrived atomic.Int64
	b := rawBackend(t, "one", func(w *wire) {
		w.SetDeadline(time.Time{})
		line, _, _ := strings.Cut(w.head(), "\n")
		arrived.Add(1)
		switch strings.Fields(line)[1] {
		case "/dribbles":
			for w.send("HTTP/1.1 200 OK\r\n"); ; time.Sleep(10 * time.Millisecond) {
				w.send("A: b\r\n")
			}
		case "/steady":
			for w.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"); ; time.Sleep(10 * time.Millisecond) {
				w.send("some more")
			}
		case "/full":
			w.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
			for more := strings.Repeat("x", 1<<20); ; {
				w.send(more)
			}
		default:
			w.rest()
		}
	})
	away := listen(t, "away")
	away.die()
	p := newProxy(t, in)
	p.Grace = 500 * time.Millisecond
	service, nobody := web(b), web(away)
	nobody.Name, nobody.Routes = "nobody", []discovery.Route{{Path: "/nobody"}}
	nobody.Settings.Queue, nobody.Settings.QueueTimeout = 10, time.Minute
	p.serve(nobody, service)
	stuck(t, p, silent)
	until(t, "all are under way", func() bool {
		return arrived.Load() == int64(silent)+3 && p.Router.Table().Services()[0].group.queue.length.Load() == 1
	})
	return p
}

// TestShutdownOfMany: at the end of Grace whatever is under way ends together, whatever it waits for.
func TestShutdownOfMany(t *testing.T) { run(t, testShutdownOfMany) }

func testShutdownOfMany(t *testing.T, in lane) {
	late := 2 * time.Second
	if in.name == "transport" {
		late = 5 * time.Second // http.Transport takes its time on a busy machine
	}
	for _, silent := range []int{40, 200} {
		p := stuckProxy(t, in, silent)
		start := time.Now()
		p.stop()
		if err := soon(t, p.stopped, "Serve to return"); err != nil {
			t.Errorf("%d: Serve returned %v", silent, err)
		}
		if d := time.Since(start); d < p.Grace || d > p.Grace+late {
			t.Errorf("%d: it took %v, want %v", silent, d, p.Grace)
		}
	}
}

// TestListenerFails: when nobody can come any more, all ends at once.
func TestListenerFails(t *testing.T) { run(t, testListenerFails) }

func testListenerFails(t *testing.T, in lane) {
	p := stuckProxy(t, in, 40)
	start := time.Now()
	p.ln.Close()
	if err := soon(t, p.stopped, "Serve to return"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve returned %v, want %v", err, net.ErrClosed)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %v, want at once", d)
	}
}
