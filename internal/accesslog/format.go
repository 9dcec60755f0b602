package accesslog

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// combined is nginx's predefined format of that name:
// $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"
type combined struct {
	second int64  // that stamp is of
	stamp  []byte // the time of the last entry, kept because the next one's is mostly the same
}

func (c *combined) append(b []byte, e *entry) []byte {
	if second := e.time.Unix(); second != c.second || c.stamp == nil {
		c.second, c.stamp = second, e.time.AppendFormat(c.stamp[:0], "02/Jan/2006:15:04:05 -0700")
	}
	b = append(b, e.clientIP...)
	b = append(b, " - "...)
	b = appendOr(b, e.user)
	b = append(b, " ["...)
	b = append(b, c.stamp...)
	b = append(b, `] "`...)
	b = appendRequest(b, e)
	b = append(b, `" `...)
	b = strconv.AppendInt(b, int64(e.status), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, e.bytes, 10)
	b = append(b, ` "`...)
	b = appendOr(b, e.referer)
	b = append(b, `" "`...)
	b = appendOr(b, e.userAgent)
	return append(b, '"')
}

// appendRequest writes the request line. One that could not be read may lack parts.
func appendRequest(b []byte, e *entry) []byte {
	begin := len(b)
	for _, part := range [...][]byte{e.method, e.uri, e.proto} {
		if len(part) > 0 {
			if len(b) > begin {
				b = append(b, ' ')
			}
			b = appendEscaped(b, part)
		}
	}
	if len(b) == begin {
		b = append(b, '-')
	}
	return b
}

// appendOr writes "-" for what is empty, as nginx does.
func appendOr(b, s []byte) []byte {
	if len(s) == 0 {
		return append(b, '-')
	}
	return appendEscaped(b, s)
}

// appendEscaped escapes as nginx's default does: quotes, backslashes, control bytes and everything
// above 126 become \xXX, so that no client can forge a line.
func appendEscaped(b, s []byte) []byte {
	const hex = "0123456789ABCDEF"
	done := 0 // what is before it has been appended
	for i, c := range s {
		if !plain[c] {
			b = append(b, s[done:i]...)
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
			done = i + 1
		}
	}
	return append(b, s[done:]...)
}

// Bytes that stand for themselves: one look-up in place of several comparisons.
var (
	plain     = printable(`"\`)
	plainJSON = printable(`"\<>&`)
)

// printable is the set of ASCII's printable bytes, without some.
func printable(without string) (set [256]bool) {
	for c := byte(' '); c <= '~'; c++ {
		set[c] = strings.IndexByte(without, c) < 0
	}
	return set
}

// appendJSON writes one object; times are in RFC 3339 and seconds, sizes in bytes.
// By hand, because encoding/json takes more than twice as long.
func appendJSON(b []byte, e *entry) []byte {
	b = append(b, `{"time":"`...)
	b = e.time.AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	b = appendMember(b, "remote_addr", e.clientIP)
	b = appendIfAny(b, "remote_user", e.user)
	b = appendMember(b, "method", e.method)
	b = appendMember(b, "host", e.host)
	b = appendMember(b, "uri", e.uri)
	b = appendMember(b, "proto", e.proto)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(e.status), 10)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, e.bytes, 10)
	b = append(b, `,"duration":`...)
	b = strconv.AppendFloat(b, e.duration.Seconds(), 'f', -1, 64)
	b = appendIfAny(b, "service", e.service)
	b = appendIfAny(b, "upstream", e.upstream)
	b = appendIfAny(b, "reason", e.reason)
	b = appendIfAny(b, "referer", e.referer)
	b = appendIfAny(b, "user_agent", e.userAgent)
	return append(b, '}')
}

func appendIfAny(b []byte, name string, s []byte) []byte {
	if len(s) == 0 {
		return b
	}
	return appendMember(b, name, s)
}

// appendMember writes a member that is not the first of its object.
func appendMember(b []byte, name string, s []byte) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":"`...)
	b = appendJSONEscaped(b, s)
	return append(b, '"')
}

// appendJSONEscaped escapes as encoding/json does: also what means something in HTML or ends a line in
// JavaScript, and what is no UTF-8 becomes U+FFFD.
func appendJSONEscaped(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	done := 0 // what is before it has been appended
	for i := 0; i < len(s); {
		if plainJSON[s[i]] {
			i++
			continue
		}
		c, size := utf8.DecodeRune(s[i:])
		if c > '~' && c != '\u2028' && c != '\u2029' && (c != utf8.RuneError || size > 1) {
			i += size
			continue
		}
		b = append(b, s[done:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', byte(c))
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, '\\', 'u', hex[c>>12], hex[c>>8&15], hex[c>>4&15], hex[c&15])
		}
		i += size
		done = i
	}
	return append(b, s[done:]...)
}
