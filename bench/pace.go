package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A pace is a load whose connections are kept: tens of thousands of requests per second that are due at fixed
// times, over connections that are there from the beginning. A request that finds all of them busy waits,
// and its latency counts from when it was due.
//
// It is one thread, which waits for answers and for the next due time in one place. It shares its processor with
// the origins, so a goroutine for each connection would be too dear; and Go's timers are as coarse as a
// millisecond when nothing else happens, which would be in the figures.
type pace struct {
	Addr        string
	Rate        int // requests per second
	Connections int
	Warm        time.Duration // not counted, before Length
	Length      time.Duration
}

// A pacing is what came of it, in milliseconds.
type pacing struct {
	Requests int     `json:"requests"`
	Rate     float64 `json:"rate"` // answers per second, until the last one came
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
	Late     float64 `json:"generator_late_p99_ms"` // from when a request was due and had a connection until it was sent
}

// A lane is a connection and the request on it.
type lane struct {
	file *os.File
	fd   int
	due  time.Duration
	free time.Duration // since when
	in   []byte        // of the answer, so far
}

// run sends everything, and returns when all is answered. Any failure ends it: figures with failed requests in
// them are of no use.
func (p pace) run(ctx context.Context) (*pacing, error) {
	poll, err := newPoller()
	if err != nil {
		return nil, err
	}
	defer poll.close()
	free := make([]*lane, 0, 2*p.Connections) // a queue, so that all connections are used
	lanes := make(map[int32]*lane)
	defer func() {
		for _, l := range lanes {
			l.file.Close()
		}
	}()
	for range p.Connections {
		l, err := p.dial()
		if err != nil {
			return nil, err
		}
		lanes[int32(l.fd)] = l
		free = append(free, l)
		if err := poll.add(l.fd); err != nil {
			return nil, err
		}
	}

	request := fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", p.Addr)
	took := hdrhistogram.New(1, time.Minute.Microseconds(), 3)
	late := hdrhistogram.New(1, time.Minute.Microseconds(), 3)
	buf := make([]byte, 64<<10)
	due := func(n int) time.Duration { return time.Duration(n) * time.Second / time.Duration(p.Rate) }
	total := int(int64(p.Warm+p.Length) * int64(p.Rate) / int64(time.Second))
	begin := time.Now()
	for sent, answered := 0, 0; answered < total; {
		now := time.Since(begin)
		for ; sent < total && due(sent) <= now && len(free) > 0; sent++ {
			l := free[0]
			free = free[1:]
			l.due, l.in = due(sent), l.in[:0]
			if n, err := syscall.Write(l.fd, request); err != nil || n != len(request) {
				return nil, fmt.Errorf("request %d: sent %d bytes: %v", sent, n, err)
			}
			now = time.Since(begin)
			if l.due >= p.Warm {
				late.RecordValue(max(1, (now - max(l.due, l.free)).Microseconds()))
			}
		}
		if sent < total && now-due(sent) > answerTimeout || sent == total && now-due(total) > answerTimeout {
			return nil, fmt.Errorf("cannot keep up: %d of %d requests answered, and the next waits for more than %v", answered, total, answerTimeout)
		}
		wake := answerTimeout
		if sent < total && len(free) > 0 {
			wake = due(sent) - now
		}
		ready, err := poll.wait(wake)
		if err := cmp.Or(ctx.Err(), err); err != nil {
			return nil, err
		}
		for _, e := range ready {
			l := lanes[e.Fd]
			if l == nil {
				continue // the timer
			}
			n, err := syscall.Read(l.fd, buf)
			switch {
			case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
				continue
			case err != nil:
				return nil, errors.New(causeOf(err, len(l.in) > 0))
			case n == 0:
				return nil, errors.New(causeOf(io.EOF, len(l.in) > 0))
			}
			l.in = append(l.in, buf[:n]...)
			whole, err := wholeAnswer(l.in)
			if err != nil {
				return nil, err
			}
			if !whole {
				continue
			}
			l.free = time.Since(begin)
			if answered++; l.due >= p.Warm {
				took.RecordValue(max(1, (l.free - l.due).Microseconds()))
			}
			free = append(free, l)
		}
	}
	at := func(h *hdrhistogram.Histogram, q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return &pacing{Requests: int(took.TotalCount()), Rate: float64(total) / time.Since(begin).Seconds(),
		P50: at(took, 50), P99: at(took, 99), Max: at(took, 100), Late: at(late, 99)}, nil
}

func (p pace) dial() (*lane, error) {
	conn, err := net.DialTimeout("tcp", p.Addr, answerTimeout)
	if err != nil {
		return nil, err
	}
	defer conn.Close() // the file is a duplicate that Go's own poller does not know
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	l := &lane{file: f, fd: int(f.Fd())}
	return l, syscall.SetNonblock(l.fd, true)
}

// wholeAnswer reports whether an answer is there to its end. One that is not what was expected is an error.
func wholeAnswer(b []byte) (bool, error) {
	head, body, found := bytes.Cut(b, []byte("\r\n\r\n"))
	if !found {
		return false, nil
	}
	status, fields, _ := bytes.Cut(head, []byte("\r\n"))
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 2")) {
		return false, fmt.Errorf("answered %q", status)
	}
	for len(fields) > 0 {
		var line []byte
		line, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		if !bytes.EqualFold(name, []byte("Content-Length")) {
			continue
		}
		n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
		if err != nil || len(body) > n {
			return false, fmt.Errorf("answered %d bytes with %q", len(body), line)
		}
		return len(body) == n, nil
	}
	return false, errors.New("answered without a Content-Length")
}

// A poller waits for sockets to be readable, and for a time, which epoll alone knows to the millisecond only.
type poller struct {
	epoll, timer int
	events       [256]syscall.EpollEvent
}

func newPoller() (*poller, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	const monotonic, nonblock = 1, syscall.O_NONBLOCK
	timer, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, monotonic, nonblock|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		syscall.Close(epoll)
		return nil, errno
	}
	p := &poller{epoll: epoll, timer: int(timer)}
	if err := p.add(p.timer); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) add(fd int) error {
	return syscall.EpollCtl(p.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
}

// wait returns what is readable, or nothing after d. A timer that rang is in it, until the next wait.
func (p *poller) wait(d time.Duration) ([]syscall.EpollEvent, error) {
	spec := struct{ every, first syscall.Timespec }{first: syscall.NsecToTimespec(max(1, d.Nanoseconds()))}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(p.timer), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); errno != 0 {
		return nil, errno // setting it also takes back that it rang
	}
	n, err := syscall.EpollWait(p.epoll, p.events[:], int(answerTimeout.Milliseconds()))
	if errors.Is(err, syscall.EINTR) {
		return nil, nil
	}
	return p.events[:max(n, 0)], err
}

func (p *poller) close() {
	syscall.Close(p.timer)
	syscall.Close(p.epoll)
}

// pacer runs a pace in a process of its own, which can be pinned to a processor, and prints its pacing.
func pacer(ctx context.Context, fs *flag.FlagSet, args []string) error {
	var p pace
	fs.StringVar(&p.Addr, "addr", "", "where to")
	fs.IntVar(&p.Rate, "rate", 1000, "requests per second")
	fs.IntVar(&p.Connections, "connections", 64, "connections")
	fs.DurationVar(&p.Warm, "warm", 0, "not counted, before")
	fs.DurationVar(&p.Length, "for", time.Second, "how long")
	fs.Parse(args)
	got, err := p.run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(got)
}
