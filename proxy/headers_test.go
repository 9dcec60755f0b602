package proxy

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"longshore/discovery"
)

func TestPortOf(t *testing.T) {
	for host, want := range map[string]string{
		"": "80", "a": "80", "a:": "80", "a:81": "81", "a:0": "0", "a:65535": "65535", "a.b-c_d:081": "081", "1.2.3.4:81": "81", ":81": "81",
		"[::1]": "80", "[::1]:": "80", "[::1]:81": "81", "[::ffff:1.2.3.4]:81": "81", "[fe80::1%25eth0]": "80", "a%5Bb": "80",

		"a:b": "bad", "a:80:80": "bad", "a::": "bad", "::1": "bad", "a:65536": "bad", "a:99999": "bad", "a:+80": "bad", "a:-1": "bad", "a: 80": "bad",
		"a:99999999999999999999999999": "bad", "a:18446744073709551696": "bad",
		"[::1": "bad", "::1]": "bad", "[": "bad", "]": "bad", "[]": "bad", "[a]b": "bad", "[a]": "bad", "[::1]b": "bad", "[::1]81": "bad", "[::1]]": "bad",
		"[[::1]]": "bad", "[::1]:b": "bad", "[::1]:81:81": "bad", "[1.2.3.4]": "bad", "a[::1]": "bad", "a[b": "bad", "a]:81": "bad", "[::1]:]": "bad",
	} {
		got, ok := portOf(host)
		if !ok {
			got = "bad"
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", host, got, want)
		}
	}
}

func TestKeepUpgrade(t *testing.T) {
	for _, test := range []struct{ asked, want string }{
		{"websocket", "websocket"},
		{"a/1.0 , b", "a/1.0 , b"}, // as it was written
		{"a|b", "a, b"},
		{"h2c", ""},
		{"H2C", ""},
		{"h2c-14", ""},
		{"h2c, websocket", "websocket"},
		{"a, h2c ,b,", "a, b"},
		{"h2c|websocket", "websocket"},
		{"websocket|h2c", "websocket"},
		{"h2c|h2c, h2c", ""},
	} {
		out := http.Header{"Upgrade": {"x"}, "Connection": {"Upgrade"}}
		keepUpgrade(out, strings.Split(test.asked, "|"))
		if got := strings.Join(out["Upgrade"], "|"); got != test.want || (out["Connection"] == nil) != (got == "") {
			t.Errorf("%s: got %q with Connection: %q, want %q", test.asked, got, out["Connection"], test.want)
		}
	}
}

// TestUpgradeFromList: what is asked for besides h2c can be granted, and h2c cannot.
func TestUpgradeFromList(t *testing.T) { run(t, testUpgradeFromList) }

func testUpgradeFromList(t *testing.T, in lane) {
	for granted, want := range map[string]int{"websocket": 101, "WebSocket": 101, "foo/2": 101, "websocket, foo/2": 101, "h2c": 502, "foo": 502, "websocket, h2c": 502, "": 502} {
		b := rawBackend(t, "one", func(w *wire) {
			w.head()
			w.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + granted + "\r\n\r\nhello")
			w.rest()
		})
		w := serve(t, in, web(b)).dial()
		w.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: foo/2, h2c, websocket\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
		if got := w.header("GET").StatusCode; got != want {
			t.Errorf("%s: got %d, want %d", granted, got, want)
		}
		if want == 101 && w.bytes(5) != "hello" {
			t.Errorf("%s: nothing came behind it", granted)
		}
		if head := b.got(); !strings.Contains(head, "\r\nUpgrade: foo/2, websocket\r\n") || strings.Contains(head, "Settings") {
			t.Errorf("the backend got %q", head)
		}
		w.Close()
	}
}

// TestClientsClaims: of the fields in which proxies say whence a request is, a stranger's are dropped, also where CGI
// alone takes them for one, and a trusted proxy's are passed on.
func TestClientsClaims(t *testing.T) { run(t, testClientsClaims) }

