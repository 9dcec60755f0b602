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
	errGone    = errors.New("the container is gone")              // it was told to stop, or is no backend any more
	errCrashed = errors.New("the container has ended by itself")  // perhaps for what it was asked to do
	errLost    = errors.New("the container has lost its network") // and may be about to end: nobody knows yet
	errPaused  = errors.New("the container is paused")
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

	newPool func(addr string, o upstream.Options) transport // upstream.NewPool; tests set another

	mu       sync.Mutex // serializes writers and guards the following
	state    discovery.State
	status   map[discovery.Key]health.Status
	backends map[discovery.Key]*Backend // those with an address, carried from table to table
	groups   map[string]*group          // by service name
	owners   map[discovery.Key][]owner  // the services that a backend belongs to
	missed   []missed                   // services that have left the State a short while ago
	forget   *time.Timer                // for the first of them; nil: there was none yet
	review   *time.Timer                // for who has a contested route; nil: there was none yet
	lost     map[discovery.Key]*Backend // those that have lost their network, until it is known what that means
	swept    time.Time                  // when counters were last looked at that nobody may need
	unrouted *group                     // requests that no route is for
}

// An owner is a service that has an endpoint.
type owner struct {
	service string
	usable  bool // the endpoint is, in this service
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
		newPool:  func(addr string, o upstream.Options) transport { return upstream.NewPool(addr, o) },
		first:    make(chan struct{}),
		secret:   []byte(rand.Text()),
		status:   make(map[discovery.Key]health.Status),
		backends: make(map[discovery.Key]*Backend),
		groups:   make(map[string]*group),
		owners:   make(map[discovery.Key][]owner),
		lost:     make(map[discovery.Key]*Backend),
		unrouted: &group{},
	}
	r.table.Store(&Table{routes: newRoutes(nil, claims{})})
	return r
}

// SetSecret has the cookies of sticky sessions signed with what the user gave, instead of what was drawn. It
// is called before the first State is applied.
func (r *Router) SetSecret(secret string) { r.secret = []byte(secret) }

// Table returns the current snapshot, never nil.
func (r *Router) Table() *Table { return r.table.Load() }

// Applied reports whether a state has been applied.
func (r *Router) Applied() bool { return r.Table().applied }

// abandon ends at once the exchanges whose server ends.
func (r *Router) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.backends {
		b.pool.Abandon()
	}
}

// Apply makes what exists the truth for the requests to come. Backends that are no longer there, or
// no longer run, end at once with what they carried. Services that did not change keep their pickers; to
// find them is all that they cost.
func (r *Router) Apply(s discovery.State) {
	r.mu.Lock()
	old := r.table.Load()
	d := r.diffLocked(old, s.Services)
	if old.applied && d.same && slices.Equal(s.Skipped, r.state.Skipped) && slices.Equal(s.Gateways, r.state.Gateways) {
		r.mu.Unlock()
		return
	}
	now := time.Now()
	gone, ends := r.adoptLocked(d, s.Services, now)
	r.missLocked(old, d, now)
	r.state = s
	table, changed := r.swapLocked(old, d.kept)
	r.endLocked(gone, ends) // only now, so that a request that fails with its backend finds the table without it
	settle(changed)
	if !old.applied {
		close(r.first)
	}
	r.mu.Unlock()
	r.tell(old, table, changed)
}

// A difference is between a table and the services of the next State.
type difference struct {
	same bool
	kept []*Service // by index of the next; nil: it is new or has changed
	left []*Service // of the table: they have changed, or are missing
	seen []bool     // by index of the table: it is in the next
}

func (r *Router) diffLocked(old *Table, next []discovery.Service) difference {
	d := difference{same: len(next) == len(r.state.Services), kept: make([]*Service, len(next)), seen: make([]bool, len(old.services))}
	for i := range next {
		j := i
		if i >= len(old.services) || old.services[i].spec.Name != next[i].Name {
			var ok bool
			if j, ok = old.routes.names[next[i].Name]; !ok {
				d.same = false
				continue
			}
		}
		d.seen[j] = true
		if was := old.services[j]; was.spec.Equal(&next[i]) {
			d.kept[i] = was
		} else {
			d.left = append(d.left, was)
		}
		d.same = d.same && i == j && d.kept[i] != nil
	}
	for j := range r.state.Services {
		if !d.seen[j] {
			d.same = false
			d.left = append(d.left, old.services[j])
		}
	}
	return d
}

