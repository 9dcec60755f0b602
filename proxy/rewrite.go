package proxy

import (
	"net/http"
	"net/url"
	"strings"

	"longshore/discovery"
)

// rewriteTarget is the request target that a backend gets by a route with a Dest: that takes the place of
// the prefix, or of the whole path where the route is for one path or a regular expression. What follows
// the prefix, and the query, stay byte for byte; only slashes that begin it become one, so that "/api"
// for "/" never makes "//evil.example" of "/api//evil.example". A path with dot segments goes out without
// them, since they may cross the prefix.
func rewriteTarget(uri string, r *discovery.Route) string {
	raw, query := splitTarget(uri)
	switch {
	case r.Dest == "" || raw == "*":
		return uri
	}
	prefix, ok := r.Prefix()
	if !ok {
		return r.Dest + query
	}
	return join(r.Dest, cutPrefix(raw, prefix, r.Loose())) + query
}

// join puts a path together of two, with one slash where both have one.
func join(dest, rest string) string {
	if !strings.HasPrefix(rest, "/") {
		return dest + rest
	}
	return strings.TrimSuffix(dest, "/") + rest
}

// splitTarget takes the path, as it was written, from a request target in origin or absolute form, and
// the query with its question mark.
func splitTarget(uri string) (raw, query string) {
	if uri != "" && uri[0] != '/' && uri != "*" {
		_, rest, _ := strings.Cut(uri, "://")
		i := strings.IndexAny(rest, "/?")
		if i < 0 {
			i = len(rest)
		}
		uri = rest[i:]
	}
	raw = uri
	if i := strings.IndexByte(uri, '?'); i >= 0 {
		raw, query = uri[:i], uri[i:]
	}
	if raw == "" {
		raw = "/"
	}
	return raw, query
}

// cutPrefix is what follows a prefix in a raw path that matched it: empty, or from a slash on, unless the prefix is
// loose. The prefix is found by counting segments, or characters, since the client may have percent-encoded some of
// it, slashes too.
func cutPrefix(raw, prefix string, loose bool) string {
	if path, err := url.PathUnescape(raw); err == nil && strings.Contains(path, "/.") && path != cleanPath(path) {
		raw = withoutDots(raw)
	}
	if loose {
		raw = skipText(raw, prefix)
	} else if prefix != "/" {
		for range strings.Count(prefix, "/") {
			raw = skipSlashes(raw)
			for raw != "" && slash(raw) == 0 {
				raw = raw[1:]
			}
		}
	}
	if rest := skipSlashes(raw); len(rest) < len(raw) {
		return "/" + rest
	}
	return raw
}

// skipText is what follows in a raw path that begins with this text, when it is decoded and has single slashes.
func skipText(raw, text string) string {
	for i := 0; i < len(text) && text != "/" && raw != ""; i++ {
		switch {
		case text[i] == '/':
			raw = skipSlashes(raw)
		case raw[0] == '%':
			raw = raw[min(3, len(raw)):]
		default:
			raw = raw[1:]
		}
	}
	return raw
}

// slash is the length of a slash that s begins with, percent-encoded or not; zero: it begins with none.
func slash(s string) int {
	switch {
	case strings.HasPrefix(s, "/"):
		return 1
	case strings.HasPrefix(s, "%2F"), strings.HasPrefix(s, "%2f"):
		return 3
	}
	return 0
}

func skipSlashes(s string) string {
	for n := slash(s); n > 0; n = slash(s) {
		s = s[n:]
	}
	return s
}

// withoutDots resolves the dot segments of a raw path, and leaves the others as they are written.
func withoutDots(raw string) string {
	var kept []string // each with the slash before it
	for s := raw; s != ""; {
		at, end := slash(s), slash(s)
		for end < len(s) && slash(s[end:]) == 0 {
			end++
		}
		segment, _ := url.PathUnescape(s[at:end])
		last := end == len(s)
		switch segment {
		case ".", "..":
			if segment == ".." {
				for len(kept) > 0 && slash(kept[len(kept)-1]) == len(kept[len(kept)-1]) {
					kept = kept[:len(kept)-1] // an empty segment is none
				}
				kept = kept[:max(len(kept)-1, 0)]
			}
			if last {
				kept = append(kept, "/")
			}
		default:
			kept = append(kept, s[:end])
		}
		s = s[end:]
	}
	return strings.Join(kept, "")
}

// turnAway answers a request that is for this service and not for its backends.
func (x *exchange) turnAway() bool {
	code := 0
	switch {
	case x.svc.spec.Internal && x.server.Router.Table().isOutside(x.client()):
		code = http.StatusForbidden
	case x.lacksSlash():
		_, query := splitTarget(x.in.RequestURI)
		prefix, _ := x.route.Prefix()
		x.Header().Set("Location", escape(prefix)+"/"+query)
		code = http.StatusMovedPermanently
	default:
		return false
	}
	x.closeAfter = x.closeAfter || x.hasBody
	writeError(x, code)
	return true
}

