package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"longshore/discovery"
)

// trustedPeers are those that tests of clients trust.
var trustedPeers = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}

// TestClient: who the client is, as a trusted peer says it, is the same for the access log, X-Real-IP and who is let
// in. What cannot be read is unknown, and outside.
func TestClient(t *testing.T) { run(t, testClient) }

func testClient(t *testing.T, in lane) {
	b := rawBackend(t, "one", answers(ok))
	svc := web(b)
	svc.Name, svc.Routes = "all", []discovery.Route{{Path: "/"}}
	inner := web(b)
	inner.Name, inner.Routes, inner.Internal = "inner", []discovery.Route{{Path: "/inner"}}, true
	p := newProxy(t, in)
	p.Trusted = trustedPeers
	p.serve(svc, inner)
	w := p.dial()
	for _, c := range []struct {
		given, client string
		inside        bool
	}{
		{"", "127.0.0.1", true},
		{"X-Forwarded-For:", "127.0.0.1", true},
		{"X-Forwarded-For: ,", "127.0.0.1", true},
		{"X-Forwarded-For: 8.8.8.8", "8.8.8.8", false},
		{"X-Forwarded-For: 8.8.8.8:1234", "8.8.8.8", false},
		{"X-Forwarded-For: 8.8.8.8:", "8.8.8.8", false},
		{"X-Forwarded-For: 192.168.1.1:1234", "192.168.1.1", true},
		{"X-Forwarded-For: 8.8.8.8:_hidden", "8.8.8.8", false},
		{"X-Forwarded-For: \"8.8.8.8:1234\"", "8.8.8.8", false},
		{"X-Forwarded-For: [2001:DB8::1]", "2001:db8::1", false},
		{"X-Forwarded-For: [2001:db8::1]:1234", "2001:db8::1", false},
		{"X-Forwarded-For: \"[2001:db8::1]:1234\"", "2001:db8::1", false},
		{"X-Forwarded-For: for=\"[2001:db8::1]:1234\";proto=https", "2001:db8::1", false},
		{"X-Forwarded-For: For=8.8.8.8", "8.8.8.8", false},
		{"X-Forwarded-For: ::ffff:8.8.8.8", "8.8.8.8", false},
		{"X-Forwarded-For: [::ffff:192.168.1.1]:80", "192.168.1.1", true},
		{"X-Forwarded-For: fe80::1%eth0", "fe80::1", true},
		{"X-Forwarded-For: fe80::1%\"\t- [x] \\", "fe80::1", true}, // a zone may be any bytes: they would be in the log
		{"X-Forwarded-For: 8.8.8.8,10.0.0.1:99 , 10.0.0.2", "8.8.8.8", false},
		{"X-Forwarded-For: 8.8.8.8,, 10.0.0.2,", "8.8.8.8", false},
		{"X-Forwarded-For: 8.8.8.8\r\nX-Forwarded-For: 10.0.0.1:1", "8.8.8.8", false},
		{"X-Forwarded-For: 10.0.0.1:1, 10.0.0.2:1", "10.0.0.1", true},
		{"X-Forwarded-For: 192.168.1.1, 8.8.8.8:1", "8.8.8.8", false},
		{"X-Forwarded-For: unknown, 8.8.8.8", "8.8.8.8", false}, // nobody we trust wrote that

		{"X-Forwarded-For: unknown", "unknown", false},
		{"X-Forwarded-For: 8.8.8.8, unknown, 10.0.0.1", "unknown", false},
		{"X-Forwarded-For: _hidden", "unknown", false},
		{"X-Forwarded-For: <script>", "unknown", false},
		{"X-Forwarded-For: 10.0.0.1:http", "unknown", false},
		{"X-Forwarded-For: 10.0.0.1:1:2", "unknown", false},
		{"X-Forwarded-For: [10.0.0.1", "unknown", false},
		{"X-Forwarded-For: [fd00::1]1", "unknown", false},
		{"X-Forwarded-For: \"10.0.0.1", "unknown", false},
		{"X-Forwarded-For: 10.0.0.1%x", "unknown", false},
		{"X-Forwarded-For: 10.1", "unknown", false},
		{"X-Forwarded-For: localhost", "unknown", false},

		{"Forwarded: for=8.8.8.8", "8.8.8.8", false},
		{"Forwarded: proto=https;For=\"[2001:db8::1]:1234\";by=10.0.0.1, ,for=10.0.0.2", "2001:db8::1", false},
		{"Forwarded: for=8.8.8.8\r\nForwarded: for=10.0.0.1", "8.8.8.8", false},
		{"Forwarded: for=192.168.1.1", "192.168.1.1", true},
		{"Forwarded: for=192.168.1.1\r\nX-Forwarded-For: 8.8.8.8", "8.8.8.8", false},
		{"Forwarded: proto=https", "unknown", false},
		{"Forwarded: for=unknown, for=10.0.0.1", "unknown", false},
		{"Forwarded: for=10.0.0.1;for=10.0.0.2", "unknown", false},
		{"Forwarded: for=10.0.0.1;by=\", for=8.8.8.8", "unknown", false}, // quotes left open by a client
		{"Forwarded: for=10.0.0.1;by=\"\\\", for=8.8.8.8\"", "10.0.0.1", true},
	} {
		if c.given != "" {
			c.given = strings.ReplaceAll(c.given, "\r\n", "\n") + "\n"
		}
		before := len(b.got())
		w.do("GET /\n" + c.given)
		if got := p.record().ClientIP; got != c.client {
			t.Errorf("%q: the log has %q, want %q", c.given, got, c.client)
		}
		real := ""
		for _, f := range fields(b.got()[before:]) {
			if v, ok := strings.CutPrefix(f, "X-Real-Ip: "); ok {
				real += v
			}
		}
		if real != c.client {
			t.Errorf("%q: X-Real-IP is %q, want %q", c.given, real, c.client)
		}
		status := map[bool]int{true: 200, false: 403}[c.inside]
		if got := w.do("GET /inner\n" + c.given).StatusCode; got != status {
			t.Errorf("%q: %d, want %d", c.given, got, status)
		}
		p.record()
	}
}

