package proxy

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"longshore/discovery"
)

// moments is how long a service that has just stopped keeps a route that others want. A restart takes less,
// and by default requests wait for longer, so neither the restart nor the hand-over loses one.
const moments = 5 * time.Second

// claims says which service has each route. A route that several services want is contested: the oldest has
// it, as long as it has a backend that runs or is expected. One that has nothing gives the route to one that
// has, and gets it back when it is ready. Many tables share one claims, which does not change.
type claims struct {
	holders   map[discovery.Route]int // by Match; of a contested route: the oldest service that wants it
	contested map[discovery.Route]contest
}

// A contest is about one route. Its numbers are indices of services.
type contest struct {
	claimants []int // oldest first
	holder    int   // who has it
}

// newClaims collects who wants what. Every contested route is the oldest's, until decide says otherwise.
func newClaims(services []discovery.Service) claims {
	c := claims{holders: make(map[discovery.Route]int)}
	for i, svc := range services {
		for _, r := range svc.Routes {
			match := r.Match()
			first, ok := c.holders[match]
			if !ok {
				c.holders[match] = i
				continue
			}
			if c.contested == nil {
				c.contested = make(map[discovery.Route]contest)
			}
			all := c.contested[match].claimants
			if all == nil {
				all = []int{first}
			}
			if !slices.Contains(all, i) { // else it says the same twice
				c.contested[match] = contest{claimants: append(all, i)}
			}
		}
	}
	for match, at := range c.contested {
		slices.SortStableFunc(at.claimants, func(a, b int) int {
			return cmp.Or(services[a].Since.Compare(services[b].Since), cmp.Compare(services[a].Name, services[b].Name))
		})
		at.holder = at.claimants[0]
		c.contested[match], c.holders[match] = at, at.holder
	}
	return c
}

// holder is who has a route, by its Match.
func (c claims) holder(match discovery.Route) (index int, ok bool) {
	if at, ok := c.contested[match]; ok {
		return at.holder, true
	}
	index, ok = c.holders[match]
	return index, ok
}

// holderOf is the service that has a route; nil: none.
func (t *Table) holderOf(match discovery.Route) *Service {
	if i, ok := t.routes.claims.holder(match); ok {
		return t.services[i]
	}
	return nil
}

// has reports whether a service of the table has a route, which it wants.
func (t *Table) has(s *Service, r discovery.Route) bool {
	if len(t.routes.claims.contested) == 0 {
		return true
	}
	at, ok := t.routes.claims.contested[r.Match()]
	return !ok || t.services[at.holder].spec.Name == s.spec.Name
}

// decide gives each contested route to the service that must have it in a table whose routes are not built yet. was is
// the table before. later is when to decide again though nothing has changed, zero for never.
func (c claims) decide(services []*Service, was *Table, now time.Time) (_ claims, moved bool, later time.Time) {
	for match, at := range c.contested {
		holder, again := at.decide(services, was.holderOf(match), now)
		if !again.IsZero() && (later.IsZero() || again.Before(later)) {
			later = again
		}
		if holder != at.holder {
			if !moved {
				c.contested, moved = maps.Clone(c.contested), true
			}
			at.holder = holder
			c.contested[match] = at
		}
	}
	return c, moved, later
}

// decide finds out who is to have a route that was had by a service until now; nil: by none.
func (c contest) decide(services []*Service, was *Service, now time.Time) (holder int, later time.Time) {
	at := slices.IndexFunc(c.claimants, func(i int) bool { return was != nil && services[i].spec.Name == was.spec.Name })
	if at < 0 {
		return c.best(services, running, func(*Service) bool { return true }), time.Time{}
	}
	for _, older := range c.claimants[:at] {
		if services[older].stands() == ready {
			return older, time.Time{}
		}
	}
	holder = c.claimants[at]
	h := services[holder]
	if h.stands() >= running || h.spec.Expected && h.served() {
		return holder, time.Time{}
	}
	next := c.best(services, ready, func(s *Service) bool {
		if s.stands() <= h.stands() {
			return false
		}
		until := h.keeps(s)
		if now.Before(until) && (later.IsZero() || until.Before(later)) {
			later = until
		}
		return !now.Before(until)
	})
	if next < 0 {
		return holder, later
	}
	return next, time.Time{}
}

// best is the oldest of those that stand best, of those that may have it; -1: none may. Better than enough is
// no better.
func (c contest) best(services []*Service, enough standing, may func(*Service) bool) int {
	best := -1
	for _, i := range c.claimants {
		if may(services[i]) && (best < 0 || min(services[i].stands(), enough) > services[best].stands()) {
			best = i
		}
	}
	return best
}

// A standing is what a service can do about requests.
type standing int

const (
	nothing  standing = iota
	expected          // a container will be there soon
	running           // one runs
	ready             // one is ready
)

