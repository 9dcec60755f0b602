package proxy

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"longshore/internal/testaddr"
)

// A trap is something that net/http or httputil.ReverseProxy gets wrong [M]. The same check must pass
// on our proxy and fail on a plain one, so that we notice when the care is no longer needed.
type trap struct {
	name    string
	backend func(*wire) // nil: answers ok
	// check plays the client; it ends early with an error when an exchange on a wire fails.
	check func(dial func() *wire, b *backend) error
	// sane says why there is nothing to see on a plain ReverseProxy (of Go 1.26.8).
	sane string
	// wrap lets the plain one have a body that is not the server's own, as a middleware does that counts
	// or limits it, and full duplex, which a streaming proxy would want.
	wrap bool
}

// plainProxy starts what one would write without knowing better.
func plainProxy(t testing.TB, b *backend, wrap bool) (addr string) {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: b.addr()}
	transport := &http.Transport{}
	quiet := log.New(io.Discard, "", 0)
	ln, err := net.Listen("tcp", testaddr.New())
	if err != nil {
		t.Fatal(err)
	}
	plain := &httputil.ReverseProxy{
		Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(target); pr.Out.Host = pr.In.Host; pr.SetXForwarded() },
		Transport: transport, ErrorLog: quiet,
	}
	hs := &http.Server{ErrorLog: quiet, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wrap {
			r.Body = struct{ io.ReadCloser }{r.Body}
			http.NewResponseController(w).EnableFullDuplex()
		}
		plain.ServeHTTP(w, r)
	})}
	go hs.Serve(ln)
	t.Cleanup(func() { hs.Close(); transport.CloseIdleConnections() })
	return ln.Addr().String()
}

// trapped carries the error of a wire to caught.
type trapped struct{ error }

func caught(t testing.TB, tr trap, addr string, wait time.Duration, b *backend) (err error) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			tr, ok := r.(trapped)
			if !ok {
				panic(r)
			}
			err = tr.error
		}
	}()
	return tr.check(func() *wire {
		w := dial(t, addr)
		w.stop = func(format string, args ...any) { panic(trapped{fmt.Errorf(format, args...)}) }
		w.SetDeadline(time.Now().Add(wait))
		return w
	}, b)
}

func (tr trap) test(t *testing.T, in lane) {
	talk := tr.backend
	if talk == nil {
		talk = answers(ok)
	}
	ours := rawBackend(t, "one", talk)
	p := serve(t, in, web(ours))
	if err := caught(t, tr, p.addr, patience, ours); err != nil {
		t.Error(err)
	}
	if tr.sane != "" {
		return
	}
	plains := rawBackend(t, "one", talk)
	if caught(t, tr, plainProxy(t, plains, tr.wrap), time.Second/2, plains) == nil {
		t.Error("a plain ReverseProxy no longer has this trap")
	}
}

// closed is the check that the proxy closes a connection and answers nothing more over it.
func closed(w *wire) error {
	if rest := w.rest(); rest != "" {
		return fmt.Errorf("the connection went on: %q", rest)
	}
	return nil
}

func want[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: got %#v, want %#v", what, got, want)
	}
	return nil
}

// TestSmuggling sends a body that is broken, and behind it what must never be taken for a request.
func TestSmuggling(t *testing.T) { run(t, testSmuggling) }

