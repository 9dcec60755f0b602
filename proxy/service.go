package proxy

import (
	"slices"
	"time"

	"longshore/balancer"
	"longshore/discovery"
	"longshore/health"
)

// A Service is the snapshot of one service in a Table. It does not change after it is built.
type Service struct {
	router  *Router
	group   *group
	spec    discovery.Service
	members []member
	tiers   []tier  // best first; none is empty
	good    int     // how many of the tiers hold what is ready, backups included
	rising  bool    // the weight of one of its backends grows
	key     keyFunc // nil: the policy does not hash
	sticky  *stickiness
	plain   bool // it asks for nothing that only the general path has
	timing  balancer.Timing
	left    time.Time // when it last had one; zero: not since the Router has known it
	missed  bool      // it is not in the State any more, and its routes are remembered
}

// newest is the present snapshot of this service; nil: it is no more.
func (s *Service) newest() *Service { return s.router.Table().byName(s.spec.Name) }

// hope reports whether it makes sense to wait for a backend: one is usable or may become so, since its
// container runs, and has not run for longer than a start may take without passing a check; one is expected; or it
// is not long ago that there was one, or that we know anything.
func (s *Service) hope(now time.Time) bool {
	if s = s.newest(); s == nil {
		return false
	}
	known := false
	for _, m := range s.members {
		if m.Backend == nil {
			continue
		}
		if !m.isHopeless(now) {
			return true
		}
		known = true
	}
	return s.spec.Expected || now.Sub(s.left) < hopeful || !known && now.Sub(s.router.started) < hopeful
}

// inFlight is how many requests are in flight or wait.
func (s *Service) inFlight() int64 {
	n := s.group.queue.length.Load()
	for _, m := range s.members {
		if m.Backend != nil {
			n += m.Backend.InFlight()
		}
	}
	return n
}

// A member is an endpoint of a service with what is known of it. Its Backend may belong to other services
// too; its counters are the service's own.
type member struct {
	endpoint discovery.Endpoint
	status   health.Status
	*Backend // nil: it has no address
	*counters
}

func newMember(e discovery.Endpoint, s health.Status, b *Backend, c *counters) member {
	if b != nil && (s.Trial || s.State != health.Up) {
		b.watched.Store(true)
	}
	return member{endpoint: e, status: s, Backend: b, counters: c}
}

// state is the one word of /api/state, and why it is not "up".
func (m member) state() (state, why string) {
	switch e := m.endpoint; {
	case !usable(e):
		return "down", e.Down
	case e.Paused:
		return "paused", "paused"
	case e.Overdue:
		return "draining", "it was told to stop, and runs on"
	case e.Stopping:
		return "draining", "it was told to stop"
	}
	return m.status.State.String(), m.status.Why
}

// A tier is a set of backends that is used when no better one has any left.
type tier struct {
	backends []*member
	picker   balancer.Picker
}

// buildTiers sorts the members by how good they are: ready; ready backups; those that asked to be drained;
// those that accept connections but are not well, or whose HEALTHCHECK has not run yet; stopping ones, since
// a shell as PID 1 ignores SIGTERM for its whole grace period, and nobody is told of a longer one. Only what is ready is balanced on; the rest is
// better than an error. One that the user marked to drain gets only what is bound to it.
func (s *Service) buildTiers(now time.Time) {
	var ready, backup, drain, reserve, last []member
	for _, m := range s.members {
		switch e := m.endpoint; {
		case m.Backend == nil || e.Paused || e.Drain:
		case e.Stopping:
			if m.status.State == health.Up || m.status.Reachable {
				last = append(last, m)
			}
		case m.status.State == health.Draining && m.status.Reachable:
			drain = append(drain, m)
		case m.status.State == health.Up && e.Backup:
			backup = append(backup, m)
		case m.status.State == health.Up:
			ready = append(ready, m)
		case m.status.Reachable:
			reserve = append(reserve, m)
		}
	}
	for i, ms := range [][]member{ready, backup, drain, reserve, last} {
		if len(ms) > 0 {
			s.tiers = append(s.tiers, s.newTier(ms, now))
			if i < 2 {
				s.good++
			}
		}
	}
}

