package proxy

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var responses = flag.Int("responses", 1500, "how many responses TestStreamedResponses compares")

// TestChunkedResponses: whatever net/http takes for a body in chunks passes whole, and comes to an end.
func TestChunkedResponses(t *testing.T) { run(t, testChunkedResponses) }

func testChunkedResponses(t *testing.T, in lane) {
	k := strings.Repeat("x", 1000)
	for name, c := range map[string]struct {
		body, want string
		trailers   http.Header
	}{
		"extensions":       {strings.Repeat("3e8;sig="+strings.Repeat("a", 64)+"\r\n"+k+"\r\n", 200) + "0\r\n\r\n", strings.Repeat(k, 200), nil},
		"size of 16":       {"00000000000003e8\r\n" + k + "\r\n0000000000000000\r\n\r\n", k, nil},
		"padded":           {"3e8 \t\r\n" + k + "\r\n0  \r\n\r\n", k, nil},
		"padded by zeros":  {"003e8\r\n" + k + "\r\n00\r\n\r\n", k, nil},
		"long line":        {"3e8;" + strings.Repeat("a", 4090) + "\r\n" + k + "\r\n0\r\n\r\n", k, nil},
		"single bytes":     {strings.Repeat("1\r\nx\r\n", 4000) + "0\r\n\r\n", strings.Repeat("x", 4000), nil},
		"long trailers":    {"3e8\r\n" + k + "\r\n0\r\nLong: " + k + k + k + "\r\n\r\n", k, http.Header{"Long": {k + k + k}}},
		"many trailers":    {"3e8\r\n" + k + "\r\n0\r\n" + strings.Repeat("A: b\r\n", 500) + "\r\n", k, http.Header{"A": slices.Repeat([]string{"b"}, 500)}},
		"folded trailer":   {"3e8\r\n" + k + "\r\n0\r\nA: b\r\n c\nD: e\r\n\r\n", k, http.Header{"A": {"b c"}, "D": {"e"}}},
		"trailers dropped": {"3e8\r\n" + k + "\r\n0\r\nSet-Cookie: a\r\nContent-Length: 3\r\nE: f\r\n\r\n", k, http.Header{"E": {"f"}}},
	} {
		t.Run(name, func(t *testing.T) {
			b := rawBackend(t, "one", answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+c.body))
			p := serve(t, in, web(b))
			w := p.dial()
			for range 2 {
				res := w.do("GET /")
				if res.err != nil || res.body != c.want {
					t.Fatalf("got %d bytes, %v, want %d", len(res.body), res.err, len(c.want))
				}
				if in.name != "transport" && fmt.Sprint(res.Trailer) != fmt.Sprint(c.trailers) {
					t.Errorf("trailers: got %v, want %v", res.Trailer, c.trailers)
				}
			}
			if n := b.conns.Load(); n != 1 {
				t.Errorf("%d connections to the backend, want 1", n)
			}
		})
	}
}

// TestStreamedResponses plays random responses, whole and broken, in odd pieces, through both lanes: the client must
// get the same body, the same trailers and the same end.
func TestStreamedResponses(t *testing.T) {
	noLeak(t)
	b := rawBackend(t, "one", func(w *wire) {
		w.SetDeadline(time.Time{})
		for {
			line := w.line()
			w.head()
			seed, err := strconv.ParseUint(strings.Split(line, "/")[1][:8], 10, 64)
			if err != nil || !sendOddResponse(w, seed) {
				return
			}
		}
	})
	general, fast := newProxy(t, lanes[0]), newProxy(t, lanes[1])
	for _, p := range []*testProxy{general, fast} {
		p.Record = nil
		p.serve(web(b))
	}
	seeds := make(chan uint64)
	var clients sync.WaitGroup
	var whole, broken, handed int
	var mu sync.Mutex
	for range 8 {
		clients.Go(func() {
			for seed := range seeds {
				want, one := fetchOdd(general.addr, seed)
				got, _ := fetchOdd(fast.addr, seed)
				if got != want {
					t.Errorf("response %d, %.300q: the fast lane gives\n%s, the general path\n%s", seed, oddResponse(seed).bytes, got, want)
				}
				mu.Lock()
				if one {
					whole++
				} else {
					broken++
				}
				mu.Unlock()
			}
		})
	}
	for seed := range uint64(*responses) {
		if t.Failed() {
			break
		}
		seeds <- seed
	}
	close(seeds)
	clients.Wait()
	if handed = int(fast.handed()); !t.Failed() && (whole < *responses/3 || broken < *responses/10 || handed > *responses/10) {
		t.Errorf("%d were whole, %d broken, %d left to the general path: this shows little", whole, broken, handed)
	}
}