// swapLocked builds the table of the present state and shows it. What is kept of the old one need not be
// built. It returns the table, and which services changed.
func (r *Router) swapLocked(old *Table, kept []*Service) (t *Table, changed []*Service) {
	n := len(kept)
	t = &Table{applied: true, services: make([]*Service, n+len(r.missed)), skipped: r.state.Skipped, gateways: r.state.Gateways}
	copy(t.services, kept)
	routed := old.applied && len(old.services) == len(t.services) // the routes are as they were
	for i := range t.services {
		var spec *discovery.Service
		if i < n {
			spec = &r.state.Services[i]
		} else {
			spec = &r.missed[i-n].Service
			if was := old.byName(spec.Name); was != nil && was.missed && was.spec.Equal(spec) {
				t.services[i] = was
			}
		}
		if t.services[i] == nil {
			t.services[i] = r.buildLocked(*spec, old)
			t.services[i].missed = i >= n
			changed = append(changed, t.services[i])
		}
		routed = routed && sameRoutes(&old.services[i].spec, spec)
	}
	r.showLocked(t, old, routed)
	return t, changed
}

// showLocked completes a table with its routes, and shows it. routed: its services want what they wanted.
func (r *Router) showLocked(t, old *Table, routed bool) {
	var specs []discovery.Service
	c := old.routes.claims
	if !routed || len(c.contested) > 0 {
		for _, s := range t.services {
			specs = append(specs, s.spec)
		}
	}
	if !routed {
		c = newClaims(specs)
	}
	now := time.Now()
	c, moved, later := c.decide(t.services, old, now)
	if t.routes = old.routes; !routed || moved {
		t.routes = newRoutes(specs, c)
	}
	if !later.IsZero() {
		setTimer(&r.review, later.Sub(now), r.decideAnew)
	}
	t.since = now
	r.table.Store(t)
}

// setTimer has f called after some time, and not at the time that was set before.
func setTimer(timer **time.Timer, after time.Duration, f func()) {
	if *timer != nil {
		(*timer).Stop()
	}
	*timer = time.AfterFunc(after, f)
}

// decideAnew decides who has the contested routes though nothing but time has changed.
func (r *Router) decideAnew() {
	r.mu.Lock()
	old := r.table.Load()
	t, _ := r.rebuildLocked()
	r.mu.Unlock()
	r.tell(old, t, nil)
}

// missLocked notes which services are not in the next state, and for how long they are missed. One whose
// containers are there under another name is not.
func (r *Router) missLocked(old *Table, d difference, now time.Time) {
	n := len(r.state.Services)
	var still []missed
	for i, m := range r.missed {
		if !d.seen[n+i] && now.Before(m.until) {
			still = append(still, m)
		}
	}
	for i, s := range r.state.Services {
		renamed := slices.ContainsFunc(s.Endpoints, func(e discovery.Endpoint) bool { return len(r.owners[e.Key]) > 0 })
		if !d.seen[i] && !renamed {
			s.Endpoints, s.Expected = nil, false
			still = append(still, missed{s, now.Add(hopeful)})
		}
	}
	r.missed = still
	r.forgetLaterLocked(now)
}

// forgetLaterLocked has the services that are missed forgotten in time. Those that left in a short time are
// forgotten together, since all routes are built anew for that.
func (r *Router) forgetLaterLocked(now time.Time) {
	if len(r.missed) > 0 { // the first of them left first
		setTimer(&r.forget, max(r.missed[0].until.Sub(now), time.Second), r.forgetMissed)
	}
}

// forgetMissed drops the services that have been missed for long enough.
func (r *Router) forgetMissed() {
	r.mu.Lock()
	now, old := time.Now(), r.table.Load()
	r.missed = slices.DeleteFunc(slices.Clone(r.missed), func(m missed) bool { return !now.Before(m.until) })
	r.forgetLaterLocked(now)
	t := old
	if len(old.services) != len(r.state.Services)+len(r.missed) {
		t, _ = r.swapLocked(old, old.services[:len(r.state.Services)])
	}
	r.mu.Unlock()
	r.tell(old, t, nil)
}

// endLocked closes the backends that are gone. Before that it says how they ended, as far as that is known: who
// fails with them asks. What is no longer part of the State was removed by somebody.
func (r *Router) endLocked(gone []*Backend, ends map[discovery.Key]discovery.End) {
	for _, b := range gone {
		r.lost[b.key] = b
	}
	for k, b := range r.lost {
		end, news := ends[k]
		switch {
		case end != discovery.EndUnknown:
			b.ends(end == discovery.EndCrash)
		case !news && len(r.owners[k]) == 0:
			b.ends(false)
		default:
			continue
		}
		delete(r.lost, k)
	}
	for _, b := range gone {
		b.pool.Close(b.cause())
	}
}

