package upstream

import (
	"bytes"
	"net/http"
	"strings"
)

// A framing notices in the bytes of a response's head what ReadResponse hides: a Content-Length beside a
// Transfer-Encoding, a Transfer-Encoding in HTTP/1.0, and either with a space before its colon, which is no
// field to ReadResponse and one to others.
type framing struct {
	length, coding bool     // there is such a field
	spaced         bool     // with a space before its colon
	over           bool     // the empty line has come
	line           [20]byte // the beginning of the present line
	n              int      // bytes of line
}

// look takes the next bytes, however reads divide them, up to the end of the head.
func (f *framing) look(p []byte) {
	for len(p) > 0 && !f.over {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			f.n += copy(f.line[f.n:], p)
			return
		}
		f.n += copy(f.line[f.n:], p[:end])
		f.lineEnds(f.line[:f.n])
		f.n, p = 0, p[end+1:]
	}
}

func (f *framing) lineEnds(line []byte) {
	if len(line) == 0 || len(line) == 1 && line[0] == '\r' {
		f.over = true
		return
	}
	var field *bool
	var is string
	switch line[0] {
	case 'C', 'c':
		field, is = &f.length, "Content-Length"
	case 'T', 't':
		field, is = &f.coding, "Transfer-Encoding"
	default:
		return
	}
	name, _, _ := bytes.Cut(line, []byte(":"))
	if bare := bytes.TrimRight(name, " "); len(bare) == len(is) && strings.EqualFold(string(bare), is) {
		*field = true
		f.spaced = f.spaced || len(bare) < len(name)
	}
}

// mixed reports whether others than us may see another end of the response. Where one is to be found, RFC 9112,
// 6.1 and 6.3 say: the coding goes before the length, unless it is HTTP/1.0. nginx takes both for an error; but
// there are applications that set a length beside a server that sends chunks, and their users lose nothing if
// the response is passed on with the one end that it has, as long as its connection is not used again.
func (f *framing) mixed(res *http.Response) bool {
	return f.coding && (f.length || !res.ProtoAtLeast(1, 1))
}

// plainLength takes zeros off the beginning of a Content-Length: some read those as octal.
func plainLength(h http.Header) {
	if v := h["Content-Length"]; len(v) == 1 && len(v[0]) > 1 && v[0][0] == '0' {
		if v[0] = strings.TrimLeft(v[0], "0"); v[0] == "" {
			v[0] = "0"
		}
	}
}
