package proxy

import (
	"bytes"
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"longshore/internal/http1"
	"longshore/internal/sock"
	"longshore/internal/upstream"
)

const (
	smallBuffer = 4 << 10  // for a request, at first
	largeBuffer = 32 << 10 // for a response
	joinable    = 1 << 10  // up to that it is cheaper to copy a body than to hand it over by itself
	spliceable  = 64 << 10 // from that on it is cheaper to have the kernel move a body
)

// A plain is one request on the fast lane, with the buffers that it is in. What is read of a client ahead of it
// stays for the next one.
type plain struct {
	dispatch
	conn *fastConn

	in        []byte // what the client has sent: the request, and perhaps more
	first     []byte // what in is at first, and after a request that was larger
	spare     []byte // a larger one of an earlier request; nil: none
	filled    int    // bytes of in
	req       http1.Request
	lacksBody bool   // the request's head is whole, and its body is not
	path      []byte // decoded
	out       []byte // the head as the backend gets it

	found *upstream.Conn // the response is read from; nil: none, or it was given back
	back  []byte         // the response, or its beginning; nil: nothing has come
	got   int            // bytes of back
	res   http1.Response
	head  []byte // as the client gets it

	status  int
	written int64     // bytes of the response's body
	ended   time.Time // when the backend had no more part in it, or the client has all, if that is later
	record  Record

	pipe  *sock.Pipe // bodies of responses go through; nil: none is needed
	moved int64      // bytes into it that are left, and err what came of the last ones
	err   error

	lend     func() []byte // space, as a func
	leftFunc func() bool   // left, likewise
	fillFunc func(fd uintptr) bool
}

var plains = sync.Pool{New: func() any {
	x := &plain{first: make([]byte, smallBuffer)}
	x.in = x.first
	x.lend, x.leftFunc, x.fillFunc = x.space, x.left, x.fill
	return x
}}

var backs = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// release ends the use of x. Nothing may be under way.
func (x *plain) release() {
	x.returnBack()
	x.shrink()
	x.conn, x.filled = nil, 0
	x.dispatch = dispatch{tried: x.tried[:0]}
	plains.Put(x)
}

func (x *plain) returnBack() {
	if x.back != nil {
		backs.Put((*[largeBuffer]byte)(x.back))
		x.back = nil
	}
}

// room is where to read more of what the client sends; nil: there is no memory for more.
func (x *plain) room() []byte {
	if x.filled == len(x.in) {
		// Not for all that is announced: who announces much may send little.
		if !x.grow(x.filled + max(sock.Queued(x.conn.fd), x.filled/4)) {
			return nil
		}
	}
	return x.in[x.filled:]
}

// grow makes room for size bytes, if there is memory for them.
func (x *plain) grow(size int) bool {
	size = min(size, 2*maxReplay)
	if size <= len(x.in) {
		return x.filled < len(x.in)
	}
	in := x.spare
	size = max(size, len(in))
	if !x.conn.lane.server.buffered.take(size - x.owed()) {
		return false
	}
	x.spare = nil
	if len(in) < size {
		in = make([]byte, size)
	}
	copy(in, x.in[:x.filled])
	x.in = in
	return true
}

// owed is what the buffer has of the server's budget.
func (x *plain) owed() int {
	if len(x.in) == len(x.first) {
		return 0
	}
	return len(x.in)
}

// shrink gives back what is more than the first buffer. What was read is lost.
func (x *plain) shrink() {
	if owed := x.owed(); owed > 0 {
		x.conn.lane.server.buffered.give(owed)
		if owed <= largeBuffer {
			x.spare = x.in
		}
		x.in = x.first
	}
}

