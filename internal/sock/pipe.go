package sock

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
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

// Pipes are bounded in number: each takes two descriptors, and the kernel gives only small ones to a user who has many.
// Without one a caller copies.
var (
	pipes    atomic.Int64 // that there are, idle ones included
	maxPipes = sync.OnceValue(func() int64 {
		var files syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
			return 8
		}
		return int64(min(uint64(files.Cur)/32, 64)) // 16 MB
	})
)

var errNoPipe = errors.New("there are as many pipes as may be")

// TakePipe returns an empty Pipe, or an error where there are none. It ends with Free.
func TakePipe() (*Pipe, error) {
	select {
	case p := <-idlePipes:
		return p, nil
	default:
	}
	if pipes.Add(1) > maxPipes() {
		pipes.Add(-1)
		return nil, errNoPipe
	}
	r, w, err := newPipe(pipeSize)
	if err != nil {
		pipes.Add(-1)
		return nil, err
	}
	return &Pipe{r: r, w: w}, nil
}

// PipesInUse is how many are taken.
func PipesInUse() int { return int(pipes.Load()) - len(idlePipes) }

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
	pipes.Add(-1)
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
