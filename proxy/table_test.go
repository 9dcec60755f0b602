package proxy

import (
	"fmt"
	"math/rand/v2"
	"path"
	"regexp"
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
		s := discovery.Service{Name: text, Routes: []discovery.Route{routeOf(text)}, Since: time.Unix(int64(i), 0), Internal: strings.HasPrefix(text, "!")}
		services = append(services, s)
		table.services = append(table.services, &Service{spec: s})
	}
	table.routes = newRoutes(services, newClaims(services))
	return table
}

// routeOf reads what Route.String writes, except that a host comes before the first slash, "=", "~" or "^~/" behind it,
// and that a service behind "!" is internal.
func routeOf(s string) discovery.Route {
	s = strings.TrimPrefix(s, "!")
	i := 0
	if s != "" {
		i = strings.IndexAny(s[1:], "/=~") + 1
	}
	if at := strings.Index(s, "^~/"); at > 0 && at < i {
		i = at
	}
	if i == 0 || strings.IndexByte("/=", s[0]) >= 0 || strings.HasPrefix(s, "~/") || strings.HasPrefix(s, "^~/") {
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

		{"/ ^~/a", "x", "/a", "^~/a"},
		{"/ ^~/a", "x", "/a/b", "^~/a"},
		{"/ ^~/a", "x", "/a;b", "^~/a"},
		{"/ ^~/a", "x", "/ab/c", "^~/a"},
		{"/ ^~/a", "x", "/b/../ab", "^~/a"},
		{"/ ^~/a", "x", "/A", "/"},
		{"/ ^~/a", "x", "/", "/"},
		{"/ ^~/a", "x", "*", "/"},
		{"/ ^~/a/", "x", "/a", "^~/a/"}, // it ends where a segment does
		{"/ ^~/a/", "x", "/a/b", "^~/a/"},
		{"/ ^~/a/", "x", "/ab", "/"},
		{"/ ^~/a/b", "x", "/a/bc", "^~/a/b"},
		{"/ ^~/a/b", "x", "/a/c", "/"},
		{"/a ^~/a/b", "x", "/a/bc", "^~/a/b"},
		{"/a/b ^~/a", "x", "/a/b", "/a/b"},
		{"/a/b ^~/a", "x", "/a/bc", "^~/a"},
		{"^~/a ^~/ab", "x", "/abc", "^~/ab"},
		{"^~/a =/ab", "x", "/ab", "=/ab"},
		{"~/.*b /a ^~/a/b", "x", "/a/b", "^~/a/b"}, // before regular expressions, if it is the longest
		{"/a ^~/a", "x", "/a/b", "/a"},             // the same prefix: the older one has it
		{"/a ^~/a", "x", "/ab", "none"},
		{"~/.*b ^~/a /a/b", "x", "/a/b", "~/.*b"},
		{"~/.*b ^~/", "x", "/b", "^~/"},
		{"~/.*b ^~/a/", "x", "/a/b", "^~/a/"},
		{"/ a.b^~/a", "a.b", "/ab", "a.b^~/a"},
		{"/ a.b^~/a", "a.b", "/b", "/"},

		// How else a backend may read a path that not everybody may have.
		{"/ !/a", "x", "/a", "!/a"},
		{"/ !/a", "x", "/a/", "!/a"},
		{"/ !/a", "x", "/a;x", "!/a"},
		{"/ !/a", "x", "/a;x/b", "!/a"},
		{"/ !/a", "x", "/a ", "!/a"},
		{"/ !/a", "x", "/a.", "!/a"},
		{"/ !/a", "x", "/a.json", "!/a"},
		{"/ !/a", "x", "/a%20", "!/a"}, // encoded twice
		{"/ !/a", "x", "/A/b", "!/a"},
		{"/ !/A", "x", "/a", "!/A"},
		{"/ !/a", "x", "/a\\b", "!/a"},
		{"/ !/a", "x", "/b\\..\\a", "!/a"},
		{"/ !/a", "x", "/b/..;/a", "!/a"},
		{"/ !/a", "x", "/;b/a", "!/a"},
		{"/ !/a", "x", "/.;/a", "!/a"},
		{"/ !/a/b", "x", "/a;x/b;y", "!/a/b"},
		{"/ !/a/b", "x", "/" + strings.Repeat(";", 300) + "/a/b", "!/a/b"},
		{"/ !/a", "x", "/ab", "/"},
		{"/ !/a", "x", "/a-b", "/"},
		{"/ !/a", "x", "/a_b", "/"},
		{"/ !/a", "x", "/a2", "/"},
		{"/ !/a", "x", "/a\u00e4", "/"},
		{"/ !/a", "x", "/b;/a/c", "/"}, // no server reads that as /a
		{"/ !/a", "x", "/b/a;", "/"},
		{"/ !/a", "x", "/", "/"},
		{"/ !/a", "x", "*", "/"},
		{"/ !/a /a/b", "x", "/a/b/c", "/a/b"}, // the longest still wins
		{"/ !/a /A", "x", "/A", "/A"},
		{"!/ /a", "x", "/a", "/a"},
		{"!/", "x", "/a;b", "!/"},
		{"/ !^~/a", "x", "/ab", "!^~/a"},
		{"/ !^~/a", "x", "/A", "!^~/a"},
		{"/ a.b/ !a.b/a", "a.b", "/a;", "!a.b/a"},
		{"/ a.b/ !/a", "a.b", "/a;", "a.b/"}, // where "/a" would go too
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
		prefix, isPrefix := r.Prefix()
		isOf := func(other string) bool { return routeOf(other).Match() == r.Match() }
		switch exact, ok := r.Exact(); {
		case ok && exact == urlPath:
			rank += "2"
		case pre != nil && pre.MatchString(urlPath):
			rank += "1" + first
		case isPrefix && !slices.ContainsFunc(routes[:i], isOf) && slowPrefix(text, urlPath) > 0:
			n := slowPrefix(text, urlPath)
			longer := slices.ContainsFunc(routes, func(other string) bool {
				return routeOf(other).Host == r.Host && slowPrefix(other, urlPath) > n
			})
			if rank += "0"; r.First() && !longer {
				rank = rank[:len(rank)-1] + "1\U0010ffff"
			}
			rank += long(prefix) + string(rune(n))
		default:
			continue
		}
		if rank > best {
			best, found = rank, text
		}
	}
	return found
}

