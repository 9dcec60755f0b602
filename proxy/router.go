// Package proxy is the data plane: it routes requests to services and carries them to backends.
//
// A [Router] is told what exists and what is well, and shows one immutable [Table] behind one atomic
// pointer. A request loads the pointer once per attempt and decides with nothing else. What outlives
// the tables, such as connections and counters, lives in a [Backend] or in the group of its service.
package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"math"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"longshore/discovery"
	"longshore/health"
	"longshore/internal/upstream"
)

// Why exchanges fail through no fault of theirs.
var (
	errGone   = errors.New("the container is gone") // it stopped, or lost its address
	errPaused = errors.New("the container is paused")
)

// A Router turns what exists and what is well into Tables. Its methods may be called by any
// goroutine.
type Router struct {
	report  func(health.Key, health.Outcome)
	log     *slog.Logger
	started time.Time
	secret  []byte                // signs the cookies of sticky sessions
	place   time.Duration         // see placeTime
	first   chan struct{}         // closed when a State has been applied
	table   atomic.Pointer[Table] // never nil; stored under mu

	mu       sync.Mutex // serializes writers and guards the following
	state    discovery.State
	status   map[discovery.Key]health.Status
	backends map[discovery.Key]*Backend // those with an address, carried from table to table
	groups   map[string]*group          // by service name
	owners   map[discovery.Key][]string // the services that a backend belongs to
	missed   []missed                   // services that have left the State a short while ago
	unrouted *group                     // requests that no route is for
}

// A missed is a service that has left the State, as a container does whose labels say that it is one. Its
// routes stay for as long as there is hope that it comes back: until then a request for it waits, and is
// answered 503 rather than 404.
type missed struct {
	discovery.Service
	until time.Time
}

// NewRouter returns a Router with an empty Table. The data path tells report what it saw of each
// attempt that health should know of; nil: nobody.
func NewRouter(report func(health.Key, health.Outcome), log *slog.Logger) *Router {
	if report == nil {
		report = func(health.Key, health.Outcome) {}
	}
	r := &Router{
		report:   report,
		log:      log,
		started:  time.Now(),
		place:    placeTime,
		first:    make(chan struct{}),
		secret:   []byte(rand.Text()),
		status:   make(map[discovery.Key]health.Status),
		backends: make(map[discovery.Key]*Backend),
		groups:   make(map[string]*group),
		owners:   make(map[discovery.Key][]string),
		unrouted: &group{},
	}
	r.table.Store(&Table{routes: newRoutes(nil)})
	return r
}

// SetSecret has the cookies of sticky sessions signed with what the user gave, instead of what was drawn. It
// is called before the first State is applied.
func (r *Router) SetSecret(secret string) { r.secret = []byte(secret) }

// Table returns the current snapshot, never nil.
func (r *Router) Table() *Table { return r.table.Load() }

// Applied reports whether a state has been applied.
func (r *Router) Applied() bool { return r.Table().applied }

// Apply makes what exists the truth for the requests to come. Backends that are no longer there, or
// no longer run, end at once with what they carried. Services that did not change keep their pickers.
func (r *Router) Apply(s discovery.State) {
	r.mu.Lock()
	old := r.table.Load()
	if old.applied && reflect.DeepEqual(s, r.state) {
		r.mu.Unlock()
		return
	}
	now := time.Now()
	r.missLocked(s, now)
	r.state = s
	gone := r.adoptLocked(s, now)
	t, changed := r.swapLocked(old)
	// Only now, so that a request that fails with its backend finds the table without it.
	for _, b := range gone {
		b.leaves()
		b.pool.Close(errGone)
	}
	settle(changed)
	if !old.applied {
		close(r.first)
	}
	r.mu.Unlock()
	r.tell(old, t)
}

// swapLocked builds the table of the present state and shows it. It returns which services changed.
func (r *Router) swapLocked(old *Table) (t *Table, changed []*Service) {
	specs := slices.Clone(r.state.Services)
	for _, m := range r.missed {
		specs = append(specs, m.Service) // behind, so that whoever has the route now comes first
	}
	t = &Table{applied: true, routes: old.routes, services: make([]*Service, len(specs)), skipped: r.state.Skipped}
	if !old.applied || !sameRoutes(old.services, specs) {
		t.routes = newRoutes(specs)
	}
	for i, spec := range specs {
		if was := old.byName(spec.Name); was != nil && reflect.DeepEqual(was.spec, spec) {
			t.services[i] = was
			continue
		}
		t.services[i] = r.buildLocked(spec, old)
		changed = append(changed, t.services[i])
	}
	t.since = time.Now()
	r.table.Store(t)
	return t, changed
}

