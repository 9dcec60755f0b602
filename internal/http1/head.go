package http1

import (
	"bytes"
	"strings"
)

// A Head follows the head of any message through buffers, to find its end, and notices what net/http hides: which
// fields frame the message. The zero value is at the beginning.
type Head struct {
	Length, Coding bool // it has a Content-Length, a Transfer-Encoding
	Spaced         bool // either with a space before its colon, which is no field to ReadResponse and one to others
	Over           bool // the empty line has come

	line [20]byte // the beginning of the present line
	n    int      // bytes of line
}

// Next takes the next bytes. It returns how many of them belong to the head, all unless it is over.
func (h *Head) Next(p []byte) (n int) {
	for n < len(p) && !h.Over {
		end := bytes.IndexByte(p[n:], '\n')
		if end < 0 {
			h.n += copy(h.line[h.n:], p[n:])
			return len(p)
		}
		h.n += copy(h.line[h.n:], p[n:n+end])
		h.lineEnds(h.line[:h.n])
		h.n = 0
		n += end + 1
	}
	return n
}

func (h *Head) lineEnds(line []byte) {
	if len(line) == 0 || len(line) == 1 && line[0] == '\r' {
		h.Over = true
		return
	}
	var field *bool
	var is string
	switch line[0] {
	case 'C', 'c':
		field, is = &h.Length, "Content-Length"
	case 'T', 't':
		field, is = &h.Coding, "Transfer-Encoding"
	default:
		return
	}
	name, _, _ := bytes.Cut(line, []byte(":"))
	if bare := bytes.TrimRight(name, " "); len(bare) == len(is) && strings.EqualFold(string(bare), is) {
		*field = true
		h.Spaced = h.Spaced || len(bare) < len(name)
	}
}
