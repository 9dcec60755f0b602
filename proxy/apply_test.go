package proxy

import (
	"fmt"
	"testing"

	"longshore/discovery"
	"longshore/health"
)

// manyServices is a State that shares nothing with another one, as those of a Source.
func manyServices(n, endpoints int) discovery.State {
	var st discovery.State
	for i := range n {
		name := fmt.Sprintf("service%04d", i)
		s := service(name, "/"+name)
		for j := range endpoints {
			id := fmt.Sprint(name, "-", j)
			s.Endpoints = append(s.Endpoints, endpoint(id, fmt.Sprintf("10.%d.%d.%d:80", i/250, i%250, j+1)))
		}
		st.Services = append(st.Services, s)
	}
	return st
}

// BenchmarkApply has 1,000 services with 5 backends each.
func BenchmarkApply(b *testing.B) {
	const n, endpoints = 1000, 5
	b.Run("whole", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			r, st := newRouter(), manyServices(n, endpoints)
			b.StartTimer()
			r.Apply(st)
		}
	})
	b.Run("equal", func(b *testing.B) {
		r := newRouter()
		r.Apply(manyServices(n, endpoints))
		st := manyServices(n, endpoints)
		for b.Loop() {
			r.Apply(st)
		}
	})
	b.Run("one", func(b *testing.B) {
		r := newRouter()
		r.Apply(manyServices(n, endpoints))
		states := [2]discovery.State{manyServices(n, endpoints), manyServices(n, endpoints)}
		states[0].Services[n/2].Endpoints[0].Addr = "10.200.0.1:80"
		for i := 0; b.Loop(); i++ {
			r.Apply(states[i%2])
		}
	})
	b.Run("routes", func(b *testing.B) {
		r := newRouter()
		r.Apply(manyServices(n, endpoints))
		states := [2]discovery.State{manyServices(n, endpoints), manyServices(n, endpoints)}
		states[0].Services[n/2].Routes[0].Path = "/new"
		for i := 0; b.Loop(); i++ {
			r.Apply(states[i%2])
		}
	})
	b.Run("mark", func(b *testing.B) {
		r := newRouter()
		st := manyServices(n, endpoints)
		r.Apply(st)
		key := st.Services[n/2].Endpoints[0].Key
		for i := 0; b.Loop(); i++ {
			r.Mark(key, health.Status{State: health.State(i % 2)})
		}
	})
}