// settle does what follows when these services are shown: who waits gets what has become ready, and what
// cannot go on with a paused container goes elsewhere. It is called with the Router's mu held.
func settle(changed []*Service) {
	for _, s := range changed {
		for _, m := range s.members {
			switch {
			case m.Backend == nil:
			case m.endpoint.Stopping && !m.endpoint.Overdue:
				m.Backend.ends(false)
			default:
				m.Backend.goesOn()
			}
			if m.Backend != nil && m.endpoint.Paused {
				m.Backend.pool.Pause(errPaused, len(s.tiers) > 0)
			}
		}
		s.group.queue.changed()
		s.group.queue.release(s.newest)
	}
}

// adoptLocked brings backends, owners, counters and statuses in line with the next services. It returns the
// backends that are not in them, and how containers ended that were backends.
func (r *Router) adoptLocked(d difference, next []discovery.Service, now time.Time) (gone []*Backend, ends map[discovery.Key]discovery.End) {
	ends = make(map[discovery.Key]discovery.End)
	loose := make(map[*Backend]bool) // in what has left; perhaps the next services have them too
	var paused []*Backend            // of those
	for _, s := range d.left {
		g := r.groups[s.spec.Name]
		g.left = now
		for _, e := range s.spec.Endpoints {
			g.backends[e.Name].left = now
			r.owners[e.Key] = slices.DeleteFunc(r.owners[e.Key], func(o owner) bool { return o.service == s.spec.Name })
			if b := r.backends[e.Key]; b != nil && !loose[b] {
				loose[b] = true
				if b.paused {
					paused = append(paused, b)
				}
			}
		}
	}
	pools := make(map[transport]bool) // that go on
	for i := range next {
		if d.kept[i] != nil {
			continue
		}
		spec := &next[i]
		opts := poolOptions(spec.Settings)
		g := r.groups[spec.Name]
		if g == nil {
			g = new(group)
			r.groups[spec.Name] = g
		}
		g.left = time.Time{}
		for _, e := range spec.Endpoints {
			r.owners[e.Key] = append(r.owners[e.Key], owner{spec.Name, usable(e)})
			g.counterLocked(e.Name)
			if !usable(e) {
				ends[e.Key] = e.End
				continue
			}
			b := r.backends[e.Key]
			if b == nil || b.addr != e.Addr {
				if was := pausedOf(paused, e); was != nil { // it has its connections still, and requests that wait in them
					was.pool.Resume()
					was.prior = nil
					b = newBackend(e, was.pool)
					b.prior = was
				} else {
					b = newBackend(e, r.newPool(e.Addr, opts))
				}
				r.backends[e.Key] = b
			}
			if b.paused && !e.Paused {
				b.pool.Resume()
			}
			b.paused = e.Paused
			b.pool.SetOptions(opts)
			pools[b.pool] = true
		}
	}
	for b := range loose {
		used := slices.ContainsFunc(r.owners[b.key], func(o owner) bool { return o.usable })
		switch {
		case used && r.backends[b.key] == b:
			continue
		case !used && r.backends[b.key] == b:
			delete(r.backends, b.key)
		}
		if !pools[b.pool] {
			gone = append(gone, b)
		}
	}
	for i := range next {
		if d.kept[i] == nil {
			r.shareLocked(next[i].Endpoints)
		}
	}
	// A status that came before its endpoint is kept; one whose endpoint has left is not.
	for _, s := range d.left {
		r.shareLocked(s.spec.Endpoints)
		for _, e := range s.spec.Endpoints {
			if len(r.owners[e.Key]) == 0 {
				delete(r.owners, e.Key)
				delete(r.status, e.Key)
			}
		}
	}
	if now.Sub(r.swept) > memory/60 {
		r.swept = now
		maps.DeleteFunc(r.groups, func(_ string, g *group) bool {
			g.forgetLocked(now)
			return !g.left.IsZero() && now.Sub(g.left) > memory
		})
	}
	return gone, ends
}

// dropIdle closes all idle connections to backends, and returns how many there were.
func (r *Router) dropIdle() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.backends {
		n += b.pool.DropIdle()
	}
	return n
}

// shareLocked tells the backends of some endpoints which services they belong to.
func (r *Router) shareLocked(endpoints []discovery.Endpoint) {
	for _, e := range endpoints {
		b, owners := r.backends[e.Key], r.owners[e.Key]
		if b == nil {
			continue
		}
		var names *[]string
		if len(owners) > 1 {
			names = new([]string)
			for _, o := range owners {
				*names = append(*names, o.service)
			}
		}
		b.shared.Store(names)
	}
}

