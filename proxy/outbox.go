package proxy

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"longshore/internal/sock"
)

// slowTime is how long a client may let a response wait until it is taken for a slow one, whose response is kept for
// it meanwhile. It is longer than a client needs that is near and reads: then nothing is copied.
const slowTime = 5 * time.Millisecond

// pipeTime is how long a response that is too large to be kept may wait in a pipe for its client: then it moves to
// memory, since pipes are few.
const pipeTime = 250 * time.Millisecond

// An outbox writes to a client's socket. It bounds the time in which the client takes nothing, and keeps what a slow
// client has no room for: so the backend is read from at its own speed, and is free for others when it has said all,
// however long the client takes for it. A goroutine writes what is kept; there is none for clients that keep up.
//
// It is used by one goroutine at a time, the one that has the request. open is called before a response, and flush
// after it.
type outbox struct {
	conn    *client
	raw     syscall.RawConn
	timeout time.Duration // between two successful writes; zero: no limit
	limit   int           // bytes that are kept; zero: none, who writes waits

	// The write under way. It is of whoever writes: the goroutine if there is one, else the owner.
	p        []byte     // what is left of it
	pipe     *sock.Pipe // or in here; nil: it is p
	soon     bool       // it is given up when the client does not take it soon
	patience time.Duration
	since    time.Time // the client has taken nothing since; zero: it has not been waited for
	unsent   int       // bytes in the socket's buffer at that time
	err      error
	step     func(fd uintptr) bool // as a func

	mu      sync.Mutex // guards the following
	kept    [][]byte   // to be written by the goroutine, which is there as long as there are any
	held    int        // bytes of kept
	emptied chan struct{}
	failure error // of the goroutine; sticky
}

func newOutbox(c *client) *outbox {
	o := &outbox{conn: c, timeout: c.of.sendTimeout}
	o.raw, _ = c.SyscallConn() // nil: not a socket
	o.step = o.write
	return o
}

// outbox is the connection's, which has one from the first response on that does not fit into the socket at once.
func (c *client) outbox() *outbox {
	if c.out == nil {
		c.out = newOutbox(c)
	}
	return c.out
}

// Write is net.Conn's.
func (c *client) Write(p []byte) (int, error) {
	o := c.outbox()
	if o.raw == nil {
		return c.Conn.Write(p)
	}
	return o.Write(p)
}

// open prepares for a response: how much of it may be kept, and how long the client may take nothing.
func (o *outbox) open(limit int, timeout time.Duration) {
	if (timeout > 0) != (o.timeout > 0) && o.raw != nil {
		o.raw.Control(func(fd uintptr) { sock.SetUserTimeout(fd, timeout) })
	}
	o.limit, o.timeout = limit, timeout
}

// isSlow reports whether something is kept.
func (o *outbox) isSlow() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.emptied != nil
}

// Write writes p, or keeps what the client does not take soon.
func (o *outbox) Write(p []byte) (n int, err error) {
	if kept, err := o.keep(p, true); err != nil {
		return 0, err
	} else if kept {
		return len(p), nil
	}
	if err := o.flush(); err != nil { // the client must have all that is kept before
		return 0, err
	}
	left, err := o.send(p, o.limit > 0)
	if err == errSlow {
		var kept bool
		if kept, err = o.keep(left, false); kept {
			return len(p), nil
		}
		if err == nil {
			left, err = o.send(left, false)
		}
	}
	return len(p) - len(left), err
}

// WritePipe writes what is in a pipe, or keeps what the client does not take soon, so that the pipe is free. Where
// more bytes are to come than can be kept, it waits for longer before that.
func (o *outbox) WritePipe(pipe *sock.Pipe, more int64) error {
	soon := slowTime
	if int64(pipe.Held())+more > int64(o.limit) {
		soon = pipeTime
	}
	err := o.sendPipe(pipe, soon)
	if err != errSlow {
		return err
	}
	if !o.conn.of.buffered.take(pipe.Held()) {
		return o.sendPipe(pipe, 0)
	}
	p := make([]byte, pipe.Held())
	if err := pipe.Read(p); err != nil {
		o.conn.of.buffered.give(len(p))
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.addLocked(p)
	return nil
}

// fits reports whether n more bytes may be kept.
func (o *outbox) fits(n int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return int64(o.held)+n <= int64(o.limit)
}

// keep keeps a copy of p, if there is room and memory for it; only behind what is kept already, if behind is set.
func (o *outbox) keep(p []byte, behind bool) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failure != nil {
		return false, o.failure
	}
	if behind && o.emptied == nil || o.held+len(p) > o.limit || !o.conn.of.buffered.take(len(p)) {
		return false, nil
	}
	o.addLocked(append([]byte(nil), p...))
	return true, nil
}

