package upstream

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// An outcome is what matters of a response, and of the request as the server got it.
type outcome struct {
	asked, status, header, trailer, body, interim string
	failed                                        bool // at any point
}

func headerText(h http.Header) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(h)) {
		fmt.Fprintf(&b, "%s: %q\n", k, h[k])
	}
	return b.String()
}

// TestAsTransport: http.Transport is the oracle. The same requests to the same server have the same outcome.
func TestAsTransport(t *testing.T) {
	requests := []string{
		"GET /a?b=c HTTP/1.1\r\nHost: x\r\nUser-Agent: me\r\nA: 1\r\nA: 2\r\n\r\n",
		"HEAD / HTTP/1.1\r\nHost: x\r\nUser-Agent: me\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: x\r\nUser-Agent: me\r\nContent-Length: 5\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: x\r\nUser-Agent: me\r\nContent-Length: 0\r\n\r\n",
		"PUT / HTTP/1.1\r\nHost: x:80\r\nUser-Agent: me\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nSum: 42\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\nUser-Agent: me\r\n\r\n",
	}
	responses := []string{
		ok,
		"HTTP/1.1 200 OK\r\nA: 1\r\na: 2\r\nB:  \xe4 \r\nContent-Type: x/y\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n5;x=y\r\nhello\r\n0\r\nSum: 42\r\nNot-Announced: 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end",
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.0 200 OK\r\n\r\nold",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold",
		"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nEtag: x\r\n\r\n",
		"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
		"HTTP/1.1 999 \r\nContent-Length: 2\r\n\r\nno",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok,
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ok,
		"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nzzzz",
		"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", // bare LF
		// What is not right.
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nA\r\n\r\n",
		"HTTP/1.1 200",
		"HTP/1.1 200 OK\r\n\r\n",
		"",
	}
	for i, response := range responses {
		t.Run(fmt.Sprintf("%d %.60s", i, response), func(t *testing.T) {
			breaks := i >= slices.Index(responses, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")
			var asked string
			var mu sync.Mutex // guards asked
			s := serve(t, func(c net.Conn, r *bufio.Reader) {
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					body, err := io.ReadAll(req.Body)
					mu.Lock()
					asked = fmt.Sprintln(req.Method, req.RequestURI, req.Host, req.ContentLength, req.TransferEncoding, err) +
						headerText(req.Header) + string(body) + headerText(req.Trailer)
					mu.Unlock()
					answer := response
					if req.Method == "HEAD" {
						answer = strings.TrimSuffix(answer, "\n\nok")
						final := max(strings.LastIndex(answer, "HTTP/"), 0)
						head, _, _ := strings.Cut(answer[final:], "\r\n\r\n")
						answer = answer[:final] + head + "\r\n\r\n"
					}
					io.WriteString(c, answer)
					if breaks || strings.Contains(response, "close") || strings.HasSuffix(response, "old") && !strings.Contains(response, "keep") {
						return
					}
				}
			})
			p := newPool(t, s.Addr().String(), usual)
			oracle := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100}
			t.Cleanup(oracle.CloseIdleConnections)
			run := func(raw string, rt func(*http.Request) (*http.Response, error)) (o outcome) {
				req := request(t, raw)
				req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
					Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
						if code != 100 {
							o.interim += fmt.Sprintln(code, headerText(http.Header(h)))
						}
						return nil
					},
				}))
				res, err := rt(req)
				if err != nil {
					return outcome{failed: true, body: err.Error()}
				}
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				o.status, o.header, o.body = fmt.Sprint(res.Proto, res.Status, res.ContentLength, res.TransferEncoding, res.Close), headerText(res.Header), string(body)
				o.trailer, o.failed = headerText(res.Trailer), err != nil
				mu.Lock()
				defer mu.Unlock()
				o.asked = asked
				return o
			}
			for _, raw := range requests {
				if breaks && strings.HasPrefix(raw, "HEAD") {
					continue // there is no body that could be broken
				}
				for try := range 2 { // the second over the same connection, if it can be used again
					before := s.conns.Load()
					got := run(raw, p.RoundTrip)
					ours := s.conns.Load() - before
					want := run(raw, func(r *http.Request) (*http.Response, error) {
						r.RequestURI, r.URL = "", &url.URL{Scheme: "http", Host: s.Addr().String(), Path: r.URL.Path, RawQuery: r.URL.RawQuery}
						if r.URL.Path == "*" {
							r.URL = &url.URL{Scheme: "http", Host: s.Addr().String(), Opaque: "*"}
						}
						if r.ContentLength == 0 {
							r.Body = http.NoBody
						}
						return oracle.RoundTrip(r)
					})
					if got.failed && want.failed && (got.status == "") == (want.status == "") {
						continue
					}
					if got != want {
						t.Errorf("%.20q:\ngot  %+v\nwant %+v", raw, got, want)
					}
					mixed := strings.Contains(response, "chunked\r\nContent-Length") // whose connection we do not use again
					if theirs := s.conns.Load() - before - ours; try == 1 && ours > theirs && !mixed && !strings.HasPrefix(raw, "P") {
						t.Errorf("%.20q: we needed %d new connections, http.Transport %d", raw, ours, theirs)
					}
				}
			}
		})
	}
}

// TestPanickingHook: who panics in a hook holds no connection afterwards.
func TestPanickingHook(t *testing.T) {
	s := serve(t, say("HTTP/1.1 103 Early Hints\r\n\r\n"+ok))
	p := newPool(t, s.Addr().String(), usual)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("it has not panicked")
			}
		}()
		p.RoundTrip(get(t).WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(int, textproto.MIMEHeader) error { panic("x") },
		})))
	}()
	if got := p.busyNow(); got != 0 {
		t.Errorf("%d connections are held, want 0", got)
	}
	until(t, "the connection is closed", func() bool { return s.open.Load() == 0 })
}

