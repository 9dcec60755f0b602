package health

import (
	"bufio"
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

// Probe checks a target once, over a fresh connection: a GET of Check.Path, or a TCP connect if there
// is no path. It takes no longer than ctx allows.
func Probe(ctx context.Context, t Target) error {
	err := probe(ctx, t)
	if ctx.Err() == context.Canceled {
		return context.Canceled // called off: whatever came of it says nothing about the target
	}
	return err
}

func probe(ctx context.Context, t Target) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return dialError(err)
	}
	// A plain close, no reset by a linger of zero: apps log resets. It leaves this side in TIME_WAIT,
	// at 20 probes a second and 60 s that is 1200 of some 28000 local ports per backend.
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	switch {
	case t.Check.Path != "":
		return get(conn, t)
	case t.Relay:
		conn.SetReadDeadline(time.Now().Add(stayOpen))
		if _, err := conn.Read(make([]byte, 1)); err != nil && !timedOut(err) {
			return errRelay
		}
	}
	return nil
}

const errRelay = connectError("docker-proxy closed the connection: nothing listens behind it")

// get is a GET by hand rather than by http.Transport: that way it is plain which errors are of the
// connection, no goroutine is left, and no proxy, redirect or second attempt comes into play.
func get(conn net.Conn, t Target) error {
	req, err := http.NewRequest(http.MethodGet, "http://"+t.Addr+t.Check.Path, nil)
	if err != nil {
		return fmt.Errorf("HTTP check: %w", err)
	}
	req.Close = true
	req.Header.Set("User-Agent", "longshore-health")

	r := bufio.NewReader(io.LimitReader(conn, 64<<10)) // ReadResponse itself knows no limit
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
		return errors.New("HTTP check: " + words(err))
	}
	// To close with input unread resets the connection, so a small body is read. Not more: it may be
	// an endless one. resp.Body is not closed because that would read to its end; conn is.
	conn.SetReadDeadline(time.Now().Add(stayOpen))
	io.CopyN(io.Discard, resp.Body, 4<<10)
	if !t.Check.Accept.Contains(resp.StatusCode) {
		return fmt.Errorf("HTTP check: status %d", resp.StatusCode)
	}
	return nil
}

func dialError(err error) error {
	switch {
	case timedOut(err):
		return connectError("dial timeout")
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL):
		return errors.New(words(err)) // the proxy lacks something: no proof that the backend is away
	}
	return connectError(words(err))
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
