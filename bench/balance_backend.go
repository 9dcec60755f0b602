package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// A conduct is how the first of the replicas behaves; the others are well.
type conduct struct {
	Name, What string

	Slower int  // how many times as long as the others it takes; 0: as long
	Stalls bool // it accepts and does not answer, from a quarter of the run to three quarters
	Fails  bool // it answers 500 after 1 ms
	Joins  bool // its port refuses connections during the first third
}

var conducts = []conduct{
	{Name: "healthy", What: "is as well as the others"},
	{Name: "slow", What: "takes five times as long", Slower: 5},
	{Name: "stalled", What: "accepts and does not answer in the two middle quarters of the run; then it answers all", Stalls: true},
	{Name: "failing", What: "answers 500 after 1 ms", Fails: true},
	{Name: "late", What: "joins after a third of the run, its port refused connections before; shares are those since then", Joins: true},
}

// A plot is the replicas of one run, and when things happen to the first of them.
type plot struct {
	conduct   conduct
	replicas  []*backend
	rate      int
	stall     [2]time.Duration // from and to, since the load's begin
	joins     time.Duration
	countFrom time.Duration // requests that are due earlier are not counted
	begin     atomic.Pointer[time.Time]
	ended     bool
}

func newPlot(c conduct, span time.Duration, rate int) *plot {
	p := &plot{conduct: c, rate: rate, countFrom: warmUp}
	part := func(q float64) time.Duration { return warmUp + time.Duration(q*float64(span-warmUp)) }
	if c.Stalls {
		p.stall = [2]time.Duration{part(.25), part(.75)}
	}
	if c.Joins {
		p.joins = part(1. / 3)
		p.countFrom = p.joins
	}
	return p
}

// start says when the load began. No request comes before.
func (p *plot) start(begin time.Time) {
	p.begin.Store(&begin)
	for _, r := range p.replicas {
		if r.server == nil {
			r.joining = time.AfterFunc(time.Until(begin.Add(p.joins)), func() {
				defer close(r.joined)
				r.failed = r.serve()
			})
		}
	}
}

// end closes all replicas, once. It returns what went wrong in one that joined.
func (p *plot) end() (err error) {
	if p.ended {
		return nil
	}
	p.ended = true
	for _, r := range p.replicas {
		if r.joining != nil && !r.joining.Stop() {
			<-r.joined
			err = r.failed
		}
		if r.server == nil {
			syscall.Close(r.fd)
		} else {
			r.server.Close()
		}
	}
	return err
}

// A backend is a replica, a server of this process.
type backend struct {
	plot *plot
	i    int
	addr string
	fd   int // bound, until it listens

	server  *http.Server  // nil: it does not listen yet
	joining *time.Timer   // of one that joins late
	joined  chan struct{} // closed when that is done, and server and failed do not change any more
	failed  error
	seen    atomic.Int64 // requests that count
	first   atomic.Int64 // when the first of all came, in nanoseconds since the load's begin; 0: none yet
}

// cast makes replica i. Its port is reserved at once, and refuses connections until it listens.
func (p *plot) cast(i int) error {
	fd, addr, err := reserve()
	if err != nil {
		return err
	}
	r := &backend{plot: p, i: i, fd: fd, joined: make(chan struct{}), addr: addr}
	p.replicas = append(p.replicas, r)
	if i == 0 && p.conduct.Joins {
		return nil
	}
	return r.serve()
}

// serve listens on the port that is bound.
func (r *backend) serve() error {
	f := os.NewFile(uintptr(r.fd), r.addr)
	defer f.Close() // the listener has a copy
	r.server = &http.Server{Handler: r}
	if err := syscall.Listen(r.fd, 1024); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return err
	}
	go r.server.Serve(ln)
	return nil
}

// ServeHTTP answers a shot with the replica's number.
func (r *backend) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	p := r.plot
	now := time.Since(*p.begin.Load())
	r.first.CompareAndSwap(0, int64(now))
	var id int
	fmt.Sscanf(req.Header.Get("X-Request-Id"), "shot-%d", &id)
	if time.Duration(id)*time.Second/time.Duration(p.rate) >= p.countFrom {
		r.seen.Add(1)
	}
	takes := serviceTime(id)
	if r.i == 0 && p.conduct.Fails {
		time.Sleep(time.Millisecond)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if r.i == 0 && p.conduct.Slower > 0 {
		takes *= time.Duration(p.conduct.Slower)
	}
	time.Sleep(takes)
	if now += takes; r.i == 0 && now >= p.stall[0] && now < p.stall[1] {
		time.Sleep(p.stall[1] - now)
	}
	fmt.Fprintln(w, r.i+1)
}

// reserve takes a free port of loopback for as long as the socket is open: it is bound and does not listen, so
// connections are refused. This process can listen on it, and others that are told can bind the same port.
func reserve() (fd int, addr string, err error) {
	if fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0); err != nil {
		return 0, "", fmt.Errorf("socket: %w", err)
	}
	name, err := bound(fd)
	if err != nil {
		syscall.Close(fd)
		return 0, "", fmt.Errorf("bind: %w", err)
	}
	return fd, fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port), nil
}

func bound(fd int) (syscall.Sockaddr, error) {
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return nil, err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return nil, err
	}
	return syscall.Getsockname(fd)
}