// TestHeadInPieces: a request head larger than the buffers goes out whole.
func TestHeadInPieces(t *testing.T) {
	for _, n := range []int{3000, 4000, 4090, 4096, 5000, 100000} {
		large := strings.Repeat("x", n)
		s := serve(t, func(c net.Conn, r *bufio.Reader) {
			req, err := http.ReadRequest(r)
			if err == nil && req.Header.Get("Large") == large && req.URL.Path == "/"+large {
				io.WriteString(c, ok)
			}
		})
		p := newPool(t, s.Addr().String(), usual)
		if got := do(t, p, request(t, "GET /"+large+" HTTP/1.1\r\nHost: x\r\nLarge: "+large+"\r\n\r\n")); got != "ok" {
			t.Errorf("got %q, want ok", got)
		}
	}
}

// TestWaitComesFirst: whoever reads a body is told before a read waits, so that nothing is held back.
func TestWaitComesFirst(t *testing.T) {
	next := make(chan bool)
	s := serve(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		for _, piece := range []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n1", "\r\nb\r\n", "1\r\nc\r", "\n0\r\n", "\r\n"} {
			io.WriteString(c, piece)
			<-next
		}
	})
	p := newPool(t, s.Addr().String(), usual)
	res, err := p.RoundTrip(get(t))
	if err != nil {
		t.Fatal(err)
	}
	var read, seen []byte
	res.Body.(*Body).OnWait(func() {
		seen = bytes.Clone(read)
		next <- true
	})
	buf := make([]byte, 100)
	for {
		n, err := res.Body.Read(buf)
		read = append(read, buf[:n]...)
		if err != nil {
			break
		}
	}
	if string(read) != "abc" || string(seen) != "abc" {
		t.Errorf("read %q, and %q before the last wait; want abc both times", read, seen)
	}
	close(next)
}

// FuzzWriteHead: what goes out means the same as what came in, and is one request.
func FuzzWriteHead(f *testing.F) {
	f.Add("GET /a|b%2Fc?;x HTTP/1.1\r\nHost: x\r\nA: 1\r\nA: 2\r\n\r\n")
	f.Add("POST http://u@h:1?q HTTP/1.0\r\nContent-Length: 0\r\nUser-Agent:\r\n\r\n")
	f.Add("OPTIONS * HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n0\r\nA: b\r\n\r\n")
	f.Add("OPTIONS http://h HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n")
	f.Fuzz(func(t *testing.T, raw string) {
		in, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil || in.Method == "CONNECT" || in.ProtoMajor != 1 {
			return
		}
		if in.URL.Host == "" && in.RequestURI[0] != '/' && in.RequestURI != "*" {
			return // the proxy refuses these
		}
		for k, vv := range in.Header { // and the server these
			for _, v := range vv {
				if strings.ContainsFunc(k, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`:"(),/;<=>?@[\]{}`, r) }) ||
					strings.ContainsAny(v, "\r\n\x00") {
					return
				}
			}
		}
		if strings.ContainsFunc(in.Host, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return
		}
		hasBody := in.ContentLength != 0
		var b bytes.Buffer
		w := bufio.NewWriter(&b)
		writeHead(w, in, hasBody)
		w.Flush()
		if n := strings.Count(b.String(), "\r\n\r\n"); n != 1 || !strings.HasSuffix(b.String(), "\r\n\r\n") {
			t.Fatalf("not one head: %q", &b)
		}
		head := b.String()
		out, err := http.ReadRequest(bufio.NewReader(&b))
		if err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		if out.Method != in.Method || out.Host != in.Host || out.ContentLength != in.ContentLength && !(in.ContentLength < 0 && !hasBody) {
			t.Errorf("%q: got %s %q %d, want %s %q %d", head, out.Method, out.Host, out.ContentLength, in.Method, in.Host, in.ContentLength)
		}
		if in.RequestURI[0] == '/' && out.RequestURI != in.RequestURI {
			t.Errorf("target %q, want %q", out.RequestURI, in.RequestURI)
		}
		if out.URL.Path != in.URL.Path && !(in.URL.Host != "" && in.URL.Path == "") || out.URL.RawQuery != in.URL.RawQuery {
			t.Errorf("%q: url %q, want %q", head, out.URL, in.URL)
		}
		delete(in.Header, "Expect")
		delete(in.Header, "Trailer")
		delete(in.Header, "Host")
		if got, want := headerText(out.Header), headerText(in.Header); got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", head, got, want)
		}
	})
}

// BenchmarkRoundTrip compares a small exchange with http.Transport's.
func BenchmarkRoundTrip(b *testing.B) {
	s := serve(b, say("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"))
	loop := func(b *testing.B, raw string, rt func(*http.Request) (*http.Response, error)) {
		b.ReportAllocs()
		for b.Loop() {
			res, err := rt(request(b, raw))
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}
	for _, c := range []struct{ name, raw string }{
		{"get", "GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: me\r\nAccept: */*\r\n\r\n"},
		{"post", "POST / HTTP/1.1\r\nHost: x\r\nUser-Agent: me\r\nContent-Length: 5\r\n\r\nhello"},
	} {
		b.Run(c.name+"/pool", func(b *testing.B) {
			loop(b, c.raw, newPool(b, s.Addr().String(), usual).RoundTrip)
		})
		b.Run(c.name+"/transport", func(b *testing.B) {
			tr := &http.Transport{DisableCompression: true}
			defer tr.CloseIdleConnections()
			loop(b, c.raw, func(r *http.Request) (*http.Response, error) {
				r.RequestURI = ""
				r.URL.Scheme, r.URL.Host = "http", s.Addr().String()
				return tr.RoundTrip(r)
			})
		})
	}
}
