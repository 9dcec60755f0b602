package proxy

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestRequestTarget looks at the raw request line that the backend receives.
func TestRequestTarget(t *testing.T) { run(t, testRequestTarget) }

func testRequestTarget(t *testing.T, in lane) {
	long := "/" + strings.Repeat("x", 30<<10) + "?" + strings.Repeat("%7c", 300)
	for _, c := range []struct {
		line    string // as the client sends it
		want    string // as the backend gets it; empty: the same
		mangled bool   // a plain ReverseProxy gets it wrong
	}{
		{"GET /", "", false},
		{"GET /a|b%2Fc", "", true},
		{"GET /{id}%2f", "", true},
		{"GET /a%2fb%2Fc", "", false},
		{"GET /a;b?x;y=1", "", true},
		{"GET /a;b", "", false},
		{"GET /?a;b", "", true},
		{"GET //x/y", "", false},
		{"GET //x|y", "", true},
		{"GET ///", "", false},
		{"GET /a//b/../c/./d", "", false},
		{"GET /..", "", false},
		{"GET /\xe4", "", true},
		{"GET /\xc3\xa4?\xc3\xa4", "", true},
		{"GET /a?", "", false},
		{"GET /?", "", false},
		{"GET /??", "", false},
		{"GET /a?b?c", "", false},
		{"GET /?a=%zz", "", true},
		{"GET /?a=%", "", true},
		{"GET /?%", "", true},
		{"GET /%41%7a", "", false},
		{"GET /%e4%E4", "", false},
		{"GET /a%20b+c?d+e", "", false},
		{"GET /a\"<>\\^`'()*!$&,=:@", "", true},
		{"GET /?\"<>\\^`{|}", "", false},
		{"GET /?a=%00%0d%0a%7f", "", false},
		{"GET /%c2%85%80%ff", "", false},
		{"GET " + long, "", false},
		{"OPTIONS *", "", true},
		{"GET http://host/p?q", "GET /p?q", false},
		{"GET http://host", "GET /", false},
		{"GET http://host?q|", "GET /?q|", false},
		{"GET http://host//x|y?", "GET //x|y?", true},
		{"GET HTTP://user:pw@host:80/a|b", "GET /a|b", true},
		{"OPTIONS http://host", "OPTIONS *", true},
		{"OPTIONS http://host/", "OPTIONS /", false},
		{"BREW /pot", "", false},
	} {
		name := c.line
		if len(name) > 50 {
			name = "GET long"
		}
		if c.want == "" {
			c.want = c.line
		}
		t.Run(name, func(t *testing.T) {
			trap{
				check: func(dial func() *wire, b *backend) error {
					w := dial()
					w.send(c.line + " HTTP/1.1\r\nHost: x\r\n\r\n")
					if err := want("status", w.reply("GET").StatusCode, 200); err != nil {
						return err
					}
					line, _, _ := strings.Cut(b.got(), "\r\n")
					return want("request line", line, c.want+" HTTP/1.1")
				},
				sane: map[bool]string{false: "it does well"}[c.mangled],
			}.test(t, in)
		})
	}
}

// TestBadTarget: what is no request target gets 400 from us, and no backend sees it.
func TestBadTarget(t *testing.T) { run(t, testBadTarget) }

