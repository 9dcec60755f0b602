package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"longshore/discovery"
)

func TestRewriteTarget(t *testing.T) {
	for _, c := range []struct{ path, dest, target, want string }{
		{"/api", "", "/api//x%2F|?a=b", "/api//x%2F|?a=b"},
		{"/api", "/", "/api", "/"},
		{"/api", "/", "/api/", "/"},
		{"/api", "/", "/api/x/", "/x/"},
		{"/api", "/", "/api?", "/?"},
		{"/api", "/", "/api/x?y=/api/z", "/x?y=/api/z"},
		{"/api", "/v2", "/api", "/v2"},
		{"/api", "/v2", "/api/", "/v2/"},
		{"/api", "/v2/", "/api", "/v2/"},
		{"/api", "/v2/", "/api/", "/v2/"},
		{"/api", "/v2/", "/api/x", "/v2/x"},
		{"/api/v1", "/v2", "/api/v1/x;y=1/|%2f%zz", "/v2/x;y=1/|%2f%zz"},
		{"/", "/app", "/", "/app/"},
		{"/", "/app/", "/x?y", "/app/x?y"},
		{"/", "/app", "*", "*"},

		{"/api", "/", "/%61pi/x", "/x"}, // the client may encode what it likes
		{"/api/v1", "/", "/api%2Fv1%2fx%2Fy", "/x%2Fy"},
		{"/a b", "/", "/a%20b/%20", "/%20"},
		{"/a%2Fb", "/", "/a%252Fb/x", "/x"},
		{"/api", "/", "/api//evil.example", "/evil.example"}, // never a host
		{"/api", "/", "/api/%2Fevil.example", "/evil.example"},
		{"/api", "/", "//api/x//y", "/x//y"},
		{"/api", "/v2", "/api//x", "/v2/x"},
		{"/api", "/", "/b/../api/x", "/x"}, // what is before the prefix, and may cross it
		{"/api", "/", "/b/%2e%2e/api/x/../y", "/y"},
		{"/api", "/", "/../api/./x%2e/", "/x%2e/"},
		{"/api", "/", "/api/x/..", "/"},
		{"/api/v1", "/", "/api/x/../v1//y/.z", "/y/.z"},
		{"/api", "/", "/b//../api/x", "/x"},

		{"/api", "/", "http://h/api/x?y", "/x?y"},
		{"/", "/app", "http://h", "/app/"},
		{"/", "/app", "http://h?x=/", "/app/?x=/"},

		{"=/up", "/health/", "/up?x", "/health/?x"},
		{`~^/v\d`, "/app", "/v1/x?y", "/app?y"},
		{`~^/v\d`, "", "/v1/x?y", "/v1/x?y"},

		{"^~/api", "/", "/api", "/"},
		{"^~/api", "/", "/api/x", "/x"},
		{"^~/api", "/v2", "/api;x/y?z", "/v2;x/y?z"},
		{"^~/api", "/", "/apis", "/s"}, // as nginx does
		{"^~/api", "/v2", "/%61p%69%2e", "/v2%2e"},
		{"^~/api", "/v2/", "//x/../api//y", "/v2/y"},
		{"^~/a/b", "/", "//a%2F/bc//d", "/c//d"},
		{"^~/", "/v2", "/x", "/v2/x"},
		{"^~/api/", "/v2/", "/api/x", "/v2/x"},
		{"^~/api/", "/v2/", "/api", "/v2/"},
	} {
		if got := rewriteTarget(c.target, &discovery.Route{Path: c.path, Dest: c.dest}); got != c.want {
			t.Errorf("%s for %s: %s becomes %s, want %s", c.dest, c.path, c.target, got, c.want)
		}
	}
}

