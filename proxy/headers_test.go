package proxy

import (
	"net/http"
	"strings"
	"testing"
)

func TestPortOf(t *testing.T) {
	for host, want := range map[string]string{
		"": "80", "a": "80", "a:": "80", "a:81": "81", "a:0": "0", "a:65535": "65535", "a.b-c_d:081": "081", "1.2.3.4:81": "81", ":81": "81",
		"[::1]": "80", "[::1]:": "80", "[::1]:81": "81", "[::ffff:1.2.3.4]:81": "81", "[fe80::1%25eth0]": "80", "a%5Bb": "80",

		"a:b": "bad", "a:80:80": "bad", "a::": "bad", "::1": "bad", "a:65536": "bad", "a:99999": "bad", "a:+80": "bad", "a:-1": "bad", "a: 80": "bad",
		"a:99999999999999999999999999": "bad", "a:18446744073709551696": "bad",
		"[::1": "bad", "::1]": "bad", "[": "bad", "]": "bad", "[]": "bad", "[a]b": "bad", "[a]": "bad", "[::1]b": "bad", "[::1]81": "bad", "[::1]]": "bad",
		"[[::1]]": "bad", "[::1]:b": "bad", "[::1]:81:81": "bad", "[1.2.3.4]": "bad", "a[::1]": "bad", "a[b": "bad", "a]:81": "bad", "[::1]:]": "bad",
	} {
		got, ok := portOf(host)
		if !ok {
			got = "bad"
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", host, got, want)
		}
	}
}

func TestKeepUpgrade(t *testing.T) {
	for _, test := range []struct{ asked, want string }{
		{"websocket", "websocket"},
		{"a/1.0 , b", "a/1.0 , b"}, // as it was written
		{"a|b", "a, b"},
		{"h2c", ""},
		{"H2C", ""},
		{"h2c-14", ""},
		{"h2c, websocket", "websocket"},
		{"a, h2c ,b,", "a, b"},
		{"h2c|websocket", "websocket"},
		{"websocket|h2c", "websocket"},
		{"h2c|h2c, h2c", ""},
	} {
		out := http.Header{"Upgrade": {"x"}, "Connection": {"Upgrade"}}
		keepUpgrade(out, strings.Split(test.asked, "|"))
		if got := strings.Join(out["Upgrade"], "|"); got != test.want || (out["Connection"] == nil) != (got == "") {
			t.Errorf("%s: got %q with Connection: %q, want %q", test.asked, got, out["Connection"], test.want)
		}
	}
}

// TestUpgradeFromList: what is asked for besides h2c can be granted, and h2c cannot.
func TestUpgradeFromList(t *testing.T) { run(t, testUpgradeFromList) }

func testUpgradeFromList(t *testing.T, in lane) {
	for granted, want := range map[string]int{"websocket": 101, "WebSocket": 101, "foo/2": 101, "websocket, foo/2": 101, "h2c": 502, "foo": 502, "websocket, h2c": 502, "": 502} {
		b := rawBackend(t, "one", func(w *wire) {
			w.head()
			w.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + granted + "\r\n\r\nhello")
			w.rest()
		})
		w := serve(t, in, web(b)).dial()
		w.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: foo/2, h2c, websocket\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
		if got := w.header("GET").StatusCode; got != want {
			t.Errorf("%s: got %d, want %d", granted, got, want)
		}
		if want == 101 && w.bytes(5) != "hello" {
			t.Errorf("%s: nothing came behind it", granted)
		}
		if head := b.got(); !strings.Contains(head, "\r\nUpgrade: foo/2, websocket\r\n") || strings.Contains(head, "Settings") {
			t.Errorf("the backend got %q", head)
		}
		w.Close()
	}
}
