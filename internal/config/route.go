package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/net/idna"

	"longshore/discovery"
)

// ParseRoute parses HOST, PATH, HOST/PATH or HOST PATH:
//
//	shop.example.com  *.example.com  www.*     a name, any depth below it, any name that begins so
//	/api              shop.example.com/cart    a path prefix, on segment borders
//	^~ /admin         a.example.com ^~ /admin  a prefix that ends anywhere, before regular expressions
//	=/favicon.ico     a.example.com =/up       this path and no other
//	~^/v\d+/          ~*\.(png|jpg)$           a regular expression for the path, "~*" in any case
//	~^www\d+\. /      ~^www\d+\. ~^/v\d+/      one for the host; it is always followed by a path
//
// As in an nginx configuration, there may be a space behind "=", "~", "~*" and "^~".
func ParseRoute(s string) (r discovery.Route, err error) {
	var words []string
	for _, w := range strings.Fields(s) {
		if n := len(words); n > 0 && (words[n-1] == "=" || words[n-1] == "~" || words[n-1] == "~*" || words[n-1] == "^~") {
			words[n-1] += w
			continue
		}
		words = append(words, w)
	}
	host, rest := "", "/"
	switch {
	case len(words) == 0:
		return r, errors.New("the route is empty: want a host, a path that begins with /, or both")
	case len(words) > 2:
		return r, fmt.Errorf(`route %q: want a host and a path; \s is a space in a regular expression`, s)
	case len(words) == 2:
		host, rest = words[0], words[1]
	case strings.IndexByte("/=~^", words[0][0]) >= 0:
		rest = words[0]
	default:
		host = words[0]
		if i := strings.IndexByte(host, '/'); i >= 0 {
			host, rest = host[:i], host[i:]
		}
	}
	if host != "" {
		if r.Host, err = parseHost(host); err != nil {
			return r, err
		}
	}
	r.Path, r.Slash, err = parsePath(rest)
	return r, err
}

// parseHost parses a host of a route. It accepts what a client can send, and no more: else nobody would hear why
// the route is never used.
func parseHost(s string) (string, error) {
	if expr, ok := strings.CutPrefix(s, "~"); ok {
		return s, checkRegexp(s, expr)
	}
	host := strings.ToLower(strings.TrimSuffix(s, "."))
	bare := strings.TrimPrefix(host, "*.")
	if bare == host {
		bare = strings.TrimSuffix(host, ".*")
	}
	if isName(bare) || isIPv6(host) {
		return host, nil
	}
	if ascii, err := idna.Lookup.ToASCII(bare); err == nil && isName(ascii) {
		return "", fmt.Errorf("host %q: clients send it as %s: write that", s, strings.Replace(host, bare, ascii, 1))
	}
	return "", fmt.Errorf("host %q: want a name such as shop.example.com, *.example.com, www.* or a regular expression behind ~, without a port", s)
}

// isName reports whether a host is a name, in lower case, as clients send it.
func isName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(s) <= 253
}

func isIPv6(s string) bool {
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return err == nil && a.Is6() && a.Zone() == "" && s == "["+a.String()+"]"
}

// longestPath is how long a path or a regular expression may be. A request's head is hardly longer.
const longestPath = 4096

// parsePath parses a path of a route. slash: it is a prefix that was written with a slash at its end.
func parsePath(s string) (p string, slash bool, err error) {
	wrong := fmt.Errorf("path %q: want a path prefix that begins with /, perhaps behind ^~, an exact path behind =, or a regular expression behind ~, without a query", s)
	switch {
	case s == "":
		return "", false, wrong
	case len(s) > longestPath:
		return "", false, fmt.Errorf("path %q: want at most %d characters", s, longestPath)
	case strings.ContainsFunc(s, unicode.IsControl):
		return "", false, fmt.Errorf("path %q: want it without control characters", s)
	}
	if s[0] == '~' {
		return s, false, checkRegexp(s, strings.TrimPrefix(s[1:], "*"))
	}
	plain, exact := strings.CutPrefix(s, "=")
	plain, first := strings.CutPrefix(plain, "^~")
	if !strings.HasPrefix(plain, "/") || exact && first || strings.ContainsAny(plain, " \t?#") {
		return "", false, wrong
	}
	clean := path.Clean(plain) // as requests are, to be matched
	slash = clean != "/" && strings.HasSuffix(plain, "/")
	if exact {
		if slash {
			clean += "/"
		}
		return "=" + clean, false, nil
	}
	if first {
		clean = "^~" + clean
		if slash {
			clean += "/" // it ends where a segment does
		}
	}
	return clean, slash, nil
}

// checkRegexp says in one line what is wrong with a regular expression.
func checkRegexp(s, expr string) error {
	switch {
	case expr == "":
		return fmt.Errorf("%q: the regular expression is empty", s)
	case strings.ContainsAny(expr, " \t\r\n"):
		return fmt.Errorf(`regular expression %q: write \s for a space`, s)
	case strings.ContainsFunc(expr, unicode.IsControl):
		return fmt.Errorf(`regular expression %q: write control characters as \x00`, s)
	case len(expr) > longestPath:
		return fmt.Errorf("regular expression %q: want at most %d characters", s, longestPath)
	}
	_, err := syntax.Parse(expr, syntax.Perl)
	if bad := (*syntax.Error)(nil); errors.As(err, &bad) {
		return fmt.Errorf("regular expression %q: %s: %q (RE2: no lookaround, no backreferences)", s, bad.Code, bad.Expr)
	}
	return err
}

