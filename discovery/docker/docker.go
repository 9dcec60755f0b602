// Package docker follows the containers of a Docker engine and says which services they make up.
//
// What is known is a world, a value. Whatever the engine says, an event of its stream, a list or an
// inspect's answer, makes a new world, and a world makes a [discovery.State]; both are pure functions
// (world.go, state.go, reach.go). Around them [Source.Watch] is one goroutine that hears, asks and
// publishes, so an event that takes a container away waits for nobody's answer.
package docker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/docker/client"

	"longshore/discovery"
	"longshore/internal/config"
)

// A Source watches a Docker engine. Its fields are set before Watch and not changed after.
type Source struct {
	Client      *client.Client
	Upstream    config.Upstream    // at most one of Upstream and Label is set; neither: containers choose themselves by labels
	Label       config.Selector    //
	Project     string             // compose project to look at; empty: the own one, or all if there is none; "*": all
	DefaultHost string             // virtual host that gets the requests of unknown hosts; empty: none
	Network     string             // to reach containers through; empty: found out
	Settings    discovery.Settings // of services whose labels say nothing else
	Log         *slog.Logger       // nil: none
	Applied     func(Applied)      // nil: nobody wants to know. Called by Watch after a publish that an event caused

	link   atomic.Pointer[discovery.Link] // nil: not yet
	traces func() traces                  // of the own container; nil: read from /proc
	local  func() []netip.Prefix          // of the local interfaces; nil: asked of the system
	pace   pace
}

// A pace is how often things are done; zero is what each field says. Tests are in a hurry.
type pace struct {
	relist time.Duration // between two lists: 30 s
	calm   time.Duration // a stream that lived as long is not worth a word when it is cut: 500 ms
	answer time.Duration // longest wait for an answer: 10 s
	lonely time.Duration // that nobody is chosen, until that is worth a word: 10 s
	ping   time.Duration // between two pings: 5 s
	pong   time.Duration // longest wait for the answer to a ping: 3 s
	remind time.Duration // until the first reminder that the engine is away, and until a socket is stale: 30 s
}

// Applied tells how a publish came about.
type Applied struct {
	Add       bool      // a container became usable; else one ceased to be
	Event     time.Time // by the engine's clock
	Received  time.Time // when the event was read
	Inspected time.Time // Add: when the engine had answered what only it knows, such as the address
}

// NewClient connects to the engine that DOCKER_HOST and its like name, as every docker client does;
// else to /var/run/docker.sock, or /tmp/docker.sock where only that exists.
func NewClient() (*client.Client, error) {
	opts := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if os.Getenv(client.EnvOverrideHost) == "" && !exists("/var/run/docker.sock") && exists("/tmp/docker.sock") {
		opts = append(opts, client.WithHost("unix:///tmp/docker.sock"))
	}
	c, err := client.NewClientWithOpts(opts...)
	if err != nil { // its errors carry a stack trace
		why, _, _ := strings.Cut(err.Error(), "\n")
		return nil, fmt.Errorf("DOCKER_HOST=%q: want unix:///path/docker.sock or tcp://host:port: %s", os.Getenv(client.EnvOverrideHost), why)
	}
	return c, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Link tells how the source stands with the engine. Any goroutine may ask.
func (s *Source) Link() discovery.Link {
	if l := s.link.Load(); l != nil {
		return *l
	}
	return discovery.Link{}
}

// Watch publishes what exists until ctx is done. An engine that is away is waited for, for ever: what
// was published last stays true as far as anybody knows.
func (s *Source) Watch(ctx context.Context, publish func(discovery.State)) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	box := newMailbox()
	wg.Go(func() { s.stayConnected(ctx, box) })
	var listed time.Time // zero: not yet
	ask := inquiry{s: s, wg: &wg, box: box, waiting: make(todo), busy: make(map[string]bool)}
	timer := time.NewTimer(0)
	var look lookout
	w, out := world{view: s.view()}, outlet{s: s, publish: publish}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-box.bell:
		case <-timer.C:
		}
		before := w
		open := make(todo)                // what to ask, after what is known is published
		for _, said := range box.take() { // all that is there, so that one publish tells it
			was := w
			var todo todo
			switch said := said.(type) {
			case event:
				w, todo = w.on(said)
				out.heard(said, was, w)
			case listing:
				w, todo = w.list(said)
				if listed.IsZero() {
					listed = time.Now()
				}
			case answer:
				delete(ask.busy, said.id)
				w, todo = w.learn(said)
				out.learned(said, w)
			}
			maps.Copy(open, todo)
		}
		var due todo
		var next time.Time
		w, due, next = w.tick(time.Now())
		maps.Copy(open, due)
		if !out.open && !listed.IsZero() {
			next = earliest(next, listed.Add(patience))
		}
		if !out.chosen && !listed.IsZero() {
			next = earliest(next, listed.Add(or(s.pace.lonely, 10*time.Second)))
		}
		w.local = look.around(s, w)
		next = earliest(next, look.again)
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		w = w.settle(before)
		out.open = out.open || w.complete() || !listed.IsZero() && time.Since(listed) >= patience
		if out.open {
			out.tell(w)
			out.lonely(w, listed)
		}
		ask.inspect(ctx, w, open)
	}
}

