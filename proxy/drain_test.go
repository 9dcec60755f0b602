package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"longshore/discovery"
	"longshore/health"
)

// TestDrainsItself: a backend that asks for it gets nothing new while another is ready, finishes what it
// has, and is the last resort when none is.
func TestDrainsItself(t *testing.T) { run(t, testDrainsItself) }

func testDrainsItself(t *testing.T, in lane) {
	release := make(chan bool)
	start := func(name string) (b *backend, drains *atomic.Bool) {
		drains = new(atomic.Bool)
		return startBackend(t, name, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/up" && drains.Load():
				w.Header().Set("X-Drain", "1")
				w.WriteHeader(http.StatusServiceUnavailable)
			case r.URL.Path == "/up":
				io.WriteString(w, "ok")
			case r.URL.Path == "/slow":
				<-release
				fallthrough
			default:
				fmt.Fprint(w, name)
			}
		}), drains
	}
	one, oneDrains := start("one")
	two, twoDrains := start("two")

	p := newProxy(t, in)
	checker := health.Checker{Notify: p.Router.Mark}
	p.heard = checker.Report
	service := web(one, two)
	for i := range service.Endpoints {
		c := &service.Endpoints[i].Check
		*c = health.Check{Path: "/up", Interval: 10 * time.Millisecond, Timeout: patience, Rise: 1, Fall: 2}
		if err := c.Match.UnmarshalText([]byte("status 200; body ~ ok")); err != nil {
			t.Fatal(err)
		}
	}
	state := discovery.State{Services: []discovery.Service{service}}
	p.Router.Apply(state)
	p.listen()
	sets, done := make(chan []health.Target), make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- checker.Run(ctx, sets) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	sets <- state.Targets()
	is := func(b *backend, state string) {
		t.Helper()
		until(t, b.name+" is "+state, func() bool { return p.view(b).State == state })
	}
	wantFrom := func(n int, want string) {
		t.Helper()
		for range n {
			if got := p.do("GET /").String(); got != "200 "+want {
				t.Fatalf("got %q, want 200 %s", got, want)
			}
		}
	}

	is(two, "up")
	is(one, "up")
	slow := make([]*wire, 2)
	for i := range slow {
		slow[i] = p.dial()
		slow[i].ask("GET /slow")
		until(t, "it is in flight", func() bool { return p.backend(one).InFlight()+p.backend(two).InFlight() == int64(i+1) })
	}

	oneDrains.Store(true)
	is(one, "draining")
	if got, want := p.view(one).Why, "it asked to be drained: health check answered 503 with X-Drain: 1"; got != want {
		t.Errorf("why: %q, want %q", got, want)
	}
	wantFrom(20, "two")

	twoDrains.Store(true)
	is(two, "draining")
	for range 20 {
		if got := p.do("GET /").String(); got != "200 one" && got != "200 two" {
			t.Errorf("when all drain: got %q", got)
		}
	}
	oneDrains.Store(false)
	is(one, "up")
	wantFrom(20, "one")
	close(release)
	answers := map[string]bool{slow[0].reply("GET").String(): true, slow[1].reply("GET").String(): true}
	if !answers["200 one"] || !answers["200 two"] {
		t.Errorf("in flight all the time: got %v, want an answer of each", answers)
	}
}

// view is what a backend shows.
func (p *testProxy) view(b *backend) BackendView {
	p.t.Helper()
	for _, s := range p.Router.Table().Services() {
		for _, v := range s.View().Backends {
			if v.ID == b.key.ID {
				return v
			}
		}
	}
	p.t.Fatalf("%s is not in the table", b.name)
	return BackendView{}
}
