package proxy

import (
	"path"
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
}

// Services lists the services of the snapshot. The caller must not change the slice.
func (t *Table) Services() []*Service { return t.services }

// Skipped lists the containers that are not used, and why.
func (t *Table) Skipped() []discovery.Skip { return t.skipped }

// Since returns when the snapshot began to be used.
func (t *Table) Since() time.Time { return t.since }

// Lookup finds the service for a request's Host field and decoded path; nil: there is no route.
// The most specific host that has a route for the path wins, and there the longest path prefix.
func (t *Table) Lookup(host, urlPath string) *Service {
	i, ok := t.routes.find(host, urlPath)
	if !ok {
		return nil
	}
	return t.services[i]
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
	names  map[string]int      // by service name
	exact  map[string]prefixes // by host
	suffix map[string]prefixes // *.example.com, by example.com
	any    prefixes
}

// prefixes finds a service's index by path prefix: "/" or a path without a trailing slash.
type prefixes map[string]int

func newRoutes(services []discovery.Service) *routes {
	rs := &routes{
		names:  make(map[string]int),
		exact:  make(map[string]prefixes),
		suffix: make(map[string]prefixes),
		any:    make(prefixes),
	}
	for i, svc := range services {
		rs.names[svc.Name] = i
		for _, r := range svc.Routes {
			at := rs.any
			if name, wild := strings.CutPrefix(r.Host, "*."); r.Host != "" {
				hosts := rs.exact
				if wild {
					hosts = rs.suffix
				}
				if hosts[name] == nil {
					hosts[name] = make(prefixes)
				}
				at = hosts[name]
			}
			if _, taken := at[r.Path]; !taken {
				at[r.Path] = i
			}
		}
	}
	return rs
}

func (rs *routes) find(host, urlPath string) (int, bool) {
	if strings.Contains(urlPath, "//") || strings.Contains(urlPath, "/.") {
		urlPath = path.Clean(urlPath) // only to match, as nginx does: what is forwarded stays as it came
	}
	if len(rs.exact)+len(rs.suffix) > 0 {
		host = canonicalHost(host)
		if i, ok := rs.exact[host].find(urlPath); ok {
			return i, true
		}
		for rest := host; len(rs.suffix) > 0; {
			var found bool
			if _, rest, found = strings.Cut(rest, "."); !found {
				break
			}
			if i, ok := rs.suffix[rest].find(urlPath); ok {
				return i, true
			}
		}
	}
	return rs.any.find(urlPath)
}

func (p prefixes) find(urlPath string) (int, bool) {
	for len(p) > 0 && len(urlPath) > 1 {
		if i, ok := p[urlPath]; ok {
			return i, true
		}
		cut := strings.LastIndexByte(urlPath, '/')
		if cut <= 0 {
			break
		}
		urlPath = urlPath[:cut]
	}
	i, ok := p["/"]
	return i, ok
}

// canonicalHost strips port and trailing dot and lowers the case: "Shop.Example.com.:80" is the same
// host as "shop.example.com".
func canonicalHost(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
