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
	tiers   []tier    // best first; none is empty
	left    time.Time // when it last had one; zero: not since the Router has known it
}

// newest is the present snapshot of this service; nil: it is no more.
func (s *Service) newest() *Service { return s.router.Table().byName(s.spec.Name) }

// hope reports whether it makes sense to wait for a backend: one is usable or may become so, since its
// container runs; one is expected; or it is not long ago that there was one, or that we know anything.
func (s *Service) hope(now time.Time) bool {
	if s = s.newest(); s == nil {
		return false
	}
	runs := slices.ContainsFunc(s.members, func(m member) bool { return m.backend != nil })
	return runs || s.spec.Expected || now.Sub(s.left) < hopeful || now.Sub(s.router.started) < hopeful
}

// inFlight is how many requests are in flight or wait.
func (s *Service) inFlight() int64 {
	n := s.group.queue.length.Load()
	for _, m := range s.members {
		if m.backend != nil {
			n += m.backend.InFlight()
		}
	}
	return n
}

// A member is an endpoint with what is known of it.
type member struct {
	endpoint discovery.Endpoint
	status   health.Status
	backend  *Backend // nil: it has no address
	counters *counters
}

func newMember(e discovery.Endpoint, s health.Status, b *Backend, c *counters) member {
	if b != nil && (s.Trial || s.State != health.Up) {
		b.watched.Store(true)
	}
	return member{endpoint: e, status: s, backend: b, counters: c}
}

// state is the one word of /api/state, and why it is not "up".
func (m member) state() (state, why string) {
	switch e := m.endpoint; {
	case !usable(e):
		return "down", e.Down
	case e.Paused:
		return "paused", "paused"
	case e.Stopping:
		return "draining", "it was told to stop"
	}
	return m.status.State.String(), m.status.Why
}

// A tier is a set of backends that is used when no better one has any left.
type tier struct {
	backends []*Backend
	picker   balancer.Picker
}

// buildTiers sorts the members by how good they are: ready; ready backups; those that accept
// connections but are not well, or whose HEALTHCHECK has not run yet; stopping ones, since a shell as
// PID 1 ignores SIGTERM for its whole grace period, and those that asked to be drained. Only what is ready
// is balanced on; the rest is better than an error.
func (s *Service) buildTiers() {
	var ready, backup, reserve, last []member
	for _, m := range s.members {
		switch e := m.endpoint; {
		case m.backend == nil || e.Paused:
		case e.Stopping, m.status.State == health.Draining:
			if m.status.State == health.Up || m.status.Reachable {
				last = append(last, m)
			}
		case m.status.State == health.Up && e.Backup:
			backup = append(backup, m)
		case m.status.State == health.Up:
			ready = append(ready, m)
		case m.status.Reachable:
			reserve = append(reserve, m)
		}
	}
	for _, ms := range [][]member{ready, backup, reserve, last} {
		if len(ms) > 0 {
			s.tiers = append(s.tiers, newTier(s.spec.Settings.Balancer, s.spec.Name, ms))
		}
	}
}

func newTier(policy balancer.Policy, service string, ms []member) tier {
	proven := false // a backend on trial is held to one request only while others can take the rest
	for _, m := range ms {
		proven = proven || !m.status.Trial
	}
	t := tier{backends: make([]*Backend, len(ms))}
	cs := make([]balancer.Candidate, len(ms))
	for i, m := range ms {
		t.backends[i] = m.backend
		cs[i] = balancer.Candidate{Name: service + "/" + m.endpoint.Name, Weight: max(m.endpoint.Weight, 1), Load: &m.backend.Load}
		if m.status.Trial && proven {
			cs[i].Limit = 1
		}
	}
	t.picker = policy.New(cs)
	return t
}

// pick chooses a backend and reserves it; the caller releases its Load. It returns nil when there is
// none that q allows.
func (s *Service) pick(q balancer.Query) *Backend {
	for _, t := range s.tiers {
		if i, ok := t.picker.Pick(q); ok {
			return t.backends[i]
		}
	}
	return nil
}

// admit is pick for a request that has waited: it also takes a place in the backend's window. While those
// of a tier are full, a worse tier is not looked at.
func (s *Service) admit(q balancer.Query) *Backend {
	for _, t := range s.tiers {
		full := false
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

// View reads the service as it is now.
func (s *Service) View() ServiceView {
	v := ServiceView{
		Name: s.spec.Name, Routes: s.spec.Routes, Balancer: s.spec.Settings.Balancer.String(), Parked: int(s.group.queue.length.Load()),
		Backends: make([]BackendView, 0, len(s.members)), Stats: s.group.view(),
	}
	for _, m := range s.members {
		e := m.endpoint
		bv := BackendView{ID: e.Key.ID, Name: e.Name, Addr: e.Addr, Since: m.status.Since, Weight: e.Weight}
		bv.State, bv.Why = m.state()
		if b := m.backend; b != nil {
			bv.InFlight = b.InFlight()
		}
		bv.Requests = m.counters.requests.Load()
		for i := range bv.Failures {
			bv.Failures[i] = m.counters.failures[i].Load()
		}
		v.Backends = append(v.Backends, bv)
	}
	return v
}
