package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"

	"longshore/internal/sock"
)

// TestSlowReadersHoldNoPipe has more clients than there are pipes not read their large response. Each gives back its
// pipe, another client is served meanwhile, and each gets all of it in the end.
func TestSlowReadersHoldNoPipe(t *testing.T) {
	noLeak(t)
	const size = 8 << 20
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(size))
		piece := make([]byte, 64<<10)
		for n := range size / len(piece) {
			piece[0] = byte(n)
			w.Write(piece)
		}
	})
	p := serve(t, fastest, web(b))
	before := sock.PipesInUse()
	var ws []*wire
	for range 80 {
		w := p.dial()
		w.ask("GET /")
		ws = append(ws, w)
	}
	until(t, "all are asked for, and none holds a pipe", func() bool {
		return b.requests.Load() == int64(len(ws)) && sock.PipesInUse() == before
	})
	all := func(w *wire) error {
		res := w.header("GET")
		piece := make([]byte, 64<<10)
		for n := range size / len(piece) {
			if _, err := io.ReadFull(res.Body, piece); err != nil || piece[0] != byte(n) {
				return fmt.Errorf("piece %d: %d, %v", n, piece[0], err)
			}
		}
		return nil
	}
	quick := p.dial()
	quick.ask("GET /")
	if err := all(quick); err != nil {
		t.Errorf("another client: %v", err)
	}
	for i, w := range ws[:8] {
		if err := all(w); err != nil {
			t.Errorf("slow client %d: %v", i, err)
		}
	}
	for _, w := range ws {
		w.Close()
	}
	until(t, "all memory is given back", func() bool { return p.View().Buffered == 0 })
}
