package http1

import (
	"bufio"
	"bytes"
	"maps"
	"net/textproto"
	"slices"
)

// What net/http reads of a body in chunks, and no more: what it takes must not be cut here, and a body must not end
// elsewhere for it. All are bytes.
const (
	maxDigits   = 16       // of a size, zeros included
	maxSizeLine = 4 << 10  // a size with its extensions and the line's end
	maxOverhead = 16 << 10 // size lines, beyond 16 bytes and twice the data for each chunk
	maxTrailers = 4 << 10  // the trailer section
)

// A Chunks follows a chunked body (RFC 9112, 7.1) through buffers, to find its end. It takes what net/http's reader
// takes. The zero value is at the beginning.
type Chunks struct {
	Data int64 // bytes of data so far, without what is around them

	at       position
	left     uint64 // bytes of the chunk's data
	digits   int    // of its size, so far
	line     int    // bytes of its size line, so far
	overhead int64
	trailers []byte // the trailer section, so far
}

type position uint8

const (
	inSize      position = iota // digits
	inPadding                   // white space behind them
	inExtension                 // behind a semicolon
	sizeLF                      // a CR has ended the line
	inData
	dataCR
	dataLF
	trailersStart
	lastLF // there are no trailers if this comes
	inTrailers
)

// Next takes the next bytes of the body. It returns what is to be passed on, mostly in the place of b: chunks as they
// came, but without what only this connection is about, namely extensions and padding of sizes, and without trailers
// that must not be any (see [MayTrail]). The last chunk comes with the end. The body ends with these bytes if done;
// then rest has what follows it. ok is false if the bytes are not well-formed: then body has those that are.
func (c *Chunks) Next(b []byte) (body, rest []byte, done, ok bool) {
	kept, n, done, ok := c.take(b, true)
	if !done || !ok {
		return b[:kept], b[n:], false, ok
	}
	if len(c.trailers) == 0 {
		const last = "0\r\n\r\n"
		if kept+len(last) <= n {
			copy(b[kept:], last)
			return b[:kept+len(last)], b[n:], true, true
		}
		return append(b[:kept:kept], last...), b[n:], true, true
	}
	last, behind, ok := lastChunk(c.trailers)
	if !ok {
		return b[:kept], b[n:], false, false
	}
	return append(b[:kept:kept], last...), append(behind, b[n:]...), true, true
}

// Follow takes the next bytes of the body and leaves them as they are. n is how many of them belong to it, all unless
// done; done and ok are as those of Next.
func (c *Chunks) Follow(b []byte) (n int, done, ok bool) {
	_, n, done, ok = c.take(b, false)
	if done && len(c.trailers) > 0 {
		var behind []byte
		_, behind, ok = lastChunk(c.trailers)
		ok = ok && len(behind) == 0
	}
	return n, done && ok, ok
}

// take reads n bytes, up to the end of the body or to what is wrong. If it is to edit, it leaves in b[:kept] what is
// passed on, but for the last chunk.
func (c *Chunks) take(b []byte, edit bool) (kept, n int, done, ok bool) {
	for n < len(b) {
		x := b[n]
		switch c.at {
		case inSize, inPadding, inExtension, sizeLF:
			c.line++
			if c.line > maxSizeLine || !c.sizeByte(x) {
				return kept, n, false, false
			}
			// The zeros before a size go, and with them all of the last chunk's.
			if edit && c.left > 0 && (c.at == inSize || c.at == sizeLF || c.at == inData) {
				b[kept] = x
				kept++
			}
		case inData:
			m := int(min(c.left, uint64(len(b)-n)))
			if edit && kept < n {
				copy(b[kept:], b[n:n+m])
			}
			kept += m
			n += m
			c.Data += int64(m)
			if c.left -= uint64(m); c.left == 0 {
				c.at = dataCR
			}
			continue
		case dataCR, dataLF:
			if x != "\r\n"[c.at-dataCR] {
				return kept, n, false, false
			}
			if edit {
				b[kept] = x
				kept++
			}
			if c.at++; x == '\n' {
				c.at, c.digits, c.line = inSize, 0, 0
			}
		case trailersStart:
			if c.at = lastLF; x != '\r' {
				c.at, c.trailers = inTrailers, append(c.trailers, x)
			}
		case lastLF:
			if x == '\n' {
				return kept, n + 1, true, true
			}
			c.at, c.trailers = inTrailers, append(c.trailers, '\r', x)
		case inTrailers:
			c.trailers = append(c.trailers, x)
			if x == '\n' && bytes.HasSuffix(c.trailers, []byte("\r\n\r\n")) {
				return kept, n + 1, true, true
			}
			if len(c.trailers) >= maxTrailers {
				return kept, n, false, false
			}
		}
		n++
	}
	return kept, n, false, true
}

// sizeByte takes a byte of a size line. It reports false if that must not be there.
func (c *Chunks) sizeByte(x byte) bool {
	if c.at == sizeLF {
		if x != '\n' {
			return false
		}
		return c.sizeEnds()
	}
	switch d, isDigit := digit(x); {
	case x == '\r':
		c.at = sizeLF
		return c.digits > 0
	case x == '\n':
		return false
	case c.at == inExtension:
	case x == ';' && c.at == inSize:
		c.at = inExtension
		return c.digits > 0
	case x == ' ' || x == '\t':
		c.at = inPadding
		return c.digits > 0
	case c.at == inPadding || !isDigit || c.digits == maxDigits:
		return false
	default:
		c.left = c.left<<4 | uint64(d)
		c.digits++
	}
	return true
}

// sizeEnds reports whether there may be so much beside the data.
func (c *Chunks) sizeEnds() bool {
	if c.left == 0 {
		c.at = trailersStart
		return true
	}
	c.at = inData
	c.overhead = max(c.overhead+int64(c.line)-(16+2*int64(c.left)), 0)
	return c.overhead <= maxOverhead
}

// lastChunk is what is passed on of the last chunk and these trailers, which end in an empty line. An empty line
// before that is their end too: behind is what comes after it. ok is false if they are not well-formed.
func lastChunk(trailers []byte) (last, behind []byte, ok bool) {
	br := bufio.NewReaderSize(bytes.NewReader(trailers), maxTrailers)
	fields, err := textproto.NewReader(br).ReadMIMEHeader()
	if err != nil {
		return nil, nil, false
	}
	last = append(last, "0\r\n"...)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !MayTrail(name) {
			continue
		}
		for _, value := range fields[name] {
			last = append(last, name+": "+value+"\r\n"...)
		}
	}
	behind, _ = br.Peek(br.Buffered())
	return append(last, "\r\n"...), behind, true
}