// TestClientKey: a client with a port is no other client, and those that are unknown are not all one.
func TestClientKey(t *testing.T) { run(t, testClientKey) }

func testClientKey(t *testing.T, in lane) {
	one, two := startBackend(t, "one", nil), startBackend(t, "two", nil)
	svc := balanced(t, "hash $remote_addr", web(one, two))
	p := newProxy(t, in)
	p.Trusted = trustedPeers
	p.serve(svc)
	w := p.dial()
	for _, c := range []struct {
		pattern string // of X-Forwarded-For; N is another digit each time
		names   int    // how many backends there are that answer
	}{{"8.8.8.8:100N", 1}, {"[2001:db8::1]:100N", 1}, {"8.8.8.N", 2}, {"unknown", 2}} {
		names := make(map[string]bool)
		for n := range 10 {
			names[w.do("GET /\nX-Forwarded-For: " + strings.ReplaceAll(c.pattern, "N", string(rune('0'+n))) + "\n").body[:3]] = true
		}
		if len(names) != c.names {
			t.Errorf("%s: %d backends answer, want %d", c.pattern, len(names), c.names)
		}
	}
}

// TestGatewayIsOutside: who comes through docker-proxy has the address of a gateway, wherever he is.
func TestGatewayIsOutside(t *testing.T) { run(t, testGatewayIsOutside) }