// FuzzRewriteTarget: what goes out is a path of the backend's that means the same below the prefix, and
// the client's query.
func FuzzRewriteTarget(f *testing.F) {
	for _, target := range []string{"/api", "/api/x?y", "/%61pi//x", "/b/../api%2f%2e%2e/api/%zz", "http://h/api", "//api", "/api/..//api/.", "/api/%2e"} {
		f.Add("/api", "/v2/", target, false)
		f.Add("/", "/", target, false)
		f.Add("/api/v1", "/a", strings.ReplaceAll(target, "api", "api/v1"), false)
		f.Add("/ap", "/v2", target, true)
	}
	f.Fuzz(func(t *testing.T, prefix, dest, uri string, loose bool) {
		u, err := url.ParseRequestURI(uri)
		if err != nil || uri[0] != '/' && u.Host == "" || !strings.HasPrefix(prefix, "/") || cleanPath(prefix) != prefix || prefix != "/" && strings.HasSuffix(prefix, "/") {
			return
		}
		if !strings.HasPrefix(dest, "/") || strings.HasPrefix(dest, "//") || strings.ContainsAny(dest, "%?#") || cleanPath(dest) != dest {
			return
		}
		path := u.Path
		if path == "" {
			path = "/"
		}
		clean := cleanPath(path)
		route := discovery.Route{Path: prefix, Dest: dest}
		if loose {
			route.Path = "^~" + prefix
		}
		at := new(site)
		at.add(&target{route: route})
		if at.find(clean) == nil {
			return
		}
		got := rewriteTarget(uri, &route)
		raw, query := got, ""
		if i := strings.IndexByte(got, '?'); i >= 0 {
			raw, query = got[:i], got[i:]
		}
		if i := strings.IndexByte(uri, '?'); i >= 0 && uri[i:] != query || i < 0 && query != "" {
			t.Errorf("%q: the query is %q", uri, query)
		}
		if !strings.HasPrefix(raw, "/") || strings.HasPrefix(raw, "//") {
			t.Errorf("%q becomes %q", uri, got)
		}
		decoded, err := url.PathUnescape(raw)
		if err != nil {
			t.Fatalf("%q becomes %q: %v", uri, got, err)
		}
		want := cleanPath(join(dest, strings.TrimPrefix(clean, strings.TrimSuffix(prefix, "/"))))
		if cleanPath(decoded) != want {
			t.Errorf("%s for %s: %q becomes %q, which is %q, want %q", dest, prefix, uri, got, cleanPath(decoded), want)
		}
	})
}

func TestMendPath(t *testing.T) {
	for _, c := range []struct{ path, dest, given, want string }{
		{"/api", "/", "/login", "/api/login"},
		{"/api", "/", "/", "/api/"},
		{"/api", "/", "/api/login", "/api/login"}, // it knows where it is mounted
		{"/api", "/", "/apis", "/api/apis"},
		{"/api", "/v2", "/v2/x?y#z", "/api/x?y#z"},
		{"/api", "/v2/", "/v2", "/api"},
		{"/api", "/v2/", "/v2?x", "/api?x"},
		{"/api", "/v2", "/v20", "/v20"},
		{"/api", "/v2", "/login", "/login"}, // the client cannot get there
		{"/api", "/api/v2", "/api/v2/x", "/api/x"},
		{"/api", "/api/v2", "/api/x", "/api/x"},
		{"/", "/app", "/app/x", "/x"},
		{"/", "/app", "/app", "/"},
		{"/a b", "/", "/x", "/a%20b/x"},
		{"=/up", "/health", "/health?x", "/up?x"},
		{"=/up", "/health", "/health/x", "/health/x"},
		{"~^/v", "/x", "/x/y", "/x/y"},
		{"/api", "", "/x", "/x"},
	} {
		if got := mendPath(c.given, &discovery.Route{Path: c.path, Dest: c.dest}); got != c.want {
			t.Errorf("%s for %s: %s becomes %s, want %s", c.dest, c.path, c.given, got, c.want)
		}
	}
}

func TestMendCookie(t *testing.T) {
	for given, want := range map[string]string{
		"a=b; Path=/; HttpOnly":        "a=b; Path=/api; HttpOnly",
		"a=b;path = /x ;Secure":        "a=b;path = /api/x ;Secure",
		"a=b; PATH=/api/x":             "a=b; PATH=/api/x",
		"a=/; Path=/x; path=/y":        "a=/; Path=/api/x; path=/api/y",
		"a=b; Domain=/; Max-Age=1":     "a=b; Domain=/; Max-Age=1",
		"a=b; Path=x; Path":            "a=b; Path=x; Path",
		"path=/; Secure":               "path=/; Secure",
		"__Host-a=b; Path=/; Secure":   "__Host-a=b; Path=/; Secure",
		"__Secure-a=b; Path=/; Secure": "__Secure-a=b; Path=/api; Secure",
		"":                             "",
		"a=b;":                         "a=b;",
		"a=b; Path=/;;":                "a=b; Path=/api;;",
	} {
		if got := mendCookie(given, &discovery.Route{Path: "/api", Dest: "/"}); got != want {
			t.Errorf("%q becomes %q, want %q", given, got, want)
		}
	}
}

// TestStrip is a service below a prefix that does not know of it.
func TestStrip(t *testing.T) { run(t, testStrip) }

