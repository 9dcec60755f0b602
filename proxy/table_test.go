package proxy

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

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

// newTable builds a Table whose services are named after their routes, in the order of their age.
func newTable(t testing.TB, routes ...string) *Table {
	t.Helper()
	table := &Table{}
	var services []discovery.Service
	for i, text := range routes {
		s := discovery.Service{Name: text, Routes: []discovery.Route{routeOf(text)}, Since: time.Unix(int64(i), 0)}
		services = append(services, s)
		table.services = append(table.services, &Service{spec: s})
	}
	table.routes = newRoutes(services, newClaims(services))
	return table
}

// routeOf reads what Route.String writes, except that a host comes before the first slash, "=" or "~" behind it.
func routeOf(s string) discovery.Route {
	i := strings.IndexAny(s[1:], "/=~") + 1
	if strings.IndexByte("/=", s[0]) >= 0 || strings.HasPrefix(s, "~/") || i == 0 {
		return discovery.Route{Path: s}
	}
	return discovery.Route{Host: s[:i], Path: s[i:]}
}

func lookup(t *Table, host, urlPath string) string {
	if s, r := t.Lookup(host, urlPath); s != nil && r != nil && *r == s.spec.Routes[0] {
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
		{"/ /a/b/c", "x", "/a/b", "/"},
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

		{"/ www.*/", "www.a", "/", "www.*/"},
		{"/ www.*/", "www.a.b:80", "/", "www.*/"},
		{"/ www.*/", "www", "/", "/"},
		{"/ www.*/", "xwww.a", "/", "/"},
		{"www.*/ www.a.*/", "www.a.b", "/", "www.a.*/"},
		{"www.a.*/ *.b/", "www.a.b", "/", "*.b/"}, // as nginx: the asterisk in front counts more
		{"~^w/ www.*/", "www.a", "/", "www.*/"},
		{`/ ~^www\d/`, "WWW1.a", "/", `~^www\d/`},
		{`/ ~^WWW\d/`, "www1.a", "/", `~^WWW\d/`},
		{`/ ~^www\d/`, "www.a", "/", "/"},
		{"~a/ ~^a/", "a", "/", "~a/"}, // the older one
		{"~a/x ~^a/", "a", "/", "~^a/"},
		{"/ ~a/x ~^a/x/y", "a", "/x/y", "~a/x"},

		{"/ =/a", "x", "/a", "=/a"},
		{"/ =/a", "x", "/a/", "/"},
		{"/ =/a/", "x", "/a/", "=/a/"},
		{"/ =/a/", "x", "/b/../a/.", "=/a/"},
		{"/ =/a", "x", "//a", "=/a"},
		{"/a =/a", "x", "/a/b", "/a"},
		{"=/ /", "x", "/", "=/"},
		{"=/ /", "x", "/b", "/"},
		{"a.b=/up a.b/", "a.b", "/up", "a.b=/up"},
		{`/ ~/\.png$`, "x", "/.png", `~/\.png$`},
		{`/a/b ~/\.png$`, "x", "/a/b/.png", `~/\.png$`}, // a regular expression wins over a prefix
		{`=/.png ~/\.png$`, "x", "/.png", "=/.png"},
		{`~/B ~/b`, "x", "/b", "~/b"},
		{`~/b ~/.`, "x", "/b", "~/b"},
		{`~/$ /`, "x", "/a/b/", "~/$"}, // the slash at the end counts
		{`~/a/b$ /`, "x", "/a//b", "~/a/b$"},
		{`a.b~*^/V\d /`, "a.b", "/v1", `a.b~*^/V\d`},
		{`a.b~^/v\d a.b/`, "a.b", "/x", `a.b/`},
	} {
		if got := lookup(newTable(t, strings.Fields(c.routes)...), c.host, c.path); got != c.want {
			t.Errorf("routes %s: %s%s goes to %s, want %s", c.routes, c.host, c.path, got, c.want)
		}
	}
}

// TestPatternOrder: regular expressions are tried by age, then as they are written, then by name.
func TestPatternOrder(t *testing.T) {
	svc := func(name string, age int, routes ...discovery.Route) discovery.Service {
		return discovery.Service{Name: name, Since: time.Unix(int64(age), 0), Routes: routes}
	}
	services := []discovery.Service{
		svc("a", 2, discovery.Route{Path: "~^/", Rank: 1}),
		svc("b", 1, discovery.Route{Path: "~x", Rank: 2}, discovery.Route{Path: "~xx", Rank: 1}),
		svc("c", 1, discovery.Route{Path: "~y", Rank: 2}),
		svc("d", 1, discovery.Route{Path: "~(", Rank: 0}), // who made it has refused it
	}
	var got []string
	for _, p := range newRoutes(services, newClaims(services)).any.regexp {
		got = append(got, p.String())
	}
	if want := []string{"xx", "x", "y", "^/"}; !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
}

