package proxy

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A connection goes from the fast lane to the general path and back as its requests are plain or not. These tests are
// about the bytes that one of the two has read ahead when the other takes over.

var streams = flag.Int("streams", 2000, "how many streams of requests TestStreams plays")

// TestReadAhead: what follows a request of the general path in the same packet is the next one, whole or not.
func TestReadAhead(t *testing.T) { run(t, testReadAhead) }

func testReadAhead(t *testing.T, in lane) {
	body := strings.Repeat("b", 9216)
	first := "POST /first HTTP/1.1\r\nHost: x\r\nTE: gzip\r\nContent-Length: 9216\r\n\r\n" + body
	for name, odd := range map[string]struct{ request, want string }{
		"TE":       {first, "200 one /first " + body},
		"chunked":  {"POST /first HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nSum: 1\r\n\r\n", "200 one /first hello"},
		"large":    {"GET /first HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 2*smallBuffer) + "\r\nTE: gzip\r\n\r\n", "200 one /first"},
		"HTTP/1.0": {"GET /first HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", "200 one /first"},
		"unusual":  {"GET /unusual HTTP/1.1\r\nHost: x\r\n\r\n", "302 "},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/unusual" {
					w.Header().Set("Location", "http://x/")
					w.WriteHeader(http.StatusFound)
					return
				}
				body, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "one %s", r.URL.Path)
				if len(body) > 0 {
					fmt.Fprintf(w, " %s", body)
				}
			})
			p := serve(t, in, web(b))
			w := p.dial()
			w.do("POST /large\nContent-Length: 40000\n", strings.Repeat("b", 40000)) // makes the fast lane's buffer large enough for all
			w.send(odd.request + "GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
			expectReplies(t, w, odd.want, "200 one /second")

			// The head of the second has come with the first, its body comes when that is answered.
			const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\nbody"
			w.send(odd.request + "POST /second HTTP/1.1\r\nHost: x\r\nContent-Length: " + strconv.Itoa(len(smuggled)) + "\r\n\r\n")
			expectReplies(t, w, odd.want)
			time.Sleep(blink) // let the connection change hands
			w.send(smuggled)
			expectReplies(t, w, "200 one /second "+smuggled)
			if strings.Contains(b.got(), "GET /smuggled HTTP/1.1\r\nHost: x\r\nX-") {
				t.Errorf("a body became a request: %q", b.got())
			}
			w.Close()
			until(t, "all memory is given back", func() bool { return p.View().Buffered == 0 })
		})
	}
}

func expectReplies(t *testing.T, w *wire, want ...string) {
	t.Helper()
	for _, want := range want {
		if got := w.reply("GET").String(); got != want {
			t.Fatalf("got %.100q, want %.100q", got, want)
		}
	}
}

// TestStreams plays random streams of pipelined requests, plain and odd ones, with bodies in odd pieces, through both
// lanes: what the origin sees and what the client gets must be what was sent and answered, in order, in both.
func TestStreams(t *testing.T) {
	for _, in := range lanes[:2] {
		t.Run(in.name, func(t *testing.T) {
			noLeak(t)
			o := startStreamOrigin(t)
			p := newProxy(t, in)
			p.Record = nil
			svc := web(o.backend)
			svc.Settings.ConnectTimeout = patience // on a busy machine too
			p.serve(svc)
			seeds := make(chan uint64)
			var players sync.WaitGroup
			for range 16 {
				players.Go(func() {
					for seed := range seeds {
						if err := newStream(seed).play(p.addr, o); err != nil {
							t.Errorf("stream %d: %v", seed, err)
						}
					}
				})
			}
			for seed := range uint64(*streams) {
				if t.Failed() {
					break
				}
				seeds <- seed
			}
			close(seeds)
			players.Wait()
			if strays := o.take("stray"); len(strays) > 0 {
				t.Errorf("bodies became requests: %q", strays)
			}
			if in.name == "fast" && p.handed() < int64(*streams) {
				t.Errorf("connections were handed over %d times in %d streams: this shows nothing", p.handed(), *streams)
			}
		})
	}
}

