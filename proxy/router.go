// Package proxy is the data plane: it routes requests to services and carries them to backends.
//
// A [Router] is told what exists and what is well, and shows one immutable [Table] behind one atomic
// pointer. A request loads the pointer once per attempt and decides with nothing else. What outlives
// the tables, such as connections and counters, lives in a [Backend] or in the group of its service.
package proxy

import (
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
	groups   map[string]*group          // by service name; never forgotten, so that counters do not fall
	owner    map[discovery.Key]string   // the service that a backend belongs to
	applied  time.Time                  // of the first Apply; zero: none yet
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
		owner:    make(map[discovery.Key]string),
		unrouted: &group{},
	}
	r.table.Store(&Table{routes: newRoutes(nil)})
	return r
}

// Table returns the current snapshot, never nil.
func (r *Router) Table() *Table { return r.table.Load() }

// Applied reports whether a state has been applied.
func (r *Router) Applied() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.applied.IsZero()
}

// Apply makes what exists the truth for the requests to come. Backends that are no longer there, or
// no longer run, end at once with what they carried. Services that did not change keep their pickers.
func (r *Router) Apply(s discovery.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.applied.IsZero()
	if first {
		r.applied = time.Now()
	}
	if !first && reflect.DeepEqual(s, r.state) {
		return
	}
	old := r.table.Load()
	r.state = s
	gone := r.adoptLocked(s)

	t := &Table{routes: old.routes, services: make([]*Service, len(s.Services)), skipped: s.Skipped}
	if first || !sameRoutes(old.services, s.Services) {
		t.routes = newRoutes(s.Services)
	}
	for i, spec := range s.Services {
		if was := old.byName(spec.Name); was != nil && reflect.DeepEqual(was.spec, spec) {
			t.services[i] = was
			continue
		}
		t.services[i] = r.buildLocked(spec)
	}
	r.table.Store(t)
	// Only now, so that a request that fails with its backend finds the table without it.
	for _, b := range gone {
		b.pool.Close(errGone)
	}
}

// adoptLocked brings backends, owners and statuses in line with a state, and returns the backends that
// are not in it.
func (r *Router) adoptLocked(s discovery.State) (gone []*Backend) {
	owner := make(map[discovery.Key]string, len(r.owner))
	live := make(map[discovery.Key]*Backend, len(r.backends))
	for _, spec := range s.Services {
		opts := poolOptions(spec.Settings)
		for _, e := range spec.Endpoints {
			owner[e.Key] = spec.Name
			if !usable(e) {
				continue
			}
			b := r.backends[e.Key]
			if b == nil || b.addr != e.Addr {
				b = newBackend(e, opts)
			}
			b.pool.SetOptions(opts)
			live[e.Key] = b
		}
		if r.groups[spec.Name] == nil {
			r.groups[spec.Name] = &group{}
		}
	}
	for k, b := range r.backends {
		if live[k] != b {
			gone = append(gone, b)
		}
	}
	// A status that came before its endpoint is kept; one whose endpoint has left is not.
	maps.DeleteFunc(r.status, func(k discovery.Key, _ health.Status) bool {
		_, was := r.owner[k]
		_, is := owner[k]
		return was && !is
	})
	r.owner, r.backends = owner, live
	return gone
}

// Mark records what is well. A status that comes before the endpoint it is about is kept for it.
func (r *Router) Mark(k discovery.Key, s health.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status[k] = s
	name, ok := r.owner[k]
	if !ok {
		return
	}
	old := r.table.Load()
	t := &Table{routes: old.routes, services: slices.Clone(old.services), skipped: old.skipped}
	i := t.routes.names[name]
	t.services[i] = r.buildLocked(old.services[i].spec)
	r.table.Store(t)
}

// buildLocked makes the snapshot of one service.
func (r *Router) buildLocked(spec discovery.Service) *Service {
	s := &Service{router: r, group: r.groups[spec.Name], spec: spec}
	for _, e := range spec.Endpoints {
		status, ok := r.status[e.Key]
		if !ok {
			status = health.Status{State: health.Probing, Why: "waiting for its first successful check"}
		}
		s.members = append(s.members, newMember(e, status, r.backends[e.Key]))
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
