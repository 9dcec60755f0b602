package http1

import "testing"

// TestHead: what the fields of a head are is seen however reads divide it, and what comes behind it is not.
func TestHead(t *testing.T) {
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
			var h Head
			n := h.Next([]byte(all[:i/2]))
			n += h.Next([]byte(all[i/2 : i]))
			n += h.Next([]byte(all[i:]))
			if n != len(test.head) {
				t.Fatalf("%q, divided at %d and %d: it has %d bytes, want %d", test.head, i/2, i, n, len(test.head))
			}
			got := ""
			for _, saw := range []struct {
				it   bool
				name string
			}{{h.Length, "length "}, {h.Coding, "coding "}, {h.Spaced, "spaced "}, {!h.Over, "not over "}} {
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