// A streamOrigin answers as the target says, and notes what it sees by the first segment of the path.
type streamOrigin struct {
	*backend
	mu   sync.Mutex
	seen map[string][]string
}

func startStreamOrigin(t *testing.T) *streamOrigin {
	o := &streamOrigin{backend: listen(t, "one"), seen: make(map[string][]string)}
	hs := &http.Server{Handler: o}
	go hs.Serve(o.backend.Listener)
	t.Cleanup(func() { hs.Close() })
	return o
}

func (o *streamOrigin) take(stream string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := o.seen[stream]
	delete(o.seen, stream)
	return seen
}

func (o *streamOrigin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	saw := fmt.Sprintf("%s %s %s %v", r.Method, r.URL.Path, digest(body), r.Trailer)
	if err != nil {
		saw += " " + err.Error()
	}
	stream := strings.Split(r.URL.Path, "/")[1]
	o.mu.Lock()
	o.seen[stream] = append(o.seen[stream], saw)
	o.mu.Unlock()
	answer := []byte(saw)
	switch r.URL.Query().Get("answer") {
	case "plain":
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	case "chunked":
		w.(http.Flusher).Flush()
	case "long":
		answer = append(answer, bytes.Repeat(answer, 2000)...)
	case "interim":
		w.Header().Set("Link", "</a>")
		w.WriteHeader(http.StatusEarlyHints)
	case "stream":
		w.Header().Set("Content-Type", "text/event-stream")
	case "elsewhere":
		w.Header().Set("Location", "http://elsewhere/")
		w.WriteHeader(http.StatusFound)
	case "nothing":
		w.WriteHeader(http.StatusNoContent)
		return
	case "close":
		w.Header().Set("Connection", "close")
	case "trailer":
		w.Header().Set(http.TrailerPrefix+"Sum", "1")
		w.(http.Flusher).Flush()
	case "upgrade":
		c, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, brw)
		return
	}
	w.Write(answer)
}

func digest(b []byte) string { return fmt.Sprintf("%d:%08x", len(b), crc32.ChecksumIEEE(b)) }

// A stream is what one client sends over one connection.
type stream struct {
	name    string
	rand    *rand.Rand
	bytes   []byte
	methods []string
	sees    []string // what the origin must see
	early   []byte   // behind an upgrade, which is the last request; nil: there is none
}

func newStream(seed uint64) *stream {
	s := &stream{name: fmt.Sprint("s", seed), rand: rand.New(rand.NewPCG(seed, 0))}
	for range 1 + s.rand.IntN(7) {
		s.add(s.rand.IntN(13))
	}
	if s.rand.IntN(4) == 0 {
		s.upgrade()
	} else {
		s.add(-1)
	}
	return s
}

