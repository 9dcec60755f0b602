package proxy

import (
	"cmp"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"longshore/discovery"
)

// A Table is a routing snapshot. It does not change after it is built.
type Table struct {
	applied  bool      // a State has been applied
	since    time.Time // when it was built, just before it was shown
	routes   *routes
	services []*Service // sorted by name; what routes point into
	skipped  []discovery.Skip
	gateways []netip.Addr // see discovery.State
}

// Services lists the services of the snapshot. The caller must not change the slice.
func (t *Table) Services() []*Service { return t.services }

// Skipped lists the containers that are not used, and the services that do not have their route, and why.
func (t *Table) Skipped() []discovery.Skip {
	all := slices.Concat(t.skipped, t.skips())
	slices.SortFunc(all, func(a, b discovery.Skip) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Why, b.Why))
	})
	return all
}

// Since returns when the snapshot began to be used.
func (t *Table) Since() time.Time { return t.since }

// Lookup finds the service for a request's Host field and decoded path, and by which route; nil: there is
// none. The most specific host that has a route for the path wins: the name itself, then the longest
// "*.x", then the longest "x.*", then regular expressions in order, then any. There an exact path wins,
// then the longest prefix if that goes before regular expressions, then regular expressions in order, then the
// longest prefix.
func (t *Table) Lookup(host, urlPath string) (*Service, *discovery.Route) {
	if at := t.routes.find(host, urlPath); at != nil {
		return t.services[at.service], &at.route
	}
	return nil, nil
}

func (t *Table) byName(name string) *Service {
	i, ok := t.routes.names[name]
	if !ok {
		return nil
	}
	return t.services[i]
}

// routes finds a service's index by host and path. Many tables share one.
type routes struct {
	names  map[string]int   // by service name
	exact  map[string]*site // by host
	suffix map[string]*site // *.example.com, by example.com
	prefix map[string]*site // www.*, by www
	regexp []hostPattern
	any    site
	claims claims
}

// A site is the routes of one host. The zero site has none.
type site struct {
	exact    map[string]*target // by path
	regexp   []pathPattern
	prefixes map[string]*target // by path without a trailing slash
	longest  int                // of the prefixes
	loose    []int              // lengths of those that end anywhere, longest first
	guards   map[string]*target // those that are guarded, by path in lower case
	guarded  []int              // their lengths, longest first
	root     *target            // of the prefix "/"; nil: none
}

// A target is where a route leads.
type target struct {
	service int
	route   discovery.Route
	guarded bool // not everybody is let in: see guard
}

type hostPattern struct {
	*regexp.Regexp
	site *site
}

type pathPattern struct {
	*regexp.Regexp
	to *target
}

// newRoutes compiles the routes of services, as far as they have them.
func newRoutes(services []discovery.Service, c claims) *routes {
	rs := &routes{
		claims: c,
		names:  make(map[string]int),
		exact:  make(map[string]*site),
		suffix: make(map[string]*site),
		prefix: make(map[string]*site),
	}
	type pattern struct {
		since time.Time
		*target
	}
	var patterns []pattern
	for i, svc := range services {
		rs.names[svc.Name] = i
		for _, r := range svc.Routes {
			if holder, _ := c.holder(r.Match()); holder != i {
				continue
			}
			to := &target{i, r, svc.Internal}
			if strings.HasPrefix(r.Host, "~") || strings.HasPrefix(r.Path, "~") {
				patterns = append(patterns, pattern{svc.Since, to})
			} else {
				rs.site(r).add(to)
			}
		}
	}
	slices.SortStableFunc(patterns, func(a, b pattern) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.route.Rank, b.route.Rank))
	})
	for _, p := range patterns {
		if at := rs.site(p.route); at != nil {
			at.add(p.target)
		}
	}
	return rs
}

// site is the site of a route's host. It is nil if that is a regular expression which does not compile:
// who made the route has refused that.
func (rs *routes) site(r discovery.Route) *site {
	if strings.HasPrefix(r.Host, "~") {
		for _, p := range rs.regexp {
			if p.String() == "(?i)"+r.Host[1:] {
				return p.site
			}
		}
		re, err := r.HostRegexp()
		if err != nil {
			return nil
		}
		at := new(site)
		rs.regexp = append(rs.regexp, hostPattern{re, at})
		return at
	}
	hosts, name := rs.exact, r.Host
	if r.Host == "" {
		return &rs.any
	} else if rest, ok := strings.CutPrefix(name, "*."); ok {
		hosts, name = rs.suffix, rest
	} else if rest, ok := strings.CutSuffix(name, ".*"); ok {
		hosts, name = rs.prefix, rest
	}
	if hosts[name] == nil {
		hosts[name] = new(site)
	}
	return hosts[name]
}

// add adds a route, unless its place is taken.
func (s *site) add(to *target) {
	if re, err := to.route.PathRegexp(); re != nil {
		s.regexp = append(s.regexp, pathPattern{re, to})
		return
	} else if err != nil {
		return
	}
	if path, ok := to.route.Exact(); ok {
		put(&s.exact, path, to)
		return
	}
	p, _ := to.route.Prefix()
	if p == "/" {
		s.root = cmp.Or(s.root, to)
		return
	}
	if !put(&s.prefixes, p, to) {
		return
	}
	s.longest = max(s.longest, len(p))
	if to.route.Loose() {
		s.loose = withLength(s.loose, len(p))
	}
	if to.guarded && put(&s.guards, lower(p), to) {
		s.guarded = withLength(s.guarded, len(p))
	}
}

