package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"longshore/discovery"
	"longshore/discovery/docker"
	"longshore/health"
	"longshore/internal/accesslog"
	"longshore/internal/admin"
	"longshore/internal/metrics"
	"longshore/proxy"
)

// serve runs the proxy for what the configuration says until ctx is done.
func (p *program) serve(ctx context.Context) error {
	cfg := p.cfg
	if len(cfg.Backends) > 0 {
		return p.wire(ctx, discovery.Static{Services: []discovery.Service{{
			Name: "backends", Routes: []discovery.Route{{Path: "/"}}, Settings: cfg.Settings, Endpoints: cfg.Backends.Endpoints(cfg.Settings),
		}}})
	}
	client, err := docker.NewClient()
	if err != nil {
		return wrongConfig{err}
	}
	defer client.Close()
	return p.wire(ctx, &docker.Source{
		Client: client, Upstream: cfg.Upstream, Label: cfg.Label, Project: cfg.Project, DefaultHost: cfg.DefaultHost, Network: cfg.Network,
		Settings: cfg.Settings, Log: p.log,
	})
}

// wrongConfig is an error of what the user wrote.
type wrongConfig struct{ error }

// wire connects a source to the data plane and runs all of it. On ctx's end the proxy finishes what is
// in flight; only then does the rest stop, so that the last requests are balanced like all others.
func (p *program) wire(ctx context.Context, source discovery.Source) error {
	cfg, log := p.cfg, p.log
	if cfg.BodyDir != "" {
		f, err := proxy.TempFile(cfg.BodyDir)
		if err != nil {
			return wrongConfig{fmt.Errorf("LONGSHORE_BODY_DIR=%q: want a directory that can be written to: %w", cfg.BodyDir, err)}
		}
		f.Close()
	}
	front, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("LONGSHORE_LISTEN: %w", err)
	}
	defer front.Close()

	checker := &health.Checker{}
	router := proxy.NewRouter(checker.Report, log)
	if cfg.StickySecret != "" {
		router.SetSecret(cfg.StickySecret)
	}
	checker.Notify = router.Mark
	may := thisMachine()
	may.limitHeap()
	clients, warning := may.maxClients(cfg.MaxClients)
	if warning != "" {
		log.Warn(warning)
	}
	server := &proxy.Server{
		MaxClients: clients, MaxClientsPerAddr: cfg.MaxClientsAddr, BufferMemory: may.bufferMemory(int64(cfg.BufferMemory)),
		Router: router, Trusted: cfg.TrustedProxies, HeaderTimeout: cfg.HeaderTimeout, IdleTimeout: cfg.IdleTimeout,
		BodyTimeout: cfg.BodyTimeout, BodyDir: cfg.BodyDir, SendTimeout: cfg.SendTimeout, Underscores: cfg.Underscores == "on",
		MaxHeader: int(cfg.MaxHeader), FastLane: cfg.FastLane == "on", Grace: cfg.ShutdownTimeout,
		Queue: cfg.Settings.Queue, QueueTimeout: cfg.Settings.QueueTimeout, Log: log,
	}
	var link func() discovery.Link
	if d, ok := source.(*docker.Source); ok {
		link = d.Link
	}
	figures := metrics.New(router, link)
	figures.Dropped["stderr"] = p.lines.dropped.Load
	figures.Server = server
	if d, ok := source.(*docker.Source); ok {
		d.Applied = func(a docker.Applied) {
			swapped := router.Table().Since()
			figures.Applied(a.Add, swapped.Sub(a.Event))
			logApplied(log, a, swapped)
		}
	}

	// The end begins with /readyz, so that who asks it sends no more requests when the listener closes.
	serving, endServing := context.WithCancel(context.WithoutCancel(ctx))
	defer endServing()
	unready := func() {}

	stopped, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, running := errgroup.WithContext(stopped)
	g.Go(func() error { p.heed(running); return nil })
	if cfg.AccessLog != "off" {
		access := accesslog.New(p.stdout, string(cfg.AccessLog), log)
		access.LastFlush = p.timeLeft
		figures.Dropped["stdout"] = access.Dropped
		server.Record = access.Record
		g.Go(func() error { return access.Run(running) })
	}
	sets := make(chan []health.Target)
	g.Go(func() error { return checker.Run(running, sets) })
	g.Go(func() error {
		return source.Watch(running, func(s discovery.State) {
			router.Apply(s)
			select {
			case sets <- s.Targets():
			case <-running.Done():
			}
		})
	})
	if cfg.Admin != "" {
		h := &admin.Handler{Router: router, Link: link, Metrics: figures.Handler()}
		unready = h.Stopping
		g.Go(func() error { return serveAdmin(running, cfg.Admin, h) })
	} else {
		g.Go(func() error { p.serveHealth(running); return nil })
	}
	defer context.AfterFunc(ctx, func() {
		unready()
		endServing()
	})()
	g.Go(func() error {
		defer stop()
		defer context.AfterFunc(running, endServing)() // somebody else has failed
		log.Info("listening", "addr", front.Addr().String(), "admin", cfg.Admin)
		return server.Serve(serving, front)
	})
	return g.Wait()
}

// logApplied tells, for who measures, how long an event took to reach the routing table.
func logApplied(log *slog.Logger, a docker.Applied, swapped time.Time) {
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	args := []any{"change", "remove", "event", swapped.Sub(a.Event), "received", swapped.Sub(a.Received)}
	if a.Add {
		args[1] = "add"
		args = append(args, "inspected", swapped.Sub(a.Inspected))
	}
	log.Debug("applied", args...)
}

// serveAdmin answers on the admin listener until ctx is done.
func serveAdmin(ctx context.Context, addr string, h *admin.Handler) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("LONGSHORE_ADMIN: %w", err)
	}
	return serveUntil(ctx, ln, h.Mux())
}

// serveUntil answers the clients of ln until ctx is done.
func serveUntil(ctx context.Context, ln net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
