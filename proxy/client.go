package proxy

import (
	"net/netip"
	"slices"
	"strings"
)

// unknown is the client of a request whose trusted proxy names it in a way that cannot be read, or says that
// it does not know (the word is RFC 7239's). It could be anybody: to take the proxy for the client instead
// would let a stranger in as one of ours.
const unknown = "unknown"

// clientOf is the address of the client: the nearest that is no trusted proxy's. That is the peer's, or what
// trusted proxies say, from the nearest on. It is as netip writes it, without a zone, or [unknown].
func (s *Server) clientOf(peer string, in inbound) string {
	if !s.trusts(peer) {
		return peer
	}
	hops, ok := hopsOf(in)
	if !ok {
		return unknown
	}
	client := peer
	for _, hop := range slices.Backward(hops) {
		a, ok := parseHop(hop)
		if !ok {
			return unknown
		}
		if client = a.String(); !s.trustsAddr(a) {
			break
		}
	}
	return client
}

// hopsOf lists whom proxies have had a request from, the client first: X-Forwarded-For, or where there is none
// the "for" parameters of Forwarded. It is not ok if that cannot be read.
func hopsOf(in inbound) (hops []string, ok bool) {
	for _, line := range in.values("X-Forwarded-For") {
		for hop := range strings.SplitSeq(line, ",") {
			if hop = strings.Trim(hop, " \t"); hop != "" {
				hops = append(hops, hop)
			}
		}
	}
	if len(hops) > 0 {
		return hops, true
	}
	for _, line := range in.values("Forwarded") {
		if hops, ok = appendForwarded(hops, line); !ok {
			return nil, false
		}
	}
	return hops, true
}

// appendForwarded appends the "for" parameter of each element of a Forwarded field (RFC 7239, 4): [unknown] for an
// element that has none. A comma in quotes is part of a value, so a quote that a client has left open would hide
// what was appended behind it: then nothing of the line can be believed, and it is not ok.
func appendForwarded(hops []string, line string) (_ []string, ok bool) {
	for line != "" {
		hop, empty := unknown, true
		for more := true; more; {
			end, quoted := 0, false
			for ; end < len(line) && (quoted || line[end] != ',' && line[end] != ';'); end++ {
				switch {
				case line[end] == '"':
					quoted = !quoted
				case line[end] == '\\' && quoted:
					end++ // what stands behind it is no end of the quotes
				}
			}
			if quoted {
				return hops, false
			}
			pair := strings.Trim(line[:end], " \t")
			name, value, _ := strings.Cut(pair, "=")
			empty = empty && pair == ""
			if strings.EqualFold(name, "for") {
				if hop != unknown {
					return hops, false
				}
				hop = value
			}
			more = end < len(line) && line[end] == ';'
			line = line[min(end+1, len(line)):]
		}
		if !empty {
			hops = append(hops, hop)
		}
	}
	return hops, true
}

// parseHop reads an address as proxies write it: perhaps with a port, in brackets or in quotes, or with "for=" in
// front. The zone of an IPv6 address means nothing here, and netip lets any bytes stand in it.
func parseHop(s string) (a netip.Addr, ok bool) {
	if len(s) >= 4 && strings.EqualFold(s[:4], "for=") {
		s, _, _ = strings.Cut(s[4:], ";")
	}
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	port := ""
	if rest, bracket := strings.CutPrefix(s, "["); bracket {
		if s, port, ok = strings.Cut(rest, "]"); !ok {
			return a, false
		}
	} else if i := strings.IndexByte(s, ':'); i >= 0 && strings.IndexByte(s[i+1:], ':') < 0 {
		s, port = s[:i], s[i:]
	}
	if port != "" && !isHopPort(port) {
		return a, false
	}
	a, err := netip.ParseAddr(s)
	return a.Unmap().WithZone(""), err == nil
}

// isHopPort reports whether s is a colon and a port, by its number or by a name that hides it (RFC 7239, 6).
func isHopPort(s string) bool {
	s, ok := strings.CutPrefix(s, ":")
	if !ok {
		return false
	}
	allowed := "0123456789"
	if strings.HasPrefix(s, "_") {
		allowed += "._-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	}
	return strings.Trim(s, allowed) == ""
}

// trusts reports whether the X-Forwarded-* of a peer are believed.
func (s *Server) trusts(ip string) bool {
	if len(s.Trusted) == 0 {
		return false
	}
	a, err := netip.ParseAddr(ip)
	return err == nil && s.trustsAddr(a.Unmap().WithZone(""))
}

func (s *Server) trustsAddr(a netip.Addr) bool {
	return slices.ContainsFunc(s.Trusted, func(p netip.Prefix) bool { return p.Contains(a) })
}

// peerIP takes the port off a RemoteAddr.
func peerIP(addr string) string {
	i := strings.LastIndexByte(addr, ':')
	if i < 0 {
		return addr
	}
	return strings.Trim(addr[:i], "[]")
}

// inside are the networks whose clients a service that is internal lets in: as nginx-proxy has them, and
// their like in IPv6.
var inside = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
}

// isOutside reports whether a client is to be kept from services that are internal: it is not known, is not in a
// private network, or has the address of a gateway, behind which docker-proxy hides who has come by a published
// port.
func (t *Table) isOutside(client string) bool {
	a, err := netip.ParseAddr(client)
	if err != nil {
		return true
	}
	a = a.Unmap().WithZone("")
	return slices.Contains(t.gateways, a) || !slices.ContainsFunc(inside, func(p netip.Prefix) bool { return p.Contains(a) })
}