// takeRead takes out what was read of the client, and what the server's budget has given for it.
func (x *plain) takeRead() ([]byte, *loan) {
	owed := x.owed()
	if owed == 0 {
		return bytes.Clone(x.in[:x.filled]), nil
	}
	l := &loan{from: &x.conn.lane.server.buffered}
	read := x.in[:x.filled]
	if owed > x.filled+x.filled/4 { // it was a spare one
		l.from.force(x.filled)
		l.n.Store(int64(x.filled))
		return bytes.Clone(read), l
	}
	l.n.Store(int64(owed))
	x.in = x.first
	return read, l
}

// begin has x begin with what was read before.
func (x *plain) begin(ahead []byte) {
	if len(ahead) > len(x.in) { // they were in memory already
		x.conn.lane.server.buffered.force(len(ahead))
		x.in = make([]byte, len(ahead))
	}
	x.filled = copy(x.in, ahead)
}

// parse reports whether a request is there, and whether it is whole.
func (x *plain) parse() (whole, ok bool) {
	x.lacksBody = false
	switch x.req.Parse(x.in[:x.filled], x.conn.rules) {
	case http1.Other:
		return false, false
	case http1.Partial:
		max := x.conn.lane.server.MaxHeader
		return false, x.filled < maxReplay && (max == 0 || x.filled < max)
	}
	if x.req.Length > maxReplay {
		return false, false
	}
	x.lacksBody = x.filled < x.req.Size+int(x.req.Length)
	return !x.lacksBody, true
}

// text is a string of bytes that do not change as long as it is used.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// serve serves the request that is there.
func (x *plain) serve() outcome {
	c := x.conn
	s := c.lane.server
	table := s.Router.Table()
	if !table.applied || s.MaxHeader > 0 && x.req.Size > s.MaxHeader {
		return general
	}
	host, path := text(x.req.Host.Of(x.in)), x.req.Path.Of(x.in)
	port, ok := portOf(host)
	if !ok {
		return general
	}
	if x.req.Coded {
		x.path = http1.AppendDecoded(x.path[:0], path)
		path = x.path
	}
	if loops(text(x.req.Hops.Of(x.in))) {
		return general
	}
	svc, route := table.Lookup(host, text(path))
	switch {
	case svc == nil:
		return general
	case !svc.plain || route.Dest != "":
		c.stays = true
		return general
	case svc.spec.Internal && table.isOutside(x.client()):
		return general
	}
	if max := int64(svc.spec.Settings.MaxBody); max > 0 && x.req.Length > max {
		return general
	}
	if !c.begin() {
		return hangUp
	}
	x.carrier, x.server, x.svc, x.route, x.start = x, s, svc, route, time.Now()
	x.status, x.written, x.ended = 0, 0, time.Time{}
	x.makeHead(host, port)
	if svc.key != nil {
		x.key = svc.key(x)
	}
	if svc.sticky != nil {
		x.bound = svc.sticky.token(x)
	}

	goesOn := false
	switch err := x.find(); {
	case err == errUnusual, err == errMoved:
		return general
	case err != nil:
		x.settle(false)
		goesOn = x.fail(err)
	default:
		x.answered(x.res.Status)
		goesOn = x.relay()
	}
	x.tell(x.ended.Sub(x.start))
	x.dispatch = dispatch{tried: x.tried[:0]}
	if !goesOn || !c.done() {
		return hangUp
	}
	x.next()
	return goOn
}

// settle ends what the request has to do with its backend, whose connection may be used again or not.
func (x *plain) settle(reusable bool) {
	x.ended = time.Now()
	if up := x.found; up != nil && reusable {
		up.Keep(x.ended)
	} else if up != nil {
		up.Drop()
	}
	x.found = nil
	x.end()
	x.backend, x.begun, x.repeating = nil, nil, false
}

// next makes room for the next request.
func (x *plain) next() {
	x.conn.touch(x.ended)
	x.conn.expect(x.ended)
	size := x.req.Size + int(x.req.Length)
	rest := x.in[size:x.filled]
	if len(rest) <= len(x.first) {
		x.shrink()
	}
	x.filled = copy(x.in, rest)
	x.returnBack()
}

