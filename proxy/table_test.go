package proxy

import (
	"path"
	"strings"
	"testing"

	"longshore/discovery"
)

func TestRouting(t *testing.T) { run(t, testRouting) }

func testRouting(t *testing.T, in lane) {
	named := func(name string, routes ...discovery.Route) discovery.Service {
		s := web(startBackend(t, name, nil))
		s.Name, s.Routes = name, routes
		return s
	}
	p := serve(t, in,
		named("any", discovery.Route{Path: "/any"}),
		named("api", discovery.Route{Host: "shop.example.com", Path: "/api"}),
		named("shop", discovery.Route{Host: "shop.example.com", Path: "/"}),
		named("wild", discovery.Route{Host: "*.example.com", Path: "/"}))
	w := p.dial()
	for _, c := range []struct{ host, path, want string }{
		{"shop.example.com", "/", "200 shop /"},
		{"SHOP.example.COM.:8080", "/x", "200 shop /x"},
		{"shop.example.com", "/api", "200 api /api"},
		{"shop.example.com", "/api/", "200 api /api/"},
		{"shop.example.com", "/apix", "200 shop /apix"},
		{"shop.example.com", "/x/../api/y", "200 api /x/../api/y"},
		{"shop.example.com", "//api", "200 api //api"},
		{"www.example.com", "/api", "200 wild /api"},
		{"a.b.example.com", "/api", "200 wild /api"},
		{"example.com", "/any", "200 any /any"},
		{"example.com", "/", "404 404 Not Found"},
		{"", "/any/x", "200 any /any/x"},
		{"[::1]:80", "/any", "200 any /any"},
	} {
		w.send("GET " + c.path + " HTTP/1.1\r\nHost: " + c.host + "\r\n\r\n")
		if got := w.reply("GET").String(); got != c.want {
			t.Errorf("%s%s: got %q, want %q", c.host, c.path, got, c.want)
		}
	}
	if got := p.Router.Unrouted().Codes[404]; got != 1 {
		t.Errorf("%d requests without a route were counted, want 1", got)
	}
}

// newTable builds a Table whose services are named after their routes, "host/path".
func newTable(routes ...string) *Table {
	var services []discovery.Service
	t := &Table{}
	for _, r := range routes {
		host, p, _ := strings.Cut(r, "/")
		s := discovery.Service{Name: r, Routes: []discovery.Route{{Host: host, Path: "/" + p}}}
		services = append(services, s)
		t.services = append(t.services, &Service{spec: s})
	}
	t.routes = newRoutes(services)
	return t
}

func lookup(t *Table, host, urlPath string) string {
	if s := t.Lookup(host, urlPath); s != nil {
		return s.spec.Name
	}
	return "none"
}

func TestLookup(t *testing.T) {
	for _, c := range []struct{ routes, host, path, want string }{
		{"/", "x", "/", "/"},
		{"/", "", "", "/"},
		{"/", "x", "*", "/"},
		{"/a", "x", "/", "none"},
		{"/a", "x", "/a", "/a"},
		{"/a", "x", "/a/", "/a"},
		{"/a", "x", "/a/b/c", "/a"},
		{"/a", "x", "/ab", "none"},
		{"/ /a /a/b", "x", "/a/b", "/a/b"},
		{"/ /a /a/b", "x", "/a/bc", "/a"},
		{"/ /a /a/b", "x", "/a/c/../b", "/a/b"},
		{"/ /a /a/b", "x", "/a/./b//", "/a/b"},
		{"/ /a /a/b", "x", "/../../a", "/a"},
		{"/ /a", "x", "/.a", "/"},
		{"/ /.a", "x", "/.a/b", "/.a"},
		{"/ a.b/", "a.b", "/", "a.b/"},
		{"/ a.b/", "A.B.", "/", "a.b/"},
		{"/ a.b/", "a.b:80", "/", "a.b/"},
		{"/ a.b/", "a.b.:80", "/", "a.b/"},
		{"/ a.b/", "x.a.b", "/", "/"},
		{"/ *.b/", "a.b", "/", "*.b/"},
		{"/ *.b/", "b", "/", "/"},
		{"/ *.b/", "x.a.b", "/", "*.b/"},
		{"/ *.b/ *.a.b/", "x.a.b", "/", "*.a.b/"},
		{"/ *.b/ a.b/", "a.b", "/", "a.b/"},
		{"/a *.b/a a.b/b", "a.b", "/a", "*.b/a"}, // the most specific host that has a route for the path
		{"/a *.b/b a.b/b", "a.b", "/a", "/a"},
		{"/a a.b/", "a.b", "/a", "a.b/"}, // a host is more than a path
		{"/ [::1]/", "[::1]:80", "/", "[::1]/"},
		{"/ [::1]/", "[::1]", "/", "[::1]/"},
		{"a.b/", "c.d", "/", "none"},
		{"", "x", "/", "none"},
	} {
		if got := lookup(newTable(strings.Fields(c.routes)...), c.host, c.path); got != c.want {
			t.Errorf("routes %s: %s%s goes to %s, want %s", c.routes, c.host, c.path, got, c.want)
		}
	}
}

// slowLookup says the same as Lookup in the simplest way: among all routes that match, the best.
func slowLookup(routes []string, host, urlPath string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
		host = host[:i]
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if strings.HasPrefix(urlPath, "/") {
		urlPath = path.Clean(urlPath)
	}
	best, found := "", "none"
	for _, r := range routes {
		h, p, _ := strings.Cut(r, "/")
		rank := ""
		switch suffix, wild := strings.CutPrefix(h, "*"); {
		case h == "":
			rank = "0"
		case wild && strings.HasSuffix(host, suffix) && host != suffix[1:]:
			rank = "1" + string(rune(1000+len(h)))
		case h == host:
			rank = "2"
		default:
			continue
		}
		if p != "" && urlPath != "/"+p && !strings.HasPrefix(urlPath, "/"+p+"/") {
			continue
		}
		if rank += string(rune(1000 + len(p))); rank > best {
			best, found = rank, r
		}
	}
	return found
}

func FuzzLookup(f *testing.F) {
	f.Add("/ /a /a/b a.b/ *.b/a *.a.b/", "x.a.b:80", "/a/b")
	f.Add("/", "", "*")
	f.Add("/. /.. *./", "..", "//.//")
	f.Fuzz(func(t *testing.T, list, host, urlPath string) {
		var routes []string
		seen := make(map[string]bool)
		for _, r := range strings.Fields(list) {
			h, p, isRoute := strings.Cut(r, "/")
			// Routes are as discovery promises: lower case, neither port nor trailing dot, clean.
			if !isRoute || seen[r] || h != canonicalHost(h) || path.Clean("/"+p) != "/"+p || strings.Contains(strings.TrimPrefix(h, "*."), "*") || h == "*." {
				continue
			}
			seen[r] = true
			routes = append(routes, r)
		}
		if got, want := lookup(newTable(routes...), host, urlPath), slowLookup(routes, host, urlPath); got != want {
			t.Errorf("routes %q: %q %q goes to %q, want %q", routes, host, urlPath, got, want)
		}
	})
}