// missLocked notes which services are not in the next state, and for how long they are missed.
func (r *Router) missLocked(next discovery.State, now time.Time) {
	names := make(map[string]bool, len(next.Services))
	for _, s := range next.Services {
		names[s.Name] = true
	}
	r.missed = slices.DeleteFunc(r.missed, func(m missed) bool { return names[m.Name] || !now.Before(m.until) })
	for _, s := range r.state.Services {
		if !names[s.Name] {
			s.Endpoints, s.Expected = nil, false
			r.missed = append(r.missed, missed{s, now.Add(hopeful)})
			time.AfterFunc(hopeful, r.forget)
		}
	}
}

// forget drops the services that have been missed for long enough.
func (r *Router) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missLocked(r.state, time.Now())
	r.swapLocked(r.table.Load())
}

// settle does what follows when these services are shown: who waits gets what has become ready, and what
// cannot go on with a paused container goes elsewhere. It is called with the Router's mu held.
func settle(changed []*Service) {
	for _, s := range changed {
		for _, m := range s.members {
			switch {
			case m.Backend == nil:
			case m.endpoint.Stopping:
				m.Backend.leaves()
			default:
				m.Backend.stays()
			}
			if m.Backend != nil && m.endpoint.Paused {
				m.Backend.pool.Pause(errPaused, len(s.tiers) > 0)
			}
		}
		s.group.queue.changed()
		s.group.queue.release(s.newest)
	}
}

// adoptLocked brings backends, owners, counters and statuses in line with a state, and returns the
// backends that are not in it.
func (r *Router) adoptLocked(s discovery.State, now time.Time) (gone []*Backend) {
	owners := make(map[discovery.Key][]string, len(r.owners))
	live := make(map[discovery.Key]*Backend, len(r.backends))
	pools := make(map[*upstream.Pool]bool, len(r.backends))
	for _, spec := range s.Services {
		opts := poolOptions(spec.Settings)
		g := r.groups[spec.Name]
		if g == nil {
			g = new(group)
			r.groups[spec.Name] = g
		}
		g.left = now
		for _, e := range spec.Endpoints {
			owners[e.Key] = append(owners[e.Key], spec.Name)
			g.counterLocked(e.Name, now)
			if !usable(e) {
				continue
			}
			b := live[e.Key] // of another service
			if b == nil {
				b = r.backends[e.Key]
			}
			if b == nil || b.addr != e.Addr {
				if was := r.pausedLocked(e); was != nil { // it has its connections still, and requests that wait in them
					was.pool.Resume()
					was.prior = nil
					b = newBackend(e, was.pool)
					b.prior = was
				} else {
					b = newBackend(e, upstream.NewPool(e.Addr, opts))
				}
			}
			if b.paused && !e.Paused {
				b.pool.Resume()
			}
			b.paused = e.Paused
			b.pool.SetOptions(opts)
			live[e.Key] = b
			pools[b.pool] = true
		}
		g.forgetLocked(now)
	}
	for k, b := range live {
		b.shared.Store(nil)
		if names := owners[k]; len(names) > 1 {
			b.shared.Store(&names)
		}
	}
	maps.DeleteFunc(r.groups, func(_ string, g *group) bool { return now.Sub(g.left) > memory })
	for k, b := range r.backends {
		if live[k] != b && !pools[b.pool] {
			gone = append(gone, b)
		}
	}
	// A status that came before its endpoint is kept; one whose endpoint has left is not.
	maps.DeleteFunc(r.status, func(k discovery.Key, _ health.Status) bool {
		return len(r.owners[k]) > 0 && len(owners[k]) == 0
	})
	r.owners, r.backends = owners, live
	return gone
}

// pausedLocked finds the run of an endpoint that was paused until now; nil: there was none.
func (r *Router) pausedLocked(e discovery.Endpoint) *Backend {
	for k, b := range r.backends {
		if b.paused && !e.Paused && b.addr == e.Addr && k.ID == e.Key.ID && k.Port == e.Key.Port {
			return b
		}
	}
	return nil
}

// Mark records what is well. A status that comes before the endpoint it is about is kept for it.
func (r *Router) Mark(k discovery.Key, s health.Status) {
	r.mu.Lock()
	was := r.status[k]
	r.status[k] = s
	names := r.owners[k]
	if len(names) == 0 {
		r.mu.Unlock()
		return
	}
	if b := r.backends[k]; b != nil && s.State == health.Up && was.State != health.Up {
		b.window.reset()
		b.rose = time.Now()
	}
	old := r.table.Load()
	t := r.rebuildLocked(names...)
	r.mu.Unlock()
	r.tell(old, t)
}