// patience is how long the first State waits for inspects after the list: one that is stuck must not
// keep the others from being served.
const patience = time.Second

// view collects what the user asked for.
func (s *Source) view() view {
	v := view{upstream: s.Upstream, label: s.Label, project: s.Project, defaultHost: s.DefaultHost, network: s.Network, settings: s.Settings}
	if s.traces != nil {
		v.traces = s.traces()
	} else {
		v.traces = readTraces()
	}
	if u, err := url.Parse(s.Client.DaemonHost()); err == nil && u.Scheme != "unix" && u.Scheme != "npipe" {
		host := u.Hostname()
		ip, err := netip.ParseAddr(host)
		if host != "localhost" && !(err == nil && ip.IsLoopback()) {
			v.engine = host
		}
	}
	return v
}

// A lookout knows the networks of the local interfaces, which a proxy on the host needs. To ask for them
// costs a millisecond where there is an interface for each of many containers, so it is done only when a
// container has come to an address that lies in none of them. And then again, later and later, since an
// interface comes a moment before or after what makes it, and the kernel's answer has gaps while others change.
// The loop of Watch owns it.
type lookout struct {
	onHost  bool      // the proxy was, the last time
	strange []string  // addresses that no interface led to at the last look
	again   time.Time // when to look next; zero: no need
	wait    time.Duration
}

// around returns the networks.
func (l *lookout) around(s *Source, w world) []netip.Prefix {
	now, changed := time.Now(), w.touched
	if on := w.onHost(); on != l.onHost { // which is known when the own container is, perhaps after others
		l.onHost, changed = on, slices.Collect(maps.Keys(w.containers))
	}
	due := !l.again.IsZero() && !now.Before(l.again)
	news := slices.ContainsFunc(w.strange(changed), func(ip string) bool { return !slices.Contains(l.strange, ip) })
	if !due && !news {
		return w.local
	}
	if news {
		l.wait = patience
	}
	w.local, l.again = s.prefixes(), time.Time{}
	if l.strange = w.strange(slices.Collect(maps.Keys(w.containers))); len(l.strange) > 0 {
		l.again, l.wait = now.Add(l.wait), min(2*l.wait, 30*time.Second)
	}
	return w.local
}

// prefixes lists the networks of the local interfaces.
func (s *Source) prefixes() []netip.Prefix {
	if s.local != nil {
		return s.local()
	}
	addrs, _ := net.InterfaceAddrs()
	var ps []netip.Prefix
	for _, a := range addrs {
		// Each container's interface has a link-local address, where nobody else is.
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			ps = append(ps, p)
		}
	}
	return ps
}

