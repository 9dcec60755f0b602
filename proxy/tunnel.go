package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"longshore/internal/sock"
)

var (
	errOtherProtocol = errors.New("101 with a protocol that was not asked for")
	errSwitched      = errors.New("the connection is upgraded") // ReverseProxy has nothing more to do
)

// A tunnel is what an upgraded connection is after the 101: it carries bytes in both directions until both have ended,
// or one has failed. Most tunnels are silent most of the time, so each is two goroutines, which hold buffers only while
// something comes. Of the request the tunnel keeps what is counted and told at its end. ReverseProxy would keep all of
// it, and the server's buffers, for as long.
type tunnel struct {
	client  *client
	backend upgraded
	held    dispatch    // the place at the backend
	told    Record      // without what is known at the end
	unwatch func() bool // ends the watch for the end of the Server

	open  atomic.Int32  // directions that have not ended
	ended chan struct{} // closed at the end
}

// An upgraded is an [upstream.Upgraded], or what tests have in its place.
type upgraded interface {
	io.Closer
	Detach() (conn io.ReadWriter, come []byte)
}

// switchProtocols passes a 101 on and begins the tunnel. It returns errSwitched, or what is wrong.
func (x *exchange) switchProtocols(res *http.Response) error {
	if !offers(x.out.Header["Upgrade"], res.Header["Upgrade"]) || !offers(res.Header["Connection"], []string{"Upgrade"}) {
		return errOtherProtocol
	}
	conn, brw, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err != nil {
		return err
	}
	x.status = http.StatusSwitchingProtocols
	cc := conn.(*clientConn)
	cc.tunnel.Store(true)
	res.Body = nil // x.switched has it
	if err = res.Write(brw); err == nil {
		err = brw.Flush()
	}
	res.Body = http.NoBody // for ReverseProxy to close
	if err != nil {
		conn.Close()
		return err
	}
	t := &tunnel{client: cc.Conn.(*client), backend: x.switched, held: x.dispatch, ended: make(chan struct{})}
	t.held.carrier, t.held.tried, t.held.broke = nil, nil, nil
	x.report(&t.told)
	x.tunnel, x.switched = t, nil
	t.begin(cc)
	return errSwitched
}

// begin begins to carry bytes, first those that either side has sent behind its head.
func (t *tunnel) begin(cc *clientConn) {
	backend, come := t.backend.Detach()
	ahead, owed, up := cc.ahead, cc.owed, cc.stream
	var down *sock.Stream
	if c, ok := backend.(net.Conn); ok {
		down = sock.NewStream(c)
	}
	t.unwatch = context.AfterFunc(cc.server.life, t.close)
	t.open.Store(2)
	go func() {
		var err error
		t.told.Bytes, err = carry(t.client, come, backend, down)
		t.end(t.client, err)
	}()
	go func() {
		_, err := carry(backend, ahead, t.client.Conn, up)
		owed.settle()
		t.end(backend, err)
	}()
}

// carry writes to w what was read before, and then what comes. A nil stream means that from is no socket.
func carry(w io.Writer, before []byte, from io.Reader, stream *sock.Stream) (total int64, err error) {
	if len(before) > 0 {
		n, err := w.Write(before)
		if total = int64(n); err != nil {
			return total, err
		}
	}
	var n int64
	if stream != nil {
		n, err = stream.Relay(w)
	} else {
		n, err = io.Copy(w, from)
	}
	return total + n, err
}

// end is the end of the direction to w. If it has failed, or w cannot be told, the other one ends too.
func (t *tunnel) end(w io.Writer, err error) {
	if err == nil {
		if half, ok := w.(interface{ CloseWrite() error }); ok {
			err = half.CloseWrite()
		}
	}
	last := t.open.Add(-1) == 0
	if last || err != nil {
		t.close()
	}
	if !last {
		return
	}
	t.unwatch()
	t.held.end()
	t.held.server.tell(t.held.svc, &t.told, http.StatusSwitchingProtocols, time.Since(t.held.start))
	close(t.ended)
}

// close ends both directions.
func (t *tunnel) close() {
	t.client.Close()
	t.backend.Close()
}
