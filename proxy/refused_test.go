package proxy

import (
	"strings"
	"testing"
	"time"
)

func TestRefusedIsRecorded(t *testing.T) { run(t, testRefusedIsRecorded) }

// testRefusedIsRecorded: what net/http answers by itself is counted and in the access log, as all else.
func testRefusedIsRecorded(t *testing.T, in lane) {
	b := startBackend(t, "b", nil)
	p := newProxy(t, in)
	p.MaxHeader = 8 << 10
	p.serve(web(b))
	const hello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n" // of TLS
	long := "/" + strings.Repeat("x", 20<<10)
	cases := []struct {
		request string
		status  int
		line    string // method, URI and protocol of the record, divided by "|"
	}{
		{"GARBAGE\r\n\r\n", 400, "|GARBAGE|"},
		{"GET\r\n\r\n", 400, "|GET|"},
		{"GET /\r\n\r\n", 400, "GET|/|"},
		{" / HTTP/1.1\r\n\r\n", 400, "| /|HTTP/1.1"},
		{hello, 400, "|" + strings.TrimSuffix(hello, "\n") + "|"},
		{"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400, "GET|/a b|HTTP/1.1"},
		{"GET / HTTP/1.1 x\r\nHost: x\r\n\r\n", 400, "GET|/ HTTP/1.1 x|"},
		{"GET /% HTTP/1.1\r\nHost: x\r\n\r\n", 400, "GET|/%|HTTP/1.1"},
		{"G(T / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "G(T|/|HTTP/1.1"},
		{"GET /no-host HTTP/1.1\r\n\r\n", 400, "GET|/no-host|HTTP/1.1"},
		{"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "GET|/|HTTP/1.1"},
		{"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "GET|/|HTTP/1.1"},
		{"GET / HTTP/1.1\r\nHost: x\r\nna me: v\r\n\r\n", 400, "GET|/|HTTP/1.1"},
		{"GET / HTTP/1.1\r\nHost: x\r\nn: \x01\r\n\r\n", 400, "GET|/|HTTP/1.1"},
		{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400, "POST|/|HTTP/1.1"},
		{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "POST|/|HTTP/1.1"},
		{"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505, "GET|/|HTTP/3.0"},
		{"GET / HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n", 417, "GET|/|HTTP/1.1"},
		{"GET " + long + " HTTP/1.1\r\nHost: x\r\n\r\n", 431, "GET|" + long[:maxLine-len("GET ")] + "|"},
		{"GET /many HTTP/1.1\r\nHost: x\r\nX: " + long + "\r\n\r\n", 431, "GET|/many|HTTP/1.1"},
	}
	want := make(map[int]uint64)
	for _, c := range cases {
		// By itself, in pieces, and behind requests that each lane can read.
		for _, how := range []string{"whole", "pieces", "plain before", "odd before"} {
			w := p.dial()
			switch how {
			case "pieces":
				half := min(len(c.request)/2, 40)
				w.send(c.request[:half], c.request[half:])
			case "plain before":
				w.send("GET /before HTTP/1.1\r\nHost: x\r\n\r\n" + c.request)
			case "odd before":
				w.send("POST /before HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n" + c.request)
			default:
				w.send(c.request)
			}
			if strings.HasSuffix(how, "before") {
				w.reply("GET")
				p.record()
			}
			if got := w.reply("GET").StatusCode; got != c.status {
				t.Fatalf("%.40q, %s: answered with %d, want %d", c.request, how, got, c.status)
			}
			r := p.record()
			if line := r.Method + "|" + r.URI + "|" + r.Proto; r.Status != c.status || line != c.line || r.ClientIP != "127.0.0.1" || r.Bytes == 0 && c.status != 417 || r.Duration < 0 || time.Since(r.Time) > time.Minute {
				t.Errorf("%.40q, %s: recorded as %d %.60q, want %d %.60q: %+v", c.request, how, r.Status, line, c.status, c.line, r)
			}
			want[c.status]++
			w.Close()
		}
	}
	for status, n := range want {
		if got := p.Router.Unrouted().Codes[status]; got != n {
			t.Errorf("%d requests are counted with %d, want %d", got, status, n)
		}
	}
	if n := len(p.records); n != 0 {
		t.Errorf("%d records too many", n)
	}
}

func TestHeadBrokenOff(t *testing.T) { run(t, testHeadBrokenOff) }

// testHeadBrokenOff: a head that does not come to its end is recorded as nginx has it; a connection without a request is not.
func testHeadBrokenOff(t *testing.T, in lane) {
	b := startBackend(t, "b", nil)
	p := newProxy(t, in)
	p.HeaderTimeout = time.Second
	p.serve(web(b))
	for _, nothing := range []string{"", "\r\n"} {
		w := p.dial()
		w.send(nothing)
		w.Conn.(interface{ CloseWrite() error }).CloseWrite()
		if rest := w.rest(); rest != "" {
			t.Errorf("%q is answered with %q", nothing, rest)
		}
	}
	for _, c := range []struct {
		sent, line string
		leaves     bool
		status     int
	}{
		{"GET /a HTTP/1.1\r\nHo", "GET|/a|HTTP/1.1", true, 400},
		{"GET /b", "GET|/b|", true, 400},
		{"GET /c HTTP/1.1\r\nHo", "GET|/c|HTTP/1.1", false, 408},
		{"G", "|G|", false, 408},
		{"GET /d HTTP/1.1\r\n", "GET|/d|HTTP/1.1", false, 408}, // net/http knows no answer for that
		{"GET /e HTTP/1.1\r\nHost: x\r\n", "GET|/e|HTTP/1.1", true, 400},
	} {
		w := p.dial()
		w.send(c.sent)
		if c.leaves {
			w.Conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		if c.leaves {
			w.rest()
		} else if got := w.reply("GET").StatusCode; got != c.status {
			t.Errorf("%q is answered with %d, want %d", c.sent, got, c.status)
		} else if rest := w.rest(); rest != "" {
			t.Errorf("%q is answered with more: %q", c.sent, rest)
		}
		r := p.record()
		if line := r.Method + "|" + r.URI + "|" + r.Proto; r.Status != c.status || line != c.line {
			t.Errorf("%q: recorded as %d %q, want %d %q", c.sent, r.Status, line, c.status, c.line)
		}
	}
	if n := len(p.records); n != 0 {
		t.Errorf("%d records too many", n)
	}
}

func TestSplitLine(t *testing.T) {
	for _, line := range []string{"", " ", "x", "GET / HTTP/1.1", "GET  /  HTTP/1.1", " GET / HTTP/1.1", "GET / ", "HTTP/1.1", " HTTP/1.1", "a b c HTTP/", "a HTTP/1.1 "} {
		var parts []string
		method, uri, proto := splitLine(line)
		for _, part := range []string{method, uri, proto} {
			if part != "" {
				parts = append(parts, part)
			}
		}
		if got := strings.Join(parts, " "); got != line {
			t.Errorf("%q is divided into %q", line, parts)
		}
	}
}
