package discovery

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// some makes a State that shares nothing with another one.
func some(names ...string) (st State) {
	for _, name := range names {
		st.Services = append(st.Services, Service{
			Name: name, Routes: []Route{{Path: "/" + name}}, Endpoints: []Endpoint{{Name: name + "-1", Addr: "a:1"}, {Name: name + "-2", Addr: "a:2"}},
		})
	}
	return st
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		name   string
		old    State
		change func(*State)
		shared string // which services are taken from the old one
		all    bool
	}{
		{"equal", some("a", "b"), func(*State) {}, "[a b]", true},
		{"none before", State{}, func(*State) {}, "[]", false},
		{"one more", some("a"), func(*State) {}, "[a]", false},
		{"one less", some("a", "aa", "b"), func(*State) {}, "[a b]", false},
		{"an endpoint", some("a", "b"), func(s *State) { s.Services[0].Endpoints[1].Addr = "a:3" }, "[b]", false},
		{"a setting", some("a", "b"), func(s *State) { s.Services[1].Settings.Queue = 1 }, "[a]", false},
		{"an age", some("a", "b"), func(s *State) { s.Services[1].Since = time.Now() }, "[a]", false},
		{"a skip", some("a", "b"), func(s *State) { s.Skipped = []Skip{{Name: "x"}} }, "[a b]", false},
		{"a gateway", some("a", "b"), func(s *State) { s.Gateways = []netip.Addr{netip.MustParseAddr("172.18.0.1")} }, "[a b]", false},
	} {
		st := some("a", "b")
		c.change(&st)
		all := st.Share(c.old)
		shared := []string{}
		for _, s := range st.Services {
			for _, o := range c.old.Services {
				if &s.Endpoints[0] == &o.Endpoints[0] {
					shared = append(shared, s.Name)
				}
			}
		}
		if got := fmt.Sprint(shared); got != c.shared || all != c.all {
			t.Errorf("%s: %s are shared, all: %v; want %s, %v", c.name, got, all, c.shared, c.all)
		}
	}
}
