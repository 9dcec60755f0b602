// Package sock has the system calls of the data path on sockets that do not block.
//
// They are for the callbacks of a [syscall.RawConn]: there the descriptor is open and its number is known,
// so that a call need not go through what net does around each. They never wait, and say syscall.EAGAIN
// instead; therefore the scheduler is not told of them either.
package sock

import (
	"io"
	"syscall"
)

// Read reads what is there. At the end of the stream it returns io.EOF.
func Read(fd uintptr, p []byte) (int, error) {
	for {
		switch n, errno := read(fd, p); {
		case errno == syscall.EINTR:
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write writes what there is room for of two pieces, the second of which may be empty. n may be short
// without an error.
func Write(fd uintptr, a, b []byte) (n int, err error) {
	for {
		switch n, errno := write(fd, a, b); {
		case errno == syscall.EINTR:
		case errno != 0:
			return 0, errno
		default:
			return n, nil
		}
	}
}

// Shutdown ends both directions of a connection, at once and for all who use it. What was written before is still
// sent.
func Shutdown(fd uintptr) { syscall.Shutdown(int(fd), syscall.SHUT_RDWR) }

// A State is what a connection is like that nothing is expected from.
type State uint8

const (
	Quiet  State = iota // open, and nothing to read
	Ready               // there is something to read
	Closed              // the other side has closed it, or it is broken
)

// Look asks the kernel what state a connection is in, and reads nothing.
func Look(fd uintptr) State {
	switch n, errno := peek(fd); {
	case errno == 0 && n > 0:
		return Ready
	case errno == syscall.EAGAIN:
		return Quiet
	}
	return Closed
}

// Ended reports whether the other side has closed a connection, or its direction of it, whatever is still to be read
// before that.
func Ended(fd uintptr) bool { return ended(fd) }
