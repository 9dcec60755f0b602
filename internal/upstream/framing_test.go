package upstream

import (
	"fmt"
	"net/http"
	"testing"
)

// TestFraming: what the fields of a head are is seen however reads divide it, and what comes behind it is not.
func TestFraming(t *testing.T) {
	for _, test := range []struct{ head, want string }{
		{"HTTP/1.1 200 OK\r\n\r\n", ""},
		{"HTTP/1.1 200 OK\n\n", ""},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "length "},
		{"HTTP/1.1 200 OK\nA: b\ncontent-length:5\n\n", "length "},
		{"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: chunked\r\n\r\n", "coding "},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b\r\nContent-Length: 5\r\n\r\n", "length coding "},
		{"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n", "length spaced "},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding   : chunked\r\n\r\n", "coding spaced "},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding                    : chunked\r\n\r\n", "coding spaced "},
		{"HTTP/1.1 200 OK\r\nContent-Length-X: 5\r\nX-Content-Length: 5\r\nContent-Lengt: 5\r\nTransfer-Encodings: x\r\n\r\n", ""},
		{"HTTP/1.1 200 OK\r\nA: b\r\n Content-Length: 5\r\n\tTransfer-Encoding: x\r\n\r\n", ""},
		{"HTTP/1.1 200 OK\r\nA: b\r\n \r\nContent-Length: 5\r\n\r\n", "length "}, // a folded nothing does not end it
		{"HTTP/1.1 200 OK\r\nA : Content-Length\r\nContent-Type: Content-Length:\r\n\r\n", ""},
	} {
		all := test.head + "Content-Length : 1\r\nTransfer-Encoding : x\r\n\r\n"
		for i := range len(all) {
			var f framing
			f.look([]byte(all[:i/2]))
			f.look([]byte(all[i/2 : i]))
			f.look([]byte(all[i:]))
			got := ""
			for _, saw := range []struct {
				it   bool
				name string
			}{{f.length, "length "}, {f.coding, "coding "}, {f.spaced, "spaced "}, {!f.over, "not over "}} {
				if saw.it {
					got += saw.name
				}
			}
			if got != test.want {
				t.Fatalf("%q, divided at %d and %d: got %q, want %q", test.head, i/2, i, got, test.want)
			}
		}
	}
}

func TestPlainLength(t *testing.T) {
	for given, want := range map[string]string{"5": "5", "0": "0", "005": "5", "00": "0", "50": "50"} {
		h := http.Header{"Content-Length": {given}}
		if plainLength(h); h.Get("Content-Length") != want {
			t.Errorf("%s: got %s, want %s", given, h.Get("Content-Length"), want)
		}
	}
	plainLength(http.Header{})
}

func TestDropTrailers(t *testing.T) {
	h := http.Header{
		"Sum": {"1"}, "Grpc-Status": {"0"}, "Content-Digest": {"x"}, "Server-Timing": nil, "A_b": {"c"}, "Ifs": {"d"},
		"Content-Length": {"5"}, "Content_length": {"5"}, "Transfer_Encoding": {"x"}, "Host": {"x"}, "Connection": nil, "Upgrade": {"x"},
		"Authorization": {"x"}, "Cookie": {"x"}, "Proxy": {"x"}, "X-Real-Ip": {"x"}, "X_real_ip": {"x"}, "X-Forwarded-For": {"x"},
		"X-Forwarded_Whatever": {"x"}, "Forwarded": {"x"}, "If-Match": {"x"}, "a b": {"x"}, "": {"x"}, "\x80": nil, "Hop": {"x"}, "Other-Hop": {"x"},
	}
	DropTrailers(h, []string{"close, hop", "OTHER-HOP"})
	want := http.Header{"Sum": {"1"}, "Grpc-Status": {"0"}, "Content-Digest": {"x"}, "Server-Timing": nil, "A_b": {"c"}, "Ifs": {"d"}}
	if fmt.Sprint(h) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", h, want)
	}
	DropTrailers(nil, []string{"x"})
}
