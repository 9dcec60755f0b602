package http1

// A Request is the head of a plain request: HTTP/1.1, a method of those below, a target in origin form,
// one Host, and a body whose length is known, or none. Its spans are those of the buffer that was parsed.
type Request struct {
	Method  string // GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS
	Target  Span   // as it was written
	Path    Span   // of the target, without the query; no control byte is in it, encoded or not
	Coded   bool   // the path has a percent sign
	Host    Span
	Length  int64 // of the body
	Close   bool  // the client wants the connection to end with the response
	Proxied bool  // there is an X-Forwarded-For
	Size    int   // of the head in bytes, with the empty line

	UserAgent, Referer, Authorization Span // of the first such field; empty: there is none
	Hops                              Span // of Longshore-Hops, likewise

	// Cuts are the lines that a proxy does not pass on: what is about this connection, and what the next
	// hop must not take from a client: see [IsClaim], Proxy, and names with an underscore, which CGI cannot tell from
	// "-". What is of [IsOurClaim] is cut in any case.
	Cuts Cuts
}

// Rules say what of a request is passed on.
type Rules struct {
	Trusted     bool // the client is a proxy, whose claims are
	Underscores bool // names with an underscore are, if they are like none that matters: they are not plain
}

// Parse reads the head at the beginning of buf. Unless the verdict is Plain, r is not to be used.
func (r *Request) Parse(buf []byte, rules Rules) Verdict {
	*r = Request{}
	i, v := r.line(buf)
	if v != Plain {
		return v
	}
	hasLength, hasConnection := false, false
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
		case 'a':
			if is(name, "authorization") && r.Authorization.From == 0 {
				r.Authorization = f.value
			}
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
			default:
				cut = !rules.Trusted && IsClaim(name)
			}
		case 'e':
			ok = !is(name, "expect")
		case 'f':
			cut = isCut(name, rules.Trusted)
		case 'h':
			switch {
			case is(name, "host"):
				ok = r.Host.Len() == 0 && isHost(f.value.Of(buf))
				r.Host = f.value
			case is(name, "http2-settings"):
				ok = false
			}
		case 'k':
			cut = is(name, "keep-alive")
		case 'l':
			if cut = is(name, "longshore-hops"); cut && r.Hops.From == 0 {
				r.Hops = f.value
			}
		case 'm': // RFC 9110, 7.6.2
			ok = r.Method != "OPTIONS" || !is(name, "max-forwards")
		case 'p':
			cut = is(name, "proxy") || is(name, "proxy-connection") || is(name, "proxy-authorization") || is(name, "proxy-authenticate")
		case 'r':
			if is(name, "referer") && r.Referer.From == 0 {
				r.Referer = f.value
			}
		case 't':
			ok = !is(name, "transfer-encoding") && !is(name, "te") && !is(name, "trailer")
			cut = !rules.Trusted && IsClaim(name)
		case 'u':
			switch {
			case is(name, "user-agent") && r.UserAgent.From == 0:
				r.UserAgent = f.value
			case is(name, "upgrade"):
				ok = false
			}
		case 'x':
			cut = isCut(name, rules.Trusted)
			r.Proxied = r.Proxied || is(name, "x-forwarded-for")
		}
		if f.made > usual {
			ok, cut = f.made < odd && !rules.Underscores, true
		}
		if !ok || cut && !r.Cuts.add(f.line) {
			return Other
		}
	}
	if r.Host.Len() == 0 {
		return Other
	}
	r.Size = i
	return Plain
}

func isCut(name []byte, trusted bool) bool {
	if trusted {
		return IsOurClaim(name)
	}
	return IsClaim(name)
}

// methods are those that everybody reads alike.
var methods = [...]string{"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}

// line reads the request line and returns where the next one begins.
func (r *Request) line(buf []byte) (int, Verdict) {
	r.Method = ""
	for _, m := range methods {
		if len(buf) > len(m) && buf[len(m)] == ' ' && string(buf[:len(m)]) == m {
			r.Method = m
			break
		}
	}
	if r.Method == "" {
		for i, c := range buf {
			if i > len("OPTIONS") || c < 'A' || c > 'Z' {
				return 0, Other
			}
		}
		return 0, Partial
	}
	i := len(r.Method) + 1
	if i == len(buf) {
		return i, Partial
	}
	if buf[i] != '/' {
		return i, Other
	}
	r.Target.From, r.Path.From = i, i
	for ; i < len(buf); i++ {
		switch c := buf[i]; {
		case c == '?' && r.Path.To == 0:
			r.Path.To = i
		case c == '%' && r.Path.To == 0:
			r.Coded = true
			if !encodesText(buf[min(i+1, len(buf)):min(i+3, len(buf))]) {
				return i, Other
			}
		case c <= ' ' || c >= 0x7f || c == '#':
			r.Target.To = i
			if r.Path.To == 0 {
				r.Path.To = i
			}
			if c != ' ' {
				return i, Other
			}
			const rest = " HTTP/1.1\r\n"
			if n := min(len(rest), len(buf)-i); string(buf[i:i+n]) != rest[:n] {
				return i, Other
			} else if n < len(rest) {
				return i, Partial
			}
			return i + len(rest), Plain
		}
	}
	return i, Partial
}

// encodesText reports whether two digits, or those of them that are there, are hexadecimal and of no control byte.
func encodesText(digits []byte) bool {
	code := byte(0)
	for _, d := range digits {
		v, ok := digit(d)
		if !ok {
			return false
		}
		code = code<<4 | v
	}
	switch len(digits) {
	case 2:
		return code >= ' ' && code != 0x7f
	case 1:
		return code >= ' '>>4
	}
	return true
}

// isHost reports whether b is a name or an address as most are, perhaps with a port.
func isHost(b []byte) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || c == '.' || c == '-' || c == ':' || c == '_' || c == '[' || c == ']') {
			return false
		}
	}
	return len(b) > 0
}

// AppendDecoded appends the path of a plain request with its percent-encoding undone.
func AppendDecoded(dst, path []byte) []byte {
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			a, _ := digit(path[i+1])
			b, _ := digit(path[i+2])
			c = a<<4 | b
			i += 2
		}
		dst = append(dst, c)
	}
	return dst
}

func digit(c byte) (n byte, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}
