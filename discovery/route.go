package discovery

import (
	"regexp"
	"strings"
)

// A Route says which requests are for a service, and what becomes of their paths. It is a value: two
// Routes that are equal say the same. package config parses them.
type Route struct {
	// Host is exact, "*.example.com" (any depth), "www.*", "~" and a regular expression, or empty for every
	// host. Names are lower case, without port or trailing dot.
	Host string
	// Path is a prefix on segment borders, "/" or without a trailing slash; or "^~" and a prefix that goes before
	// regular expressions, and ends anywhere unless it has a trailing slash; or "=" and an exact path; or "~" or, in
	// any case, "~*" and a regular expression.
	Path string
	// Dest takes the place of the prefix, or of the whole path where Path is something else. It begins with
	// "/"; empty: the target goes out as it came.
	Dest string
	// Slash: the prefix was written with a slash at its end. With a Dest, a client that asks for the prefix
	// itself is sent there, as nginx does: what a page links to relatively would miss the prefix else.
	Slash bool
	Rank  int // among the regular expressions of services of the same age: lower first
}

// Match is the route without what it does: two routes with the same Match cannot both be had. A prefix is the same
// one wherever it may end.
func (r Route) Match() Route {
	if prefix, ok := r.Prefix(); ok {
		return Route{Host: r.Host, Path: prefix}
	}
	return Route{Host: r.Host, Path: r.Path}
}

// String gives the form of LONGSHORE_UPSTREAM: "shop.example.com/cart", "~^www\d ~^/v\d".
func (r Route) String() string {
	path := r.Path
	if r.Slash && !strings.HasSuffix(path, "/") {
		path += "/"
	}
	if r.Host == "" || r.Host[0] != '~' && path[0] == '/' {
		return r.Host + path
	}
	return r.Host + " " + path
}

// HostRegexp compiles the regular expression of a host, nil if it has none. Like nginx's it is not
// anchored, and takes any case.
func (r Route) HostRegexp() (*regexp.Regexp, error) {
	if expr, ok := strings.CutPrefix(r.Host, "~"); ok {
		return regexp.Compile("(?i)" + expr)
	}
	return nil, nil
}

// PathRegexp compiles the regular expression of a path, nil if it has none.
func (r Route) PathRegexp() (*regexp.Regexp, error) {
	if expr, ok := strings.CutPrefix(r.Path, "~*"); ok {
		return regexp.Compile("(?i)" + expr)
	}
	if expr, ok := strings.CutPrefix(r.Path, "~"); ok {
		return regexp.Compile(expr)
	}
	return nil, nil
}

// Prefix is the path prefix that the route is for, without a trailing slash, if it is for one.
func (r Route) Prefix() (path string, ok bool) {
	path = strings.TrimPrefix(r.Path, "^~")
	if !strings.HasPrefix(path, "/") {
		return "", false
	}
	if path != "/" {
		path = strings.TrimSuffix(path, "/")
	}
	return path, true
}

// First reports whether the route's prefix goes before regular expressions.
func (r Route) First() bool { return strings.HasPrefix(r.Path, "^~") }

// Loose reports whether the route's prefix ends anywhere, also within a segment.
func (r Route) Loose() bool { return r.First() && !strings.HasSuffix(r.Path, "/") }

// Exact is the one path that the route is for, if it is for one.
func (r Route) Exact() (path string, ok bool) { return strings.CutPrefix(r.Path, "=") }
