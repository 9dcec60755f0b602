package http1

// What a body in chunks may have besides its data, in bytes.
const (
	maxExtensions = 8 << 10
	maxTrailers   = 2 << 10
)

// A Chunks follows a chunked body (RFC 9112, 7.1) through buffers, to find its end. The zero value is at the
// beginning.
type Chunks struct {
	Data int64 // bytes of data so far, without what is around them

	at         position
	left       int64 // bytes of the chunk's data
	digits     int   // of its size, so far
	extensions int   // bytes of all, so far
	trailers   int   // likewise
	line       []byte
}

type position uint8

const (
	inSize      position = iota // digits
	inExtension                 // behind them
	sizeLF                      // a CR has ended the line
	inData
	dataCR
	dataLF
	lineStart // of the trailer section
	inLine
	lineLF
	lastLF
)

// Next takes the next bytes of the body. It returns those that are to be passed on, in the place of b: all but
// extensions, which are for this connection only. The body ends with them if done; then rest has what follows
// it. ok is false if the bytes are not well-formed: then body has those that are.
func (c *Chunks) Next(b []byte) (body, rest []byte, done, ok bool) {
	n := 0
	for n < len(b) {
		x := b[n]
		switch c.at {
		case inSize:
			d, isDigit := digit(x)
			switch {
			case isDigit && c.digits < 15: // more would overflow
				c.left = c.left<<4 | int64(d)
				c.digits++
			case c.digits == 0:
				return b[:n], b[n:], false, false
			case x == ';':
				c.at = inExtension
				continue
			case x == '\r':
				c.at = sizeLF
			default:
				return b[:n], b[n:], false, false
			}
		case inExtension:
			m := 0
			for n+m < len(b) && b[n+m] >= ' ' && b[n+m] < 0x7f {
				m++
			}
			copy(b[n:], b[n+m:])
			b = b[:len(b)-m]
			if c.extensions += m; c.extensions > maxExtensions {
				return b[:n], b[n:], false, false
			}
			if n == len(b) {
				continue
			}
			if b[n] != '\r' {
				return b[:n], b[n:], false, false
			}
			c.at = sizeLF
		case sizeLF:
			if x != '\n' {
				return b[:n], b[n:], false, false
			}
			c.digits = 0
			if c.at = inData; c.left == 0 {
				c.at = lineStart
			}
		case inData:
			m := int(min(c.left, int64(len(b)-n)))
			n += m
			c.Data += int64(m)
			if c.left -= int64(m); c.left == 0 {
				c.at = dataCR
			}
			continue
		case dataCR:
			if x != '\r' {
				return b[:n], b[n:], false, false
			}
			c.at = dataLF
		case dataLF:
			if x != '\n' {
				return b[:n], b[n:], false, false
			}
			c.at = inSize
		case lineStart:
			if x == '\r' {
				c.at = lastLF
				break
			}
			c.line = c.line[:0]
			c.at = inLine
			continue
		case inLine:
			c.trailers++
			switch {
			case c.trailers > maxTrailers:
				return b[:n], b[n:], false, false
			case x == '\r':
				if !isTrailer(c.line) {
					return b[:n], b[n:], false, false
				}
				c.at = lineLF
			default:
				c.line = append(c.line, x)
			}
		case lineLF:
			if x != '\n' {
				return b[:n], b[n:], false, false
			}
			c.at = lineStart
		case lastLF:
			if x != '\n' {
				return b[:n], b[n:], false, false
			}
			return b[:n+1], b[n+1:], true, true
		}
		n++
	}
	return b, nil, false, true
}

// isTrailer reports whether a line is a field that may stand in a trailer section (RFC 9110, 6.5.1).
func isTrailer(line []byte) bool {
	i := 0
	for i < len(line) && token[line[i]] {
		i++
	}
	if i == 0 || i == len(line) || line[i] != ':' {
		return false
	}
	name := line[:i]
	for _, s := range [...]string{"content-length", "transfer-encoding", "trailer", "host", "connection", "keep-alive", "te", "upgrade"} {
		if is(name, s) {
			return false
		}
	}
	for j := control(line, i); j < len(line); j = control(line, j+1) {
		if line[j] != '\t' {
			return false
		}
	}
	return true
}
