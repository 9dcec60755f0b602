package balancer

import (
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"
)

// candidates returns one idle candidate per weight; their names are a, b, c …
func candidates(weights ...int) []Candidate {
	cs := make([]Candidate, len(weights))
	for i, w := range weights {
		cs[i] = Candidate{Name: string(rune('a' + i)), Weight: w, Load: new(Load)}
	}
	return cs
}

// pick picks and fails the test if that is not possible.
func pick(t testing.TB, p Picker, q Query) int {
	t.Helper()
	i, ok := p.Pick(q)
	if !ok {
		t.Fatalf("Pick(%d tried): nothing, want a candidate", len(q.Tried))
	}
	return i
}

// sequence returns the names of n candidates, each picked and released before the next.
func sequence(t testing.TB, p Picker, cs []Candidate, n int) string {
	t.Helper()
	var names strings.Builder
	for range n {
		i := pick(t, p, Query{})
		cs[i].Release()
		names.WriteString(cs[i].Name)
	}
	return names.String()
}

// everyPolicy runs the test once per policy, so that a new one has to pass all that is promised for Picker.
func everyPolicy(t *testing.T, test func(t *testing.T, p Policy)) {
	for i := range policies {
		p := everyKind(i)
		t.Run(p.String(), func(t *testing.T) { test(t, p) })
	}
}

// everyKind is a policy of policies[i].
func everyKind(i int) Policy {
	p := Policy{kind: uint8(i)}
	if strings.HasPrefix(policies[i].names[0], "hash") {
		p.key = "$request_uri"
	}
	return p
}

func TestLoadHasItsCacheLines(t *testing.T) {
	if got := unsafe.Sizeof(Load{}); got != cacheLine {
		t.Errorf("size of Load: %d, want %d", got, cacheLine)
	}
}

func TestEmptyList(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p Policy) {
		if i, ok := p.New(nil).Pick(Query{}); ok {
			t.Errorf("Pick of none: %d, want nothing", i)
		}
	})
}

func TestPickReserves(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p Policy) {
		for n := 1; n < 9; n++ {
			cs := candidates([]int{5, 1, 1, 3, 2, 1, 1, 65535}[:n]...)
			picker := p.New(cs)
			for range 1000 {
				i := pick(t, picker, Query{})
				if i < 0 || i >= n {
					t.Fatalf("Pick of %d: %d, out of range", n, i)
				}
				if got := cs[i].InFlight(); got != 1 {
					t.Fatalf("in flight after Pick: %d, want 1", got)
				}
				cs[i].Release()
				if got := cs[i].InFlight(); got != 0 {
					t.Fatalf("in flight after Release: %d, want 0", got)
				}
			}
		}
	})
}

func TestListIsNotKept(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p Policy) {
		cs := candidates(1, 1)
		picker := p.New(cs)
		cs[0], cs[1] = Candidate{}, Candidate{}
		pick(t, picker, Query{})
	})
}

func TestPickAllocatesNothing(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p Policy) {
		cs := candidates(5, 1, 1)
		picker := p.New(cs)
		q := Query{Key: 1, Tried: []*Load{cs[0].Load}}
		got := testing.AllocsPerRun(1000, func() {
			cs[pick(t, picker, Query{})].Release()
			cs[pick(t, picker, q)].Release()
		})
		if got != 0 {
			t.Errorf("allocations per pick: %v, want 0", got)
		}
	})
}

// What each policy promises for requests that come one after another: the largest deviation from the share by weight.
var promised = map[string]float64{
	"least_conn":  0,
	"round_robin": 0,
	"random":      0.05, // five standard deviations
	"random two":  0.05,

	"least_time header":               0, // without a latency known, they take turns
	"least_time last_byte":            0,
	"random two least_time=header":    0.05,
	"random two least_time=last_byte": 0.05,

	"hash $request_uri": 0, // without a key, they take turns
	"ip_hash":           0,
	"first":             -1, // no share
}

func TestShareByWeight(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p Policy) {
		most, ok := promised[p.String()]
		if !ok {
			t.Fatal("say what the policy promises")
		}
		if most < 0 {
			return
		}
		cs := candidates(5, 1, 1)
		names := sequence(t, p.New(cs), cs, 70000)
		for _, c := range cs {
			got, want := strings.Count(names, c.Name), c.Weight*10000
			if math.Abs(float64(got-want)) > most*float64(want) {
				t.Errorf("%s has weight %d: %d picks, want %d ± %v %%", c.Name, c.Weight, got, want, most*100)
			}
		}
	})
}

func TestNeverTwice(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p Policy) {
		for n := 1; n < 5; n++ {
			cs := candidates([]int{65535, 1, 1, 5}[:n]...)
			picker := p.New(cs)
			for range 100 {
				var q Query
				for range cs {
					c := cs[pick(t, picker, q)]
					c.Release()
					for _, l := range q.Tried {
						if l == c.Load {
							t.Fatalf("%s was picked, but it was tried", c.Name)
						}
					}
					q.Tried = append(q.Tried, c.Load)
				}
				if i, ok := picker.Pick(q); ok {
					t.Fatalf("all of %d were tried: %d, want nothing", n, i)
				}
			}
			for _, c := range cs {
				if got := c.InFlight(); got != 0 {
					t.Errorf("in flight when all is released: %d, want 0", got)
				}
			}
		}
	})
}

func TestLimit(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p Policy) {
		cs := candidates(65535, 1, 1)
		cs[0].Limit, cs[1].Limit, cs[2].Limit = 2, 7, 1
		picker := p.New(cs)
		for range 10 {
			pick(t, picker, Query{})
		}
		for _, c := range cs {
			if got := c.InFlight(); got != c.Limit {
				t.Errorf("%s has %d in flight, want %d", c.Name, got, c.Limit)
			}
		}
		if i, ok := picker.Pick(Query{}); ok {
			t.Errorf("all are full: %d, want nothing", i)
		}
		cs[1].Release()
		if got, want := pick(t, picker, Query{}), 1; got != want {
			t.Errorf("only %d is not full: %d, want %[1]d", want, got)
		}
	})
}

func TestLimitHoldsUnderConcurrentPicks(t *testing.T) {
	everyPolicy(t, func(t *testing.T, p Policy) {
		cs := candidates(5, 1, 1)
		for i := range cs {
			cs[i].Limit = 2
		}
		picker := p.New(cs)
		var granted [3]atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 5000 {
					i, ok := picker.Pick(Query{})
					if !ok {
						continue
					}
					if n := granted[i].Add(1); n > cs[i].Limit {
						t.Errorf("%s: %d were granted, limit %d", cs[i].Name, n, cs[i].Limit)
					}
					if n := cs[i].InFlight(); n > cs[i].Limit {
						t.Errorf("%s: %d in flight, limit %d", cs[i].Name, n, cs[i].Limit)
					}
					runtime.Gosched()
					granted[i].Add(-1)
					cs[i].Release()
				}
			})
		}
		wg.Wait()
		for _, c := range cs {
			if got := c.InFlight(); got != 0 {
				t.Errorf("%s: %d in flight when all is released, want 0", c.Name, got)
			}
		}
	})
}