func testSmuggling(t *testing.T, in lane) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	bodies := []struct{ name, body string }{
		{"no chunk size", "ZZZ\r\n"},
		{"broken second chunk", "5\r\nhello\r\nXX\r\n"},
		{"chunk without its end", "5\r\nhelloXX"},
		{"bare LF", "5\nhello\n0\n\n"},
		{"negative size", "-5\r\nhello\r\n"},
		{"huge size", "fffffffffffffffff\r\nhello\r\n"},
		{"broken trailer", "5\r\nhello\r\n0\r\nno colon\r\n\r\n"},
		{"long trailer", "5\r\nhello\r\n0\r\nLong: " + strings.Repeat("x", 8<<10) + "\r\n\r\n"},
		{"broken trailer only", "0\r\n no name: x\r\n\r\n"},
	}
	backends := []struct {
		name string
		talk func(*wire)
	}{
		{"reads", func(w *wire) {
			for {
				readRequest(w)
				w.send(ok)
			}
		}},
		{"answers at once", answers(ok)},
		{"answers at once and goes on", func(w *wire) {
			w.head()
			w.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
			w.rest()
		}},
		{"answers and closes", func(w *wire) {
			w.head()
			w.send(strings.Replace(ok, "\r\n", "\r\nConnection: close\r\n", 1))
		}},
		{"just closes", func(w *wire) { w.head() }},
	}
	for _, body := range bodies {
		for _, backend := range backends {
			for _, pieces := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/pieces=%v", body.name, backend.name, pieces), func(t *testing.T) {
					b := rawBackend(t, "one", backend.talk)
					p := serve(t, in, web(b))
					w := p.dial()
					head := "POST /front HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
					if pieces {
						w.send(head)
						until(t, "the head has arrived", func() bool { return strings.Contains(b.got(), "\r\n\r\n") })
						w.send(body.body + smuggled)
					} else {
						w.send(head + body.body + smuggled)
					}
					if n := strings.Count("\n"+w.rest(), "\nHTTP/1.1 "); n > 1 {
						t.Errorf("the client got %d answers, want at most one", n)
					}
					if got := b.got(); strings.Contains(got, "GET /smuggled") {
						t.Errorf("smuggled: the backend got %q", got)
					}
				})
			}
		}
	}
}

