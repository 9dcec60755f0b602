package proxy

import (
	"cmp"
	"iter"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"

	"longshore/internal/http1"
)

// rewrite makes the outbound header. ReverseProxy has removed what is hop-by-hop.
func (x *exchange) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In.Header, pr.Out.Header
	pr.Out.RequestURI = rewriteTarget(pr.In.RequestURI, x.route)
	delete(out, "Proxy") // httpoxy: CGI programs would take it for HTTP_PROXY
	delete(out, "Http2-Settings")
	peer := peerIP(pr.In.RemoteAddr)
	trusted := x.server.trusts(peer)
	dropClaims(out, trusted)
	dropLookalikes(out, x.server.Underscores)
	if hops := nextHops(in["X-Forwarded-For"] != nil, in.Get(hopsField)); hops != "" {
		out[hopsField] = []string{hops}
	}
	if n, ok := maxForwards(pr.In); ok {
		out["Max-Forwards"] = []string{strconv.Itoa(n - 1)}
	}
	if _, ok := out["Upgrade"]; ok {
		keepUpgrade(out, in["Upgrade"])
	}
	if _, ok := out["User-Agent"]; !ok {
		out["User-Agent"] = nil // or ReverseProxy would put an empty one there
	}
	if !pr.In.ProtoAtLeast(1, 1) {
		// RFC 9110, 7.8: a server ignores Upgrade in an HTTP/1.0 request.
		delete(out, "Upgrade")
		delete(out, "Connection")
	}
	if _, ok := out["Te"]; ok { // RFC 9110, 10.1.4
		out["Connection"] = []string{strings.TrimPrefix(out.Get("Connection")+", TE", ", ")}
	}

	if prefix, ok := x.route.Prefix(); ok && prefix != "/" && x.route.Dest == "/" { // the backend's own paths are below it
		given := ""
		if trusted {
			given = strings.TrimRight(in.Get("X-Forwarded-Prefix"), "/")
		}
		out["X-Forwarded-Prefix"] = []string{given + escape(prefix)}
	}
	if trusted {
		forwardedBy(x, peer, func(name, value string) { out[name] = append(out[name], value) })
		return
	}
	host := pr.In.Host
	port, _ := portOf(host)
	v := []string{peer, "http", host, port} // one allocation for all
	out["X-Forwarded-For"] = v[0:1:1]
	out["X-Real-Ip"] = v[0:1:1]
	out["X-Forwarded-Proto"] = v[1:2:2]
	out["X-Forwarded-Host"] = v[2:3:3]
	out["X-Forwarded-Port"] = v[3:4:4]
}

// dropClaims removes what a client says of whence its request is; of a trusted proxy, what is written anew.
func dropClaims(h http.Header, trusted bool) {
	for k := range h {
		if name := []byte(k); http1.IsOurClaim(name) || !trusted && http1.IsClaim(name) {
			delete(h, k)
		}
	}
}

// forwardedBy says what a trusted proxy has said of a request, and that it was the peer who has said so. What it has
// not said is said so that all of it is of one origin: an application makes its links of scheme, host and port.
func forwardedBy(in inbound, peer string, add func(name, value string)) {
	hops := strings.Join(in.values("X-Forwarded-For"), ", ")
	if hops == "" {
		hops = joinHops(in)
	}
	if hops != "" {
		hops += ", "
	}
	add("X-Forwarded-For", hops+peer)
	add("X-Real-Ip", in.client())
	given := func(name string) (first string) { // of a list, as a proxy in front of the trusted one has said it
		for _, v := range in.values(name) {
			if v = strings.Trim(v, " \t"); v == "" {
				continue
			}
			if add(name, v); first == "" {
				first, _, _ = strings.Cut(v, ",")
				first = strings.TrimRight(first, " \t")
			}
		}
		return first
	}
	given("Forwarded")
	proto := given("X-Forwarded-Proto")
	if proto == "" {
		proto = "http"
		add("X-Forwarded-Proto", proto)
	}
	host := given("X-Forwarded-Host")
	if host == "" {
		host = in.host()
		add("X-Forwarded-Host", host)
	}
	if given("X-Forwarded-Port") == "" {
		add("X-Forwarded-Port", originPort(proto, host, in.host()))
	}
}

// joinHops is what X-Forwarded-For would be where a proxy says it by Forwarded.
func joinHops(in inbound) string {
	hops, ok := hopsOf(in)
	if !ok {
		return unknown
	}
	for i, hop := range hops {
		hops[i] = unknown
		if a, ok := parseHop(hop); ok {
			hops[i] = a.String()
		}
	}
	return strings.Join(hops, ", ")
}

// originPort is the port of what a client has asked for by this scheme and host, which a proxy has written as
// asked. Some name the host alone and leave the port to Host (nginx's $host and $http_host).
func originPort(proto, host, asked string) string {
	name, port, _ := splitHost(host)
	if port == "" {
		if n, p, _ := splitHost(asked); strings.EqualFold(n, name) {
			port = p
		}
	}
	if port == "" && (strings.EqualFold(proto, "https") || strings.EqualFold(proto, "wss")) {
		port = "443"
	}
	return cmp.Or(port, "80")
}