func testBadTarget(t *testing.T, in lane) {
	b := rawBackend(t, "one", answers(ok))
	p := serve(t, in, web(b))
	for _, target := range []string{"/%zz", "/%", "/a b", "a", "http:/a", "x:y", "", "/\x01", "/\x7f", "*x", "?",
		"/#", "/admin#x", "/?a#frag", "#", "*#", "/a%23#", "http://x/admin#x", "http://x#x", "http://x?a#b",
		"/%00", "/admin%00", "/admin%0a", "/a%0D%0Ab", "/%1f", "/%7F", "/%09", "/a/%01?b", "http://x/admin%00", "http://x/%7f"} {
		w := p.dial()
		w.send("GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
		if got, want := w.reply("GET").StatusCode, 400; got != want {
			t.Errorf("target %q: got %d, want %d", target, got, want)
		}
		w.Close()
	}
	if got := b.got(); got != "" {
		t.Errorf("the backend got %q, want nothing", got)
	}
}

// fields lists the header fields of the first request in raw bytes, sorted.
func fields(raw string) []string {
	head, _, _ := strings.Cut(raw, "\r\n\r\n")
	fs := strings.Split(head, "\r\n")[1:]
	slices.Sort(fs)
	return fs
}

// TestNothingAdded compares all that a backend receives with what the client sent.
func TestNothingAdded(t *testing.T) { run(t, testNothingAdded) }

func testNothingAdded(t *testing.T, in lane) {
	for _, c := range []struct {
		name, request string // without Host
		want          string // besides Host and X-*
		sane          bool   // a plain ReverseProxy does the same
	}{
		{"bare", "GET / HTTP/1.1\r\n\r\n", "", false}, // Accept-Encoding: gzip
		{"http/1.0", "GET / HTTP/1.0\r\n\r\n", "", false},
		{"HEAD", "HEAD / HTTP/1.1\r\n\r\n", "", true},
		{"post with nothing", "POST / HTTP/1.1\r\n\r\n", "", false},
		{"post of no length", "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "Content-Length: 0", false},
		{"get of no length", "GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "Content-Length: 0", false},
		{"post", "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab", "Content-Length: 2", false},
		{"get with a body", "GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab", "Content-Length: 2", false},
		{"chunked", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "Transfer-Encoding: chunked", false},
		{"delete chunked, empty", "DELETE / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding: chunked", false},
		{"user agent", "GET / HTTP/1.1\r\nUser-Agent: me\r\nAccept-Encoding: br\r\nContent-Type: a/b\r\n\r\n",
			"Accept-Encoding: br|Content-Type: a/b|User-Agent: me", true},
		{"empty user agent", "GET / HTTP/1.1\r\nUser-Agent: \r\n\r\n", "User-Agent: ", false},
		{"two of a kind", "GET / HTTP/1.1\r\nA: 1\r\nA: 2\r\nAccept-Encoding: x\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
			"A: 1|A: 2|Accept-Encoding: x|Cookie: a=b|Cookie: c=d", true},
		{"bytes", "GET / HTTP/1.1\r\nA: \xe4\t\"\r\nAccept-Encoding: x\r\nRange: bytes=0-1\r\nX_y: z\r\n\r\n",
			"A: \xe4\t\"|Accept-Encoding: x|Range: bytes=0-1", false}, // as nginx does
		{"hop-by-hop", "GET / HTTP/1.1\r\nConnection: keep-alive, A\r\nConnection: B\r\nA: 1\r\nB: 2\r\nC: 3\r\n" +
			"Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nTE: gzip\r\nUpgrade: y\r\nAccept-Encoding: x\r\n\r\n",
			"Accept-Encoding: x|C: 3", true},
		{"te trailers", "GET / HTTP/1.1\r\nTE: trailers\r\nConnection: TE\r\nAccept-Encoding: x\r\n\r\n", "Accept-Encoding: x|Connection: TE|Te: trailers", true},
		{"length is hop-by-hop", "POST / HTTP/1.1\r\nConnection: Content-Length, Host\r\nContent-Length: 2\r\nAccept-Encoding: x\r\n\r\nab",
			"Accept-Encoding: x|Content-Length: 2", true},
		{"expect", "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\nAccept-Encoding: x\r\n\r\nab",
			"Accept-Encoding: x|Content-Length: 2", false},
		{"proxy", "GET / HTTP/1.1\r\nProxy: x\r\nAccept-Encoding: x\r\n\r\n", "Accept-Encoding: x", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := trap{
				backend: func(w *wire) {
					for {
						readRequest(w)
						w.send("HTTP/1.1 200 OK\r\n\r\n")
						return
					}
				},
				check: func(dial func() *wire, b *backend) error {
					w := dial()
					line, rest, _ := strings.Cut(c.request, "\r\n")
					w.send(line + "\r\nHost: X.y:8080\r\n" + rest)
					for w.header("HEAD").StatusCode == 100 {
					}
					var got []string
					for _, f := range fields(b.got()) {
						if !strings.HasPrefix(f, "X-") {
							got = append(got, f)
						}
					}
					want := []string{"Host: X.y:8080"}
					if c.want != "" {
						want = append(want, strings.Split(c.want, "|")...)
					}
					slices.Sort(want)
					if !slices.Equal(got, want) {
						return fmt.Errorf("the backend got %q, want %q", got, want)
					}
					return nil
				},
			}
			if c.sane {
				tr.sane = "it does well"
			}
			tr.test(t, in)
		})
	}
}

// TestResponseHeader: a response arrives as the backend wrote it, less what is hop-by-hop.
func TestResponseHeader(t *testing.T) { run(t, testResponseHeader) }

func testResponseHeader(t *testing.T, in lane) {
	trap{
		backend: answers("HTTP/1.1 200 Fine\r\nDate: then\r\nA: 1\r\nA: 2\r\nB: \xe4\r\nServer: x\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n" +
			"Connection: C, keep-alive\r\nC: 3\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nContent-Length: 6\r\n\r\n<html>"),
		check: func(dial func() *wire, b *backend) error {
			w := dial()
			w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			lines := strings.Split(strings.TrimSpace(w.head()), "\n")
			got := slices.Sorted(slices.Values(lines[1:]))
			want := []string{"A: 1", "A: 2", "B: \xe4", "Content-Length: 6", "Date: then", "Server: x", "Set-Cookie: a=b", "Set-Cookie: c=d"}
			if !slices.Equal(got, want) {
				return fmt.Errorf("got %q, want %q", got, want)
			}
			return nil
		},
	}.test(t, in)
}

// TestForwardedFields: what is said of the client is ours to say, unless who says it is trusted.
func TestForwardedFields(t *testing.T) { run(t, testForwardedFields) }

func testForwardedFields(t *testing.T, in lane) {
	const spoofed = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 10.0.0.1\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n" +
		"X-Forwarded-Host: evil\r\nX-Forwarded-Port: 666\r\nForwarded: for=6.6.6.6\r\n"
	local := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []struct {
		name    string
		trusted []netip.Prefix
		host    string
		given   string
		want    string
	}{
		{"set", nil, "shop:8080", "", "X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: shop:8080|X-Forwarded-Port: 8080|X-Forwarded-Proto: http|X-Real-Ip: 127.0.0.1"},
		{"no port", nil, "shop", "", "X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: shop|X-Forwarded-Port: 80|X-Forwarded-Proto: http|X-Real-Ip: 127.0.0.1"},
		{"ipv6 host", nil, "[::1]:81", "", "X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: [::1]:81|X-Forwarded-Port: 81|X-Forwarded-Proto: http|X-Real-Ip: 127.0.0.1"},
		{"spoofed", nil, "shop:8080", spoofed, "X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: shop:8080|X-Forwarded-Port: 8080|X-Forwarded-Proto: http|X-Real-Ip: 127.0.0.1"},
		{"spoofed, hop-by-hop", nil, "shop:8080", spoofed + "Connection: X-Forwarded-For, X-Real-IP, X-Forwarded-Proto\r\n",
			"X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: shop:8080|X-Forwarded-Port: 8080|X-Forwarded-Proto: http|X-Real-Ip: 127.0.0.1"},
		{"trusted", local, "shop:8080", spoofed, "Forwarded: for=6.6.6.6|X-Forwarded-For: 6.6.6.6, 10.0.0.1, 127.0.0.1|X-Forwarded-Host: evil|X-Forwarded-Port: 666|" +
			"X-Forwarded-Proto: https|X-Real-Ip: 6.6.6.6"},
		{"trusted, says nothing", local, "shop:8080", "", "X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: shop:8080|X-Forwarded-Port: 8080|X-Forwarded-Proto: http|X-Real-Ip: 127.0.0.1"},
		{"trusted up to a stranger", local, "shop:8080", "X-Forwarded-For: 6.6.6.6, 7.7.7.7, 10.0.0.1\r\n",
			"X-Forwarded-For: 6.6.6.6, 7.7.7.7, 10.0.0.1, 127.0.0.1|X-Forwarded-Host: shop:8080|X-Forwarded-Port: 8080|X-Forwarded-Proto: http|X-Real-Ip: 7.7.7.7"},
		{"trusted, nonsense", local, "shop:8080", "X-Forwarded-For: 7.7.7.7, <script>\r\n",
			"X-Forwarded-For: 7.7.7.7, <script>, 127.0.0.1|X-Forwarded-Host: shop:8080|X-Forwarded-Port: 8080|X-Forwarded-Proto: http|X-Real-Ip: unknown"},
		{"trusted, by Forwarded alone", local, "shop", "Forwarded: for=unknown, for=\"[2001:DB8::1]:4711\";proto=https, for=10.0.0.1\r\n",
			"Forwarded: for=unknown, for=\"[2001:DB8::1]:4711\";proto=https, for=10.0.0.1|X-Forwarded-For: unknown, 2001:db8::1, 10.0.0.1, 127.0.0.1|" +
				"X-Forwarded-Host: shop|X-Forwarded-Port: 80|X-Forwarded-Proto: http|X-Real-Ip: 2001:db8::1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := rawBackend(t, "one", answers(ok))
			p := newProxy(t, in)
			p.Trusted = c.trusted
			p.serve(web(b))
			w := p.dial()
			w.send("GET / HTTP/1.1\r\nHost: " + c.host + "\r\n" + c.given + "\r\n")
			w.reply("GET")
			var got []string
			for _, f := range fields(b.got()) {
				if strings.Contains(f, "orwarded") || strings.Contains(f, "Real") {
					got = append(got, f)
				}
			}
			if got := strings.Join(got, "|"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestContentTypeAndEncoding: no type is guessed, and what is compressed stays so.
func TestContentTypeAndEncoding(t *testing.T) { run(t, testContentTypeAndEncoding) }

func testContentTypeAndEncoding(t *testing.T, in lane) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(bytes.Repeat([]byte("compressed "), 100))
	z.Close()
	for _, c := range []struct{ name, framing string }{
		{"length", fmt.Sprintf("Content-Length: %d\r\n\r\n%s", zipped.Len(), &zipped)},
		{"chunked", fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", zipped.Len(), &zipped)},
	} {
		t.Run(c.name, func(t *testing.T) {
			trap{
				backend: answers("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n" + c.framing),
				check: func(dial func() *wire, b *backend) error {
					w := dial()
					w.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					res := w.reply("GET")
					return errors.Join(
						want("body as it was", res.body == zipped.String(), true),
						want("Content-Encoding", res.Header.Get("Content-Encoding"), "gzip"),
						want("Content-Type", strings.Join(res.Header["Content-Type"], "|"), ""))
				},
			}.test(t, in)
		})
	}
}

// TestProxyEnvironment: HTTP_PROXY is not for us.
func TestProxyEnvironment(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	run(t, func(t *testing.T, in lane) {
		b := startBackendAt(t, "127.0.0.1:0", "one", nil)
		s := web(b)
		// An address that is not loopback to http.ProxyFromEnvironment.
		s.Endpoints[0].Addr = strings.Replace(b.addr(), "127.0.0.1", "0.0.0.0", 1)
		if got, want := serve(t, in, s).do("GET /a").String(), "200 one /a"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
