package balancer

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// repeats reports whether the first n names come again and again.
func repeats(names string, n int) bool {
	for i := n; i < len(names); i++ {
		if names[i] != names[i-n] {
			return false
		}
	}
	return true
}

func TestLeastConnPicksTheLeast(t *testing.T) {
	for _, test := range []struct {
		weights, inFlight []int
		want              string
	}{
		{[]int{1, 1, 1}, []int{2, 0, 1}, "b"},
		{[]int{1, 1, 1}, []int{3, 2, 1}, "c"},
		{[]int{5, 1}, []int{4, 1}, "a"}, // 4/5 < 1
		{[]int{5, 1}, []int{6, 1}, "b"},
		{[]int{2, 3}, []int{1, 2}, "a"}, // 1/2 < 2/3
		{[]int{65535, 65534}, []int{1, 1}, "a"},
	} {
		cs := candidates(test.weights...)
		for i, n := range test.inFlight {
			for range n {
				cs[i].reserve(0)
			}
		}
		p := Policy{}.New(cs)
		if got := sequence(t, p, cs, 5); got != strings.Repeat(test.want, 5) {
			t.Errorf("weights %v, in flight %v: %s, want always %s", test.weights, test.inFlight, got, test.want)
		}
	}
}

func TestLeastConnRotatesWhenIdle(t *testing.T) {
	cs := candidates(1, 1, 1, 1)
	if got, want := sequence(t, Policy{}.New(cs), cs, 20), strings.Repeat("abcd", 5); got != want {
		t.Errorf("idle: %s, want %s", got, want)
	}
}

func TestLeastConnRotatesOverRebuilds(t *testing.T) {
	cs := candidates(1, 1, 1, 1)
	var got string
	for range 20 {
		got += sequence(t, Policy{}.New(cs), cs, 1)
	}
	if want := strings.Repeat("abcd", 5); got != want {
		t.Errorf("rebuilt before each pick: %s, want %s", got, want)
	}
}

func TestLeastConnIsSmooth(t *testing.T) {
	for _, weights := range [][]int{{5, 1, 1}, {1, 5, 1}, {1, 1, 5}} {
		for _, rebuild := range []bool{false, true} {
			cs := candidates(weights...)
			p := Policy{}.New(cs)
			var names string
			for range 7 * 1000 {
				if rebuild {
					p = Policy{}.New(cs)
				}
				names += sequence(t, p, cs, 1)
			}
			if !repeats(names, 7) {
				t.Errorf("weights %v, rebuild %t: no cycle of 7: %s…", weights, rebuild, names[:70])
			}
			for _, c := range cs {
				if got := strings.Count(names[:7], c.Name); got != c.Weight {
					t.Errorf("weights %v, rebuild %t: %d picks of %s in %s", weights, rebuild, got, c.Name, names[:7])
				}
				if tooMany := strings.Repeat(c.Name, 4); strings.Contains(names, tooMany) {
					t.Errorf("weights %v, rebuild %t: %s… contains %s", weights, rebuild, names[:70], tooMany)
				}
			}
		}
	}
}

// Whoever comes or goes, and whenever: from then on, n picks are n backends.
func TestLeastConnJoinAndLeave(t *testing.T) {
	all := candidates(1, 1, 1, 1, 1, 1)
	for before := range 20 { // picks since the last change
		for _, steps := range [][]string{
			{"a", "ab", "abc", "abcd"},
			{"abcd", "abce", "abfe"}, // a rolling update
			{"abc", "bc", "c", "cab"},
			{"abcdef", "a", "fedcba"},
			{"ab", "cd", "abcd"},
		} {
			for i := range all {
				all[i].Load = new(Load)
			}
			for _, step := range steps {
				var cs []Candidate
				for _, name := range step {
					cs = append(cs, all[name-'a'])
				}
				p := Policy{}.New(cs)
				names := sequence(t, p, cs, 3*len(cs))
				for _, c := range cs {
					if got := strings.Count(names[:len(cs)], c.Name); got != 1 {
						t.Errorf("%v, at %s after %d picks: %s, want each once in %d", steps, step, before, names, len(cs))
					}
				}
				if !repeats(names, len(cs)) {
					t.Errorf("%v, at %s after %d picks: %s, want a rotation", steps, step, before, names)
				}
				sequence(t, p, cs, before)
			}
		}
	}
}

// A backend with a request that takes long gets no others; afterwards it is one of many again.
func TestLeastConnNoBurstAfterBusy(t *testing.T) {
	cs := candidates(1, 1, 1)
	p := Policy{}.New(cs)
	busy := cs[pick(t, p, Query{})]
	if got := sequence(t, p, cs, 1000); strings.Contains(got, busy.Name) || !repeats(got, 2) {
		t.Errorf("while %s is busy: %s…, want the others in turn", busy.Name, got[:20])
	}
	busy.Release()
	got := sequence(t, p, cs, 30)
	if got[:1] != busy.Name {
		t.Errorf("afterwards: %s, want %s first", got, busy.Name)
	}
	if !repeats(got, 3) || strings.Count(got, busy.Name) != 10 {
		t.Errorf("afterwards: %s, want a rotation", got)
	}
}

// Two pick at the same moment from two idle backends: each gets another.
func TestLeastConnConcurrentPicksDiffer(t *testing.T) {
	const rounds = 50000
	cs := candidates(1, 1)
	p := Policy{}.New(cs)
	var picked, arrived atomic.Int64
	meet := func(at *atomic.Int64, round int) {
		at.Add(1)
		for at.Load() < int64(2*round) {
			runtime.Gosched()
		}
	}
	var wg sync.WaitGroup
	for range cs {
		wg.Go(func() {
			for round := 1; round <= rounds; round++ {
				meet(&arrived, round)
				i, _ := p.Pick(Query{})
				if got := cs[i].InFlight(); got != 1 {
					t.Errorf("round %d: %s has %d requests, want 1", round, cs[i].Name, got)
				}
				meet(&picked, round)
				cs[i].Release()
			}
		})
	}
	wg.Wait()
}

func TestLeastConnConcurrentPicksSpread(t *testing.T) {
	const workers, each = 8, 10000
	cs := candidates(1, 1, 1, 1)
	p := Policy{}.New(cs)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				p.Pick(Query{})
			}
		})
	}
	wg.Wait()
	for _, c := range cs {
		// One off per worker: a choice may be outdated when it is made.
		if got, want := c.InFlight(), int64(workers*each/len(cs)); got < want-workers || got > want+workers {
			t.Errorf("%s has %d requests, want %d ± %d", c.Name, got, want, workers)
		}
	}
}