// slowLookup says the same as Lookup in the simplest way: among all routes that match, the best.
func slowLookup(routes []string, host, urlPath string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
		host = host[:i]
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if strings.HasPrefix(urlPath, "/") {
		slashed := strings.HasSuffix(urlPath, "/") || strings.HasSuffix(urlPath, "/.") || strings.HasSuffix(urlPath, "/..")
		if urlPath = path.Clean(urlPath); slashed && urlPath != "/" {
			urlPath += "/"
		}
	}
	best, found := "", "none"
	for i, text := range routes {
		r := routeOf(text)
		long := func(s string) string { return string(rune(1000 + len(s))) }
		first := string(rune(100000 - i)) // of the regular expressions
		rank := ""
		suffix, wild := strings.CutPrefix(r.Host, "*")
		prefix, open := strings.CutSuffix(r.Host, "*")
		hre, _ := r.HostRegexp()
		switch {
		case r.Host == "":
			rank = "0"
		case hre != nil && hre.MatchString(host):
			for j, other := range routes[:i] {
				if routeOf(other).Host == r.Host { // the routes of a host stand together
					first = string(rune(100000 - j))
					break
				}
			}
			rank = "1" + first
			first = string(rune(100000 - i))
		case hre != nil:
			continue
		case open && strings.HasPrefix(host, prefix):
			rank = "2" + long(r.Host)
		case wild && strings.HasSuffix(host, suffix) && host != suffix[1:]:
			rank = "3" + long(r.Host)
		case r.Host == host:
			rank = "4"
		default:
			continue
		}
		pre, _ := r.PathRegexp()
		switch exact, ok := r.Exact(); {
		case ok && exact == urlPath:
			rank += "2"
		case pre != nil && pre.MatchString(urlPath):
			rank += "1" + first
		case !ok && pre == nil && (r.Path == "/" || urlPath == r.Path || strings.HasPrefix(urlPath, r.Path+"/")):
			rank += "0" + long(r.Path)
		default:
			continue
		}
		if rank > best {
			best, found = rank, text
		}
	}
	return found
}

func FuzzLookup(f *testing.F) {
	f.Add("/ /a /a/b a.b/ *.b/a *.a.b/", "x.a.b:80", "/a/b")
	f.Add("/", "", "*")
	f.Add("/. /.. *./", "..", "//.//")
	f.Add("=/a =/a/ ~/b$ a.* ~a/x ~a=/x ~.~/y a.*/ a.b.*/", "a.b.c", "/a/./b")
	f.Fuzz(func(t *testing.T, list, host, urlPath string) {
		var routes []string
		seen := make(map[discovery.Route]bool)
		for _, text := range strings.Fields(list) {
			r := routeOf(text)
			_, badHost := r.HostRegexp()
			pre, badPath := r.PathRegexp()
			plain, exact := r.Exact()
			bare := strings.TrimSuffix(strings.TrimPrefix(r.Host, "*."), ".*")
			// Routes are as discovery promises: lower case, neither port nor trailing dot, clean.
			if badHost != nil || badPath != nil || seen[r] || pre == nil && !strings.HasPrefix(plain, "/") ||
				!exact && pre == nil && path.Clean(plain) != plain || exact && cleanPath(plain) != plain ||
				!strings.HasPrefix(r.Host, "~") && (r.Host != canonicalHost(r.Host) || strings.Contains(bare, "*") || bare == "" && r.Host != "" ||
					strings.HasPrefix(r.Host, "*.") && strings.HasSuffix(r.Host, ".*")) {
				continue
			}
			seen[r] = true
			routes = append(routes, text)
		}
		if got, want := lookup(newTable(t, routes...), host, urlPath), slowLookup(routes, host, urlPath); got != want {
			t.Errorf("routes %q: %q %q goes to %q, want %q", routes, host, urlPath, got, want)
		}
	})
}

func TestLookupAllocatesNothing(t *testing.T) {
	table := newTable(t, "/", "/a", "a.b/c", "*.b/c", "www.*/", `~^w\d/`, "a.b=/x", `a.b~/\.png$`)
	for _, c := range []struct{ host, path string }{{"a.b", "/c/d/e"}, {"www.x:80", "/"}, {"w1", "/x"}, {"a.b", "/x"}, {"a.b", "/.png"}, {"x", "/a/b"}} {
		n := 1.0
		for try := 0; n > 0 && try < 10; try++ { // what others allocate meanwhile counts too
			n = testing.AllocsPerRun(100, func() { table.Lookup(c.host, c.path) })
		}
		if n > 0 {
			t.Errorf("%s%s: %v allocations", c.host, c.path, n)
		}
	}
}

// BenchmarkLookup has 1,000 routes, and beside each lookup one access to a map of the same size with the
// key that decides it.
func BenchmarkLookup(b *testing.B) {
	for _, c := range []struct{ name, route, host, path string }{
		{"host", "shop%d.example.com/", "shop777.example.com", "/cart/items"},
		{"wildcard", "*.shop%d.example.com/", "www.shop777.example.com", "/"},
		{"prefix", "/api/v1/things%d", "example.com", "/api/v1/things777"},
		{"below", "/api/v1/things%d", "example.com", "/api/v1/things777/42"},
		{"exact", "=/api/v1/things%d", "example.com", "/api/v1/things777"},
	} {
		var routes []string
		plain := make(map[string]*Service)
		for i := range 1000 {
			routes = append(routes, fmt.Sprintf(c.route, i))
		}
		table := newTable(b, routes...)
		key := ""
		for i, s := range table.services {
			r := s.spec.Routes[0]
			k := strings.TrimPrefix(strings.TrimPrefix(r.Host, "*.")+r.Path, "=")
			if r.Host != "" {
				k = strings.TrimPrefix(r.Host, "*.")
			}
			if plain[k] = s; i == 777 {
				key = k
			}
		}
		b.Run(c.name+"/map", func(b *testing.B) {
			for b.Loop() {
				if plain[key] == nil {
					b.Fatal("nothing is there")
				}
			}
		})
		b.Run(c.name+"/lookup", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s, _ := table.Lookup(c.host, c.path); s == nil {
					b.Fatal("nothing is found")
				}
			}
		})
	}
}
