package proxy

import (
	"strings"

	"longshore/balancer"
)

// An inbound is a request as its lane has it: what affinity may go by.
type inbound interface {
	client() string // the IP address, or unknown
	method() string
	target() string // as the client wrote it
	host() string   // the Host field
	values(field string) []string
}

// A keyFunc makes the affinity key of a request, for policies that hash; zero: it has none.
type keyFunc func(in inbound) uint64

// newKey compiles what a policy hashes by; nil: nothing.
func newKey(k balancer.Key) keyFunc {
	if len(k) == 0 {
		return nil
	}
	return func(in inbound) uint64 {
		var h balancer.Hasher
		any := false // a key of text alone is empty: all requests would have the same
		for _, p := range k {
			v := p.Text
			if p.Var != "" {
				v = variable(in, p.Var, p.Name)
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
func variable(in inbound, kind, name string) string {
	switch kind {
	case "remote_addr", "remote_net": // the latter is what ip_hash goes by: a network of 256 addresses, or an IPv6 address
		ip := in.client()
		if ip == unknown { // or all of them would go to the same backend
			return ""
		}
		if i := strings.LastIndexByte(ip, '.'); kind == "remote_net" && i >= 0 && !strings.Contains(ip, ":") {
			return ip[:i]
		}
		return ip
	case "request_uri":
		return in.target()
	case "host":
		return canonicalHost(in.host())
	case "http": // $http_x_user is X-User
		if vs := in.values(strings.ReplaceAll(name, "_", "-")); len(vs) > 0 {
			return vs[0]
		}
	case "cookie":
		return cookie(in, name)
	case "arg":
		_, query, _ := strings.Cut(in.target(), "?")
		return argument(query, name)
	}
	return ""
}

func (x *exchange) client() string               { return x.server.clientOf(peerIP(x.in.RemoteAddr), x) }
func (x *exchange) method() string               { return x.in.Method }
func (x *exchange) target() string               { return x.in.RequestURI }
func (x *exchange) host() string                 { return x.in.Host }
func (x *exchange) values(field string) []string { return x.in.Header.Values(field) }

// cookie is the value of a cookie as the client wrote it.
func cookie(in inbound, name string) string {
	for _, line := range in.values("Cookie") {
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