func (o *outbox) addLocked(p []byte) {
	o.kept = append(o.kept, p)
	o.held += len(p)
	if o.emptied == nil {
		o.emptied = make(chan struct{})
		go o.run()
	}
}

// flush returns when the client has taken all that was kept.
func (o *outbox) flush() error {
	o.mu.Lock()
	emptied := o.emptied
	o.mu.Unlock()
	if emptied != nil {
		<-emptied
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failure
}

// run writes what is kept until there is nothing more.
func (o *outbox) run() {
	for {
		o.mu.Lock()
		if o.failure != nil {
			for _, p := range o.kept {
				o.conn.of.buffered.give(len(p))
			}
			o.kept, o.held = nil, 0
		}
		if len(o.kept) == 0 {
			o.kept = nil
			close(o.emptied)
			o.emptied = nil
			o.mu.Unlock()
			return
		}
		p := o.kept[0]
		o.mu.Unlock()

		_, err := o.send(p, false)

		o.mu.Lock()
		o.kept[0], o.kept = nil, o.kept[1:]
		o.held -= len(p)
		o.conn.of.buffered.give(len(p))
		if err != nil {
			o.failure = err
			o.raw.Control(sock.Shutdown) // who waits for the backend learns of it by its client's end
		}
		o.mu.Unlock()
	}
}

var errSlow = errors.New("the client is slow")

// send writes p and returns what is left of it. With soon it returns errSlow when the client has not taken it
// within slowTime.
func (o *outbox) send(p []byte, soon bool) ([]byte, error) {
	o.p, o.pipe = p, nil
	var patience time.Duration
	if soon {
		patience = slowTime
	}
	err := o.wait(patience)
	p, o.p = o.p, nil
	return p, err
}

func (o *outbox) sendPipe(pipe *sock.Pipe, soon time.Duration) error {
	o.pipe = pipe
	err := o.wait(soon)
	o.pipe = nil
	return err
}

// wait returns when the write under way has ended, or with errSlow if that takes longer than patience; zero: as long
// as the client may take.
func (o *outbox) wait(patience time.Duration) error {
	soon := patience > 0
	o.soon, o.since, o.err = soon, time.Time{}, nil
	o.patience = o.timeout
	if soon {
		o.patience = patience
	}
	defer func() {
		if !o.since.IsZero() && o.patience > 0 {
			o.conn.SetWriteDeadline(time.Time{})
		}
	}()
	for {
		err := o.raw.Write(o.step)
		if err == nil {
			return o.err
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		now := time.Now()
		switch late := now.Sub(o.since) >= o.patience; {
		case late && soon:
			return errSlow
		case !soon && o.moves(now):
		case late:
			return err
		}
		o.conn.SetWriteDeadline(now.Add(o.period()))
	}
}

// period is how often it is looked whether the client takes anything.
func (o *outbox) period() time.Duration { return max(o.patience/2, slowTime) }

// moves reports whether the client has taken something since the last look, though not yet so much that the kernel says
// that there is room again: with a large buffer and a slow line that takes minutes.
func (o *outbox) moves(now time.Time) bool {
	n := 0
	o.raw.Control(func(fd uintptr) { n = sock.Unsent(fd) })
	if n >= o.unsent {
		return false
	}
	o.since, o.unsent = now, n
	return true
}

// write is called when there may be room at the client.
func (o *outbox) write(fd uintptr) bool {
	moved := false
	for o.pipe != nil || len(o.p) > 0 {
		n := 0
		if o.pipe != nil {
			n = o.pipe.Held()
			o.err = o.pipe.Drain(fd)
			n -= o.pipe.Held()
		} else {
			n, o.err = sock.Write(fd, o.p, nil)
			o.p = o.p[n:]
		}
		moved = moved || n > 0
		if o.err == syscall.EAGAIN {
			o.err = nil
			if (moved && !o.soon || o.since.IsZero()) && o.patience > 0 {
				o.since, o.unsent = time.Now(), sock.Unsent(fd)
				o.conn.SetWriteDeadline(o.since.Add(o.period()))
			}
			return false
		}
		if o.err != nil || o.pipe != nil {
			return true
		}
	}
	return true
}