func testClientsClaims(t *testing.T, in lane) {
	claims := []string{
		"X-Forwarded-Prefix", "X-Forwarded-Ssl", "X-Forwarded-Scheme", "X-Forwarded-Server", "X-Forwarded-User", "X-Forwarded-Anything", "X-Forwarded",
		"X-Original-Url", "X-Original-Host", "X-Original-Forwarded-For", "X-Rewrite-Url", "X-Scheme", "X-Url-Scheme", "Front-End-Https",
		"X-Client-Ip", "X-Cluster-Client-Ip", "Client-Ip", "True-Client-Ip", "Forwarded-For",
	}
	others := []string{"X-Forward", "Forward", "X-Origin", "X-Schema", "Cf-Connecting-Ip", "Remote-User"}
	for _, c := range []struct {
		name        string
		trusted, on bool
		given, want []string
	}{
		{"a stranger's", false, false, claims, nil},
		{"in small letters", false, false, strings.Fields(strings.ToLower(strings.Join(claims, " "))), nil},
		{"a trusted proxy's", true, false, claims, claims},
		{"others", false, false, others, others},
		{"underscores", false, false, []string{"X_Forwarded_Ssl", "X_Y", "_", "Content_Length", "A-B"}, []string{"A-B"}},
		{"a trusted proxy's underscores", true, false, []string{"X_Forwarded_Ssl", "X_Y", "A-B"}, []string{"A-B"}},
		{"underscores that are wanted", false, true, []string{"X_Forwarded_Ssl", "X_y", "Content_Length", "Transfer_Encoding", "Client_ip", "A-B"}, []string{"X_y", "A-B"}},
		{"other odd names", false, false, []string{"X.Forwarded.Ssl", "X!Real~IP", "Content.Length", "A.b"}, []string{"A.b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := rawBackend(t, "one", answers(ok))
			p := newProxy(t, in)
			p.Underscores = c.on
			if c.trusted {
				p.Trusted = trustedPeers
			}
			p.serve(web(b))
			w := p.dial()
			w.send("GET / HTTP/1.1\r\nHost: x\r\n" + strings.Join(c.given, ": mark\r\n") + ": mark\r\n\r\n")
			if got := w.reply("GET").StatusCode; got != 200 {
				t.Fatalf("got %d", got)
			}
			var got []string
			for _, f := range fields(b.got()) {
				if name, ok := strings.CutSuffix(f, ": mark"); ok {
					got = append(got, name)
				}
			}
			slices.Sort(got)
			if want := slices.Sorted(slices.Values(c.want)); !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

// TestForwardedPrefix: an application whose prefix is taken off is told of it.
func TestForwardedPrefix(t *testing.T) { run(t, testForwardedPrefix) }

func testForwardedPrefix(t *testing.T, in lane) {
	b := rawBackend(t, "one", answers(ok))
	for _, c := range []struct {
		route   discovery.Route
		trusted bool
		given   string
		want    string
	}{
		{discovery.Route{Path: "/api", Dest: "/"}, false, "", "/api"},
		{discovery.Route{Path: "/api", Dest: "/"}, false, "/evil", "/api"},
		{discovery.Route{Path: "/api", Dest: "/"}, true, "", "/api"},
		{discovery.Route{Path: "/api", Dest: "/"}, true, "/outer/", "/outer/api"},
		{discovery.Route{Path: "/a b", Dest: "/"}, false, "", "/a%20b"},
		{discovery.Route{Path: "^~/api", Dest: "/"}, false, "", "/api"},
		{discovery.Route{Path: "/api", Dest: "/v2"}, false, "/evil", ""}, // what it is below is not what it is asked for
		{discovery.Route{Path: "/api"}, false, "/evil", ""},
		{discovery.Route{Path: "/api"}, true, "/outer", "/outer"},
		{discovery.Route{Path: "=/api", Dest: "/"}, false, "", ""},
	} {
		svc := web(b)
		svc.Routes = []discovery.Route{c.route}
		p := newProxy(t, in)
		if c.trusted {
			p.Trusted = trustedPeers
		}
		p.serve(svc)
		before := len(b.got())
		given := ""
		if c.given != "" {
			given = "X-Forwarded-Prefix: " + c.given + "\n"
		}
		if got := p.do("GET " + strings.ReplaceAll(strings.TrimLeft(c.route.Path, "^~="), " ", "%20") + "\n" + given).StatusCode; got != 200 {
			t.Errorf("%+v: got %d", c, got)
		}
		if got := valueOf(b.got()[before:], "X-Forwarded-Prefix"); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

// valueOf is the value of a field of the first request in raw bytes, empty if there is none.
func valueOf(raw, name string) (value string) {
	for _, f := range fields(raw) {
		if v, ok := strings.CutPrefix(f, name+": "); ok {
			value += v
		}
	}
	return value
}

// TestLoop: a route that leads to the proxy itself ends with 508, whichever way it goes round, and a request that has
// not been through a proxy has no field for that.
func TestLoop(t *testing.T) { run(t, testLoop) }

func testLoop(t *testing.T, in lane) {
	origin := startBackend(t, "origin", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Join(r.Header["Longshore-Hops"], "|"))
	})
	p, other := newProxy(t, in), newProxy(t, in)
	p.serve(web(origin)) // to know its address
	to := func(name, addr, path string) discovery.Service {
		s := web()
		s.Name, s.Routes = name, []discovery.Route{{Path: path}}
		s.Endpoints = []discovery.Endpoint{{Key: discovery.Key{ID: name, Run: 1, Port: 80}, Name: name, Addr: addr, Server: discovery.Server{Weight: 1}}}
		return s
	}
	other.serve(to("back", p.addr, "/"))
	p.serve(web(origin), to("self", p.addr, "/self"), to("two", other.addr, "/two"))
	w := p.dial()
	for path, passes := range map[string]int{"/self": maxHops + 2, "/two": maxHops/2 + 1} {
		if got := w.do("GET " + path).StatusCode; got != http.StatusLoopDetected {
			t.Errorf("%s: got %d, want 508", path, got)
		}
		for range passes {
			if got := p.record(); got.Status != http.StatusLoopDetected {
				t.Errorf("%s: %d in the log", path, got.Status)
			}
		}
		select {
		case r := <-p.records:
			t.Errorf("%s: more than %d passes: %+v", path, passes, r)
		default:
		}
	}
	for given, want := range map[string]string{
		"":                                       "",
		"Via: 1.1 a\n":                           "",
		"X-Forwarded-For: 8.8.8.8\n":             "1",
		"Longshore-Hops: 3\n":                    "4",
		"Longshore-Hops: 9\n":                    "10",
		"Longshore-Hops: x\n":                    "1",
		"Longshore-Hops: -5\n":                   "1",
		"longshore-hops: 2\nlongshore-hops: 3\n": "3",
	} {
		if got := w.do("GET /\n" + given).body; got != want {
			t.Errorf("%q: the backend got %q, want %q", given, got, want)
		}
	}
	for _, n := range []string{"10", "11", "255", "99999"} {
		if got := w.do("GET /\nLongshore-Hops: " + n + "\n").StatusCode; got != http.StatusLoopDetected {
			t.Errorf("%s hops: got %d, want 508", n, got)
		}
	}
}

// TestForUs: what a proxy answers itself.
func TestForUs(t *testing.T) { run(t, testForUs) }

func testForUs(t *testing.T, in lane) {
	b := rawBackend(t, "one", answers(ok))
	w := serve(t, in, web(b)).dial()
	const all = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
	for _, c := range []struct{ request, status, want string }{ // want: Max-Forwards at the backend
		{"TRACE /", "405 " + all, "not asked"},
		{"OPTIONS /\nMax-Forwards: 0\n", "200 " + all, "not asked"},
		{"OPTIONS *\nMax-Forwards: 0\n", "200 " + all, "not asked"},
		{"OPTIONS /\nMax-Forwards: 1\n", "200", "0"},
		{"OPTIONS /\nMax-Forwards: 70\n", "200", "69"},
		{"OPTIONS /\nMax-Forwards: x\n", "200", "x"},
		{"OPTIONS /", "200", ""},
		{"GET /\nMax-Forwards: 0\n", "200", "0"}, // for OPTIONS and TRACE alone
	} {
		before := len(b.got())
		res := w.do(c.request)
		if got := strings.TrimSpace(fmt.Sprint(res.StatusCode, " ", res.Header.Get("Allow"))); got != c.status {
			t.Errorf("%q: got %s, want %s", c.request, got, c.status)
		}
		got := "not asked"
		if head := b.got()[before:]; head != "" {
			got = valueOf(head, "Max-Forwards")
		}
		if got != c.want {
			t.Errorf("%q: the backend got %s, want %s", c.request, got, c.want)
		}
	}
}

// TestDirectives: what a backend says to nginx alone does not reach the client.
func TestDirectives(t *testing.T) { run(t, testDirectives) }

func testDirectives(t *testing.T, in lane) {
	const directives = "X-Accel-Redirect: /protected/file\r\nx-accel-buffering: no\r\nX-Accel-Expires: 0\r\nX-Accel-Anything: x\r\n"
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\n" + directives + "X-Accelerated: yes\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\n" + directives + "X-Accelerated: yes\r\n\r\nok",
		"HTTP/1.1 103 Early Hints\r\n" + directives + "X-Accelerated: yes\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nX-Accelerated: yes\r\nTrailer: X-Accel-Redirect\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + directives + "\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nConnection: Upgrade\r\nX-Accelerated: yes\r\n" + directives + "\r\nok",
	} {
		if in.name == "transport" && strings.Contains(answer, "Trailer") {
			continue // of trailers our own client drops what is not for a client
		}
		b := rawBackend(t, "one", func(w *wire) {
			w.head()
			w.send(answer)
		})
		connection := "close"
		if strings.Contains(answer, "Upgrade") {
			connection = "Upgrade\r\nUpgrade: a"
		}
		w := serve(t, in, web(b)).dial()
		w.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: " + connection + "\r\n\r\n")
		got := w.rest()
		if strings.Contains(strings.ToLower(got), "x-accel-") || !strings.Contains(got, "X-Accelerated: yes") || !strings.Contains(got, "ok") {
			t.Errorf("%q came as %q", answer, got)
		}
	}
}

// TestLargeHeads: a head of just the size that is allowed is, and one byte more is not, also behind another request.
func TestLargeHeads(t *testing.T) { run(t, testLargeHeads) }

func testLargeHeads(t *testing.T, in lane) {
	for _, limit := range []int{1 << 10, 8 << 10, 32 << 10} {
		b := startBackend(t, "one", nil)
		p := newProxy(t, in)
		p.MaxHeader = limit
		p.serve(web(b))
		head := func(size int) string {
			const around = "GET / HTTP/1.1\r\nHost:x\r\nA:\r\n\r\n"
			return strings.Replace(around, "A:", "A:"+strings.Repeat("a", size-len(around)), 1)
		}
		for size, want := range map[int]int{limit - 1: 200, limit: 200, limit + 1: 431, limit + 2<<10: 431, limit + 5<<10: 431} {
			w := p.dial()
			w.send(head(size))
			if got := w.reply("GET").StatusCode; got != want {
				t.Errorf("limit %d, alone, %d bytes: got %d, want %d", limit, size, got, want)
			}
			w.Close()
			w = p.dial()
			w.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + head(size))
			w.reply("OPTIONS")
			if got := w.reply("GET").StatusCode; got != want {
				t.Errorf("limit %d, behind another, %d bytes: got %d, want %d", limit, size, got, want)
			}
			w.Close()
		}
	}
}