func testStrip(t *testing.T, in lane) {
	var b *backend
	b = startBackend(t, "api", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		location := r.URL.Query().Get("to")
		location = strings.NewReplacer("ADDR", b.addr(), "HOST", r.Host).Replace(location)
		h["Location"] = []string{location}
		h["Refresh"] = []string{"5; URL=" + location}
		h["Set-Cookie"] = []string{"a=b; Path=/", "c=d; path=/x; Secure", "e=f"}
		fmt.Fprint(w, r.RequestURI)
	})
	svc := web(b)
	svc.Routes = []discovery.Route{{Path: "/api", Dest: "/", Slash: true}}
	p := serve(t, in, svc)
	w := p.dial()
	for _, c := range []struct{ to, location string }{
		{"/login", "/api/login"},
		{"/api/login", "/api/login"},
		{"login", "login"},
		{"//login", "//login"},
		{"http://HOST/login", "http://x/api/login"},
		{"https://HOST/login", "https://x/api/login"},
		{"http://ADDR/login", "/api/login"},
		{"http://ADDR", "/api/"},
		{"http://HOST:81/login", "http://x:81/login"},
		{"http://example.com/login", "http://example.com/login"},
	} {
		res := w.do("GET /api/x%2Fy/?to=" + c.to)
		if want := "/x%2Fy/?to=" + c.to; res.body != want {
			t.Errorf("the backend got %q, want %q", res.body, want)
		}
		if got := res.Header.Get("Location"); got != c.location {
			t.Errorf("Location %q became %q, want %q", c.to, got, c.location)
		}
		if got, want := res.Header.Get("Refresh"), "5; URL="+c.location; got != want {
			t.Errorf("Refresh became %q, want %q", got, want)
		}
		if got, want := fmt.Sprint(res.Header["Set-Cookie"]), "[a=b; Path=/api c=d; path=/api/x; Secure e=f]"; got != want {
			t.Errorf("cookies %s, want %s", got, want)
		}
	}

	res := w.do("GET //api?x=%2F")
	if got, want := fmt.Sprint(res.StatusCode, " ", res.Header.Get("Location")), "301 /api/?x=%2F"; got != want {
		t.Errorf("the prefix itself: %s, want %s", got, want)
	}
	if w.do("GET /api/?to=/").StatusCode != 200 || b.requests.Load() != 11 {
		t.Errorf("%d requests reached the backend, want 11", b.requests.Load())
	}
	res = w.do("POST /api\nContent-Length: 2\n", "ok")
	if res.StatusCode != 301 || !res.Close {
		t.Errorf("with a body: %v, connection closed: %v", res, res.Close)
	}
}

// TestBackendAddress: where nothing is rewritten, a Location with the backend's own address is mended still.
func TestBackendAddress(t *testing.T) { run(t, testBackendAddress) }

func testBackendAddress(t *testing.T, in lane) {
	var b *backend
	b = startBackend(t, "web", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Location"] = []string{strings.ReplaceAll(r.URL.Query().Get("to"), "ADDR", b.addr())}
		w.Header()["Set-Cookie"] = []string{"a=b; Path=/"}
	})
	p := serve(t, in, web(b))
	_, port, _ := strings.Cut(b.addr(), ":")
	w := p.dial()
	for to, want := range map[string]string{
		"http://ADDR/x?y": "/x?y", "http://web:" + port + "/x": "/x", "http://ADDR//x": "/x", "http://web/x": "http://web/x",
		"/x": "/x", "http://x/x": "http://x/x", "ftp://ADDR/": "ftp://" + b.addr() + "/",
	} {
		res := w.do("GET /?to=" + url.QueryEscape(to))
		if got := res.Header.Get("Location"); got != want {
			t.Errorf("Location %q became %q, want %q", to, got, want)
		}
		if got := res.Header.Get("Set-Cookie"); got != "a=b; Path=/" {
			t.Errorf("the cookie became %q", got)
		}
	}
}

// TestInternal: a service that is internal lets only clients in private networks in, as far as they are
// known: behind a proxy that is trusted, those that it names.
func TestInternal(t *testing.T) { run(t, testInternal) }

func testInternal(t *testing.T, in lane) {
	b := startBackend(t, "web", nil)
	svc := web(b)
	svc.Internal = true
	p := newProxy(t, in)
	p.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	p.serve(svc)
	w := p.dial()
	for client, want := range map[string]int{
		"": 200, "10.1.2.3": 200, "172.31.0.1": 200, "172.32.0.1": 403, "192.168.1.1": 200, "203.0.113.9": 403,
		"fd00::1": 200, "2001:db8::1": 403, "::ffff:10.0.0.1": 200, "203.0.113.9, 10.0.0.1": 200,
	} {
		if got := w.do("GET /\nX-Forwarded-For: " + client + "\n").StatusCode; got != want {
			t.Errorf("a client at %q: %d, want %d", client, got, want)
		}
	}
	res := w.do("POST /\nX-Forwarded-For: 203.0.113.9\nContent-Length: 2\n", "ok")
	if res.StatusCode != 403 || !res.Close {
		t.Errorf("with a body: %v, connection closed: %v", res, res.Close)
	}
}