func testGatewayIsOutside(t *testing.T, in lane) {
	b := startBackend(t, "web", nil)
	svc := web(b)
	svc.Internal = true
	for _, c := range []struct {
		name     string
		gateways string
		trusted  bool
		given    string
		want     int
	}{
		{"no gateway", "172.18.0.1", false, "", 200},
		{"a gateway", "127.0.0.1 172.18.0.1", false, "", 403},
		{"a stranger's word at a gateway", "127.0.0.1", false, "X-Forwarded-For: 192.168.1.1\n", 403},
		{"a trusted gateway that says nothing", "127.0.0.1", true, "", 403},
		{"a trusted gateway's client inside", "127.0.0.1", true, "X-Forwarded-For: 192.168.1.1\n", 200},
		{"a trusted gateway's client outside", "127.0.0.1", true, "X-Forwarded-For: 8.8.8.8\n", 403},
		{"a trusted gateway's unknown client", "127.0.0.1", true, "X-Forwarded-For: unknown\n", 403},
		{"a gateway behind a trusted proxy", "172.18.0.1", true, "X-Forwarded-For: 172.18.0.1\n", 403},
		{"in IPv6", "fd00::1", true, "X-Forwarded-For: fd00::1\n", 403},
		{"beside that", "fd00::1", true, "X-Forwarded-For: fd00::2\n", 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newProxy(t, in)
			if c.trusted {
				p.Trusted = trustedPeers
			}
			p.serve(svc)
			st := discovery.State{Services: []discovery.Service{svc}}
			for a := range strings.FieldsSeq(c.gateways) {
				st.Gateways = append(st.Gateways, netip.MustParseAddr(a))
			}
			p.Router.Apply(st)
			p.Router.Mark(b.key, up) // another table must know them too
			if got := p.do("GET /\n" + c.given).StatusCode; got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// TestOrigin: what a backend is told is of one origin. An application that is told of https and port 80 sends its
// clients to https://host:80/.
func TestOrigin(t *testing.T) { run(t, testOrigin) }

func testOrigin(t *testing.T, in lane) {
	b := rawBackend(t, "one", answers(ok))
	p := newProxy(t, in)
	p.Trusted = trustedPeers
	p.serve(web(b))
	w := p.dial()
	for _, c := range []struct{ host, given, want string }{ // want: proto host port
		{"shop", "", "http shop 80"},
		{"shop:8080", "", "http shop:8080 8080"},
		{"shop", "Proto: https", "https shop 443"},
		{"shop", "Proto: HTTPS", "HTTPS shop 443"},
		{"shop", "Proto: wss", "wss shop 443"},
		{"shop", "Proto: https, http", "https, http shop 443"},
		{"shop", "Proto: http, https", "http, https shop 80"},
		{"shop:8443", "Proto: https", "https shop:8443 8443"},
		{"[::1]", "Proto: https", "https [::1] 443"},
		{"[::1]:8443", "Proto: https", "https [::1]:8443 8443"},
		{"inner:8080", "Proto: https|Host: shop", "https shop 443"},
		{"inner:8080", "Proto: https|Host: shop:8443", "https shop:8443 8443"},
		{"inner:8080", "Host: shop", "http shop 80"},
		{"shop:8443", "Proto: https|Host: SHOP", "https SHOP 8443"}, // nginx's $host and $http_host
		{"inner", "Proto: https|Host: shop:8443, inner", "https shop:8443, inner 8443"},
		{"inner", "Proto: https|Host: [", "https [ 443"},
		{"shop", "Proto: https|Port: 8443", "https shop 8443"},
		{"shop", "Proto: https|Port:", "https shop 443"},
		{"shop", "Proto:|Host:", "http shop 80"},
	} {
		before := len(b.got())
		given := ""
		if c.given != "" {
			given = "X-Forwarded-" + strings.ReplaceAll(c.given, "|", "\r\nX-Forwarded-") + "\r\n"
		}
		w.send("GET / HTTP/1.1\r\nHost: " + c.host + "\r\n" + given + "\r\n")
		w.reply("GET")
		got := make([]string, 3)
		for _, f := range fields(b.got()[before:]) {
			for i, name := range []string{"X-Forwarded-Proto: ", "X-Forwarded-Host: ", "X-Forwarded-Port: "} {
				if v, ok := strings.CutPrefix(f, name); ok {
					got[i] += v
				}
			}
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%s, %s: got %s, want %s", c.host, c.given, got, c.want)
		}
	}
}
