package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"longshore/discovery"
	"longshore/health"
	"longshore/internal/testaddr"
)

// patience is how long a test waits for what must happen. Nothing waits that long when all is well.
const patience = 10 * time.Second

// blink is how long a test looks on to see that something does not happen.
const blink = 50 * time.Millisecond

// A lane is a way through the Server. Tests of the data path hold for each.
type lane struct {
	name string
	set  func(*Server)
}

var lanes = []lane{
	{"general", func(*Server) {}},
	{"fast", func(s *Server) { s.FastLane = true }},
	{"transport", func(s *Server) { s.Router.newPool = newOracle }},
}

// run runs a test in every lane, and sees to it that no goroutine is left.
func run(t *testing.T, test func(*testing.T, lane)) {
	for _, in := range lanes {
		t.Run(in.name, func(t *testing.T) {
			noLeak(t)
			test(t, in)
		})
	}
}

// noLeak fails the test if goroutines are left after its other cleanups.
func noLeak(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				t.Errorf("%d goroutines are left, %d were there before:\n%s", runtime.NumGoroutine(), before, stacks)
				return
			}
		}
	})
}

// until waits for a state.
func until(t testing.TB, state string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", state)
		}
	}
}

// soon receives what a channel must deliver.
func soon[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

// A wire is one end of a raw connection. What goes wrong on it ends its goroutine: a test's with a
// failure, a backend's without a word, since the other end has the say.
type wire struct {
	net.Conn
	r    *bufio.Reader
	stop func(format string, args ...any) // does not return
}

func newWire(c net.Conn, stop func(string, ...any)) *wire {
	c.SetDeadline(time.Now().Add(patience))
	return &wire{Conn: c, r: bufio.NewReaderSize(c, 64<<10), stop: stop}
}

func dial(t testing.TB, addr string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return newWire(c, func(format string, args ...any) {
		t.Helper()
		t.Fatalf(format, args...)
	})
}

// send sends each part in a write of its own.
func (w *wire) send(parts ...string) {
	for _, s := range parts {
		if s == "" {
			continue
		}
		if _, err := io.WriteString(w.Conn, s); err != nil {
			w.stop("send: %v", err)
		}
	}
}

// line reads a line without its end.
func (w *wire) line() string {
	s, err := w.r.ReadString('\n')
	if err != nil {
		w.stop("read a line: %v, after %q", err, s)
	}
	return strings.TrimRight(s, "\r\n")
}

// head reads a message's head, without the empty line.
func (w *wire) head() string {
	var b strings.Builder
	for l := w.line(); l != ""; l = w.line() {
		b.WriteString(l + "\n")
	}
	return b.String()
}

// bytes reads n bytes.
func (w *wire) bytes(n int) string {
	b := make([]byte, n)
	if m, err := io.ReadFull(w.r, b); err != nil {
		w.stop("read %d bytes: %v, after %q", n, err, b[:m])
	}
	return string(b)
}

// rest reads to the end; an end by reset is one too.
func (w *wire) rest() string {
	b, err := io.ReadAll(w.r)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		w.stop("read to the end: %v, after %q", err, b)
	}
	return string(b)
}

// A reply is a response as a client got it.
type reply struct {
	*http.Response
	body string
	err  error // the body's: it was not whole
}

// String is status and body: "200 one /a".
func (r reply) String() string {
	s := fmt.Sprint(r.StatusCode, " ", strings.TrimSuffix(r.body, "\n"))
	if r.err != nil {
		s += " (broken off)"
	}
	return s
}

// header reads the head of a response to a request of this method; the body is to be read from it.
func (w *wire) header(method string) *http.Response {
	res, err := http.ReadResponse(w.r, &http.Request{Method: method})
	if err != nil {
		w.stop("read a response: %v", err)
	}
	return res
}

// reply reads a whole response.
func (w *wire) reply(method string) reply {
	res := w.header(method)
	b, err := io.ReadAll(res.Body)
	return reply{res, string(b), err}
}

// ask sends a request that is written short: "POST /a", then fields that end in "\n". The body, if any,
// follows in writes of its own.
func (w *wire) ask(request string, body ...string) {
	line, rest, _ := strings.Cut(request, "\n")
	w.send(strings.ReplaceAll(line+" HTTP/1.1\nHost: x\n"+rest+"\n", "\n", "\r\n"))
	w.send(body...)
}

