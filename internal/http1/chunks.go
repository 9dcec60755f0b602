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

// Next takes the next bytes of the body. It returns how many of b belong to it, and whether it ends
// there. ok is false if they are not well-formed: then n says how many are.
func (c *Chunks) Next(b []byte) (n int, done, ok bool) {
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
				return n, false, false
			case x == ';':
				c.at = inExtension
			case x == '\r':
				c.at = sizeLF
			default:
				return n, false, false
			}
		case inExtension:
			c.extensions++
			switch {
			case c.extensions > maxExtensions:
				return n, false, false
			case x == '\r':
				c.at = sizeLF
			case x < ' ' || x >= 0x7f:
				return n, false, false
			}
		case sizeLF:
			if x != '\n' {
				return n, false, false
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
				return n, false, false
			}
			c.at = dataLF
		case dataLF:
			if x != '\n' {
				return n, false, false
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
				return n, false, false
			case x == '\r':
				if !isTrailer(c.line) {
					return n, false, false
				}
				c.at = lineLF
			default:
				c.line = append(c.line, x)
			}
		case lineLF:
			if x != '\n' {
				return n, false, false
			}
			c.at = lineStart
		case lastLF:
			if x != '\n' {
				return n, false, false
			}
			return n + 1, true, true
		}
		n++
	}
	return n, false, true
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
