package sock

import (
	"io"
	"net"
	"sync"
	"syscall"
)

// A Stream reads and writes a connection with the calls of this package, and waits where they would. That is what the
// connection's own methods do, but for the scheduler being told of each call: on one processor the thread that
// looks for calls that take long costs more than a few percent of everything. Deadlines and Close are the
// connection's, and so are the errors. There may be one Read and one Write at a time.
type Stream struct {
	raw         syscall.RawConn
	read, write side
}

// A side is one direction: what is to be done when the socket is ready, and what came of it.
type side struct {
	p     []byte
	n     int
	err   error
	ready func(fd uintptr) bool
}

// NewStream returns the Stream of a connection; nil: it is no socket.
func NewStream(c net.Conn) *Stream {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	s := &Stream{raw: raw}
	s.read.ready = func(fd uintptr) bool {
		s.read.n, s.read.err = Read(fd, s.read.p)
		return s.read.err != syscall.EAGAIN
	}
	s.write.ready = func(fd uintptr) bool {
		w := &s.write
		var n int
		for n, w.err = Write(fd, w.p[w.n:], nil); w.err == nil; n, w.err = Write(fd, w.p[w.n:], nil) {
			if w.n += n; w.n == len(w.p) {
				return true
			}
		}
		return w.err != syscall.EAGAIN
	}
	return s
}

// Read is net.Conn's.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.read.p = p
	err := s.raw.Read(s.read.ready)
	s.read.p = nil
	if err != nil {
		return 0, err
	}
	return s.read.n, s.read.err
}

// Write is net.Conn's.
func (s *Stream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.write.p, s.write.n = p, 0
	err := s.raw.Write(s.write.ready)
	s.write.p = nil
	if err == nil {
		err = s.write.err
	}
	return s.write.n, err
}

// AwaitEnd waits until the other side has closed the connection, or its direction of it: see [Ended]. Then it returns
// io.EOF. It is a Read.
func (s *Stream) AwaitEnd() error {
	if err := s.raw.Read(Ended); err != nil {
		return err
	}
	return io.EOF
}

const relaySize = 8 << 10

var relayBuffers = sync.Pool{New: func() any { return new([relaySize]byte) }}

// Relay writes to w what comes, until the end of the stream. While it waits for more it holds no buffer: most tunnels are
// silent most of the time.
func (s *Stream) Relay(w io.Writer) (total int64, err error) {
	var buf *[relaySize]byte
	var n int
	var end error
	ready := func(fd uintptr) bool {
		buf = relayBuffers.Get().(*[relaySize]byte)
		if n, end = Read(fd, buf[:]); end == syscall.EAGAIN {
			relayBuffers.Put(buf)
			return false
		}
		return true
	}
	for {
		if err := s.raw.Read(ready); err != nil {
			return total, err
		}
		if n > 0 {
			n, err = w.Write(buf[:n])
			total += int64(n)
		}
		relayBuffers.Put(buf)
		switch {
		case err != nil:
			return total, err
		case end == io.EOF:
			return total, nil
		case end != nil:
			return total, end
		}
	}
}
