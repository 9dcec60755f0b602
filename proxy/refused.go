package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"longshore/internal/sock"
)

// maxLine is how much of a request line is kept for the access log until a handler has the request.
const maxLine = 1 << 10

// A requestLine is the first line of a request that no handler has yet. Requests that cannot be read never get one:
// net/http answers them by itself, and clientConn, which sees that, records them.
type requestLine struct {
	since time.Time // when the request began
	text  []byte    // at most maxLine bytes
	whole bool
	err   error // what reading the head ended with; nil: it has not ended so
}

// begin forgets the request before.
func (l *requestLine) begin() { *l = requestLine{since: time.Now(), text: l.text[:0]} }

// read takes the next bytes of the head.
func (l *requestLine) read(p []byte, err error) {
	l.err = err
	if l.whole {
		return
	}
	if i := bytes.IndexByte(p, '\n'); i >= 0 {
		p, l.whole = p[:i], true
	}
	l.text = append(l.text, p[:min(len(p), maxLine-len(l.text))]...)
}

// refused records the request that comes first if this, which is written to the client, is net/http's own answer.
func (c *clientConn) refused(answer []byte) {
	if status, ok := statusOf(answer); ok {
		_, body, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
		c.account(status, len(body))
	}
}

// brokenOff records a request whose head has not come to its end because the client has left: as 400, like nginx.
func (c *clientConn) brokenOff() {
	if err := c.line.err; c.at == inHead && (err == io.EOF || errors.Is(err, syscall.ECONNRESET)) {
		c.account(http.StatusBadRequest, 0)
	}
}

// late answers 408 when the time for a head is over. net/http would close the connection, or answer 400 if that
// happens within a line.
func (c *clientConn) late() {
	c.account(http.StatusRequestTimeout, len(lateText))
	c.Conn.(*client).sendLate()
	c.mute = true
}

const (
	lateHead = "HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
	lateText = "408 Request Timeout\n"
)

// account records the request, unless that is done or its handler's to do.
func (c *clientConn) account(status, bytes int) {
	if c.accounted.CompareAndSwap(false, true) {
		c.server.recordUnread(peerIP(c.RemoteAddr().String()), &c.line, status, bytes)
	}
}

// brokenOff is clientConn's, for a request that has begun to come on the fast lane.
func (c *fastConn) brokenOff() {
	c.account(c.x.in[:c.x.filled], http.StatusBadRequest, 0)
}

// late is clientConn's, for a head that has waited without a buffer.
func (c *fastConn) late() {
	c.account(c.held, http.StatusRequestTimeout, len(lateText))
	c.sendLate()
}

// sendLate sends that answer if there is room for it: a client that does not read is not waited for.
func (c *client) sendLate() {
	if raw, err := c.SyscallConn(); err == nil {
		raw.Write(func(fd uintptr) bool {
			sock.Write(fd, []byte(lateHead+lateText), nil)
			return true
		})
	}
}

// account records a request of which this has come.
func (c *fastConn) account(come []byte, status, sent int) {
	head := bytes.TrimLeft(come, "\r\n")
	if len(head) == 0 {
		return
	}
	var l requestLine
	l.begin()
	l.read(head, nil)
	c.lane.server.recordUnread(c.peer, &l, status, sent)
}

// statusOf reads the status line of an answer.
func statusOf(answer []byte) (status int, ok bool) {
	const proto = "HTTP/1.1 "
	if len(answer) < len(proto)+3 || string(answer[:len(proto)]) != proto {
		return 0, false
	}
	status, err := strconv.Atoi(string(answer[len(proto) : len(proto)+3]))
	return status, err == nil && status >= 200
}

// recordUnread counts a request that no handler has had, and tells the access log what is known of it.
func (s *Server) recordUnread(peer string, l *requestLine, status, bytes int) {
	d := time.Since(l.since)
	s.Router.unrouted.count(status, d)
	if s.Record == nil {
		return
	}
	r := Record{Time: l.since, Duration: d, ClientIP: peer, Status: status, Bytes: int64(bytes), ContentLen: -1}
	r.Method, r.URI, r.Proto = splitLine(strings.TrimSuffix(text(l.text), "\r"))
	s.Record(&r)
}

// splitLine divides a request line that may be anything: joined by spaces, those parts that are not empty are the
// line again.
func splitLine(line string) (method, uri, proto string) {
	uri = line
	if i := strings.LastIndexByte(uri, ' '); i > 0 && strings.HasPrefix(uri[i+1:], "HTTP/") {
		uri, proto = uri[:i], uri[i+1:]
	}
	if i := strings.IndexByte(uri, ' '); i > 0 && i+1 < len(uri) {
		method, uri = uri[:i], uri[i+1:]
	}
	return method, uri, proto
}