// pausedOf finds the run of an endpoint that was paused until now, among those whose place in their service
// has changed; nil: there was none.
func pausedOf(paused []*Backend, e discovery.Endpoint) *Backend {
	for _, b := range paused {
		if !e.Paused && b.addr == e.Addr && b.key.ID == e.Key.ID && b.key.Port == e.Key.Port {
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
	owners := r.owners[k]
	if len(owners) == 0 {
		r.mu.Unlock()
		return
	}
	if b := r.backends[k]; b != nil && s.State == health.Up && was.State != health.Up {
		b.window.reset()
		b.rose = time.Now()
	}
	old := r.table.Load()
	names := make([]string, len(owners))
	for i, o := range owners {
		names[i] = o.service
	}
	t, changed := r.rebuildLocked(names...)
	r.mu.Unlock()
	r.tell(old, t, changed)
}

// rebuildLocked builds some services anew and shows the table, which it returns with them.
func (r *Router) rebuildLocked(names ...string) (t *Table, changed []*Service) {
	old := r.table.Load()
	t = &Table{applied: true, services: slices.Clone(old.services), skipped: old.skipped, gateways: old.gateways}
	for _, name := range names {
		i := old.routes.names[name]
		t.services[i] = r.buildLocked(old.services[i].spec, old)
		changed = append(changed, t.services[i])
	}
	r.showLocked(t, old, true)
	settle(changed)
	return t, changed
}

// tell logs which backends are in another state than before, and who has got another's route. It is not called
// under mu: whoever reads the log may be slow.
func (r *Router) tell(old, t *Table, changed []*Service) {
	for _, n := range t.news(old) {
		n.tell(r.log)
	}
	type told struct{ state, late string }
	states := make(map[discovery.Key]told)
	id := func(s *Service, k discovery.Key) discovery.Key { // a backend through its runs
		return discovery.Key{ID: s.spec.Name + " " + k.ID, Port: k.Port}
	}
	var before []*Service
	for _, s := range changed {
		if was := old.byName(s.spec.Name); was != nil {
			before = append(before, was)
		}
	}
	for _, s := range before {
		for _, m := range s.members {
			state, _ := m.state()
			states[id(s, m.endpoint.Key)] = told{state, m.late()}
		}
	}
	for _, s := range changed {
		for _, m := range s.members {
			k := id(s, m.endpoint.Key)
			was := states[k]
			delete(states, k)
			state, why := m.state()
			late := m.late()
			isLate := late != "" && late != was.late
			if !isLate && (state == was.state || state == "down" && was.state == "") {
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
			if isLate {
				if hint := m.hint(); hint != "" {
					args = append(args, "hint", hint)
				}
				r.log.Warn("backend does not become ready", args...)
				continue
			}
			r.log.Log(context.Background(), level, "backend "+state, args...)
		}
	}
	for _, s := range before {
		for _, m := range s.members {
			if state, ok := states[id(s, m.endpoint.Key)]; ok && state.state != "down" {
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
		var b *Backend
		if usable(e) { // another service may have use for it
			b = r.backends[e.Key]
		}
		s.members = append(s.members, newMember(e, status, b, s.group.backends[e.Name]))
	}
	settings, now := spec.Settings, time.Now()
	s.buildTiers(now)
	s.key, s.timing, s.sticky = newKey(settings.Balancer.Key()), settings.Balancer.Timing(), newStickiness(s, r.secret)
	s.plain = s.sticky == nil || s.sticky.Mode != discovery.StickyLearn
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
		old := r.table.Load()
		t := old
		if s.newest() == s {
			t, _ = r.rebuildLocked(s.spec.Name)
		}
		r.mu.Unlock()
		r.tell(old, t, nil)
	})
}

func poolOptions(s discovery.Settings) upstream.Options {
	return upstream.Options{
		ConnectTimeout: s.ConnectTimeout, ReadTimeout: s.ReadTimeout,
		MaxIdle: s.Keepalive, IdleTimeout: s.KeepaliveTimeout,
	}
}

func usable(e discovery.Endpoint) bool { return e.Addr != "" && e.Down == "" }

func sameRoutes(a, b *discovery.Service) bool {
	return a.Name == b.Name && a.Since.Equal(b.Since) && a.Internal == b.Internal && slices.Equal(a.Routes, b.Routes)
}