// fetchOdd is what a client gets, and whether that is a whole response.
func fetchOdd(addr string, seed uint64) (got string, whole bool) {
	c := http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: patience}
	defer c.CloseIdleConnections()
	res, err := c.Get(fmt.Sprintf("http://%s/%08d", addr, seed))
	if err != nil {
		return "no response", false
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	end := "whole"
	if err != nil {
		end = "broken off"
	}
	return fmt.Sprintf("%d, %s, %v, %s", res.StatusCode, digest(body), res.Trailer, end), err == nil
}

// An oddAnswer is the bytes of a response, and whether the connection goes on behind it.
type oddAnswer struct {
	bytes []byte
	open  bool
	rand  *rand.Rand
}

func oddResponse(seed uint64) oddAnswer {
	r := rand.New(rand.NewPCG(seed, 1))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	var b bytes.Buffer
	open := true
	if r.IntN(6) == 0 {
		n := r.IntN(200000)
		fmt.Fprintf(&b, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, strings.Repeat("y", n))
	} else {
		b.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		ext := pick("", "", ";a=b", ";"+strings.Repeat("e", r.IntN(5000)), " ", " \t ", ";\"\x01\"", " ;a")
		zeros := pick("", "", "0", "000", strings.Repeat("0", 12), strings.Repeat("0", 14))
		for range r.IntN([]int{5, 50, 300}[r.IntN(3)]) {
			n := 1 + r.IntN([]int{1, 20, 300, 20000}[r.IntN(4)])
			if b.Len() > 300000 {
				break
			}
			fmt.Fprintf(&b, "%s%x%s\r\n%s\r\n", zeros, n, ext, strings.Repeat("z", n))
		}
		b.WriteString(pick("0", "0", "00", "0;x", "0 ") + "\r\n")
		if r.IntN(3) == 0 {
			for range 1 + r.IntN(4) {
				b.WriteString(pick("Sum: 1", "Long: "+strings.Repeat("l", r.IntN(3000)), "Set-Cookie: a=b", "Content-Length: 3", "X-Forwarded-For: a", "a_b: c", "A: b\r\n c", "A: b\nC: d", "No name: a", "Bad: \x00", "none", ": a") + "\r\n")
			}
		}
		b.WriteString("\r\n")
	}
	switch all := b.Bytes(); r.IntN(6) {
	case 0: // broken off
		head := bytes.Index(all, []byte("\r\n\r\n")) + 4
		b.Truncate(head + r.IntN(len(all)-head+1))
		open = false
	case 1: // damaged
		head := bytes.Index(all, []byte("\r\n\r\n")) + 4
		if rest := all[head:]; len(rest) > 0 {
			rest[r.IntN(len(rest))] = pick("\r", "\n", ";", "0", "f", "\x00", " ")[0]
		}
		open = false
	}
	return oddAnswer{b.Bytes(), open, r}
}

func sendOddResponse(w *wire, seed uint64) (open bool) {
	a := oddResponse(seed)
	for rest := a.bytes; len(rest) > 0; {
		n := min(len(rest), 1+a.rand.IntN([]int{3, 100, 5000, 100000}[a.rand.IntN(4)]))
		w.send(string(rest[:n]))
		if rest = rest[n:]; a.rand.IntN(3) == 0 {
			runtime.Gosched()
		}
	}
	return a.open
}
