package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// A crowd is clients that have had an answer each, and stay.
type crowd []net.Conn

// perSource is how many connections come from one address of loopback, which has fewer than 30,000 ports.
const perSource = 10000

// gather opens n connections, and has one request answered on each.
func gather(ctx context.Context, addr string, n int) (crowd, error) {
	c := make(crowd, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16) // no more than the proxy's queue of new connections takes
	for i := range c {
		g.Go(func() error {
			from := net.IPv4(127, 0, 1, byte(1+i/perSource))
			d := net.Dialer{Timeout: answerTimeout, LocalAddr: &net.TCPAddr{IP: from}}
			conn, err := d.DialContext(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			c[i] = conn
			conn.SetDeadline(time.Now().Add(answerTimeout))
			if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", addr); err != nil {
				return err
			}
			res, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				return err
			}
			if res.StatusCode != http.StatusOK || res.Close {
				return fmt.Errorf("answered %s, and keeps the connection: %t", res.Status, !res.Close)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		c.leave()
		return nil, fmt.Errorf("%d idle connections: %w", n, err)
	}
	return c, nil
}

// stays is an error if the proxy has closed any of them.
func (c crowd) stays() error {
	gone := 0
	for _, conn := range c {
		conn.SetDeadline(time.Time{})
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) {
			_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if !errors.Is(err, syscall.EAGAIN) {
				gone++
			}
		}); err != nil {
			return err
		}
	}
	if gone > 0 {
		return fmt.Errorf("%d of %d idle connections are closed", gone, len(c))
	}
	return nil
}

// leave closes them, and holds no ports after that.
func (c crowd) leave() {
	for _, conn := range c {
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
			tcp.Close()
		}
	}
}
