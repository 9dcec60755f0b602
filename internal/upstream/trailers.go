package upstream

import (
	"net/http"
	"strings"

	"longshore/internal/http1"
)

// DropTrailers removes what must not stand in a trailer section, see [http1.MayTrail], and what connection, the
// message's Connection field, says is for one hop only.
func DropTrailers(trailers http.Header, connection []string) {
	for k := range trailers {
		if !http1.MayTrail(k) {
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
