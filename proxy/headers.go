package proxy

import (
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

	peer := peerIP(pr.In.RemoteAddr)
	host := pr.In.Host
	port, _ := portOf(host)
	if x.server.trusts(peer) {
		if prior := strings.Join(in["X-Forwarded-For"], ", "); prior != "" {
			out["X-Forwarded-For"] = []string{prior + ", " + peer}
		} else {
			out["X-Forwarded-For"] = []string{peer}
		}
		out["X-Real-Ip"] = []string{x.clientIP()}
		for k, v := range map[string]string{"X-Forwarded-Proto": "http", "X-Forwarded-Host": host, "X-Forwarded-Port": port} {
			if given := in[k]; len(given) > 0 {
				out[k] = given
			} else {
				out[k] = []string{v}
			}
		}
		if f := in["Forwarded"]; len(f) > 0 {
			out["Forwarded"] = f
		}
		return
	}
	v := []string{peer, "http", host, port} // one allocation for all
	out["X-Forwarded-For"] = v[0:1:1]
	out["X-Real-Ip"] = v[0:1:1]
	out["X-Forwarded-Proto"] = v[1:2:2]
	out["X-Forwarded-Host"] = v[2:3:3]
	out["X-Forwarded-Port"] = v[3:4:4]
}

// portOf is the port in a Host field, 80 if there is none. It is not ok if the field is not of the form
// that it must have (RFC 9112, 3.2): then who reads it decides which host that is. Which characters a name
// has, net/http has checked.
func portOf(host string) (port string, ok bool) {
	name := strings.IndexByte(host, ':') // its end
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 {
			return "", false
		}
		if a, err := netip.ParseAddr(host[1:end]); err != nil || !a.Is6() {
			return "", false
		}
		if name = end + 1; name == len(host) {
			return "80", true
		}
	} else if strings.IndexByte(host, '[') >= 0 || strings.IndexByte(host, ']') >= 0 {
		return "", false
	} else if name < 0 {
		return "80", true
	}
	if host[name] != ':' {
		return "", false
	}
	port = host[name+1:]
	n := 0
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return "", false
		}
		if n = 10*n + int(port[i]-'0'); n > 65535 {
			return "", false
		}
	}
	if port == "" {
		port = "80"
	}
	return port, true
}

// isHost reports whether a Host field is of that form.
func isHost(host string) bool {
	_, ok := portOf(host)
	return ok
}

// keepUpgrade leaves of the protocols that a client would go on with the first field that has any besides
// h2c: a backend that grants HTTP/2 gets the requests that follow past all that the proxy does. Without it
// the client goes on with HTTP/1.1.
func keepUpgrade(out http.Header, asked []string) {
	for _, v := range asked {
		var kept []string
		h2c := false
		for protocol := range strings.SplitSeq(v, ",") {
			protocol = strings.TrimSpace(protocol)
			if len(protocol) >= 3 && strings.EqualFold(protocol[:3], "h2c") { // drafts were h2c-14
				h2c = true
			} else if protocol != "" {
				kept = append(kept, protocol)
			}
		}
		if !h2c {
			out["Upgrade"] = []string{v}
			return
		}
		if len(kept) > 0 {
			out["Upgrade"] = []string{strings.Join(kept, ", ")}
			return
		}
	}
	delete(out, "Upgrade")
	delete(out, "Connection")
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

// clientIP is the nearest address that is no trusted proxy's: the peer's, or found from right to left
// in X-Forwarded-For.
func (x *exchange) clientIP() string {
	return clientIP(x.server, peerIP(x.in.RemoteAddr), x.in.Header["X-Forwarded-For"])
}

func clientIP(s *Server, peer string, forwarded []string) string {
	if !s.trusts(peer) {
		return peer
	}
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	ip := peer
	for i := len(hops) - 1; i >= 0; i-- {
		hop := strings.TrimSpace(hops[i])
		if _, err := netip.ParseAddr(hop); err != nil {
			break // nobody we trust wrote that
		}
		ip = hop
		if !s.trusts(hop) {
			break
		}
	}
	return ip
}

// trusts reports whether the X-Forwarded-* of a peer are believed.
func (s *Server) trusts(ip string) bool {
	if len(s.Trusted) == 0 {
		return false
	}
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return false
	}
	a = a.Unmap().WithZone("")
	for _, p := range s.Trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// peerIP takes the port off a RemoteAddr.
func peerIP(addr string) string {
	i := strings.LastIndexByte(addr, ':')
	if i < 0 {
		return addr
	}
	return strings.Trim(addr[:i], "[]")
}
