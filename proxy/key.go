package proxy

import (
	"net/http"
	"strings"

	"longshore/balancer"
)

// A keyFunc makes the affinity key of a request, for policies that hash; zero: it has none.
type keyFunc func(x *exchange) uint64

// newKey compiles what a policy hashes by; nil: nothing.
func newKey(k balancer.Key) keyFunc {
	if len(k) == 0 {
		return nil
	}
	return func(x *exchange) uint64 {
		var h balancer.Hasher
		any := false // a key of text alone is empty: all requests would have the same
		for _, p := range k {
			v := p.Text
			if p.Var != "" {
				v = x.variable(p.Var, p.Name)
				any = any || v != ""
			}
			h.Add(v)
		}
		if !any {
			return 0
		}
		return h.Sum()
	}
}

// variable is the value of an nginx variable for the request, empty if it has none.
func (x *exchange) variable(kind, name string) string {
	r := x.in
	switch kind {
	case "remote_addr":
		return x.clientIP()
	case "remote_net": // what ip_hash goes by: a network of 256 addresses, or an IPv6 address
		ip := x.clientIP()
		if i := strings.LastIndexByte(ip, '.'); i >= 0 && !strings.Contains(ip, ":") {
			return ip[:i]
		}
		return ip
	case "request_uri":
		return r.RequestURI
	case "host":
		return canonicalHost(r.Host)
	case "http": // $http_x_user is X-User
		return r.Header.Get(strings.ReplaceAll(name, "_", "-"))
	case "cookie":
		return cookie(r.Header, name)
	case "arg":
		return argument(r.URL.RawQuery, name)
	}
	return ""
}

// cookie is the value of a cookie as the client wrote it.
func cookie(h http.Header, name string) string {
	for _, line := range h["Cookie"] {
		for part := range strings.SplitSeq(line, ";") {
			if k, v, ok := strings.Cut(strings.TrimSpace(part), "="); ok && k == name {
				return v
			}
		}
	}
	return ""
}

// argument is the value of a query parameter as the client wrote it.
func argument(query, name string) string {
	for part := range strings.SplitSeq(query, "&") {
		if k, v, _ := strings.Cut(part, "="); k == name {
			return v
		}
	}
	return ""
}
