package upstream

import (
	"net/http"
	"strings"
)

// DropTrailers removes what must not stand in a trailer section (RFC 9110, 6.5.1), and what connection, the
// message's Connection field, says is for one hop only. A program that merges trailers into the header would take
// it for what was there, and checked, before the body: that the message ends elsewhere, is for another host, comes
// from another client or has the right to what it asks for.
func DropTrailers(trailers http.Header, connection []string) {
	for k := range trailers {
		if !mayTrail(k) {
			delete(trailers, k)
		}
	}
	if len(trailers) == 0 {
		return
	}
	for _, v := range connection {
		for name := range strings.SplitSeq(v, ",") {
			trailers.Del(strings.TrimSpace(name))
		}
	}
}

// mayTrail takes a name with an underscore for what CGI and its like take it for, one with a hyphen.
func mayTrail(name string) bool {
	if !isToken(name) {
		return false
	}
	name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	switch name {
	case "Connection", "Content-Length", "Http2-Settings", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", // framing
		"Forwarded", "Host", "Max-Forwards", "Proxy", "X-Real-Ip", // whence, and where to
		"Authorization", "Cookie", "Proxy-Authenticate", "Proxy-Authorization", "Set-Cookie", "Www-Authenticate", // who
		"Cache-Control", "Expect", "Pragma", "Range", // how to answer, and so does If-*
		"Content-Encoding", "Content-Range", "Content-Type": // how to read the body
		return false
	}
	return !strings.HasPrefix(name, "X-Forwarded-") && !strings.HasPrefix(name, "If-")
}

// isToken reports whether s may be a field's name (RFC 9110, 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}