func (s *Service) newTier(ms []member, now time.Time) tier {
	proven := false // a backend on trial is held to one request only while others can take the rest
	for _, m := range ms {
		proven = proven || !m.status.Trial
	}
	t := tier{backends: make([]*member, len(ms))}
	rising := false
	for _, m := range ms {
		rising = rising || m.risen(now) < 1
	}
	rising = rising && s.spec.Settings.Balancer.Ramps()
	s.rising = s.rising || rising
	cs := make([]balancer.Candidate, len(ms))
	for i, m := range ms {
		t.backends[i] = &ms[i]
		cs[i] = balancer.Candidate{
			Name: s.spec.Name + "/" + m.endpoint.Name, Weight: max(m.endpoint.Weight, 1), Limit: int64(m.endpoint.MaxConns), Load: &m.Backend.Load,
		}
		if rising {
			cs[i].Weight = max(int(100*float64(cs[i].Weight)*m.risen(now)), 1)
		}
		if m.status.Trial && proven && s.spec.Settings.Balancer.Ramps() { // else a second request would lose its affinity
			cs[i].Limit = 1
		}
	}
	t.picker = s.spec.Settings.Balancer.New(cs)
	return t
}

// leastRise is the share of its weight that a backend begins with.
const leastRise = .1

// risen is the share of its weight that a member has by now (nginx: slow_start).
func (m *member) risen(now time.Time) float64 {
	span := m.endpoint.SlowStart
	if span <= 0 || m.Backend == nil || m.rose.IsZero() {
		return 1
	}
	return min(max(float64(now.Sub(m.rose))/float64(span), leastRise), 1)
}

// pick chooses a backend and reserves it; the caller releases its Load. It returns nil when there is
// none that q allows: each was tried or is full.
func (s *Service) pick(q balancer.Query) *member {
	for n, t := range s.tiers {
		if n == s.good && s.full(q) {
			break
		}
		if i, ok := t.picker.Pick(q); ok {
			return t.backends[i]
		}
	}
	return nil
}

// full reports whether there is a backend that is ready, and could be had if it had room (nginx:
// max_conns): that is waited for, rather than to ask one that is not well.
func (s *Service) full(q balancer.Query) bool {
	for _, t := range s.tiers[:s.good] {
		for _, b := range t.backends {
			if !slices.Contains(q.Tried, &b.Load) {
				return true
			}
		}
	}
	return false
}

// admit is pick for a request that has waited: it also takes a place in the backend's window. While those
// of a tier are full, a worse tier is not looked at.
func (s *Service) admit(q balancer.Query) *member {
	for n, t := range s.tiers {
		full := n == s.good && s.full(q)
		if full {
			break
		}
		for i, ok := t.picker.Pick(q); ok; i, ok = t.picker.Pick(q) {
			b := t.backends[i]
			if b.window.enter() {
				return b
			}
			b.Release()
			full = true
			q.Tried = append(slices.Clip(q.Tried), &b.Load)
		}
		if full {
			break
		}
	}
	return nil
}

// freed lets those who wait have the place of m that has become free, those of other services too.
func (s *Service) freed(m *member) {
	s.group.queue.release(s.newest)
	if names := m.shared.Load(); names != nil {
		for _, name := range *names {
			if other := s.router.Table().byName(name); other != nil && name != s.spec.Name {
				other.group.queue.release(other.newest)
			}
		}
	}
}

// A ServiceView is what a Service shows to people and to metrics.
type ServiceView struct {
	Name     string
	Routes   []discovery.Route
	Balancer string
	Parked   int
	Backends []BackendView
	Stats    Stats
}

// A BackendView is what a backend shows.
type BackendView struct {
	ID, Name, Addr string
	State, Why     string // one of probing up draining unhealthy down paused; why it is not up
	Since          time.Time
	Weight         int
	InFlight       int64
	Requests       uint64          // of all that had this name
	Failures       [reasons]uint64 // by Reason, likewise
}

// Failed is the number of failures of all kinds.
func (b BackendView) Failed() (n uint64) {
	for _, f := range b.Failures {
		n += f
	}
	return n
}

// routes are those that it has, of those that it wants.
func (s *Service) routes() []discovery.Route {
	t := s.router.Table()
	return slices.DeleteFunc(slices.Clone(s.spec.Routes), func(r discovery.Route) bool { return !t.has(s, r) })
}

// View reads the service as it is now.
func (s *Service) View() ServiceView {
	v := ServiceView{
		Name: s.spec.Name, Routes: s.routes(), Balancer: s.spec.Settings.Balancer.String(), Parked: int(s.group.queue.length.Load()),
		Backends: make([]BackendView, 0, len(s.members)), Stats: s.group.view(),
	}
	for _, m := range s.members {
		e := m.endpoint
		bv := BackendView{ID: e.Key.ID, Name: e.Name, Addr: e.Addr, Since: m.status.Since, Weight: e.Weight}
		bv.State, bv.Why = m.state()
		if b := m.Backend; b != nil {
			bv.InFlight = b.InFlight()
		}
		bv.Requests = m.requests.Load()
		for i := range bv.Failures {
			bv.Failures[i] = m.failures[i].Load()
		}
		v.Backends = append(v.Backends, bv)
	}
	return v
}