// readRequest reads a request with its body, and ends the backend if it is broken.
func readRequest(w *wire) *http.Request {
	r, err := http.ReadRequest(w.r)
	if err != nil {
		w.stop("%v", err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.stop("%v", err)
	}
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	return r
}

func TestTraps(t *testing.T) { run(t, testTraps) }

func testTraps(t *testing.T, in lane) {
	const chunkedHead = "Host: x\r\nTransfer-Encoding: chunked\r\n"
	reads := func(w *wire) {
		for {
			readRequest(w)
			w.send(ok)
		}
	}
	upgrades := func(w *wire) {
		w.head()
		w.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
		w.send("got " + w.bytes(5))
	}
	const upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n"

	for _, tr := range []trap{
		{name: "malformed chunk with a smuggled request", backend: reads,
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("POST / HTTP/1.1\r\n"+chunkedHead+"\r\n", "XX\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
				w.reply("POST")
				if err := closed(w); err != nil {
					return err
				}
				return want("smuggled", strings.Contains(b.got(), "smuggled"), false)
			}, wrap: true},
		{name: "malformed trailer with a smuggled request", backend: reads,
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("POST / HTTP/1.1\r\n"+chunkedHead+"\r\n", "0\r\nno colon\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
				w.reply("POST")
				if err := closed(w); err != nil {
					return err
				}
				return want("smuggled", strings.Contains(b.got(), "smuggled"), false)
			}, wrap: true},
		{name: "content-length and chunked", backend: reads,
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("POST / HTTP/1.1\r\nContent-Length: 4\r\n" + chunkedHead + "\r\n5\r\nhello\r\n0\r\n\r\n")
				if err := want("status", w.reply("POST").StatusCode, 200); err != nil {
					return err
				}
				if err := want("length forwarded", strings.Contains(b.got(), "Content-Length"), false); err != nil {
					return err
				}
				return closed(w)
			}},
		{name: "content-length and chunked in pieces", backend: reads,
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
				w.reply("GET")
				for _, piece := range []string{"POST / HTTP/1.1\r\n" + chunkedHead, "con", "TENT-l", "ength", ": 4\r", "\n\r\n", "0\r\n\r\n"} {
					w.send(piece)
					time.Sleep(time.Millisecond) // so that most pieces are reads of their own; none depends on it
				}
				if err := want("status", w.reply("POST").StatusCode, 200); err != nil {
					return err
				}
				return closed(w)
			}},
		{name: "http/1.0 and chunked", backend: answers(ok),
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + chunkedHead + "\r\n0\r\n\r\n" +
					"GET /smuggled HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
				w.reply("GET")
				if err := closed(w); err != nil {
					return err
				}
				return want("smuggled", strings.Contains(b.got(), "smuggled"), false)
			}, sane: "the 0 in front makes the rest malformed; see the next"},
		{name: "http/1.0 and chunked, the rest later", backend: answers(ok),
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + chunkedHead + "\r\n")
				w.reply("GET")
				w.send("GET /smuggled HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
				return closed(w)
			}},
		{name: "connect",
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
				if err := want("status", w.reply("CONNECT").StatusCode, 405); err != nil {
					return err
				}
				if err := want("backend got", b.got(), ""); err != nil {
					return err
				}
				return closed(w)
			}},
		{name: "http/2 preface",
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
				if err := want("status", w.reply("GET").StatusCode, 505); err != nil {
					return err
				}
				return want("backend got", b.got(), "")
			}},
		{name: "response with a length is held back",
			backend: func(w *wire) {
				w.head()
				w.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
				w.line() // the client has to see the head first
				w.send("first")
				w.line()
				w.send(" last")
				w.rest()
			},
			check: func(dial func() *wire, b *backend) error {
				// The upload is how the client tells the backend that it has seen something.
				w := dial()
				w.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
				w.header("HEAD") // the body is read raw
				w.send("a\n")
				if err := want("first bytes", w.bytes(5), "first"); err != nil {
					return err
				}
				w.send("b\n")
				return want("last bytes", w.bytes(5), " last")
			}},
		{name: "bytes right behind an upgrade", backend: upgrades,
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send(upgrade + "early")
				if err := want("status", w.header("GET").StatusCode, 101); err != nil {
					return err
				}
				return want("echo", w.bytes(9), "got early")
			}},
		{name: "426 keeps upgrade", backend: answers("HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: chat/2\r\nContent-Length: 0\r\n\r\n"),
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				res := w.reply("GET")
				return errors.Join(
					want("status", res.StatusCode, 426),
					want("Upgrade", res.Header.Get("Upgrade"), "chat/2"),
					want("Connection", res.Header.Get("Connection"), "Upgrade"))
			}},
		{name: "upgrade by http/1.0", backend: answers(ok),
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send(strings.Replace(upgrade, "1.1", "1.0", 1))
				if err := want("status", w.reply("GET").StatusCode, 200); err != nil {
					return err
				}
				return want("upgrade forwarded", strings.Contains(b.got(), "Upgrade"), false)
			}},
		{name: "103 to http/1.0", backend: answers("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok),
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("GET / HTTP/1.0\r\nHost: x\r\n\r\n")
				return want("status", w.reply("GET").StatusCode, 200)
			}},
		{name: "103 to http/1.1", backend: answers("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok),
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				hint, res := w.header("GET"), w.reply("GET")
				return errors.Join(
					want("status", hint.StatusCode, 103), want("link", hint.Header.Get("Link"), "</a>"),
					want("then", res.String(), "200 ok"), want("link again", res.Header.Get("Link"), ""))
			}, sane: "it is the other side of 103 to http/1.0"},
		{name: "request trailers", backend: reads,
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("POST / HTTP/1.1\r\nTrailer: Sum, Other\r\n" + chunkedHead + "\r\n5\r\nhello\r\n0\r\nSum: 42\r\n\r\n")
				w.reply("POST")
				head, body, _ := strings.Cut(b.got(), "\r\n\r\n")
				var announced string
				for _, line := range strings.Split(head, "\r\n") {
					if k, v, _ := strings.Cut(line, ": "); k == "Trailer" {
						names := strings.Split(v, ", ")
						slices.Sort(names)
						announced = strings.Join(names, ", ")
					}
				}
				return errors.Join(
					want("body", body, "5\r\nhello\r\n0\r\nSum: 42\r\n\r\n"),
					want("announced", announced, "Other, Sum"))
			}},
		{name: "httpoxy",
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("GET / HTTP/1.1\r\nHost: x\r\nProxy: evil:80\r\n\r\n")
				w.reply("GET")
				return want("forwarded", strings.Contains(b.got(), "evil"), false)
			}},
		{name: "empty lines first",
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("\r\n\r\n", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
				return want("answer", w.reply("GET").String(), "200 ok")
			}},
		{name: "empty lines later",
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				w.reply("GET")
				w.send("\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
				return want("answer", w.reply("GET").String(), "200 ok")
			}},
		{name: "empty line while the answer is awaited",
			backend: func(w *wire) {
				w.head()
				time.Sleep(blink) // the server reads ahead meanwhile
				w.send(ok)
				answers(ok)(w)
			},
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				for !strings.Contains(b.got(), "\r\n\r\n") {
					time.Sleep(time.Millisecond)
				}
				w.send("\r\n")
				w.reply("GET")
				w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				return want("answer", w.reply("GET").String(), "200 ok")
			}},
		{name: "spoofed x-real-ip",
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("GET / HTTP/1.1\r\nHost: x\r\nX-Real-IP: 6.6.6.6\r\nx-real-ip: 6.6.6.7\r\nConnection: X-Real-IP\r\n\r\n")
				w.reply("GET")
				return errors.Join(
					want("spoofed", strings.Contains(b.got(), "6.6.6."), false),
					want("set", strings.Contains(b.got(), "\r\nX-Real-Ip: 127.0.0.1\r\n"), true))
			}},
		// What CGI and WSGI make of a name, X_REAL_IP, is the same for both spellings. So names with an underscore are
		// dropped (nginx: underscores_in_headers).
		{name: "spoofed x_real_ip",
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				w.send("GET / HTTP/1.1\r\nHost: x\r\nX_Real_IP: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\nx_real-ip: 6.6.6.6\r\nOther_one: kept\r\n\r\n")
				w.reply("GET")
				return errors.Join(
					want("spoofed", strings.Contains(b.got(), "6.6.6."), false),
					want("others", strings.Contains(b.got(), "Other_one"), false))
			}},
		{name: "trailers only",
			backend: answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Grpc-Status\r\n\r\n0\r\nGrpc-Status: 7\r\n\r\n"),
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				for range 100 {
					w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					res := w.reply("GET")
					if err := errors.Join(
						want("answer", res.String(), "200 "), want("error", res.err, nil),
						want("trailer", res.Trailer.Get("Grpc-Status"), "7")); err != nil {
						return err
					}
				}
				return nil
			}, sane: "the timer of FlushInterval -1 breaks these over HTTP/2 only; over HTTP/1.1 it only costs"},
		{name: "unknown length and nothing in it",
			backend: func(w *wire) {
				w.head()
				w.send("HTTP/1.1 200 OK\r\nGrpc-Status: 7\r\n\r\n")
			},
			check: func(dial func() *wire, b *backend) error {
				w := dial()
				for range 100 {
					w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					res := w.reply("GET")
					if err := errors.Join(want("answer", res.String(), "200 "), want("status", res.Header.Get("Grpc-Status"), "7")); err != nil {
						return err
					}
				}
				return nil
			}, sane: "as above"},
	} {
		t.Run(tr.name, func(t *testing.T) { tr.test(t, in) })
	}
}

// TestTrailingDot: a host with a trailing dot is the same host. ReverseProxy does not route, so there
// is nothing to compare with.
func TestTrailingDot(t *testing.T) { run(t, testTrailingDot) }

func testTrailingDot(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	s := web(b)
	s.Routes[0].Host = "shop.example.com"
	p := serve(t, in, s)
	w := p.dial()
	w.send("GET /a HTTP/1.1\r\nHost: Shop.Example.com.:80\r\n\r\n")
	if got, want := w.reply("GET").String(), "200 one /a"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