// do asks and reads the response.
func (w *wire) do(request string, body ...string) reply {
	w.ask(request, body...)
	method, _, _ := strings.Cut(request, " ")
	return w.reply(method)
}

// A backend listens. What is sent to it is recorded.
type backend struct {
	name string
	net.Listener
	key discovery.Key

	conns    atomic.Int64 // accepted
	open     atomic.Int64
	requests atomic.Int64 // of startBackend
	mu       sync.Mutex   // guards the following
	received bytes.Buffer // from all connections, in order of arrival
	live     map[net.Conn]bool
}

var runs atomic.Int64

func listen(t testing.TB, name string) *backend {
	t.Helper()
	return listenAt(t, testaddr.New(), name)
}

func listenAt(t testing.TB, addr, name string) *backend {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{name: name, Listener: ln, live: make(map[net.Conn]bool)}
	b.key = discovery.Key{ID: name, Run: int(runs.Add(1)), Port: 80}
	t.Cleanup(b.die)
	return b
}

// Accept notes a connection and what comes over it.
func (b *backend) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	b.conns.Add(1)
	b.open.Add(1)
	rec := &recorded{Conn: c, b: b}
	b.mu.Lock()
	b.live[rec] = true
	b.mu.Unlock()
	return rec, nil
}

type recorded struct {
	net.Conn
	b    *backend
	once sync.Once
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.b.mu.Lock()
	r.b.received.Write(p[:n])
	r.b.mu.Unlock()
	return n, err
}

func (r *recorded) Close() error {
	err := r.Conn.Close()
	r.once.Do(func() { // now that the other side knows of it
		r.b.open.Add(-1)
		r.b.mu.Lock()
		delete(r.b.live, r)
		r.b.mu.Unlock()
	})
	return err
}

func (r *recorded) CloseWrite() error { return r.Conn.(*net.TCPConn).CloseWrite() }

// got is all that has come so far.
func (b *backend) got() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.received.String()
}

// hangUp closes the connections, as a server does that has had them idle for long.
func (b *backend) hangUp() {
	b.mu.Lock()
	var cs []net.Conn
	for c := range b.live {
		cs = append(cs, c)
	}
	b.mu.Unlock()
	for _, c := range cs {
		c.Close()
	}
}

// die closes everything: connections are refused from now on.
func (b *backend) die() {
	b.Listener.Close()
	b.hangUp()
}

func (b *backend) addr() string { return b.Listener.Addr().String() }

func (b *backend) endpoint() discovery.Endpoint {
	return discovery.Endpoint{Key: b.key, Name: b.name, Addr: b.addr(), Server: discovery.Server{Weight: 1}}
}

// startBackend starts an HTTP server. Without a handler it answers with its name, the path and the
// request's body.
func startBackend(t testing.TB, name string, handler http.HandlerFunc) *backend {
	t.Helper()
	return startBackendAt(t, testaddr.New(), name, handler)
}

func startBackendAt(t testing.TB, addr, name string, handler http.HandlerFunc) *backend {
	t.Helper()
	b := listenAt(t, addr, name)
	if handler == nil {
		handler = func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Backend", name)
			fmt.Fprintf(w, "%s %s", name, r.URL.Path)
			if len(body) > 0 {
				fmt.Fprintf(w, " %s", body)
			}
		}
	}
	hs := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		handler(w, r)
	})}
	go hs.Serve(b)
	t.Cleanup(func() { hs.Close() })
	return b
}

// rawBackend starts a server that serves each connection with talk, and closes it after that.
func rawBackend(t testing.TB, name string, talk func(*wire)) *backend {
	t.Helper()
	b := listen(t, name)
	go func() {
		for {
			c, err := b.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				talk(newWire(c, func(string, ...any) { runtime.Goexit() }))
			}()
		}
	}()
	return b
}

