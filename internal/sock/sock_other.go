//go:build !linux

package sock

import (
	"syscall"
	"time"
)

func read(fd uintptr, p []byte) (int, syscall.Errno) { return result(syscall.Read(int(fd), p)) }

func write(fd uintptr, a, b []byte) (int, syscall.Errno) {
	if len(a) > 0 {
		return result(syscall.Write(int(fd), a))
	}
	return result(syscall.Write(int(fd), b))
}

func result(n int, err error) (int, syscall.Errno) {
	errno, _ := err.(syscall.Errno)
	return n, errno
}

func peek(fd uintptr) (int, syscall.Errno) {
	var b [1]byte
	n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return result(n, err)
}

// Queued is not known here.
func Queued(uintptr) int { return 0 }

func newPipe(int) (r, w int, err error) { return 0, 0, syscall.ENOTSUP }

func splice(from, to uintptr, n int) (int, syscall.Errno) { return 0, syscall.ENOTSUP }

func ended(fd uintptr) bool { return Look(fd) == Closed }

// Unsent is not known here.
func Unsent(uintptr) int { return 0 }

// SetUserTimeout does nothing here.
func SetUserTimeout(uintptr, time.Duration) {}
