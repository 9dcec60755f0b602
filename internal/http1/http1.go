// Package http1 recognises plain HTTP/1.1 messages at the beginning of a buffer, without allocating.
//
// It rejects nothing. What it is not sure of is [Other], and net/http decides what that is. What it calls
// [Plain] net/http reads in the same way, and so does everybody else: the grammar is that of RFC 9112
// without anything that is obsolete, optional or read differently by different programs. Lines end in
// CRLF and are not folded, names are tokens, values have no control bytes, and one field at most says how
// long the body is.
package http1

import (
	"encoding/binary"
	"math/bits"
)

// A Verdict is what the bytes of a head are.
type Verdict uint8

const (
	Plain   Verdict = iota // a complete head of the plain kind
	Partial                // the beginning of one: nothing speaks against it so far
	Other                  // something else, perhaps a message and perhaps not
)

// A Span is a part of the buffer that was parsed: buf[From:To].
type Span struct{ From, To int }

// Of returns the part of buf.
func (s Span) Of(buf []byte) []byte { return buf[s.From:s.To] }

// Len returns its length in bytes.
func (s Span) Len() int { return s.To - s.From }

// Cuts are the lines of a head that are not for the next hop.
type Cuts struct {
	n  int
	at [16]Span
}

// add reports whether there was room.
func (c *Cuts) add(line Span) bool {
	if c.n > 0 && c.at[c.n-1].To == line.From {
		c.at[c.n-1].To = line.To
		return true
	}
	if c.n == len(c.at) {
		return false
	}
	c.at[c.n] = line
	c.n++
	return true
}

// AppendKept appends what is left of buf[from:to] to dst.
func (c *Cuts) AppendKept(dst, buf []byte, from, to int) []byte {
	for _, cut := range c.at[:c.n] {
		if cut.From < from {
			continue
		}
		dst = append(dst, buf[from:cut.From]...)
		from = cut.To
	}
	return append(dst, buf[from:to]...)
}

// What a name is made of (RFC 9110, 5.6.2): nearly all have letters, digits and "-" alone.
const (
	usual = 1 << iota
	underscore
	odd
)

// token marks what names are made of; zero: nothing.
var token = func() (t [256]uint8) {
	for c := range t {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' {
			t[c] = usual
		}
	}
	for _, c := range "!#$%&'*+.^`|~" {
		t[c] = odd
	}
	t['_'] = underscore
	return t
}()

const (
	ones = 0x0101010101010101
	high = 0x80 * ones
)

// control returns the index of the first control byte of buf from i on, len(buf) if there is none.
func control(buf []byte, i int) int {
	for ; i+8 <= len(buf); i += 8 {
		x := binary.LittleEndian.Uint64(buf[i:])
		del := x ^ 0x7f*ones
		// Each term has the high bit of its first byte that is one set, and perhaps of later ones.
		if m := ((x - 0x20*ones) &^ x & high) | ((del - ones) &^ del & high); m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(buf); i++ {
		if buf[i] < 0x20 || buf[i] == 0x7f {
			return i
		}
	}
	return i
}

// lineEnd returns the index of the CR that ends the text which begins at i.
func lineEnd(buf []byte, i int) (int, Verdict) {
	for {
		i = control(buf, i)
		switch {
		case i == len(buf):
			return i, Partial
		case buf[i] == '\t':
			i++
			continue
		case buf[i] != '\r':
			return i, Other
		case i+1 == len(buf):
			return i, Partial
		case buf[i+1] != '\n':
			return i, Other
		}
		return i, Plain
	}
}

// A field is one line of a header.
type field struct {
	name, value, line Span  // value without the white space around it, line with its end
	made              uint8 // what the name is made of
}

// parse reads the line at i. A line without a name is the empty one that ends the head.
func (f *field) parse(buf []byte, i int) Verdict {
	at := i
	for i < len(buf) && token[buf[i]] == usual {
		i++
	}
	f.made = usual
	for ; i < len(buf) && token[buf[i]] != 0; i++ { // of few names
		f.made |= token[buf[i]]
	}
	f.name = Span{at, i}
	switch {
	case i == len(buf):
		return Partial
	case i == at && buf[i] == '\r':
		f.line = Span{at, i + 2}
		switch {
		case i+1 == len(buf):
			return Partial
		case buf[i+1] != '\n':
			return Other
		}
		return Plain
	case i == at || buf[i] != ':':
		return Other
	}
	from := i + 1
	for from < len(buf) && (buf[from] == ' ' || buf[from] == '\t') {
		from++
	}
	to, v := lineEnd(buf, from)
	f.line = Span{at, to + 2}
	for to > from && (buf[to-1] == ' ' || buf[to-1] == '\t') {
		to--
	}
	f.value = Span{from, to}
	return v
}

// is reports whether b is s, which is in lower case and has letters, digits and "-" only.
func is(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

// length reads a Content-Length: digits as one would write them.
func length(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 18 || len(b) > 1 && b[0] == '0' {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

// persistence reads a Connection field. More than one of the two words is for others to read.
func persistence(b []byte) (ends, ok bool) {
	switch {
	case is(b, "close"):
		return true, true
	case is(b, "keep-alive"):
		return false, true
	}
	return false, false
}
