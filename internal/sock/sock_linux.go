package sock

import (
	"syscall"
	"time"
	"unsafe"
)

// These are recv and send, which cost less than read and write: those go through what files have in common.

func read(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(sysRecvfrom, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), syscall.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

func write(fd uintptr, a, b []byte) (int, syscall.Errno) {
	const flags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL
	if len(b) == 0 {
		n, _, errno := syscall.RawSyscall6(sysSendto, fd, uintptr(unsafe.Pointer(unsafe.SliceData(a))), uintptr(len(a)), flags, 0, 0)
		return int(n), errno
	}
	v := [2]syscall.Iovec{{Base: unsafe.SliceData(a)}, {Base: unsafe.SliceData(b)}}
	v[0].SetLen(len(a))
	v[1].SetLen(len(b))
	m := syscall.Msghdr{Iov: &v[0], Iovlen: 2}
	n, _, errno := syscall.RawSyscall(sysSendmsg, fd, uintptr(unsafe.Pointer(&m)), flags)
	return int(n), errno
}

func peek(fd uintptr) (int, syscall.Errno) {
	var b [1]byte
	n, _, errno := syscall.RawSyscall6(sysRecvfrom, fd, uintptr(unsafe.Pointer(&b)), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// Unsent is how many bytes wait in a socket's buffer for the other side to acknowledge them.
func Unsent(fd uintptr) int {
	var n int32
	syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	return int(n)
}

// SetUserTimeout bounds how long bytes may wait so until the connection is broken; zero: as the system has it.
func SetUserTimeout(fd uintptr, d time.Duration) {
	const userTimeout = 18 // TCP_USER_TIMEOUT
	syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout, int(min(d.Milliseconds(), 1<<31-1)))
}

const (
	pollErr   = 0x8
	pollHup   = 0x10
	pollRdHup = 0x2000 // a FIN has come
)

func ended(fd uintptr) bool {
	p := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd), events: pollRdHup}
	var now syscall.Timespec
	n, _, _ := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return int(n) > 0 && p.revents&(pollErr|pollHup|pollRdHup) != 0
}

// Queued is how many bytes there are to read.
func Queued(fd uintptr) int {
	var n int32
	syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	return int(n)
}

const (
	setPipeSize   = 1031 // F_SETPIPE_SZ
	getPipeSize   = 1032 // F_GETPIPE_SZ
	spliceMove    = 1    // SPLICE_F_MOVE
	spliceNoBlock = 2    // SPLICE_F_NONBLOCK
)

func newPipe(size int) (r, w int, err error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return 0, 0, err
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fds[1]), setPipeSize, uintptr(size)); errno != 0 {
		// It has 64 KiB, or next to nothing if the user has many.
		if has, _, _ := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fds[1]), getPipeSize, 0); int(has) < 64<<10 {
			syscall.Close(fds[0])
			syscall.Close(fds[1])
			return 0, 0, syscall.EMFILE
		}
	}
	return fds[0], fds[1], nil
}

func splice(from, to uintptr, n int) (int, syscall.Errno) {
	m, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, from, 0, to, 0, uintptr(n), spliceMove|spliceNoBlock)
	return int(m), errno
}
