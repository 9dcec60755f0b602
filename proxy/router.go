// Package proxy is the data plane: it routes requests to services and carries them to backends.
//
// A [Router] is told what exists and what is well, and shows one immutable [Table] behind one atomic
// pointer. A request loads the pointer once per attempt and decides with nothing else. What outlives
// the tables, such as connections and counters, lives in a [Backend] or in the group of its service.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"longshore/discovery"
	"longshore/health"
	"longshore/internal/upstream"
)

// errGone is why exchanges fail whose container stopped, or lost its address.
var errGone = errors.New("the container is gone")

// A Router turns what exists and what is well into Tables. Its methods may be called by any
// goroutine.
type Router struct {
	report func(health.Key, health.Outcome)
	log    *slog.Logger
	table  atomic.Pointer[Table] // never nil; stored under mu

	mu       sync.Mutex // serializes writers and guards the following
	state    discovery.State
	status   map[discovery.Key]health.Status
	backends map[discovery.Key]*Backend // those with an address, carried from table to table
	groups   map[string]*group          // by service name
	owners   map[discovery.Key][]string // the services that a backend belongs to
	unrouted *group                     // requests that no route is for
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
		status:   make(map[discovery.Key]health.Status),
		backends: make(map[discovery.Key]*Backend),
		groups:   make(map[string]*group),
		owners:   make(map[discovery.Key][]string),
		unrouted: &group{},
	}
	r.table.Store(&Table{routes: newRoutes(nil)})
	return r
}

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
	r.state = s
	gone := r.adoptLocked(s, time.Now())

	t := &Table{applied: true, routes: old.routes, services: make([]*Service, len(s.Services)), skipped: s.Skipped}
	if !old.applied || !sameRoutes(old.services, s.Services) {
		t.routes = newRoutes(s.Services)
	}
	for i, spec := range s.Services {
		if was := old.byName(spec.Name); was != nil && reflect.DeepEqual(was.spec, spec) {
			t.services[i] = was
			continue
		}
		t.services[i] = r.buildLocked(spec)
	}
	t.since = time.Now()
	r.table.Store(t)
	// Only now, so that a request that fails with its backend finds the table without it.
	for _, b := range gone {
		b.pool.Close(errGone)
	}
	r.mu.Unlock()
	r.tell(old, t)
}

// adoptLocked brings backends, owners, counters and statuses in line with a state, and returns the
// backends that are not in it.
func (r *Router) adoptLocked(s discovery.State, now time.Time) (gone []*Backend) {
	owners := make(map[discovery.Key][]string, len(r.owners))
	live := make(map[discovery.Key]*Backend, len(r.backends))
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
			c := g.counterLocked(e.Name, now)
			if !usable(e) {
				continue
			}
			b := r.backends[e.Key]
			if b == nil || b.addr != e.Addr {
				b = newBackend(e, opts, c)
			}
			b.pool.SetOptions(opts)
			live[e.Key] = b
		}
		g.forgetLocked(now)
	}
	maps.DeleteFunc(r.groups, func(_ string, g *group) bool { return now.Sub(g.left) > memory })
	for k, b := range r.backends {
		if live[k] != b {
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

// Mark records what is well. A status that comes before the endpoint it is about is kept for it.
func (r *Router) Mark(k discovery.Key, s health.Status) {
	r.mu.Lock()
	r.status[k] = s
	names := r.owners[k]
	if len(names) == 0 {
		r.mu.Unlock()
		return
	}
	old := r.table.Load()
	t := &Table{applied: true, routes: old.routes, services: slices.Clone(old.services), skipped: old.skipped}
	for _, name := range names {
		i := t.routes.names[name]
		t.services[i] = r.buildLocked(old.services[i].spec)
	}
	t.since = time.Now()
	r.table.Store(t)
	r.mu.Unlock()
	r.tell(old, t)
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

// buildLocked makes the snapshot of one service.
func (r *Router) buildLocked(spec discovery.Service) *Service {
	s := &Service{router: r, group: r.groups[spec.Name], spec: spec}
	for _, e := range spec.Endpoints {
		status, ok := r.status[e.Key]
		if !ok {
			status = health.Status{State: health.Probing, Why: "waiting for its first successful check"}
		}
		s.members = append(s.members, newMember(e, status, r.backends[e.Key], s.group.backends[e.Name]))
	}
	s.buildTiers()
	return s
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