// lacksSlash reports whether a request is for the very prefix of a route that was written with a slash at its end.
func (x *exchange) lacksSlash() bool {
	r := x.route
	prefix, ok := r.Prefix()
	if !r.Slash || r.Dest == "" || !ok {
		return false
	}
	raw, _ := splitTarget(x.in.RequestURI)
	return raw != "*" && cutPrefix(raw, prefix, r.Loose()) == ""
}

// mendResponse gives what a backend says of paths the client's view of them: it sees another prefix than the
// client. nginx does so for Location and Refresh (proxy_redirect default); without it for cookies
// (proxy_cookie_path) a browser never sends them back.
func (x *exchange) mendResponse(h http.Header) {
	for i, v := range h["Location"] {
		h["Location"][i] = x.mendURL(v)
	}
	for i, v := range h["Refresh"] { // 5; url=/there
		if at := strings.Index(strings.ToLower(v), "url="); at >= 0 && len(strings.ToLower(v)) == len(v) {
			at += len("url=")
			if at < len(v) && (v[at] == '"' || v[at] == '\'') {
				at++
			}
			h["Refresh"][i] = v[:at] + x.mendURL(v[at:])
		}
	}
	if x.route.Dest == "" {
		return
	}
	for i, v := range h["Set-Cookie"] {
		h["Set-Cookie"][i] = mendCookie(v, x.route)
	}
}

// mendURL mends a URL without a host, at the client's host, or at the backend: its address, or the name
// that the user knows it by. The latter becomes one without a host, since the client cannot reach that.
func (x *exchange) mendURL(s string) string {
	if strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "//") {
		return mendPath(s, x.route)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return s
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	host, path := rest[:end], rest[end:]
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	switch mended := mendPath(path, x.route); {
	case strings.EqualFold(host, x.in.Host) && mended != path:
		return s[:len(scheme)+len("://")+end] + mended
	case !strings.EqualFold(host, x.in.Host) && x.isBackend(host):
		return "/" + strings.TrimLeft(mended, "/") // "//x" would be a host
	}
	return s
}

// isBackend reports whether a host in a URL is the backend that answered.
func (x *exchange) isBackend(host string) bool {
	if x.backend == nil {
		return false
	}
	addr := x.backend.addr
	host = strings.ToLower(host)
	if host == addr || host+":80" == addr {
		return true
	}
	port := addr[strings.LastIndexByte(addr, ':'):]
	return host == x.svc.spec.Name+port || port == ":80" && host == x.svc.spec.Name
}

// mendPath puts the client's prefix in the place of the backend's. A path that has neither, or has the
// client's already, is none that the backend sees through the proxy: there are applications that know
// where they are mounted.
func mendPath(p string, r *discovery.Route) string {
	if r.Dest == "" || r.Path[0] == '~' {
		return p
	}
	ours, exact := r.Exact()
	if !exact {
		ours, _ = r.Prefix()
	}
	ours = escape(ours)
	if _, ok := below(ours, r.Dest); ok && ours != "/" {
		if _, ok := below(p, ours); ok {
			return p
		}
	}
	rest, ok := below(p, r.Dest)
	if !ok || exact && rest != "" && rest[0] == '/' {
		return p
	}
	if rest == "" || rest[0] != '/' {
		if r.Slash {
			ours += "/"
		}
		return ours + rest
	}
	return strings.TrimSuffix(ours, "/") + rest
}

// below is what follows a prefix in a path, on a segment border.
func below(p, prefix string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(p, strings.TrimSuffix(prefix, "/"))
	return rest, ok && (rest == "" || strings.IndexByte("/?#", rest[0]) >= 0)
}

// mendCookie mends the path of a Set-Cookie line. A __Host- cookie is for "/" and no other path.
func mendCookie(line string, r *discovery.Route) string {
	first, _, _ := strings.Cut(line, ";")
	if name := strings.TrimSpace(first); len(name) >= 7 && strings.EqualFold(name[:7], "__Host-") {
		return line
	}
	for at := len(first); at < len(line); {
		at++ // behind the semicolon
		end := strings.IndexByte(line[at:], ';')
		if end < 0 {
			end = len(line)
		} else {
			end += at
		}
		name, value, _ := strings.Cut(line[at:end], "=")
		if path := strings.TrimSpace(value); strings.EqualFold(strings.TrimSpace(name), "path") && strings.HasPrefix(path, "/") {
			mended := mendPath(path, r)
			if mended != path && len(mended) > 1 {
				mended = strings.TrimSuffix(mended, "/") // "/api/" is not for "/api" (RFC 6265, 5.1.4)
			}
			begin := at + len(name) + 1 + strings.Index(value, path)
			line = line[:begin] + mended + line[begin+len(path):]
			end += len(mended) - len(path)
		}
		at = end
	}
	return line
}

// escape is a path as it stands in a URL.
func escape(p string) string { return (&url.URL{Path: p}).EscapedPath() }
