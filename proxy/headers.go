package proxy

import (
	"cmp"
	"iter"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
)

// rewrite makes the outbound header. ReverseProxy has removed what is hop-by-hop.
func (x *exchange) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In.Header, pr.Out.Header
	pr.Out.RequestURI = rewriteTarget(pr.In.RequestURI, x.route)
	delete(out, "Proxy") // httpoxy: CGI programs would take it for HTTP_PROXY
	delete(out, "Http2-Settings")
	dropLookalikes(out)
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

	peer := peerIP(pr.In.RemoteAddr)
	host := pr.In.Host
	if x.server.trusts(peer) {
		for _, name := range ourFields {
			delete(out, name)
		}
		forwardedBy(x, peer, func(name, value string) { out[name] = append(out[name], value) })
		return
	}
	port, _ := portOf(host)
	v := []string{peer, "http", host, port} // one allocation for all
	out["X-Forwarded-For"] = v[0:1:1]
	out["X-Real-Ip"] = v[0:1:1]
	out["X-Forwarded-Proto"] = v[1:2:2]
	out["X-Forwarded-Host"] = v[2:3:3]
	out["X-Forwarded-Port"] = v[3:4:4]
}

// ourFields are those that say whence a request is. A client's own are dropped; a trusted proxy's are kept, and
// completed.
var ourFields = [...]string{"X-Forwarded-For", "X-Real-Ip", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded"}

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

// dropLookalikes removes fields that CGI and WSGI cannot tell from ours: both X-Real-IP and X_Real_IP
// are HTTP_X_REAL_IP there; nor from those that frame. nginx drops all names with an underscore.
func dropLookalikes(h http.Header) {
	for k := range h {
		if strings.IndexByte(k, '_') < 0 {
			continue
		}
		switch http.CanonicalHeaderKey(strings.ReplaceAll(k, "_", "-")) {
		case "Content-Length", "Transfer-Encoding",
			"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-Ip":
			delete(h, k)
		}
	}
}
