package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"longshore/internal/config"
)

// healthcheck asks the longshore that runs with the same environment whether it lives: /healthz of the
// admin listener, or any answer of the proxy where there is none.
func healthcheck(ctx context.Context, cfg config.Config, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	addr, path := cfg.Admin, "/healthz"
	if addr == "" {
		addr, path = cfg.Listen, "/"
	}
	host, port, _ := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	url := "http://" + net.JoinHostPort(host, port) + path
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	req.Header.Set("User-Agent", "longshore-healthcheck")
	client := &http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	res.Body.Close()
	if cfg.Admin != "" && res.StatusCode != http.StatusOK {
		fmt.Fprintf(stderr, "%s: %s\n", url, res.Status)
		return exitFailed
	}
	return exitOK
}