// add adds a request of some kind; -1: the last one.
func (s *stream) add(kind int) {
	method, proto, fields, trailers, body := "GET", "HTTP/1.1", "", "map[]", []byte(nil)
	answers := []string{"plain", "plain", "chunked", "long", "interim", "stream", "elsewhere", "nothing", "close", "trailer"}
	path := fmt.Sprintf("/%s/%d", s.name, len(s.sees))
	answer := answers[s.rand.IntN(len(answers))]
	target := path + "?answer=" + answer
	chunked := false
	switch kind {
	case -1:
		fields = "Connection: close\r\n"
	case 0:
		method = "HEAD"
	case 1, 2:
		method, body = "POST", s.body()
	case 3:
		method, body, fields = "POST", s.body(), "TE: gzip\r\n"
	case 4, 5:
		method, body, chunked = "POST", s.body(), true
	case 6:
		method, body, fields = "PUT", s.body(), "Expect: 100-continue\r\n"
	case 7:
		proto, fields, target = "HTTP/1.0", "Connection: keep-alive\r\n", path+"?answer=plain"
	case 8:
		s.bytes = append(s.bytes, strings.Repeat("\r\n", 1+s.rand.IntN(3))...)
	case 9:
		target = "http://x" + target
	case 10:
		fields = "TE: gzip\r\n"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\r\nHost: x\r\n%s", method, target, proto, fields)
	switch {
	case chunked:
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		for rest := body; len(rest) > 0; {
			n := 1 + s.rand.IntN(len(rest))
			fmt.Fprintf(&b, "%x%s\r\n%s\r\n", n, []string{"", ";a=b", " "}[s.rand.IntN(3)], rest[:n])
			rest = rest[n:]
		}
		b.WriteString("0\r\n")
		if s.rand.IntN(2) == 0 {
			b.WriteString("Sum: 1\r\nContent-Length: 7\r\n")
			trailers = "map[Sum:[1]]"
		}
		b.WriteString("\r\n")
	case body != nil:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	default:
		b.WriteString("\r\n")
	}
	s.bytes = append(s.bytes, b.Bytes()...)
	s.methods = append(s.methods, method)
	s.sees = append(s.sees, fmt.Sprintf("%s %s %s %s", method, path, digest(body), trailers))
}

// body is a body that reads as requests, or as what frames them.
func (s *stream) body() []byte {
	size := []int{0, 10, 300, 4000, 9216, 70000}[s.rand.IntN(6)]
	line := []string{"GET /stray/a HTTP/1.1\r\nHost: x\r\n\r\n", "\r\nContent-Length: 3\r\n", "0\r\n\r\n", "b"}[s.rand.IntN(4)]
	body := []byte(strings.Repeat(line, size/len(line)+1))
	return body[:s.rand.IntN(len(body)+1)]
}

func (s *stream) upgrade() {
	s.early = []byte([]string{"\n", "\r\n\r\nhello", "hello", "GET /stray/b HTTP/1.1\r\nHost: x\r\n\r\n"}[s.rand.IntN(4)])
	path := fmt.Sprintf("/%s/%d", s.name, len(s.sees))
	s.bytes = fmt.Appendf(s.bytes, "GET %s?answer=upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n%s", path, s.early)
	s.methods = append(s.methods, "GET")
	s.sees = append(s.sees, fmt.Sprintf("GET %s %s map[]", path, digest(nil)))
}

// play sends the stream in odd pieces and checks what the client gets and the origin has seen.
func (s *stream) play(addr string, o *streamOrigin) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	sent := make(chan error, 1)
	go func() { sent <- s.send(nc) }()
	defer func() { <-sent }()
	defer nc.Close()
	r := bufio.NewReader(nc)
	for i, method := range s.methods {
		got, err := readAnswer(r, method)
		if err != nil {
			return fmt.Errorf("answer to %d of %d, %s: %w", i, len(s.methods), s.sees[i], err)
		}
		switch {
		case s.early != nil && i == len(s.methods)-1:
			echo := make([]byte, len(s.early))
			if _, err := io.ReadFull(r, echo); err != nil || !bytes.Equal(echo, s.early) {
				return fmt.Errorf("after the upgrade: %q, %v; want %q", echo, err, s.early)
			}
		case got != "" && !strings.HasPrefix(got, s.sees[i]):
			return fmt.Errorf("answer to %d: %.200q, want %q", i, got, s.sees[i])
		}
	}
	if seen := o.take(s.name); !slices.Equal(seen, s.sees) {
		return fmt.Errorf("the origin saw\n%q, want\n%q", seen, s.sees)
	}
	return nil
}

// readAnswer reads a final response, and returns its body.
func readAnswer(r *bufio.Reader, method string) (string, error) {
	for {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return "", err
		}
		switch {
		case res.StatusCode == http.StatusSwitchingProtocols:
			return "", nil
		case res.StatusCode < 200:
			continue
		case res.StatusCode >= 400:
			return "", fmt.Errorf("status %s", res.Status)
		}
		body, err := io.ReadAll(res.Body)
		return string(body), err
	}
}

func (s *stream) send(w io.Writer) error {
	for rest := s.bytes; len(rest) > 0; {
		n := min(len(rest), 1+s.rand.IntN([]int{3, 100, 5000, 100000}[s.rand.IntN(4)]))
		if _, err := w.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
		switch d := s.rand.IntN(1000); {
		case d < 2: // it is no longer read ahead
			time.Sleep(pieceTime + pieceTime/4)
		case d < 100:
			time.Sleep(time.Duration(s.rand.IntN(2000)) * time.Microsecond)
		case d < 500:
			runtime.Gosched()
		}
	}
	return nil
}
