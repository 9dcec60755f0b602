package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"longshore/discovery"
)

// demoEnviron is the environment of a demo: its own ports unless others are set, no Docker.
func demoEnviron(environ []string) []string {
	out := []string{"LONGSHORE_LISTEN=:8080"}
	for _, kv := range environ {
		switch key, _, _ := strings.Cut(kv, "="); key {
		case "LONGSHORE_UPSTREAM", "LONGSHORE_LABEL", "LONGSHORE_BACKENDS":
		default:
			out = append(out, kv)
		}
	}
	return out
}

// demo serves three backends of this process, the third of which is there for 5 seconds and away for 5.
func (p *program) demo(ctx context.Context) error {
	backends := demoBackends{settings: p.cfg.Settings, every: 5 * time.Second}
	for i := range backends.listeners {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer ln.Close()
		backends.listeners[i] = ln
	}
	fmt.Fprintf(p.stdout, "demo: try `curl %s` a few times; web-3 comes and goes every %v\n", browse(p.cfg.Listen), backends.every)
	return p.wire(ctx, &backends)
}

// demoBackends is a Source whose containers are goroutines.
type demoBackends struct {
	settings  discovery.Settings
	every     time.Duration
	listeners [3]net.Listener
}

// Watch serves the backends and publishes which of them are there.
func (d *demoBackends) Watch(ctx context.Context, publish func(discovery.State)) error {
	for i, ln := range d.listeners {
		name := fmt.Sprintf("web-%d", i+1)
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s answers %s %s\n", name, r.Method, r.URL)
		})}
		defer s.Close()
		go s.Serve(ln)
	}
	tick := time.NewTicker(d.every)
	defer tick.Stop()
	for run := 1; ; run++ {
		publish(d.state(run))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// state has the third backend in every other run.
func (d *demoBackends) state(run int) discovery.State {
	svc := discovery.Service{Name: "web", Routes: []discovery.Route{{Path: "/"}}, Settings: d.settings}
	for i, ln := range d.listeners {
		name := fmt.Sprintf("web-%d", i+1)
		e := discovery.Endpoint{Key: discovery.Key{ID: name, Run: 1}, Name: name, Addr: ln.Addr().String(), Server: discovery.Server{Weight: 1}, Check: d.settings.Health}
		if i == len(d.listeners)-1 {
			if e.Key.Run = run; run%2 == 0 {
				e.Addr, e.Down = "", "away for a while"
			}
		}
		svc.Endpoints = append(svc.Endpoints, e)
	}
	return discovery.State{Services: []discovery.Service{svc}}
}

// browse turns a listen address into a URL for people.
func browse(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}

var _ discovery.Source = (*demoBackends)(nil)
