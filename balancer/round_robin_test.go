package balancer

import (
	"strings"
	"testing"
)

func roundRobinPolicy(t testing.TB) (p Policy) {
	t.Helper()
	if err := p.UnmarshalText([]byte("round_robin")); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTurns(t *testing.T) {
	for _, test := range []struct {
		weights []int
		want    string
	}{
		{[]int{1, 1, 1, 1}, "abcd"},
		{[]int{100, 100}, strings.Repeat("ab", 100)},
		{[]int{2, 1}, "aab"},
		{[]int{3, 2}, "abaab"},
		{[]int{5, 1, 1}, "aabaaca"},
		{[]int{1, 1, 5}, "accbccc"},
		{[]int{10, 2, 2}, "aabaacaaabaaca"},
		{[]int{8, 1, 1, 1, 1}, "aabaacadaaea"},
	} {
		var got strings.Builder
		for _, i := range turns(candidates(test.weights...)) {
			got.WriteByte('a' + byte(i))
		}
		if got.String() != test.want {
			t.Errorf("weights %v: %s, want %s", test.weights, &got, test.want)
		}
	}
}

func TestTurnsOfStrangeWeights(t *testing.T) {
	cs := candidates(65535, 65534, 1, 30000)
	count := make([]int, len(cs))
	order := turns(cs)
	for _, i := range order {
		count[i]++
	}
	if got, most := len(order), maxTurns+len(cs); got > most {
		t.Errorf("%d turns, want at most %d", got, most)
	}
	for i, want := range []int{6666, 6666, 1, 3052} { // 16384 × weight ÷ 161070
		if count[i] != want {
			t.Errorf("weight %d: %d turns, want %d", cs[i].Weight, count[i], want)
		}
	}
}

func TestRoundRobinIsSmooth(t *testing.T) {
	cs := candidates(5, 1, 1)
	names := sequence(t, roundRobinPolicy(t).New(cs), cs, 700)
	t.Logf("weights 5, 1, 1: %s", names[:21])
	if !repeats(names, 7) {
		t.Errorf("no cycle of 7: %s…", names[:70])
	}
	if strings.Contains(names, "aaaa") {
		t.Errorf("%s… has more than three in a row", names[:21])
	}
}

func TestRoundRobinRebuildDoesNotFavorTheFirst(t *testing.T) {
	cs := candidates(1, 1, 1)
	var names string
	for range 3000 {
		names += sequence(t, roundRobinPolicy(t).New(cs), cs, 1)
	}
	for _, c := range cs {
		if got := strings.Count(names, c.Name); got < 850 || got > 1150 { // six standard deviations
			t.Errorf("%s was first %d times of 3000, want about 1000", c.Name, got)
		}
	}
}

func TestRoundRobinGoesRoundTheFull(t *testing.T) {
	for _, test := range []struct {
		weights []int
		cycle   int // of the others
	}{
		{[]int{1, 1, 1, 1}, 3},
		{[]int{5, 1, 1}, 2},
		{[]int{1000, 2, 1}, 3},
	} {
		cs := candidates(test.weights...)
		cs[0].Limit = 1
		cs[0].reserve(0)
		got := sequence(t, roundRobinPolicy(t).New(cs), cs, 30)
		if strings.Contains(got, "a") || !repeats(got, test.cycle) {
			t.Errorf("weights %v, a is full: %s, want the others in turn", test.weights, got)
		}
	}
}

// Rotation goes on when the picker is rebuilt, as it is whenever a backend proves itself or fails a check.
func TestRoundRobinGoesOnAfterRebuild(t *testing.T) {
	var p Policy
	if err := p.UnmarshalText([]byte("round_robin")); err != nil {
		t.Fatal(err)
	}
	var loads [3]Load
	cs := []Candidate{{Name: "a", Weight: 1, Load: &loads[0]}, {Name: "b", Weight: 1, Load: &loads[1]}}
	var got [3]int
	picker := p.New(cs)
	for n := range 20 {
		if n%3 == 0 {
			picker = p.New(cs)
		}
		i, ok := picker.Pick(Query{})
		if !ok {
			t.Fatal("no pick")
		}
		got[i]++
		loads[i].Release()
	}
	if want := [3]int{10, 10, 0}; got != want {
		t.Errorf("20 picks with a rebuild after each third: %v, want %v", got, want)
	}
	picker = p.New(append(cs, Candidate{Name: "c", Weight: 1, Load: &loads[2]}))
	for range 3 {
		i, _ := picker.Pick(Query{})
		got[i]++
		loads[i].Release()
	}
	if want := [3]int{11, 11, 1}; got != want {
		t.Errorf("3 more with a third backend: %v, want %v", got, want)
	}
}
