package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"longshore/internal/testaddr"
)

// origin is a server that treats each connection as told, after it has read a request.
func origin(t *testing.T, treat func(c *net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", testaddr.New())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					io.Copy(io.Discard, r.Body)
				}
				treat(c.(*net.TCPConn))
				c.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

// TestCauses: every way to fail has its name, on real sockets.
func TestCauses(t *testing.T) {
	say := func(s string) func(*net.TCPConn) { return func(c *net.TCPConn) { io.WriteString(c, s) } }
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	free, err := net.Listen("tcp", testaddr.New())
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	for name, c := range map[string]struct {
		addr        string
		body, cause string
	}{
		"a whole answer": {addr: origin(t, say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nweb\n")), body: "web"},
		"a gateway's":    {addr: origin(t, say("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")), cause: "status 502"},
		"too short":      {addr: origin(t, say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nweb\n")), cause: "truncated"},
		"no last chunk":  {addr: origin(t, say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nweb\n\r\n")), cause: "truncated"},
		"half a head":    {addr: origin(t, say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n")), cause: "closed before an answer"},
		"nothing":        {addr: origin(t, say("")), cause: "closed before an answer"},
		"a reset":        {addr: origin(t, func(c *net.TCPConn) { c.SetLinger(0) }), cause: "reset"},
		"no end":         {addr: origin(t, func(*net.TCPConn) { <-never }), cause: "no answer in 10 s"},
		"nobody":         {addr: free.Addr().String(), cause: "refused"},
	} {
		_, body, cause := request(c.addr, "POST", "/", "1", time.Now().Add(300*time.Millisecond))
		if body != c.body || cause != c.cause {
			t.Errorf("%s: body %q, cause %q, want %q, %q", name, body, cause, c.body, c.cause)
		}
	}
	if got := causeOf(errors.New("odd"), false); got != "odd" {
		t.Errorf("an unknown failure is called %q", got)
	}
}

// TestOpenLoop: a server that stalls does not slow the load, and the wait is in the latency.
func TestOpenLoop(t *testing.T) {
	const stall = 300 * time.Millisecond
	var mu sync.Mutex
	begin := time.Now()
	seen := make(map[string]int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen[r.Header.Get("X-Request-Id")]++
		mu.Unlock()
		time.Sleep(time.Until(begin.Add(stall)))
		fmt.Fprintln(w, "web")
	}))
	defer server.Close()
	l := &load{addr: strings.TrimPrefix(server.URL, "http://"), begin: begin, streams: []stream{
		{Rate: 200, Method: "GET", Path: "/?%d"}, {Rate: 20, Method: "POST", Path: "/"}}}
	stop := make(chan struct{})
	time.AfterFunc(600*time.Millisecond, func() { close(stop) })
	shots := l.run(t.Context(), stop)
	took := min(time.Since(begin), time.Second) // until they were answered: the timer may come late
	if n := len(shots); n < 110 || n > int(220*took.Seconds())+2 {
		t.Errorf("%d requests in 0.6 s, want about 132", n)
	}
	for i, s := range shots {
		if s.Cause != "" || seen[s.requestID()] != 1 {
			t.Errorf("request %d: %q, came %d times", s.ID, s.Cause, seen[s.requestID()])
		}
		if early := stall - s.Due; s.Took < early {
			t.Errorf("request %d, due at %v, took %v, want at least %v", s.ID, s.Due, s.Took, early)
		}
		if i > 0 && s.Due < shots[i-1].Due {
			t.Error("not in the order of their times")
		}
	}
}

// TestRelay: what goes through is whole, a cut ends it, and the next connection is served again.
func TestRelay(t *testing.T) {
	dir := t.TempDir()
	engine, err := net.Listen("unix", filepath.Join(dir, "engine"))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	go func() {
		for {
			c, err := engine.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	r, err := relayTo(filepath.Join(dir, "engine"), filepath.Join(dir, "relay"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for range 2 {
		c, err := net.Dial("unix", filepath.Join(dir, "relay"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		echo := make([]byte, 5)
		io.WriteString(c, "hello")
		if _, err := io.ReadFull(c, echo); err != nil || string(echo) != "hello" {
			t.Fatalf("through the relay: %q, %v", echo, err)
		}
		r.cut()
		if n, err := c.Read(echo); err == nil {
			t.Errorf("after the cut: %d bytes, want an end", n)
		}
	}
}
