package http1

// Chunked is the Length of a response whose body is in chunks.
const Chunked = -1

// A Response is the head of a plain response: HTTP/1.1, final, and with a body that is not there, of a
// known length, or in chunks without announced trailers. Event streams are not plain: they are to be read
// without a limit of time.
type Response struct {
	Status  int
	Length  int64 // of the body that follows, Chunked, or 0
	Close   bool  // the connection ends with it
	HasDate bool
	Size    int // of the head in bytes, with the empty line

	Location, Refresh Span // where the client is to go next; empty: nowhere

	// Cuts are the lines that a proxy does not pass on, since they are about this connection.
	Cuts Cuts
}

// Parse reads the head at the beginning of buf, of a response to HEAD or to another request. Unless the
// verdict is Plain, r is not to be used.
func (r *Response) Parse(buf []byte, toHead bool) Verdict {
	*r = Response{}
	const version = "HTTP/1.1 "
	if n := min(len(version), len(buf)); string(buf[:n]) != version[:n] {
		return Other
	}
	i := len(version)
	if len(buf) < i+4 {
		return Partial
	}
	for _, c := range buf[i : i+3] {
		if c < '0' || c > '9' {
			return Other
		}
		r.Status = 10*r.Status + int(c-'0')
	}
	if r.Status < 200 || r.Status > 599 || buf[i+3] != ' ' {
		return Other
	}
	end, v := lineEnd(buf, i+4)
	if v != Plain {
		return v
	}
	i = end + 2
	hasLength, chunked, hasConnection := false, false, false
	var f field
	for {
		if v := f.parse(buf, i); v != Plain {
			return v
		}
		i = f.line.To
		name := f.name.Of(buf)
		if len(name) == 0 {
			break
		}
		ok, cut := true, false
		switch name[0] | 0x20 {
		case 'c':
			switch {
			case is(name, "content-length"):
				ok = !hasLength
				hasLength = true
				if ok {
					r.Length, ok = length(f.value.Of(buf))
				}
			case is(name, "connection"):
				ok = !hasConnection
				hasConnection, cut = true, true
				if ok {
					r.Close, ok = persistence(f.value.Of(buf))
				}
			case is(name, "content-type"):
				const stream = "text/event-stream"
				value := f.value.Of(buf)
				ok = len(value) < len(stream) || !isType(value[:len(stream)], stream)
			}
		case 'd':
			r.HasDate = r.HasDate || is(name, "date")
		case 'l':
			if is(name, "location") {
				ok = r.Location.From == 0
				r.Location = f.value
			}
		case 'r':
			if is(name, "refresh") {
				ok = r.Refresh.From == 0
				r.Refresh = f.value
			}
		case 'k':
			cut = is(name, "keep-alive")
		case 'p':
			cut = is(name, "proxy-connection") || is(name, "proxy-authenticate") || is(name, "proxy-authorization")
		case 't':
			switch {
			case is(name, "transfer-encoding"):
				ok = !chunked && is(f.value.Of(buf), "chunked")
				chunked = true
			case is(name, "trailer"), is(name, "te"):
				ok = false
			}
		case 'u':
			ok = !is(name, "upgrade")
		case 'x':
			cut = IsDirective(name)
		}
		if !ok || cut && !r.Cuts.add(f.line) {
			return Other
		}
	}
	r.Size = i
	switch {
	case hasLength && chunked:
		return Other
	case r.Status == 204 || r.Status == 304 || toHead:
		if chunked || r.Status == 204 && hasLength {
			return Other
		}
		r.Length = 0
	case chunked:
		r.Length = Chunked
	case !hasLength: // it ends with the connection
		return Other
	}
	return Plain
}

// isType is like is, for a media type.
func isType(b []byte, s string) bool {
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