// portOf is the port in a Host field, 80 if there is none. It is not ok if the field is not of the form
// that it must have (RFC 9112, 3.2): then who reads it decides which host that is.
func portOf(host string) (port string, ok bool) {
	_, port, ok = splitHost(host)
	return cmp.Or(port, "80"), ok
}

// splitHost takes a Host field apart; port is empty if there is none. Which characters a name has, net/http has
// checked.
func splitHost(host string) (name, port string, ok bool) {
	end := strings.IndexByte(host, ':') // of the name
	if strings.HasPrefix(host, "[") {
		if end = strings.IndexByte(host, ']') + 1; end == 0 {
			return "", "", false
		}
		if a, err := netip.ParseAddr(host[1 : end-1]); err != nil || !a.Is6() {
			return "", "", false
		}
	} else if strings.IndexByte(host, '[') >= 0 || strings.IndexByte(host, ']') >= 0 {
		return "", "", false
	}
	if end < 0 || end == len(host) {
		return host, "", true
	}
	if host[end] != ':' {
		return "", "", false
	}
	name, port = host[:end], host[end+1:]
	n := 0
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return "", "", false
		}
		if n = 10*n + int(port[i]-'0'); n > 65535 {
			return "", "", false
		}
	}
	return name, port, true
}

// isHost reports whether a Host field is of that form.
func isHost(host string) bool {
	_, ok := portOf(host)
	return ok
}

// keepUpgrade leaves out h2c of the protocols that a client would go on with: a backend that grants HTTP/2 gets the
// requests that follow past all that the proxy does. Without it the client goes on with HTTP/1.1.
func keepUpgrade(out http.Header, asked []string) {
	var kept []string
	h2c := false
	for protocol := range listed(asked) {
		if len(protocol) >= 3 && strings.EqualFold(protocol[:3], "h2c") { // drafts were h2c-14
			h2c = true
		} else {
			kept = append(kept, protocol)
		}
	}
	switch {
	case len(kept) == 0:
		delete(out, "Upgrade")
		delete(out, "Connection")
	case len(asked) == 1 && !h2c:
		out["Upgrade"] = asked // as it was written
	default:
		out["Upgrade"] = []string{strings.Join(kept, ", ")}
	}
}

// offers reports whether all protocols that a backend switches to are among those it was asked for: it may choose
// (RFC 9110, 7.8).
func offers(asked, chosen []string) bool {
	offered := false
	for c := range listed(chosen) {
		offered = false
		for a := range listed(asked) {
			offered = offered || strings.EqualFold(a, c)
		}
		if !offered {
			return false
		}
	}
	return offered
}

// listed are the members of a field that is a list.
func listed(values []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, v := range values {
			for member := range strings.SplitSeq(v, ",") {
				if member = strings.TrimSpace(member); member != "" && !yield(member) {
					return
				}
			}
		}
	}
}

// dropLookalikes removes names with an underscore, as nginx does, unless they are wanted: CGI, WSGI and their like
// cannot tell X_Real_IP from X-Real-IP, which both are HTTP_X_REAL_IP there. Of those that are wanted, and of names with
// other odd bytes, it removes what could be taken for a field that frames, or says whence a request is.
func dropLookalikes(h http.Header, underscores bool) {
	for k := range h {
		i := strings.IndexFunc(k, isOdd)
		if i < 0 {
			continue
		}
		like := strings.Map(func(c rune) rune {
			if isOdd(c) {
				return '-'
			}
			return c
		}, k)
		switch http.CanonicalHeaderKey(like) {
		case "Content-Length", "Transfer-Encoding", "Proxy":
			delete(h, k)
		default:
			if !underscores && strings.IndexByte(k, '_') >= 0 || http1.IsClaim([]byte(like)) {
				delete(h, k)
			}
		}
	}
}

// dropDirectives removes what a backend says to nginx.
func dropDirectives(h http.Header) {
	for k := range h {
		if http1.IsDirective([]byte(k)) {
			delete(h, k)
		}
	}
}

// isOdd reports whether a character is one that programs may replace in a field's name.
func isOdd(c rune) bool {
	return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-')
}

// A request that has come back would go round for as long as there are connections. So it is counted how often it has
// been here, in a field that ordinary requests do not have: only one with an X-Forwarded-For, which each gets on its way
// out, can have been here before. Via would say the same of all requests, and keep backends from compressing what
// they answer (gzip_proxied of nginx).
const (
	hopsField = "Longshore-Hops"
	maxHops   = 10
)

// hopCount reads the field; what is not a number of ours is a client's nonsense.
func hopCount(field string) (n int) {
	if field != "" {
		n, _ = strconv.Atoi(field)
	}
	return min(max(n, 0), maxHops)
}

// nextHops is the field for the next one; empty: it has none.
func nextHops(proxied bool, field string) string {
	if !proxied && field == "" {
		return ""
	}
	return strconv.Itoa(hopCount(field) + 1)
}

// loops reports whether a request has been here too often.
func loops(field string) bool { return hopCount(field) == maxHops }

// maxForwards is how many proxies may still pass on an OPTIONS request (RFC 9110, 7.6.2), if it says so.
func maxForwards(r *http.Request) (n int, ok bool) {
	v := r.Header["Max-Forwards"]
	if r.Method != http.MethodOptions || len(v) == 0 {
		return 0, false
	}
	m, err := strconv.ParseUint(v[0], 10, 31)
	return int(m), err == nil
}
