package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"longshore/internal/testaddr"
)

// listen serves each connection with handle, in sequence, and closes it.
func listen(t testing.TB, handle func(net.Conn)) (addr string) {
	t.Helper()
	return listenAt(t, testaddr.New(), handle)
}

func listenAt(t testing.TB, at string, handle func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			handle(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return ln.Addr().String()
}

// answer reads a request head and writes text.
func answer(text string) func(net.Conn) {
	return func(conn net.Conn) {
		http.ReadRequest(bufio.NewReader(conn))
		io.WriteString(conn, text)
	}
}

// untilClosed reads until the other side closes, which it must do plainly.
func untilClosed(t testing.TB) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("the probe did not close its connection plainly: %v", err)
		}
	}
}

// free is an address where nothing listens.
func free(t testing.TB) string {
	t.Helper()
	return freeAt(t, testaddr.New())
}

func freeAt(t testing.TB, at string) string {
	t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func accept(t testing.TB, text string) (s StatusSet) {
	t.Helper()
	if err := s.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return s
}

func match(t testing.TB, text string) (m Match) {
	t.Helper()
	if err := m.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return m
}

func httpTarget(t testing.TB, addr string) Target {
	return Target{Addr: addr, Check: Check{Path: "/health", Accept: accept(t, "200-399")}}
}

// probeFor probes with a limit, and reports what is wrong and whether it is that no connection was made.
func probeFor(t testing.TB, d time.Duration, target Target) (why string, connect bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	err := Probe(ctx, target)
	if err == nil {
		return "", false
	}
	return err.Error(), errors.Is(err, ErrConnect)
}

func TestProbeTCP(t *testing.T) {
	closes := func(net.Conn) {}
	greets := func(conn net.Conn) {
		io.WriteString(conn, "+OK\r\n")
		io.Copy(io.Discard, conn)
	}
	for _, tt := range []struct {
		name    string
		addr    string
		relay   bool
		why     string
		connect bool
	}{
		{"stays open", listen(t, untilClosed(t)), false, "", false},
		{"accepts and closes", listen(t, closes), false, "", false},
		{"nothing listens", free(t), false, "connection refused", true},
		{"no such address", "127.0.0.1", false, "dial tcp: address 127.0.0.1: missing port in address", true},
		{"relay: stays open", listen(t, untilClosed(t)), true, "", false},
		{"relay: speaks first", listen(t, greets), true, "", false},
		{"relay: closes", listen(t, closes), true, string(errRelay), true},
		{"relay: nothing listens", free(t), true, "connection refused", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			why, connect := probeFor(t, 10*time.Second, Target{Addr: tt.addr, Relay: tt.relay})
			if why != tt.why || connect != tt.connect {
				t.Errorf("%q, ErrConnect %v; want %q, %v", why, connect, tt.why, tt.connect)
			}
		})
	}
}

func TestProbeHTTPRequest(t *testing.T) {
	got := make(chan string, 1)
	addr := listen(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		head := ""
		for !strings.HasSuffix(head, "\r\n\r\n") {
			line, err := r.ReadString('\n')
			if err != nil {
				break
			}
			head += line
		}
		got <- head
		io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		untilClosed(t)(conn)
	})
	target := httpTarget(t, addr)
	target.Check.Path = "/health?deep=1"
	if why, _ := probeFor(t, 10*time.Second, target); why != "" {
		t.Error(why)
	}
	want := "GET /health?deep=1 HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: longshore-health\r\nConnection: close\r\n\r\n"
	if got := <-got; got != want {
		t.Errorf("request %q\nwant %q", got, want)
	}
}

