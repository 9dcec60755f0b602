package proxy

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

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

// TestApplyInSteps applies random States one after another: what the Router holds is what the last one
// needs, however it came about.
func TestApplyInSteps(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	r := newRouter()
	for step := range 2000 {
		var st discovery.State
		want := make(map[discovery.Key]string) // addresses
		owners := make(map[discovery.Key]int)
		for i := range 4 {
			if rnd.IntN(4) == 0 {
				continue
			}
			s := service(fmt.Sprint("s", i), "/"+fmt.Sprint(i))
			for j := range 4 {
				if rnd.IntN(3) == 0 {
					continue
				}
				e := endpoint(fmt.Sprint("c", j), fmt.Sprint("127.0.0.1:", j+1)) // all services have the same containers
				e.Key.Run = rnd.IntN(2)
				if e.Paused = rnd.IntN(4) == 0; rnd.IntN(4) == 0 {
					e.Down, e.Addr = "exited", ""
				} else {
					want[e.Key] = e.Addr
				}
				owners[e.Key]++
				s.Endpoints = append(s.Endpoints, e)
			}
			st.Services = append(st.Services, s)
		}
		rnd.Shuffle(len(st.Services), func(i, j int) { st.Services[i], st.Services[j] = st.Services[j], st.Services[i] })
		before := maps.Clone(r.backends)
		r.Apply(st)
		got := make(map[discovery.Key]string)
		for k, b := range r.backends {
			got[k] = b.addr
			if was := before[k]; was != nil && was != b {
				t.Fatalf("step %d: %v, which was there, has another Backend", step, k)
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("step %d: backends %v, want %v", step, got, want)
		}
		held := make(map[discovery.Key]int)
		for k, os := range r.owners {
			held[k] = len(os)
		}
		if !maps.Equal(held, owners) {
			t.Fatalf("step %d: owners %v, want %v", step, held, owners)
		}
		for i, s := range st.Services {
			if now := r.Table().services[i]; !now.spec.Equal(&s) || r.Table().byName(s.Name) != now || len(now.members) != len(s.Endpoints) {
				t.Fatalf("step %d: %s is %+v, want %+v", step, s.Name, now.spec, s)
			}
			for j, m := range r.Table().services[i].members {
				e := s.Endpoints[j]
				if b := r.backends[e.Key]; m.Backend != b && usable(e) || m.Backend != nil && !usable(e) {
					t.Fatalf("step %d: %s has another Backend than the Router, or ought to have none", step, m.endpoint.Name)
				}
			}
		}
		if len(r.missed)+len(st.Services) > 4 {
			t.Fatalf("step %d: %d services are missed, and %d are there", step, len(r.missed), len(st.Services))
		}
	}
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

// BenchmarkSwaps answers 500 requests per second, without and with 100 swaps of a table of 1,000 services per
// second, in turn. The two p99 are to be the same.
func BenchmarkSwaps(b *testing.B) {
	const n, endpoints, pace, rounds = 1000, 5, 2 * time.Millisecond, 5
	real := startBackend(b, "one", nil)
	p := newProxy(b, lanes[0])
	states := [2]discovery.State{manyServices(n, endpoints), manyServices(n, endpoints)}
	states[0].Services[n/2].Endpoints[0].Addr = "10.200.0.1:80"
	for i := range states {
		s := web(real)
		s.Routes[0].Host = "x"
		states[i].Services = append(states[i].Services, s)
	}
	states[1].Share(states[0]) // as a Source does
	p.Router.Mark(real.key, up)
	p.Router.Apply(states[0])
	p.listen()
	w := p.dial()
	w.SetDeadline(time.Time{})
	var took [2][]time.Duration
	for b.Loop() {
		for round := range 2 * rounds {
			ctx, cancel := context.WithCancel(b.Context())
			var swaps sync.WaitGroup
			if round%2 == 1 {
				swaps.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						time.Sleep(rand.N(20 * time.Millisecond)) // not in step with the requests
						p.Router.Apply(states[i%2])
					}
				})
			}
			tick := time.NewTicker(pace)
			for range 500 {
				<-tick.C
				start := time.Now()
				w.do("GET /")
				took[round%2] = append(took[round%2], time.Since(start))
			}
			tick.Stop()
			cancel()
			swaps.Wait()
		}
	}
	for i, unit := range []string{"p99-µs-without", "p99-µs-with"} {
		slices.Sort(took[i])
		b.ReportMetric(float64(took[i][len(took[i])*99/100].Microseconds()), unit)
	}
}
