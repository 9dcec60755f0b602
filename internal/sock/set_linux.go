package sock

import (
	"os"
	"syscall"
	"time"
)

// A Set waits for many sockets at once (epoll(7)), with a single goroutine. It knows them by their descriptors,
// and forgets one that is closed.
type Set struct {
	fd     int
	file   *os.File
	raw    syscall.RawConn
	events [128]syscall.EpollEvent
}

// NewSet returns an empty Set. It ends with Close.
func NewSet() (*Set, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // so that the runtime waits for it, as for a socket
		syscall.Close(fd)
		return nil, err
	}
	s := &Set{fd: fd, file: os.NewFile(uintptr(fd), "epoll")}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, err
	}
	if err := s.file.SetReadDeadline(time.Time{}); err != nil { // it does not wait for it
		s.file.Close()
		return nil, err
	}
	return s, nil
}

// Add has Wait tell, once, when there is something to read at a socket, or it is closed by the other side.
func (s *Set) Add(fd uintptr) error {
	e := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: int32(fd)}
	return syscall.EpollCtl(s.fd, syscall.EPOLL_CTL_ADD, int(fd), &e)
}

// Remove ends that.
func (s *Set) Remove(fd uintptr) error {
	return syscall.EpollCtl(s.fd, syscall.EPOLL_CTL_DEL, int(fd), nil)
}

// Wait appends to fds those there is something of. It returns os.ErrDeadlineExceeded when that is past, and another
// error when the set is closed.
func (s *Set) Wait(fds []uintptr) ([]uintptr, error) {
	err := s.raw.Read(func(epoll uintptr) bool {
		for {
			n, err := syscall.EpollWait(int(epoll), s.events[:], 0)
			if err == syscall.EINTR {
				continue
			}
			for _, e := range s.events[:max(n, 0)] {
				fds = append(fds, uintptr(e.Fd))
			}
			if n < len(s.events) { // the runtime tells only of what comes after that
				return len(fds) > 0
			}
		}
	})
	return fds, err
}

// SetDeadline bounds the present Wait, and those to come; zero: it does not.
func (s *Set) SetDeadline(t time.Time) { s.file.SetReadDeadline(t) }

// Close ends the Set and its Wait. The sockets stay as they are.
func (s *Set) Close() { s.file.Close() }