// answers is a raw backend's way to answer every request, which must have no body, with the same bytes.
func answers(response string) func(*wire) {
	return func(w *wire) {
		for {
			w.head()
			w.send(response)
		}
	}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// web is the usual service: all hosts and paths, and these backends.
func web(bs ...*backend) discovery.Service {
	s := discovery.Service{Name: "web", Routes: []discovery.Route{{Path: "/"}}}
	s.Settings.ConnectTimeout = time.Second
	s.Settings.ReadTimeout = time.Minute
	s.Settings.Keepalive = 256
	s.Settings.KeepaliveTimeout = time.Minute
	for _, b := range bs {
		s.Endpoints = append(s.Endpoints, b.endpoint())
	}
	return s
}

var up = health.Status{State: health.Up, Reachable: true}

// A testProxy is a Server with a Router. Its fields are set before the first serve.
type testProxy struct {
	*Server
	t       testing.TB
	addr    string
	ln      net.Listener                                           // at addr
	control func(network, address string, c syscall.RawConn) error // of its socket, before it listens; nil: nothing is set
	stop    context.CancelFunc
	stopped chan error   // what Serve returned
	records chan *Record // of every request
	heard   func(health.Key, health.Outcome)
	log     *logged // what the Server and the Router say
}

// A logged is what a log has said, from INFO on.
type logged struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newProxy(t testing.TB, in lane) *testProxy {
	t.Helper()
	p := &testProxy{t: t, records: make(chan *Record, 1<<14), stopped: make(chan error, 1), log: new(logged)}
	log := slog.New(slog.NewTextHandler(p.log, nil))
	p.Server = &Server{Log: log, Record: func(r *Record) { p.records <- cloneRecord(r) }}
	p.Router = NewRouter(func(k health.Key, o health.Outcome) {
		if p.heard != nil {
			p.heard(k, o)
		}
	}, log)
	in.set(p.Server)
	return p
}

// serve applies these services, marks all backends up that have no status yet, and starts to listen if
// that is not done.
func (p *testProxy) serve(services ...discovery.Service) {
	p.t.Helper()
	for _, s := range services {
		for _, e := range s.Endpoints {
			p.Router.mu.Lock()
			_, marked := p.Router.status[e.Key]
			p.Router.mu.Unlock()
			if !marked {
				p.Router.Mark(e.Key, up)
			}
		}
	}
	p.Router.Apply(discovery.State{Services: services})
	if p.addr == "" {
		p.listen()
	}
}

// listen starts to serve.
func (p *testProxy) listen() {
	p.t.Helper()
	ln, err := (&net.ListenConfig{Control: p.control}).Listen(p.t.Context(), "tcp", testaddr.New())
	if err != nil {
		p.t.Fatal(err)
	}
	p.ln, p.addr = ln, ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	go func() {
		defer close(p.stopped)
		p.stopped <- p.Serve(ctx, ln)
	}()
	p.t.Cleanup(func() {
		cancel()
		if err, ok := <-p.stopped; ok && err != nil {
			p.t.Errorf("Serve returned %v", err)
		}
		p.Router.Apply(discovery.State{}) // closes what is idle
	})
}

// serve starts a proxy for these services.
func serve(t testing.TB, in lane, services ...discovery.Service) *testProxy {
	t.Helper()
	p := newProxy(t, in)
	p.serve(services...)
	return p
}

func (p *testProxy) dial() *wire {
	p.t.Helper()
	return dial(p.t, p.addr)
}

// do sends one request over a connection of its own.
func (p *testProxy) do(request string, body ...string) reply {
	p.t.Helper()
	w := p.dial()
	defer w.Close()
	return w.do(request, body...)
}

// backend finds what the Router has for a test's backend.
func (p *testProxy) backend(b *backend) *Backend {
	p.Router.mu.Lock()
	defer p.Router.mu.Unlock()
	return p.Router.backends[b.key]
}

// cloneRecord returns what outlives a call of Server.Record.
func cloneRecord(r *Record) *Record {
	c := *r
	for _, s := range []*string{
		&c.ClientIP, &c.User, &c.Method, &c.URI, &c.Proto, &c.Host, &c.Referer, &c.UserAgent, &c.Service, &c.Upstream, &c.Reason,
	} {
		*s = strings.Clone(*s)
	}
	return &c
}

// record waits for the record of the next request that ended.
func (p *testProxy) record() *Record {
	p.t.Helper()
	return soon(p.t, p.records, "a record")
}