// put reports whether the key was free.
func put(in *map[string]*target, key string, to *target) bool {
	if *in == nil {
		*in = make(map[string]*target)
	}
	if (*in)[key] != nil {
		return false
	}
	(*in)[key] = to
	return true
}

// withLength adds a length to those that are there, longest first.
func withLength(all []int, n int) []int {
	if slices.Contains(all, n) {
		return all
	}
	all = append(all, n)
	slices.SortFunc(all, func(a, b int) int { return b - a })
	return all
}

func (rs *routes) find(host, urlPath string) *target {
	urlPath = cleanPath(urlPath) // only to match, as nginx does: what is forwarded stays as it came
	if len(rs.exact)+len(rs.suffix)+len(rs.prefix)+len(rs.regexp) > 0 {
		named := rs.exact[host] // most clients write it as it is
		if named == nil {
			host = canonicalHost(host)
			named = rs.exact[host]
		}
		if at := named.find(urlPath); at != nil {
			return at
		}
		for rest := host; len(rs.suffix) > 0; {
			cut := strings.IndexByte(rest, '.')
			if cut < 0 {
				break
			}
			rest = rest[cut+1:]
			if at := rs.suffix[rest].find(urlPath); at != nil {
				return at
			}
		}
		for rest := host; len(rs.prefix) > 0; {
			cut := strings.LastIndexByte(rest, '.')
			if cut < 0 {
				break
			}
			rest = rest[:cut]
			if at := rs.prefix[rest].find(urlPath); at != nil {
				return at
			}
		}
		for _, p := range rs.regexp {
			if p.MatchString(host) {
				if at := p.site.find(urlPath); at != nil {
					return at
				}
			}
		}
	}
	return rs.any.find(urlPath)
}

func (s *site) find(urlPath string) *target {
	if s == nil {
		return nil
	}
	if len(s.exact) > 0 {
		if at := s.exact[urlPath]; at != nil {
			return at
		}
	}
	at := s.findPrefix(urlPath)
	if at != nil && at.route.First() {
		return at
	}
	for _, p := range s.regexp {
		if p.MatchString(urlPath) {
			return p.to
		}
	}
	return at
}

// findPrefix finds the longest prefix of a path.
func (s *site) findPrefix(urlPath string) *target {
	at, length := s.root, 0
	for rest := urlPath; s.longest > 0 && len(rest) > 1; {
		if len(rest) <= s.longest {
			if to := s.prefixes[rest]; to != nil {
				at, length = to, len(rest)
				break
			}
		}
		cut := strings.LastIndexByte(rest, '/')
		if cut <= 0 {
			break
		}
		rest = rest[:cut]
	}
	for _, n := range s.loose {
		if n <= length {
			break
		}
		if n < len(urlPath) {
			if to := s.prefixes[urlPath[:n]]; to != nil && to.route.Loose() {
				at, length = to, n
				break
			}
		}
	}
	if len(s.guarded) > 0 && s.guarded[0] > length {
		return cmp.Or(s.guard(urlPath, length), at)
	}
	return at
}

// guard finds the longest guarded prefix, of more than length bytes, that a backend may read in a path. Many read
// "/admin;x", "/admin%20", "/admin.json", "/ADMIN" or "/x/..;/admin" as "/admin": who is kept from that must not get
// there by another service whose backends have it too. So letters may be of either case, what follows a semicolon in
// a segment does not count, a backslash is a slash, and the prefix ends before whatever no name goes on with.
func (s *site) guard(urlPath string, length int) *target {
	var buf [256]byte // so that most paths cost no allocation
	lax := appendLax(buf[:0], urlPath)
	for _, n := range s.guarded {
		if n <= length {
			break
		}
		if n > len(lax) || n < len(lax) && isNameByte(lax[n]) {
			continue
		}
		if to := s.guards[string(lax[:n])]; to != nil {
			return to
		}
	}
	return nil
}

// appendLax appends a path as lax servers read it, see guard.
func appendLax(b []byte, urlPath string) []byte {
	parameters, changed := false, false
	for i := range len(urlPath) {
		c := urlPath[i]
		switch {
		case c == '\\':
			c, changed = '/', true
		case c == ';':
			parameters, changed = true, true
		}
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if parameters = parameters && c != '/'; !parameters {
			b = append(b, c)
		}
	}
	if changed && !isClean(text(b)) {
		return []byte(cleanPath(string(b)))
	}
	return b
}

// lower is a path whose letters of ASCII are in lower case.
func lower(p string) string {
	b := []byte(p)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] |= 0x20
		}
	}
	return string(b)
}

// isNameByte reports whether names go on with a byte: "/admin-2" and "/admin_2" are other names than "/admin".
func isNameByte(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c >= 0x80
}

// cleanPath is a path without empty and dot segments. A slash at its end stays.
func cleanPath(p string) string {
	if isClean(p) {
		return p
	}
	clean := path.Clean(p)
	if clean != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")) {
		clean += "/"
	}
	return clean
}

// isClean reports whether a path has neither empty segments nor such as begin with a dot.
func isClean(p string) bool {
	for i := 1; i < len(p); i++ {
		if p[i-1] == '/' && (p[i] == '/' || p[i] == '.') {
			return false
		}
	}
	return true
}

// canonicalHost strips port and trailing dot and lowers the case: "Shop.Example.com.:80" is the same
// host as "shop.example.com".
func canonicalHost(host string) string {
	if isCanonical(host) {
		return host
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// isCanonical reports whether a host is certainly canonical: it is what most clients send.
func isCanonical(host string) bool {
	for i := range len(host) {
		if c := host[i]; c == ':' || 'A' <= c && c <= 'Z' || c >= 0x80 {
			return false
		}
	}
	return !strings.HasSuffix(host, ".")
}
