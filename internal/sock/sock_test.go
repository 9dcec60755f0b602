//go:build linux

package sock

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"longshore/internal/testaddr"
)

// pair returns the two ends of a connection, and the descriptor of the first.
func pair(t *testing.T) (fd uintptr, a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", testaddr.New())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b = c.(*net.TCPConn), d.(*net.TCPConn)
	t.Cleanup(func() { a.Close(); b.Close() })
	raw, err := a.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(n uintptr) { fd = n })
	return fd, a, b
}

// await waits until a call no longer says that it would wait.
func await(t *testing.T, call func() (int, error)) (int, error) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if n, err := call(); err != syscall.EAGAIN {
			return n, err
		}
	}
	t.Fatal("waited in vain")
	return 0, nil
}

// TestCalls goes through all calls on a socket: what numbers they have differs from one architecture to the next.
func TestCalls(t *testing.T) {
	fd, _, b := pair(t)
	p := make([]byte, 16)
	if n, err := Read(fd, p); err != syscall.EAGAIN {
		t.Errorf("reading where nothing is: %d %v, want EAGAIN", n, err)
	}
	if s := Look(fd); s != Quiet {
		t.Errorf("where nothing is Look says %d, want Quiet", s)
	}
	io.WriteString(b, "hello")
	n, err := await(t, func() (int, error) { return Read(fd, p) })
	if err != nil || string(p[:n]) != "hello" {
		t.Errorf("read %q %v, want hello", p[:n], err)
	}
	io.WriteString(b, "x")
	await(t, func() (int, error) {
		if Look(fd) != Ready {
			return 0, syscall.EAGAIN
		}
		return 0, nil
	})

	if n, err := Write(fd, []byte("one "), nil); n != 4 || err != nil {
		t.Errorf("wrote %d %v, want 4", n, err)
	}
	if n, err := Write(fd, []byte("two "), []byte("three")); n != 9 || err != nil {
		t.Errorf("wrote two pieces: %d %v, want 9", n, err)
	}
	got := make([]byte, 13)
	if io.ReadFull(b, got); string(got) != "one two three" {
		t.Errorf("the other side read %q", got)
	}

	Read(fd, p)
	b.Close()
	if n, err := await(t, func() (int, error) { return Read(fd, p) }); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d %v, want io.EOF", n, err)
	}
	if s := Look(fd); s != Closed {
		t.Errorf("at the end Look says %d, want Closed", s)
	}
	Write(fd, []byte("x"), nil) // which the other side answers with a reset
	if _, err := await(t, func() (int, error) {
		if n, err := Write(fd, []byte("x"), nil); err != nil {
			return n, err
		}
		return 0, syscall.EAGAIN
	}); err != syscall.EPIPE && err != syscall.ECONNRESET {
		t.Errorf("writing to nobody: %v, want EPIPE or ECONNRESET, and no signal", err)
	}
}

func TestPipe(t *testing.T) {
	from, _, b := pair(t)
	to, _, d := pair(t)
	p, err := TakePipe()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Free()
	io.WriteString(b, "hello")
	if n, err := await(t, func() (int, error) { return p.Fill(from, 100) }); n != 5 || err != nil {
		t.Fatalf("filled %d %v, want 5", n, err)
	}
	if err := p.Drain(to); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if io.ReadFull(d, got); string(got) != "hello" {
		t.Errorf("read %q behind the pipe", got)
	}
	b.CloseWrite()
	if _, err := await(t, func() (int, error) { return p.Fill(from, 100) }); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
}

func TestStream(t *testing.T) {
	_, a, b := pair(t)
	s := NewStream(a)
	text := strings.Repeat("0123456789", 1<<18) // more than there is room for
	go func() {
		io.WriteString(s, text)
		a.CloseWrite()
	}()
	if got, err := io.ReadAll(b); string(got) != text || err != nil {
		t.Errorf("%d bytes came through %v, want %d", len(got), err, len(text))
	}
	a.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d %v, want the deadline", n, err)
	}
	a.SetReadDeadline(time.Time{})
	b.Close()
	if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d %v, want io.EOF", n, err)
	}
}

func TestSet(t *testing.T) {
	set, err := NewSet()
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	one, _, _ := pair(t)
	two, _, far := pair(t)
	for _, fd := range []uintptr{one, two} {
		if err := set.Add(fd); err != nil {
			t.Fatal(err)
		}
	}
	io.WriteString(far, "x")
	set.SetDeadline(time.Now().Add(10 * time.Second))
	if fds, err := set.Wait(nil); err != nil || len(fds) != 1 || fds[0] != two {
		t.Errorf("ready are %v %v, want %d", fds, err, two)
	}
}