func TestProbeHTTPStatus(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code := 0
		fmt.Sscan(r.PathValue("code"), &code)
		w.Header().Set("Location", "/followed")
		w.WriteHeader(code)
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	})
	mux.HandleFunc("/followed", func(http.ResponseWriter, *http.Request) {
		t.Error("the probe followed a redirect")
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()

	for _, tt := range []struct{ path, accept, why string }{
		{"/status/200", "200-399", ""},
		{"/status/302", "200-399", ""},
		{"/status/302", "200-299", "health check PATH: status 302"},
		{"/status/401", "200,401", ""},
		{"/status/404", "200-399", "health check PATH: status 404"},
		{"/status/503", "200-399", "health check PATH: status 503"},
		{"/early", "200", ""},
		{"/%zz", "200", `health check PATH: parse "http://ADDR/%zz": invalid URL escape "%zz"`},
	} {
		addr := srv.Listener.Addr().String()
		target := Target{Addr: addr, Check: Check{Path: tt.path, Accept: accept(t, tt.accept)}}
		why, connect := probeFor(t, 10*time.Second, target)
		if want := strings.NewReplacer("ADDR", addr, "PATH", tt.path).Replace(tt.why); why != want || connect {
			t.Errorf("%s, accepting %s: %q, ErrConnect %v; want %q", tt.path, tt.accept, why, connect, want)
		}
	}
}

func TestProbeHTTPMatch(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"status":"ok"}`)
	})
	mux.HandleFunc("/drain", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Drain", r.URL.RawQuery)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", 256<<10-3)+"end and more")
		for range 1000 {
			io.WriteString(w, strings.Repeat("x", 64<<10))
		}
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "ok")
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "ok")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "shop.example.com" {
			io.WriteString(w, "shop")
		}
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()

	for _, tt := range []struct {
		path, match string
		set         func(*Check)
		why         string
	}{
		{"/json", `status 200; header Content-Type ~ json; header ! X-Maintenance; body ~ "ok|ready"; body !~ error`, nil, ""},
		{"/json", "body ~ ready", nil, "health check /json: body does not match ~ ready"},
		{"/json", "header X-Ready", nil, "health check /json: header X-Ready is missing"},
		{"/json", "status 204; body ~ ready", nil, "health check /json: status 200"},
		{"/json", "body ~ ok", func(c *Check) { c.Accept = accept(t, "204") }, "health check /json: status 200"},
		{"/json", "status 200", func(c *Check) { c.Accept = accept(t, "204") }, ""},
		{"/big", "body ~ end$", nil, ""},
		{"/big", "body ~ more", nil, "health check /big: body does not match ~ more"},
		{"/cut", "body ~ ok", nil, "health check /cut: body: connection closed"},
		{"/cut", "status 200", nil, ""},
		{"/slow", "body ~ ok", nil, "health check /slow: body: timeout"},
		{"/slow", "status 200", nil, ""},
		{"", "body ~ shop", nil, "health check /: body does not match ~ shop"},
		{"", "body ~ shop", func(c *Check) { c.HostHeader = "shop.example.com" }, ""},
		{"", "", func(c *Check) { c.Type = HTTP }, ""},
		{"/none", "", func(c *Check) { c.Type = TCP }, ""},

		{"/drain?1", "", nil, "it asked to be drained: health check answered 503 with X-Drain: 1"},
		{"/drain?1", "status 503", nil, "it asked to be drained: health check answered 503 with X-Drain: 1"},
		{"/drain?0", "", nil, "health check /drain?0: status 503"},
		{"/none", "", func(c *Check) { c.DisableOn404 = true }, "it asked to be drained: health check answered 404"},
		{"/none", "", nil, "health check /none: status 404"},
		{"/json", "", func(c *Check) { c.DisableOn404 = true }, ""},
	} {
		target := Target{Addr: srv.Listener.Addr().String(), Check: Check{Path: tt.path, Accept: accept(t, "200-399")}}
		if tt.match != "" {
			target.Check.Match = match(t, tt.match)
		}
		if tt.set != nil {
			tt.set(&target.Check)
		}
		limit := 10 * time.Second
		if tt.path == "/slow" {
			limit = 300 * time.Millisecond
		}
		if why, connect := probeFor(t, limit, target); why != tt.why || connect {
			t.Errorf("%s %s: %q, ErrConnect %v; want %q", tt.path, tt.match, why, connect, tt.why)
		}
	}
}

// What is checked on another port needs the backend's own port to be of use, and says nothing against it.
func TestProbeOtherPort(t *testing.T) {
	port := func(addr string) (p uint16) {
		fmt.Sscan(addr[strings.LastIndex(addr, ":")+1:], &p)
		return p
	}
	at := testaddr.New() // of all ports
	own, nobody := listenAt(t, at, untilClosed(t)), freeAt(t, at)
	well, ill := listenAt(t, at, answer("HTTP/1.1 200 OK\r\n\r\n")), listenAt(t, at, answer("HTTP/1.1 500 No\r\n\r\n"))
	for _, tt := range []struct {
		name        string
		addr, other string
		path        string
		relay       bool
		why         string // OTHER stands for the port
		connect     bool
	}{
		{"TCP", own, well, "", false, "", false},
		{"TCP, other port refuses", own, nobody, "", false, "health check :OTHER: connection refused", false},
		{"TCP, own port refuses", nobody, well, "", false, "connection refused", true},
		{"HTTP", own, well, "/up", false, "", false},
		{"HTTP, status", own, ill, "/up", false, "health check :OTHER/up: status 500", false},
		{"HTTP, other port refuses", own, nobody, "/up", false, "health check :OTHER/up: connection refused", false},
		{"HTTP, own port refuses", nobody, well, "/up", false, "connection refused", true},
		{"HTTP, the same port", well, well, "/up", false, "", false},
		{"relay", own, well, "/up", true, "", false},
		{"relay, nothing behind the own port", listenAt(t, at, func(net.Conn) {}), well, "/up", true, string(errRelay), true},
		{"relay, nothing behind the other port", own, listenAt(t, at, func(net.Conn) {}), "/up", true, "health check :OTHER/up: " + string(errRelay), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := Target{Addr: tt.addr, Relay: tt.relay, Check: Check{Path: tt.path, OtherPort: port(tt.other), Accept: accept(t, "200")}}
			want := strings.ReplaceAll(tt.why, "OTHER", fmt.Sprint(port(tt.other)))
			if why, connect := probeFor(t, 10*time.Second, target); why != want || connect != tt.connect {
				t.Errorf("%q, ErrConnect %v; want %q, %v", why, connect, want, tt.connect)
			}
			// Behind docker-proxy the port is published as another one.
			target.Check.OtherPort, target.CheckAddr = 8081, tt.other
			want = strings.ReplaceAll(tt.why, "OTHER", "8081")
			if why, connect := probeFor(t, 10*time.Second, target); why != want || connect != tt.connect {
				t.Errorf("with CheckAddr: %q, ErrConnect %v; want %q, %v", why, connect, want, tt.connect)
			}
		})
	}
}

func TestProbeHTTPTrouble(t *testing.T) {
	endless := func(head, more string) func(net.Conn) {
		return func(conn net.Conn) {
			answer(head)(conn)
			for {
				if _, err := io.WriteString(conn, more); err != nil {
					return
				}
			}
		}
	}
	resets := func(conn net.Conn) {
		answer("")(conn)
		conn.(*net.TCPConn).SetLinger(0)
	}
	for _, tt := range []struct {
		name    string
		handle  func(net.Conn)
		relay   bool
		why     string
		connect bool
	}{
		{"no answer", answer(""), false, "health check /health: connection closed", false},
		{"no answer through docker-proxy", answer(""), true, string(errRelay), true},
		{"reset", resets, false, "health check /health: connection reset by peer", false},
		{"reset by docker-proxy", resets, true, string(errRelay), true},
		{"half an answer through docker-proxy", answer("HTTP/1.1 200 OK\r\nA: b"), true, "health check /health: connection closed", false},
		{"not HTTP", answer("SSH-2.0-OpenSSH_9.9\r\n"), false, `health check /health: malformed HTTP response "SSH-2.0-OpenSSH_9.9"`, false},
		{"an endless head", endless("HTTP/1.1 200 OK\r\nA: ", "more"), false, "health check /health: connection closed", false},
		{"nothing but 1xx", endless("", "HTTP/1.1 103 Early Hints\r\n\r\n"), false, "health check /health: connection closed", false},
		{"an endless body", endless("HTTP/1.1 200 OK\r\n\r\n", "more"), false, "", false},
		{"a body that does not come", func(conn net.Conn) {
			answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")(conn)
			untilClosed(t)(conn)
		}, false, "", false},
		{"a body cut short", answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n123"), false, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := httpTarget(t, listen(t, tt.handle))
			target.Relay = tt.relay
			why, connect := probeFor(t, 10*time.Second, target)
			if why != tt.why || connect != tt.connect {
				t.Errorf("%q, ErrConnect %v; want %q, %v", why, connect, tt.why, tt.connect)
			}
		})
	}
}

func TestProbeTimeLimit(t *testing.T) {
	silent := listen(t, untilClosed(t))
	for _, tt := range []struct {
		name    string
		limit   time.Duration
		target  Target
		why     string
		connect bool
	}{
		{"dial", 0, Target{Addr: silent}, "dial timeout", true},
		{"HTTP", 100 * time.Millisecond, httpTarget(t, silent), "health check /health: timeout", false},
		// A limit below the time that a relayed connection has to stay open must not fail it for ever.
		{"relay", 20 * time.Millisecond, Target{Addr: silent, Relay: true}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			why, connect := probeFor(t, tt.limit, tt.target)
			if why != tt.why || connect != tt.connect {
				t.Errorf("%q, ErrConnect %v; want %q, %v", why, connect, tt.why, tt.connect)
			}
		})
	}
}

func TestProbeCalledOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	addr := listen(t, func(conn net.Conn) {
		http.ReadRequest(bufio.NewReader(conn))
		cancel()
		untilClosed(t)(conn)
	})
	if err := Probe(ctx, httpTarget(t, addr)); err != context.Canceled {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}

// When the proxy itself is out of something, all backends look the same: they are not to be taken
// for unreachable all at once.
func TestOwnTrouble(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL} {
		err := dialError(&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", errno)})
		if !Exhausted(err) || errors.Is(err, ErrConnect) {
			t.Errorf("%v: Exhausted %v, ErrConnect %v; want true, false", errno, Exhausted(err), errors.Is(err, ErrConnect))
		}
	}
}

// The whole with real sockets: a backend appears, answers, and goes away.
func TestCheckerProbes(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	heard := make(chan Status, 10)
	c := Checker{Notify: func(_ Key, s Status) { heard <- s }}
	ctx, cancel := context.WithCancel(t.Context())
	sets, done := make(chan []Target), make(chan error)
	go func() { done <- c.Run(ctx, sets) }()
	target := httpTarget(t, srv.Listener.Addr().String())
	target.Check.Timeout = 10 * time.Second
	sets <- []Target{target}
	expect := func(want string) {
		t.Helper()
		s := <-heard
		if got := fmt.Sprint(letter(s), " ", s.Why); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
	expect("p waiting for its first successful check")
	expect("t ")
	c.Report(target.Key, Answered)
	expect("u ")
	srv.Close()
	c.Report(target.Key, Refused)
	expect("p connection refused")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v", err)
	}
}
