package sock

import (
	"io"
	"syscall"
)

// pipeSize is how many bytes a Pipe holds.
const pipeSize = 256 << 10

// A Pipe moves bytes from one socket to another in the kernel, without a copy through user space (splice(2)).
// Who has one uses it alone.
type Pipe struct {
	r, w int
	held int // bytes in it
}

// idlePipes are kept for whoever needs one next. They are few, since they last for the life of the process.
var idlePipes = make(chan *Pipe, 16)

// TakePipe returns an empty Pipe, or an error where there are none. It ends with Free.
func TakePipe() (*Pipe, error) {
	select {
	case p := <-idlePipes:
		return p, nil
	default:
	}
	r, w, err := newPipe(pipeSize)
	if err != nil {
		return nil, err
	}
	return &Pipe{r: r, w: w}, nil
}

// Free ends the use of the pipe. What is still in it is lost.
func (p *Pipe) Free() {
	if p.held == 0 {
		select {
		case idlePipes <- p:
			return
		default:
		}
	}
	syscall.Close(p.r)
	syscall.Close(p.w)
}

// Held is how many bytes are in the pipe.
func (p *Pipe) Held() int { return p.held }

// Read reads len(b) bytes that are in the pipe.
func (p *Pipe) Read(b []byte) error {
	for len(b) > 0 {
		switch n, err := syscall.Read(p.r, b); {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			p.held -= n
			b = b[n:]
		}
	}
	return nil
}

// Fill takes at most n bytes from a socket, as far as they are there and there is room. At the end of the stream
// it returns io.EOF.
func (p *Pipe) Fill(fd uintptr, n int64) (int, error) {
	for {
		switch m, errno := splice(fd, uintptr(p.w), int(min(n, pipeSize))); {
		case errno == syscall.EINTR:
		case errno != 0:
			return 0, errno
		case m == 0:
			return 0, io.EOF
		default:
			p.held += m
			return m, nil
		}
	}
}

// Drain gives to a socket what is in the pipe. It returns syscall.EAGAIN when there is no room for all.
func (p *Pipe) Drain(fd uintptr) error {
	for p.held > 0 {
		switch m, errno := splice(uintptr(p.r), fd, p.held); {
		case errno == syscall.EINTR:
		case errno != 0:
			return errno
		default:
			p.held -= m
		}
	}
	return nil
}
