package health

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"
)

// ErrConnect is wrapped by the errors of probes that could make no connection: refused, unreachable,
// timed out while dialing. The backend is of no use then, not even as a last resort.
var ErrConnect = errors.New("no connection")

// A connectError is an ErrConnect that says why, and only that: people read it in the admin API.
type connectError string

func (e connectError) Error() string { return string(e) }
func (e connectError) Unwrap() error { return ErrConnect }

// stayOpen is how long a connection to docker-proxy must stay open to count. It dials the app when it
// has accepted, and closes at once when the app refuses.
const stayOpen = 50 * time.Millisecond

const userAgent = "longshore-health"

// A drainError is no failure: it says how a backend asked to be drained.
type drainError string

func (e drainError) Error() string {
	return "it asked to be drained: health check answered " + string(e)
}

// Probe checks a target once, over fresh connections. It takes no longer than ctx allows.
func Probe(ctx context.Context, t Target) error {
	err := probe(ctx, t)
	if ctx.Err() == context.Canceled {
		return context.Canceled // called off: whatever came of it says nothing about the target
	}
	return err
}

func probe(ctx context.Context, t Target) error {
	at := t.checkAddr()
	if at == t.Addr {
		return probeAt(ctx, at, t.Check.kind(), t)
	}
	// Requests do not go to the port that is checked: one may listen before, or after, the other does.
	if err := probeAt(ctx, t.Addr, TCP, t); err != nil {
		return err
	}
	err := probeAt(ctx, at, t.Check.kind(), t)
	if errors.Is(err, ErrConnect) {
		return t.Check.failed(err.Error()) // it is of use still, as a last resort
	}
	return err
}

func probeAt(ctx context.Context, addr string, kind Type, t Target) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return dialError(err)
	}
	// A plain close, no reset by a linger of zero: apps log resets. It leaves this side in TIME_WAIT,
	// at 20 probes a second and 60 s that is 1200 of some 28000 local ports per backend.
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	switch {
	case kind == HTTP:
		return get(conn, addr, t)
	case kind == GRPC:
		return call(ctx, conn, addr, t)
	case t.Relay:
		conn.SetReadDeadline(time.Now().Add(stayOpen))
		if _, err := conn.Read(make([]byte, 1)); err != nil && !timedOut(err) {
			return errRelay
		}
	}
	return nil
}

const errRelay = connectError("docker-proxy closed the connection: nothing listens behind it")

// failed is the error of a check, in words that say which one: people have several.
func (c Check) failed(why string) error {
	which, path, of := "health check", "", ""
	switch c.kind() {
	case HTTP:
		path = cut(c.path())
	case GRPC:
		which = "gRPC health check"
		if c.GRPCService != "" {
			of = " of " + cut(c.GRPCService)
		}
	}
	if c.OtherPort != 0 {
		path = fmt.Sprint(":", c.OtherPort, path)
	}
	if path != "" {
		path = " " + path
	}
	return errors.New(which + path + of + ": " + why)
}

func (c Check) path() string { return cmp.Or(c.Path, "/") }

// How much is read of an answer. ReadResponse itself knows no limit.
const (
	maxHead = 64 << 10
	maxBody = 256 << 10 // that a Match looks at, as in nginx
)

// get is a GET by hand rather than by http.Transport: that way it is plain which errors are of the
// connection, no goroutine is left, and no proxy, redirect or second attempt comes into play.
func get(conn net.Conn, addr string, t Target) error {
	c := t.Check
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+c.path(), nil)
	if err != nil {
		return c.failed(err.Error())
	}
	req.Host = cmp.Or(c.HostHeader, addr)
	req.Close = true
	req.Header.Set("User-Agent", userAgent)
	match, err := parseMatch(c.Match.text)
	if err != nil {
		return c.failed(err.Error())
	}

	limit := &io.LimitedReader{R: conn, N: maxHead}
	r := bufio.NewReader(limit)
	if err = req.Write(conn); err == nil {
		_, err = r.Peek(1)
	}
	if err != nil && t.Relay && !timedOut(err) {
		return errRelay
	}
	var resp *http.Response
	for err == nil && (resp == nil || resp.StatusCode < 200) { // 1xx: the answer is yet to come
		resp, err = http.ReadResponse(r, req)
	}
	if err != nil {
		return c.failed(words(err))
	}
	var body []byte
	if match.on("body") {
		limit.N = 16 * maxBody // chunks can be small
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody))
	}
	// To close with input unread resets the connection, so the rest of a small body is read. Not more: it
	// may be an endless one. resp.Body is not closed because that would read to its end; conn is.
	conn.SetReadDeadline(time.Now().Add(stayOpen))
	io.CopyN(io.Discard, resp.Body, 4<<10)
	return c.judge(match, resp, body, err)
}

// judge decides on an answer whose body, if the match is about it, was read to that err.
func (c Check) judge(match clauses, resp *http.Response, body []byte, err error) error {
	status := resp.StatusCode
	switch {
	case status == http.StatusServiceUnavailable && resp.Header.Get("X-Drain") == "1":
		return drainError("503 with X-Drain: 1")
	case status == http.StatusNotFound && c.DisableOn404:
		return drainError("404")
	case !match.on("status") && !c.Accept.Contains(status):
		return c.failed(fmt.Sprint("status ", status))
	}
	why := cmp.Or(match.judge("status", status, nil, nil), match.judge("header", 0, resp.Header, nil))
	if why == "" && err != nil {
		why = "body: " + words(err)
	}
	if why = cmp.Or(why, match.judge("body", 0, nil, body)); why != "" {
		return c.failed(why)
	}
	return nil
}

func dialError(err error) error {
	switch {
	case timedOut(err):
		return connectError("dial timeout")
	case Exhausted(err):
		return err
	}
	return connectError(words(err))
}

// Exhausted reports whether err is for what this process lacks itself, descriptors or ports: it says nothing about
// the other side.
func Exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

func timedOut(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// words leaves out addresses: a local port would make each failure look like news.
func words(err error) string {
	var errno syscall.Errno
	switch {
	case timedOut(err):
		return "timeout"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	}
	return err.Error()
}
