package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"longshore/internal/admin"
	"longshore/internal/config"
)

// healthcheck asks the longshore that runs with the same environment whether it lives.
func healthcheck(ctx context.Context, cfg config.Config, stderr io.Writer) int {
	body, err := ask(ctx, cfg, "/healthz")
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	body.Close()
	return exitOK
}

// ask gets what the longshore that runs with the same environment answers with 200 at path: on its admin listener, or
// on its health socket where there is none. The caller closes the body.
func ask(ctx context.Context, cfg config.Config, path string) (io.ReadCloser, error) {
	network, addr := "unix", healthSocket(cfg)
	if cfg.Admin != "" {
		host, port, _ := net.SplitHostPort(cfg.Admin)
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "localhost"
		}
		network, addr = "tcp", net.JoinHostPort(host, port)
	}
	client := &http.Client{
		Timeout: 3 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}},
	}
	req, err := http.NewRequestWithContext(ctx, "GET", "http://longshore"+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("%s: %s", addr, res.Status)
	}
	return res.Body, nil
}

// healthSocket is where a longshore without an admin listener is asked whether it lives. A request to the proxy
// itself would be the application's to answer. It is an abstract socket (unix(7)): it needs no file system that can
// be written, and is seen in this network namespace alone, where nobody else can have the same LISTEN.
func healthSocket(cfg config.Config) string { return "@longshore " + cfg.Listen }

// serveHealth answers on the health socket until ctx is done.
func (p *program) serveHealth(ctx context.Context) {
	ln, err := net.Listen("unix", healthSocket(p.cfg))
	if err == nil {
		err = serveUntil(ctx, ln, admin.Alive())
	}
	if err != nil {
		p.log.Warn("nothing answers `longshore healthcheck`: LONGSHORE_ADMIN is empty, and its socket cannot be had", "err", err)
	}
}