// makeHead makes the head for the backend: as the client wrote it, without what is not passed on.
func (x *plain) makeHead(host, port string) {
	b := x.req.Cuts.AppendKept(x.out[:0], x.in, 0, x.req.Size-len("\r\n"))
	peer := x.conn.peer
	if x.conn.rules.Trusted {
		forwardedBy(x, peer, func(name, value string) { b = appendField(b, name, value) })
	} else {
		b = appendField(b, "X-Forwarded-For", peer)
		b = appendField(b, "X-Real-Ip", peer)
		b = appendField(b, "X-Forwarded-Proto", "http")
		b = appendField(b, "X-Forwarded-Host", host)
		b = appendField(b, "X-Forwarded-Port", port)
	}
	if count := text(x.req.Hops.Of(x.in)); x.req.Proxied || count != "" {
		b = appendField(b, hopsField, nextHops(x.req.Proxied, count))
	}
	x.out = append(b, "\r\n"...)
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// client is the address of the client, see Server.clientOf.
func (x *plain) client() string {
	if !x.conn.rules.Trusted {
		return x.conn.peer
	}
	return x.conn.lane.server.clientOf(x.conn.peer, x)
}

func (x *plain) method() string { return x.req.Method }
func (x *plain) target() string { return text(x.req.Target.Of(x.in)) }
func (x *plain) host() string   { return text(x.req.Host.Of(x.in)) }

func (x *plain) values(field string) (vs []string) {
	for _, v := range http1.Values(nil, x.in[:x.req.Size], strings.ToLower(field)) {
		vs = append(vs, text(v))
	}
	return vs
}

// body is the request's.
func (x *plain) body() []byte { return x.in[x.req.Size : x.req.Size+int(x.req.Length)] }

// space is where to read more of the response.
func (x *plain) space() []byte {
	if x.back == nil {
		x.back = backs.Get().(*[largeBuffer]byte)[:]
	}
	return x.back[x.got:]
}

// send is the carrier's.
func (x *plain) send(b *member, fresh bool) error {
	repeatable := upstream.IsIdempotent(x.req.Method)
	a := upstream.Attempt{Fresh: fresh, Once: !repeatable, Under: x.conn.lane.life}
	if repeatable {
		a.Movable = always
	}
	now := x.start
	if x.attempts > 1 || fresh || !x.until.IsZero() {
		now = time.Now()
	}
	x.got = 0
	up, n, err := b.pool.Begin(now, a, x.out, x.body(), x.lend, x.leftFunc)
	if err != nil {
		return err
	}
	for {
		x.got += n
		switch x.res.Parse(x.back[:x.got], x.req.Method == http.MethodHead) {
		case http1.Plain:
			x.found = up
			if x.leadsAway() {
				return x.unusual()
			}
			return nil
		case http1.Other:
			x.found = up
			return x.unusual()
		}
		if x.got == len(x.back) {
			x.found = up
			return x.unusual()
		}
		if n, err = up.ReadHead(x.lend, x.leftFunc); err != nil {
			up.Drop()
			return upstream.Broken(err)
		}
	}
}

// unusual leaves the response to the general path, which may outlive the lane.
func (x *plain) unusual() error {
	x.found.Free()
	return errUnusual
}

// leadsAway reports whether the response may lead to where only the backend's clients get: the general path
// mends that.
func (x *plain) leadsAway() bool {
	if x.res.Refresh.Len() > 0 {
		return true
	}
	to := x.res.Location.Of(x.back)
	return len(to) > 0 && (to[0] != '/' || len(to) > 1 && to[1] == '/')
}

func (x *plain) mayRepeat() bool         { return upstream.IsIdempotent(x.req.Method) }
func (x *plain) left() bool              { return x.conn.left() }
func (x *plain) gone() <-chan struct{}   { return x.conn.lane.life.Done() }
func (x *plain) readAhead() <-chan error { return nil } // the body is there
func (x *plain) resume() error           { return nil }

// relay sends the response to the client. It reports whether the client's connection goes on.
func (x *plain) relay() bool {
	r := &x.res
	ends := x.req.Close || x.conn.lane.stopping.Load()
	x.status = r.Status
	x.head = x.makeResponse(ends)
	head := x.head
	f := flow{left: r.Length}
	body := f.take(x.back[r.Size:x.got])
	if len(body) <= joinable {
		head, body = append(head, body...), nil
		x.head = head
	}
	if f.done { // the backend is free
		x.settle(f.ok && !r.Close)
	}
	keep := 0 // once the backend is free, the client may as well be waited for
	if !f.done {
		keep = x.keepable()
	}
	waited, err := x.conn.write(head, body, keep)
	if !f.done {
		waited = true
	}
	splices := true
	for err == nil && f.ok && !f.done {
		if splices && f.left >= spliceable {
			if !x.conn.isSlow() {
				splices, err = x.splice(&f, keep)
				continue
			}
			if !x.conn.out.fits(f.left) {
				err = x.conn.out.flush()
				continue
			}
		}
		x.got = 0
		var n int
		if n, err = x.found.Read(x.lend, x.leftFunc); err != nil {
			f.ok = x.left() // else it is the backend's fault
			break
		}
		body = f.take(x.back[:n])
		if f.done {
			x.settle(f.ok && !r.Close)
		}
		_, err = x.conn.write(body, nil, keep)
	}
	x.written = f.data
	if !f.done {
		if !f.ok {
			x.backend.failures[Truncated].Add(1)
		}
		x.settle(false)
	}
	if err == nil && x.conn.isSlow() {
		err = x.conn.out.flush()
	}
	if waited {
		x.ended = time.Now()
	}
	return err == nil && f.done && !ends
}

// keepable is how much of a response is kept for a slow client. Its beginning must still be there.
func (x *plain) keepable() int {
	head := x.back[:x.res.Size]
	for _, v := range http1.Values(nil, head, "x-accel-buffering") {
		if strings.EqualFold(text(v), "no") {
			return 0
		}
	}
	for _, v := range http1.Values(nil, head, "content-type") {
		if isGRPC(text(v)) {
			return 0
		}
	}
	return int(x.svc.spec.Settings.ResponseBuffer)
}

// splice relays the rest of a body of known length by a pipe, as long as the client is not slow. It leaves to the caller
// what cannot be relayed so, and the last bytes: they may have others behind them. It reports whether there are pipes.
func (x *plain) splice(f *flow, keep int) (ok bool, err error) {
	if x.pipe, err = sock.TakePipe(); err != nil {
		return false, nil
	}
	defer func() {
		x.pipe.Free()
		x.pipe = nil
	}()
	for f.left > joinable && !x.conn.isSlow() {
		x.moved = f.left - joinable
		if err := x.found.Await(x.fillFunc, x.leftFunc); err != nil || x.err != nil {
			f.ok = x.left()
			return true, cmp.Or(err, x.err)
		}
		f.left -= x.moved
		f.data += x.moved
		err := x.pipe.Drain(x.conn.fd)
		if err == syscall.EAGAIN {
			out := x.conn.outbox()
			out.open(keep, x.server.SendTimeout)
			err = out.WritePipe(x.pipe, f.left)
		}
		if err != nil {
			return true, err
		}
	}
	return f.left > joinable, nil
}

// fill is called when there may be something to read of the backend.
func (x *plain) fill(fd uintptr) bool {
	n, err := x.pipe.Fill(fd, x.moved)
	if err == syscall.EAGAIN {
		return false
	}
	x.moved, x.err = int64(n), err
	return true
}

// makeResponse makes the head for the client.
func (x *plain) makeResponse(ends bool) []byte {
	b := x.res.Cuts.AppendKept(x.head[:0], x.back, 0, x.res.Size-len("\r\n"))
	if !x.res.HasDate {
		b = append(b, "Date: "...)
		b = append(b, httpDate(x.start)...)
		b = append(b, "\r\n"...)
	}
	if x.svc.sticky != nil {
		if line := x.svc.sticky.setCookie(x, x.backend); line != "" {
			b = appendField(b, "Set-Cookie", line)
		}
	}
	if ends {
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}

// A flow finds the end of a body.
type flow struct {
	left   int64 // bytes still to come, or http1.Chunked
	chunks http1.Chunks
	data   int64 // bytes so far, without what is around chunks
	done   bool  // it has ended
	ok     bool  // it is well-formed, and nothing follows it that should not
}

// take takes the next bytes, and returns what of them is for the client.
func (f *flow) take(b []byte) []byte {
	if f.left == http1.Chunked {
		body, rest, done, ok := f.chunks.Next(b)
		f.data, f.done, f.ok = f.chunks.Data, done, ok && len(rest) == 0
		return body
	}
	n := int(min(f.left, int64(len(b))))
	f.left -= int64(n)
	f.data += int64(n)
	f.done, f.ok = f.left == 0, n == len(b)
	return b[:n]
}

// fail answers a request that no backend has answered. It reports whether the connection goes on.
func (x *plain) fail(err error) bool {
	x.status = x.statusFor(err)
	if x.status == statusClientClosed {
		return false
	}
	x.explain(x.status, err)
	ends := x.req.Close || x.conn.lane.stopping.Load()
	body := errorText(x.status)
	b := append(x.head[:0], "HTTP/1.1 "...)
	b = append(b, body[:len(body)-1]...)
	b = append(b, "\r\nContent-Type: text/plain; charset=utf-8\r\nDate: "...)
	b = append(b, httpDate(time.Now())...)
	if x.status == http.StatusServiceUnavailable {
		b = append(b, "\r\nRetry-After: 1"...)
	}
	if ends {
		b = append(b, "\r\nConnection: close"...)
	}
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n\r\n"...)
	if x.req.Method != http.MethodHead {
		b = append(b, body...)
		x.written = int64(len(body))
	}
	x.head = b[:0]
	_, err = x.conn.write(b, nil, 0)
	return err == nil && !ends
}

// giveUp ends a request that was sent, and whose response nobody will read.
func (x *plain) giveUp() {
	x.status = statusClientClosed
	x.settle(false)
	x.tell(x.ended.Sub(x.start))
	x.release()
}

// tell counts the request and tells the access log.
func (x *plain) tell(took time.Duration) {
	x.svc.group.count(x.status, took)
	if x.server.Record == nil {
		return
	}
	x.record = Record{
		Time: x.start, Duration: took, ClientIP: x.client(),
		Method: x.req.Method, URI: x.target(), Proto: "HTTP/1.1", Host: x.host(),
		Status: x.status, Bytes: x.written, Referer: text(x.req.Referer.Of(x.in)), UserAgent: text(x.req.UserAgent.Of(x.in)),
		Service: x.svc.spec.Name, Upstream: x.via, Reason: x.why, ContentLen: x.req.Length,
	}
	if a := x.req.Authorization.Of(x.in); len(a) > 0 {
		x.record.User = basicUser(text(a))
	}
	x.server.Record(&x.record)
}

// basicUser is the user of Basic authentication, as http.Request.BasicAuth finds it.
func basicUser(authorization string) string {
	r := http.Request{Header: http.Header{"Authorization": {authorization}}}
	user, _, _ := r.BasicAuth()
	return user
}

// A stamp is a second as HTTP writes it.
type stamp struct {
	second int64
	text   []byte
}

var lastStamp atomic.Pointer[stamp]

// httpDate is a time as a Date field has it.
func httpDate(t time.Time) []byte {
	s := lastStamp.Load()
	if s == nil || s.second != t.Unix() {
		s = &stamp{t.Unix(), t.UTC().AppendFormat(nil, http.TimeFormat)}
		lastStamp.Store(s)
	}
	return s.text
}
