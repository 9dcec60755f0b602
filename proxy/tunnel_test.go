package proxy

import (
	"runtime"
	"strings"
	"testing"
)

// TestSilentTunnel: of an upgraded connection there are two goroutines, and neither ReverseProxy's nor the server's.
func TestSilentTunnel(t *testing.T) { run(t, testSilentTunnel) }

func testSilentTunnel(t *testing.T, in lane) {
	const count = 20
	b := rawBackend(t, "one", func(w *wire) {
		w.head()
		w.send(switching)
		w.send(w.bytes(4))
		w.rest()
	})
	p := serve(t, in, web(b))
	var ws []*wire
	for range count {
		w := p.dial()
		w.send(upgradeHead)
		if got := w.header("GET").StatusCode; got != 101 {
			t.Fatalf("got %d, want 101", got)
		}
		ws = append(ws, w)
	}
	running := func(what string) int {
		buf := make([]byte, 1<<20)
		n := 0
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, what) {
				n++
			}
		}
		return n
	}
	until(t, "nothing of net/http is left", func() bool {
		return running("net/http/httputil.") == 0 && running("proxy.(*Service).ServeHTTP") == 0
	})
	if got := running("proxy.(*tunnel)"); got != 2*count {
		t.Errorf("%d goroutines for %d tunnels, want two each", got, count)
	}
	for _, w := range ws {
		w.send("ping")
		if got := w.bytes(4); got != "ping" {
			t.Errorf("got %q, want ping", got)
		}
		w.Close()
	}
	for range ws {
		if r := p.record(); r.Status != 101 || r.Bytes != 4 || r.Service != "web" || r.URI != "/chat" || r.Upstream == "" {
			t.Errorf("recorded as %+v", r)
		}
	}
}
