package http1

import "strings"

// MayTrail reports whether a field of this name may stand in a trailer section (RFC 9110, 6.5.1). A program that merges
// trailers into the header would take it for what was there, and checked, before the body: that the message ends
// elsewhere, is for another host, comes from another client or has the right to what it asks for. A name with an
// underscore is what CGI and its like take it for, one with a hyphen.
func MayTrail(name string) bool {
	for i := range len(name) {
		if token[name[i]] == 0 {
			return false
		}
	}
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	switch name {
	case "",
		"connection", "content-length", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", // framing
		"host", "max-forwards", "proxy", // where to; and whence: IsClaim
		"authorization", "cookie", "proxy-authenticate", "proxy-authorization", "set-cookie", "www-authenticate", // who
		"cache-control", "expect", "pragma", "range", // how to answer, and so does If-*
		"content-encoding", "content-range", "content-type": // how to read the body
		return false
	}
	return !IsClaim([]byte(name)) && !IsDirective([]byte(name)) && !strings.HasPrefix(name, "if-")
}