// rebuildLocked builds some services anew, and shows them.
func (r *Router) rebuildLocked(names ...string) *Table {
	old := r.table.Load()
	t := &Table{applied: true, routes: old.routes, services: slices.Clone(old.services), skipped: old.skipped}
	var changed []*Service
	for _, name := range names {
		i := t.routes.names[name]
		t.services[i] = r.buildLocked(old.services[i].spec, old)
		changed = append(changed, t.services[i])
	}
	t.since = time.Now()
	r.table.Store(t)
	settle(changed)
	return t
}

// tell logs which backends are in another state than before. It is not called under mu: whoever reads
// the log may be slow.
func (r *Router) tell(old, now *Table) {
	states := make(map[discovery.Key]string)
	id := func(s *Service, k discovery.Key) discovery.Key { // a backend through its runs
		return discovery.Key{ID: s.spec.Name + " " + k.ID, Port: k.Port}
	}
	for _, s := range old.services {
		if now.byName(s.spec.Name) == s {
			continue
		}
		for _, m := range s.members {
			states[id(s, m.endpoint.Key)], _ = m.state()
		}
	}
	for _, s := range now.services {
		if old.byName(s.spec.Name) == s {
			continue
		}
		for _, m := range s.members {
			k := id(s, m.endpoint.Key)
			was := states[k]
			delete(states, k)
			state, why := m.state()
			if state == was || state == "down" && was == "" {
				continue
			}
			level := slog.LevelInfo
			switch state {
			case "unhealthy":
				level = slog.LevelWarn
			case "probing":
				level = slog.LevelDebug
			}
			args := []any{"service", s.spec.Name, "backend", m.endpoint.Name, "addr", m.endpoint.Addr}
			if why != "" {
				args = append(args, "why", why)
			}
			r.log.Log(context.Background(), level, "backend "+state, args...)
		}
	}
	for _, s := range old.services {
		for _, m := range s.members {
			if state, ok := states[id(s, m.endpoint.Key)]; ok && state != "down" {
				r.log.Info("backend gone", "service", s.spec.Name, "backend", m.endpoint.Name, "addr", m.endpoint.Addr)
			}
		}
	}
}

// buildLocked makes the snapshot of one service, to follow the one in an old table.
func (r *Router) buildLocked(spec discovery.Service, old *Table) *Service {
	s := &Service{router: r, group: r.groups[spec.Name], spec: spec}
	if was := old.byName(spec.Name); was != nil {
		if s.left = was.left; len(was.tiers) > 0 {
			s.left = time.Now()
		}
	}
	for _, e := range spec.Endpoints {
		status, ok := r.status[e.Key]
		if !ok {
			status = health.Status{State: health.Probing, Why: "waiting for its first successful check"}
		}
		s.members = append(s.members, newMember(e, status, r.backends[e.Key], s.group.backends[e.Name]))
	}
	settings, now := spec.Settings, time.Now()
	s.buildTiers(now)
	s.key, s.timing, s.sticky = newKey(settings.Balancer.Key()), settings.Balancer.Timing(), newStickiness(s, r.secret)
	if s.rising {
		r.riseLocked(s, now)
	}
	return s
}

// riseSteps is in how many steps a weight grows.
const riseSteps = 20

// riseLocked has a service rebuilt when its weights have grown by a step.
func (r *Router) riseLocked(s *Service, now time.Time) {
	step := time.Duration(math.MaxInt64)
	for _, m := range s.members {
		if m.risen(now) < 1 {
			step = min(step, m.endpoint.SlowStart/riseSteps)
		}
	}
	if s.group.ramp != nil {
		s.group.ramp.Stop()
	}
	s.group.ramp = time.AfterFunc(max(step, 10*time.Millisecond), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if s.newest() == s {
			r.rebuildLocked(s.spec.Name)
		}
	})
}

func poolOptions(s discovery.Settings) upstream.Options {
	return upstream.Options{
		ConnectTimeout: s.ConnectTimeout, ReadTimeout: s.ReadTimeout,
		MaxIdle: s.Keepalive, IdleTimeout: s.KeepaliveTimeout,
	}
}

func usable(e discovery.Endpoint) bool { return e.Addr != "" && e.Down == "" }

func sameRoutes(old []*Service, specs []discovery.Service) bool {
	return slices.EqualFunc(old, specs, func(s *Service, spec discovery.Service) bool {
		return s.spec.Name == spec.Name && slices.Equal(s.spec.Routes, spec.Routes)
	})
}
