package upstream

import (
	"net/http"
	"strings"

	"longshore/internal/http1"
)

// mixed reports whether others than us may see another end of the response. Where one is to be found, RFC 9112,
// 6.1 and 6.3 say: the coding goes before the length, unless it is HTTP/1.0. nginx takes both for an error; but
// there are applications that set a length beside a server that sends chunks, and their users lose nothing if
// the response is passed on with the one end that it has, as long as its connection is not used again.
func mixed(h *http1.Head, res *http.Response) bool {
	return h.Coding && (h.Length || !res.ProtoAtLeast(1, 1))
}

// plainLength takes zeros off the beginning of a Content-Length: some read those as octal.
func plainLength(h http.Header) {
	if v := h["Content-Length"]; len(v) == 1 && len(v[0]) > 1 && v[0][0] == '0' {
		if v[0] = strings.TrimLeft(v[0], "0"); v[0] == "" {
			v[0] = "0"
		}
	}
}