func (s *Service) stands() standing {
	switch {
	case s.good > 0:
		return ready
	case slices.ContainsFunc(s.members, func(m member) bool { return m.Backend != nil }):
		return running
	case s.spec.Expected:
		return expected
	}
	return nothing
}

// served reports whether it has had a backend that could serve.
func (s *Service) served() bool { return !s.left.IsZero() }

// keeps is until when a service of which nothing runs keeps a route that another one wants. One that has
// served may be in the middle of a restart, or of being made anew. If its containers are removed, services of
// other projects wait for as long as its routes are remembered: their users are others, and must not get its
// requests, and what those say of their senders, because it was away for a moment.
func (s *Service) keeps(other *Service) time.Time {
	switch {
	case !s.served():
		return time.Time{}
	case s.missed && (s.spec.Project == "" || s.spec.Project != other.spec.Project):
		return s.left.Add(hopeful)
	}
	return s.left.Add(moments)
}

// A routeNews is what people are told of a contested route.
type routeNews struct {
	route    discovery.Route
	from, to string // it was handed over; from is empty: to, which wants it, does not have it
	why      string
}

func (n routeNews) tell(log *slog.Logger) {
	if n.from == "" {
		log.Warn("a service does not have a route that it wants", "service", n.to, "route", n.route.String(), "why", n.why)
		return
	}
	log.Warn("route handed over", "route", n.route.String(), "from", n.from, "to", n.to, "why", n.why)
}

// news lists what has changed about contested routes since the table before, sorted.
func (t *Table) news(was *Table) (all []routeNews) {
	now, then := t.routes.claims, was.routes.claims
	if t.routes == was.routes || len(now.contested)+len(then.contested) == 0 {
		return nil
	}
	routes := maps.Clone(then.contested)
	if routes == nil {
		routes = make(map[discovery.Route]contest)
	}
	maps.Copy(routes, now.contested)
	for match := range routes {
		from, to := was.holderOf(match), t.holderOf(match)
		if from != nil && to != nil && from.spec.Name != to.spec.Name && !t.renamed(from, to) {
			all = append(all, routeNews{match, from.spec.Name, to.spec.Name, t.whyHanded(from, to)})
		}
		for _, i := range now.contested[match].claimants {
			s := t.services[i]
			if s.missed || s.spec.Name == to.spec.Name || from != nil && s.spec.Name == from.spec.Name || was.lost(s.spec.Name, match) {
				continue
			}
			all = append(all, routeNews{route: match, to: s.spec.Name, why: whyLost(s, to)})
		}
	}
	slices.SortFunc(all, func(a, b routeNews) int {
		return cmp.Or(cmp.Compare(a.route.String(), b.route.String()), cmp.Compare(a.to, b.to))
	})
	return all
}

// renamed reports whether two services are one under another name: they have a container in common.
func (t *Table) renamed(from, to *Service) bool {
	return t.byName(from.spec.Name) == nil && slices.ContainsFunc(from.spec.Endpoints, func(e discovery.Endpoint) bool {
		return slices.ContainsFunc(to.spec.Endpoints, func(o discovery.Endpoint) bool { return o.Key.ID == e.Key.ID })
	})
}

// lost reports whether a service wanted a route and did not have it.
func (t *Table) lost(name string, match discovery.Route) bool {
	at, ok := t.routes.claims.contested[match]
	return ok && t.services[at.holder].spec.Name != name && slices.ContainsFunc(at.claimants, func(i int) bool { return t.services[i].spec.Name == name })
}

func (t *Table) whyHanded(from, to *Service) string {
	switch now := t.byName(from.spec.Name); {
	case now == nil || now.missed:
		return from.spec.Name + " is gone"
	case now.stands() >= running:
		return to.spec.Name + " is older, and ready"
	}
	return "no container of " + from.spec.Name + " runs that can be reached"
}

func whyLost(s, holder *Service) string {
	switch {
	case holder.missed:
		return fmt.Sprintf("it is kept for service %q, which was there a moment ago", holder.spec.Name)
	case s.spec.Since.Before(holder.spec.Since):
		return fmt.Sprintf("service %q has it until this one is ready", holder.spec.Name)
	}
	return fmt.Sprintf("service %q has it, which is older", holder.spec.Name)
}

// skips lists the services that do not have a route that they want.
func (t *Table) skips() (all []discovery.Skip) {
	for match, at := range t.routes.claims.contested {
		for _, i := range at.claimants {
			if s := t.services[i]; i != at.holder && !s.missed {
				all = append(all, discovery.Skip{Name: s.spec.Name, Why: fmt.Sprintf("route %s: %s", match, whyLost(s, t.services[at.holder]))})
			}
		}
	}
	return all
}