func (s *Source) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// An outlet publishes worlds when they make another state, and says what a user should know.
// The loop of Watch owns it.
type outlet struct {
	s         *Source
	publish   func(discovery.State)
	open      bool // the first list is in, and its inspects are or take too long
	published bool
	last      discovery.State
	told      map[note]bool
	self      self             // as told
	coming    map[string]event // by container: what announced it, while it is not usable yet
	applied   []change         // since the last tell
	chosen    bool             // a container is, or it was said that none is
}

// A change is an Applied and whose.
type change struct {
	Applied
	id string
}

// heard notes what an event did to its container.
func (o *outlet) heard(e event, was, is world) {
	switch e.action {
	case "start", "connect", "unpause":
		c := was.containers[e.id]
		switch {
		case e.action == "connect" && (c == nil || !c.running):
			// It is being started, and start comes when that is done.
		case was.usable(e.id):
			// The answer to an earlier question told already, or it is connected to one more network.
			if o.s.Applied != nil && e.action != "connect" && has(o.last, e.id) {
				o.s.Applied(Applied{Add: true, Event: e.time, Received: e.received, Inspected: e.received})
			}
		default:
			if o.coming == nil {
				o.coming = make(map[string]event)
			}
			o.coming[e.id] = e
		}
		return
	case "die", "destroy":
		delete(o.coming, e.id)
	}
	if was.usable(e.id) && !is.usable(e.id) {
		o.applied = append(o.applied, change{Applied{Event: e.time, Received: e.received}, e.id})
	}
}

// learned notes that the answer is there which an event made necessary.
func (o *outlet) learned(a answer, is world) {
	if e, ok := o.coming[a.id]; ok && is.usable(a.id) {
		delete(o.coming, a.id)
		o.applied = append(o.applied, change{Applied{Add: true, Event: e.time, Received: e.received, Inspected: a.came}, a.id})
	}
}

func (o *outlet) tell(w world) {
	applied := o.applied
	o.applied = nil
	if !o.published || w.self != o.self {
		o.self = w.self
		if c := w.containers[w.self.id]; c != nil {
			o.s.log().Info("the proxy's own container is known", "container", c.name, "why", w.self.why)
		} else {
			o.s.log().Info("no container of this engine is the proxy's own: it counts as running on a host")
		}
	}
	st, notes := w.state()
	told := make(map[note]bool, len(notes))
	for _, n := range notes {
		if !o.told[n] && !told[n] {
			var args []any
			if n.container != "" {
				args = []any{"container", n.container}
			}
			o.s.log().Log(context.Background(), n.level, n.text, args...)
		}
		told[n] = true
	}
	o.told = told
	if all := st.Share(o.last); all && o.published {
		return
	}
	before := o.last
	o.last, o.published = st, true
	o.publish(st)
	for _, c := range applied {
		if o.s.Applied != nil && (has(st, c.id) || has(before, c.id)) {
			o.s.Applied(c.Applied)
		}
	}
}

// lonely says once what to do if no container is chosen some time after the first list.
func (o *outlet) lonely(w world, listed time.Time) {
	o.chosen = o.chosen || !w.choosesItself() || len(o.last.Services) > 0
	if o.chosen || time.Since(listed) < or(o.s.pace.lonely, 10*time.Second) {
		return
	}
	o.chosen = true
	o.s.log().Warn("nothing is proxied, since no container is chosen: set LONGSHORE_UPSTREAM, such as flaskapp:5090, or a label such as longshore.port on a container",
		"project", w.scope())
}

// has reports whether a container is part of a state.
func has(st discovery.State, id string) bool {
	return slices.ContainsFunc(st.Services, func(s discovery.Service) bool {
		return slices.ContainsFunc(s.Endpoints, func(e discovery.Endpoint) bool { return e.Key.ID == id })
	})
}
