package proxy

import (
	"log/slog"
	"slices"
	"testing"

	"longshore/discovery"
	"longshore/health"
)

func newRouter() *Router { return NewRouter(nil, slog.New(slog.DiscardHandler)) }

func endpoint(name, addr string) discovery.Endpoint {
	return discovery.Endpoint{Key: discovery.Key{ID: name, Run: 1, Port: 80}, Name: name, Addr: addr, Server: discovery.Server{Weight: 1}}
}

func service(name, route string, es ...discovery.Endpoint) discovery.Service {
	return discovery.Service{Name: name, Routes: []discovery.Route{{Path: route}}, Endpoints: es}
}

// stateOf is the word for a backend in /api/state.
func stateOf(t *testing.T, r *Router, name string) string {
	t.Helper()
	for _, s := range r.Table().Services() {
		for _, b := range s.View().Backends {
			if b.Name == name {
				return b.State
			}
		}
	}
	t.Fatalf("no backend %s", name)
	return ""
}

func TestEqualStateSwapsNothing(t *testing.T) {
	state := func() discovery.State {
		return discovery.State{Services: []discovery.Service{
			service("api", "/api", endpoint("api-1", "127.0.0.1:1")), service("web", "/", endpoint("web-1", "127.0.0.1:2")),
		}}
	}
	r := newRouter()
	if r.Applied() {
		t.Error("applied before the first Apply")
	}
	r.Apply(state())
	table := r.Table()
	r.Apply(state())
	if r.Table() != table {
		t.Error("an equal State swapped the Table")
	}
	changed := state()
	changed.Services[0].Endpoints = append(changed.Services[0].Endpoints, endpoint("api-2", "127.0.0.1:3"))
	r.Apply(changed)
	if r.Table() == table {
		t.Error("a change did not swap the Table")
	}
	if got, want := r.Table().services[1], table.services[1]; got != want {
		t.Error("a service that did not change was built anew")
	}
	if r.Table().services[0] == table.services[0] {
		t.Error("a service that changed was not built anew")
	}
}

func TestAnEmptyStateCounts(t *testing.T) {
	r := newRouter()
	r.Apply(discovery.State{})
	if !r.Applied() {
		t.Error("not applied after an empty State")
	}
}

func TestMarkBeforeApply(t *testing.T) {
	r := newRouter()
	e := endpoint("web-1", "127.0.0.1:1")
	r.Mark(e.Key, up)
	r.Apply(discovery.State{Services: []discovery.Service{service("web", "/", e)}})
	if got := stateOf(t, r, "web-1"); got != "up" {
		t.Errorf("state %q, want up", got)
	}
	// The status of one that has left is forgotten with it.
	r.Apply(discovery.State{})
	r.Apply(discovery.State{Services: []discovery.Service{service("web", "/", e)}})
	if got := stateOf(t, r, "web-1"); got != "probing" {
		t.Errorf("back again: state %q, want probing", got)
	}
}

// TestPrecedence: down > paused > draining > unhealthy > probing > up.
func TestPrecedence(t *testing.T) {
	for _, c := range []struct {
		change func(*discovery.Endpoint)
		status health.State
		want   string
	}{
		{func(e *discovery.Endpoint) {}, health.Up, "up"},
		{func(e *discovery.Endpoint) {}, health.Probing, "probing"},
		{func(e *discovery.Endpoint) {}, health.Failing, "unhealthy"},
		{func(e *discovery.Endpoint) {}, health.Draining, "draining"},
		{func(e *discovery.Endpoint) { e.Paused = true }, health.Draining, "paused"},
		{func(e *discovery.Endpoint) { e.Stopping = true }, health.Failing, "draining"},
		{func(e *discovery.Endpoint) { e.Stopping, e.Paused = true, true }, health.Up, "paused"},
		{func(e *discovery.Endpoint) { e.Stopping, e.Paused, e.Down, e.Addr = true, true, "exited", "" }, health.Up, "down"},
	} {
		r := newRouter()
		e := endpoint("web-1", "127.0.0.1:1")
		c.change(&e)
		r.Mark(e.Key, health.Status{State: c.status})
		r.Apply(discovery.State{Services: []discovery.Service{service("web", "/", e)}})
		if got := stateOf(t, r, "web-1"); got != c.want {
			t.Errorf("state %q, want %q", got, c.want)
		}
	}
}

// TestTiers: ready backends before backups, those before what merely accepts connections, and last what is stopping or asked to be drained.
func TestTiers(t *testing.T) {
	es := []discovery.Endpoint{endpoint("ready", "a:1"), endpoint("backup", "a:2"), endpoint("failing", "a:3"), endpoint("stopping", "a:4"),
		endpoint("paused", "a:5"), endpoint("down", ""), endpoint("probing", "a:7"), endpoint("draining", "a:8"), endpoint("drained and lost", "a:9")}
	es[1].Backup, es[3].Stopping, es[4].Paused, es[5].Down = true, true, true, "exited"
	r := newRouter()
	for _, e := range es {
		r.Mark(e.Key, up)
	}
	r.Mark(es[2].Key, health.Status{State: health.Failing, Reachable: true})
	r.Mark(es[6].Key, health.Status{State: health.Probing})
	r.Mark(es[7].Key, health.Status{State: health.Draining, Reachable: true})
	r.Mark(es[8].Key, health.Status{State: health.Draining})
	r.Apply(discovery.State{Services: []discovery.Service{service("web", "/", es...)}})
	var got []string
	for _, tier := range r.Table().services[0].tiers {
		for _, b := range tier.backends {
			got = append(got, b.key.ID)
		}
	}
	if want := []string{"ready", "backup", "draining", "failing", "stopping"}; !slices.Equal(got, want) {
		t.Errorf("tiers %q, want %q", got, want)
	}
}

// TestSharedBackend: the same port of a container may serve under several names.
func TestSharedBackend(t *testing.T) {
	r := newRouter()
	one := endpoint("web-1", "127.0.0.1:1")
	r.Apply(discovery.State{Services: []discovery.Service{service("api", "/api", one), service("web", "/", one)}})
	r.Mark(one.Key, health.Status{State: health.Up, Reachable: true})
	for _, s := range r.Table().Services() {
		if got := s.View().Backends[0].State; got != "up" {
			t.Errorf("in service %s the backend is %s, want up", s.spec.Name, got)
		}
	}
	if a, b := r.Table().Services()[0].members[0].Backend, r.Table().Services()[1].members[0].Backend; a != b {
		t.Error("the services have a Backend each, want one: its load counts for both")
	}
}

// TestCountersSurvive: a restarted container goes on counting under its name.
func TestCountersSurvive(t *testing.T) {
	r := newRouter()
	one := endpoint("web-1", "127.0.0.1:1")
	r.Apply(discovery.State{Services: []discovery.Service{service("web", "/", one)}})
	r.Table().Services()[0].members[0].requests.Add(7)
	for _, step := range []func(*discovery.Endpoint){
		func(e *discovery.Endpoint) { e.Addr, e.Down = "", "exited (0)" },
		func(e *discovery.Endpoint) { e.Addr, e.Down, e.Key.Run = "127.0.0.1:2", "", 2 },
	} {
		step(&one)
		r.Apply(discovery.State{Services: []discovery.Service{service("web", "/", one)}})
		if got := r.Table().Services()[0].View().Backends[0].Requests; got != 7 {
			t.Errorf("%+v: %d requests, want the 7 of before", one, got)
		}
	}
}