// slowPrefix is how good a route's prefix is for a path, 0: not. Longer ones are better, and of the same length those
// that are there as they are written.
func slowPrefix(text, urlPath string) int {
	r := routeOf(text)
	prefix, ok := r.Prefix()
	switch {
	case !ok:
		return 0
	case prefix == "/", urlPath == prefix, strings.HasPrefix(urlPath, prefix+"/"), r.Loose() && strings.HasPrefix(urlPath, prefix):
		return 2*len(prefix) + 1
	case !strings.HasPrefix(text, "!"):
		return 0
	}
	asciiLower := func(s string) string {
		return regexp.MustCompile("[A-Z]").ReplaceAllStringFunc(s, strings.ToLower)
	}
	lax := strings.ReplaceAll(regexp.MustCompile(`(?s);[^/\\]*`).ReplaceAllString(urlPath, ""), `\`, "/")
	if lax != urlPath {
		slashed := strings.HasSuffix(lax, "/") || strings.HasSuffix(lax, "/.") || strings.HasSuffix(lax, "/..")
		if lax = path.Clean(lax); slashed && lax != "/" {
			lax += "/"
		}
	}
	rest, ok := strings.CutPrefix(asciiLower(lax), asciiLower(prefix))
	if ok && (rest == "" || rest[0] < 0x80 && !strings.ContainsRune(letters+"0123456789-_", rune(rest[0]))) {
		return 2 * len(prefix)
	}
	return 0
}

func FuzzLookup(f *testing.F) {
	f.Add("/ /a /a/b a.b/ *.b/a *.a.b/", "x.a.b:80", "/a/b")
	f.Add("/", "", "*")
	f.Add("/. /.. *./", "..", "//.//")
	f.Add("=/a =/a/ ~/b$ a.* ~a/x ~a=/x ~.~/y a.*/ a.b.*/", "a.b.c", "/a/./b")
	f.Add("/ /a ^~/a/b !/b/c a.b^~/ ~/.*b$ !^~/A/ ^~/a", "x.a.b:80", `/a/bc/..;/B\c%20`)
	f.Add("/ !/a !/ab/c ^~/a/", "x", "/A;x/.")
	f.Fuzz(checkLookup)
}

// TestLookupAtRandom is FuzzLookup for routes and paths that have much in common.
func TestLookupAtRandom(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	name := func() string { return pick("a", "a", "b", "ab", "A", "a.b", "a;b", "ä", "") }
	for range 20000 {
		var routes []string
		for range 1 + rnd.IntN(6) {
			route := pick("", "", "!") + pick("", "", "", "x.y", "*.y") + pick("", "", "^~", "=", "~")
			for range 1 + rnd.IntN(3) {
				route += "/" + name()
			}
			routes = append(routes, route)
		}
		path := ""
		for range 1 + rnd.IntN(3) {
			path += pick("/", "/", "/", `\`) + name() + pick("", "", "", ";", ";x", " ", ".", "%", "-b", "..", "/..;", "b")
		}
		checkLookup(t, strings.Join(routes, " "), pick("x.y", "z.y", "z"), "/"+strings.TrimPrefix(path, "/")+pick("", "", "/"))
	}
}

func checkLookup(t *testing.T, list, host, urlPath string) {
	var routes []string
	seen := make(map[discovery.Route]bool)
	for _, text := range strings.Fields(list) {
		r := routeOf(text)
		_, badHost := r.HostRegexp()
		pre, badPath := r.PathRegexp()
		plain, exact := r.Exact()
		if prefix, ok := r.Prefix(); ok {
			plain = prefix
			if r.Path == "^~//" || strings.HasSuffix(r.Path, "//") {
				continue
			}
		}
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
}

func TestLookupAllocatesNothing(t *testing.T) {
	table := newTable(t, "/", "/a", "a.b/c", "*.b/c", "www.*/", `~^w\d/`, "a.b=/x", `a.b~/\.png$`, "^~/l", "!/g", "!^~/h/i")
	for _, c := range []struct{ host, path string }{{"a.b", "/c/d/e"}, {"www.x:80", "/"}, {"w1", "/x"}, {"a.b", "/x"}, {"a.b", "/.png"}, {"x", "/a/b"}, {"x", "/l;x"}, {"x", "/Guard/x"}, {"x", "/G;x.y/z"}, {"x", "/h/ij"}} {
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

// TestBorders: what a path may look like that a backend takes for a route's, and who gets it.
func TestBorders(t *testing.T) { run(t, testBorders) }

func testBorders(t *testing.T, in lane) {
	named := func(name, path string, internal bool) discovery.Service {
		s := web(startBackend(t, name, nil))
		s.Name, s.Routes, s.Internal = name, []discovery.Route{{Path: path}}, internal
		return s
	}
	p := newProxy(t, in)
	p.Trusted = trustedPeers
	p.serve(named("root", "/", false), named("plain", "/plain", false), named("loose", "^~/loose", false), named("inner", "/inner", true))
	w := p.dial()
	for _, c := range []struct{ target, want string }{
		{"/plain", "200 plain"},
		{"/plain/x", "200 plain"},
		{"//plain", "200 plain"},
		{"/plain;x", "200 root"},
		{"/plain%20", "200 root"},
		{"/plain.", "200 root"},
		{"/loose", "200 loose"},
		{"/loose;x", "200 loose"},
		{"/loose%20", "200 loose"},
		{"/loose.", "200 loose"},
		{"/loosely", "200 loose"},
		{"/x/../loose;", "200 loose"},
		{"/Loose", "200 root"},
		{"/inner", "403"},
		{"/inner/x", "403"},
		{"/inner;x", "403"},
		{"/inner%20", "403"},
		{"/inner.", "403"},
		{"/inner.json", "403"},
		{"/INNER", "403"},
		{"/%69nner%3bx", "403"},
		{"/inner%5cx", "403"},
		{"/x/..;/inner", "403"},
		{"/inner-2", "200 root"},
		{"/innermost", "200 root"},
	} {
		res := w.do("GET " + c.target + "\nX-Forwarded-For: 8.8.8.8\n")
		name, _, _ := strings.Cut(res.body, " ")
		if got := strings.TrimSuffix(fmt.Sprint(res.StatusCode, " ", name), " 403"); got != c.want {
			t.Errorf("%s: got %s, want %s", c.target, got, c.want)
		}
	}
	if got, want := w.do("GET /inner;x\nX-Forwarded-For: 10.0.0.1\n").String(), "200 inner /inner;x"; got != want {
		t.Errorf("from inside: got %q, want %q", got, want)
	}
}

// TestInternalChanges: the routes of a service that becomes internal are guarded from then on.
func TestInternalChanges(t *testing.T) { run(t, testInternalChanges) }

func testInternalChanges(t *testing.T, in lane) {
	b := startBackend(t, "one", nil)
	root, inner := web(b), web(b)
	root.Name, inner.Name, inner.Routes = "a", "b", []discovery.Route{{Path: "/inner"}}
	p := newProxy(t, in)
	p.Trusted = trustedPeers
	for _, internal := range []bool{false, true, false} {
		inner.Internal = internal
		p.serve(root, inner)
		want := map[bool]int{true: 403, false: 200}[internal]
		if got := p.do("GET /inner;x\nX-Forwarded-For: 8.8.8.8\n").StatusCode; got != want {
			t.Errorf("internal %v: got %d, want %d", internal, got, want)
		}
	}
}