// parseDest parses what takes the place of a path.
func parseDest(s string) (string, error) {
	u, err := url.ParseRequestURI(s)
	if err != nil || s[0] != '/' || strings.HasPrefix(s, "//") || u.RawQuery != "" || u.ForceQuery || strings.ContainsAny(s, "#\\\"<>^`{|}") {
		return "", fmt.Errorf("path %q: want the path of a URL, such as / or /v2, without a query", s)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return "", fmt.Errorf("path %q: want it percent-encoded", s)
		}
	}
	return s, nil
}

// to is the route with a Dest. nginx takes "/" for "/" as a path that is to be normalized; here it is
// forwarded as it came.
func to(r discovery.Route, dest string) discovery.Route {
	if prefix, _ := r.Prefix(); prefix == "/" && dest == "/" {
		dest = ""
	}
	r.Dest = dest
	return r
}

// ranked is the route with its place among regular expressions, if it has one.
func ranked(r discovery.Route, rank int) discovery.Route {
	if strings.HasPrefix(r.Host, "~") || r.Path[0] == '~' {
		r.Rank = rank
	}
	return r
}

// splitRoutes yields the trimmed, non-empty parts of a list that commas or newlines separate, whose parts may be
// regular expressions: a comma in parentheses, brackets or braces, or behind a backslash, is part of one.
func splitRoutes(s string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for s != "" {
			i := endOfPart(s)
			part := strings.TrimSpace(s[:i])
			if s = s[i:]; s != "" {
				s = s[1:]
			}
			if part != "" && !yield(part) {
				return
			}
		}
	}
}

// endOfPart is where the first part of a list ends.
func endOfPart(s string) int {
	if i := strings.IndexByte(s, '\n'); i >= 0 { // which is never part of a regular expression
		if j := endOfPart(s[:i]); j < i {
			return j
		}
		return i
	}
	depth, class := 0, -1 // class: where a [ began; -1: not in one
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case class >= 0:
			if c == ']' && i > class+1 && s[class+1:i] != "^" { // the first of a class is a character
				class = -1
			}
		case c == '[':
			class = i
		case c == '(' || c == '{':
			depth++
		case c == ')' || c == '}':
			depth = max(depth-1, 0)
		case c == ',' && depth == 0:
			return i
		}
	}
	if depth > 0 || class >= 0 { // that is no regular expression: the next part must not be lost with it
		if i := strings.IndexByte(s, ','); i >= 0 {
			return i
		}
	}
	return len(s)
}

// cutTarget splits ROUTE=TARGET. A regular expression may have "=" in it, a target behind one may not; and
// "=" may begin a path.
func cutTarget(s string) (route, target string, ok bool) {
	if strings.Contains(s, "~") {
		if i := strings.LastIndexByte(s, '='); i >= 0 {
			return s[:i], s[i+1:], true
		}
		return "", s, false
	}
	for i := range len(s) {
		if s[i] != '=' {
			continue
		}
		before, after := s[:i], strings.TrimLeft(s[i+1:], " \t")
		if (before == "" || strings.HasSuffix(before, " ")) && strings.HasPrefix(after, "/") && strings.Contains(after, "=") {
			continue // of an exact path
		}
		return before, s[i+1:], true
	}
	return "", s, false
}

// Hosts is a comma list of hosts.
type Hosts []string

// UnmarshalText parses hosts as a route does.
func (h *Hosts) UnmarshalText(b []byte) error {
	var all Hosts
	for host := range splitRoutes(string(b)) {
		if expr, ok := strings.CutPrefix(host, "~"); ok { // nginx's users may write a space behind it
			host = "~" + strings.TrimSpace(expr)
		}
		parsed, err := parseHost(host)
		if err != nil {
			return err
		}
		if !slices.Contains(all, parsed) {
			all = append(all, parsed)
		}
	}
	if len(all) == 0 { // none would mean every host
		return errors.New("want a host, such as shop.example.com")
	}
	*h = all
	return nil
}

// A PathRule is the path of a route.
type PathRule struct {
	Path  string // as in discovery.Route; empty: not said
	Slash bool
}

// UnmarshalText parses a path as a route does.
func (p *PathRule) UnmarshalText(b []byte) error {
	r, err := ParseRoute(string(b))
	if err != nil {
		return err
	}
	if r.Host != "" {
		return errors.New("want a path that begins with /, =/, ^~ or ~")
	}
	*p = PathRule{r.Path, r.Slash}
	return nil
}

// A Dest is what takes the place of a path.
type Dest string

// UnmarshalText parses a path.
func (d *Dest) UnmarshalText(b []byte) error {
	s, err := parseDest(string(b))
	*d = Dest(s)
	return err
}

// routes lists the routes of hosts, none meaning every host, with one path.
func routes(hosts Hosts, p PathRule, dest string) (rs []discovery.Route) {
	if p.Path == "" {
		p.Path = "/"
	}
	if len(hosts) == 0 {
		hosts = Hosts{""}
	}
	for i, h := range hosts {
		rs = append(rs, ranked(to(discovery.Route{Host: h, Path: p.Path, Slash: p.Slash}, dest), i))
	}
	return rs
}
