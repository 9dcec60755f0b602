package balancer

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestLeastTime: the faster gets more, in proportion, and equals take turns.
func TestLeastTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cs := candidates(1, 1, 1)
		for i, took := range []time.Duration{100 * time.Millisecond, 10 * time.Millisecond, 11 * time.Millisecond} {
			cs[i].Observe(took)
		}
		p := newLeastTime(newList(cs))
		names := sequence(t, p, cs, 100)
		if got := strings.Count(names, "a"); got != 0 {
			t.Errorf("idle: %d of 100 for the slow one, want none: %s", got, names)
		}
		if b, c := strings.Count(names, "b"), strings.Count(names, "c"); b != 50 || c != 50 {
			t.Errorf("idle: %d and %d for two that are about equally fast, want 50 each", b, c)
		}
		for range 21 { // now in flight all at once
			pick(t, p, Query{})
		}
		if a := cs[0].InFlight(); a < 1 || a > 2 {
			t.Errorf("busy: %d of 21 at the one that is ten times as slow, want about a tenth of the others' 10", a)
		}
	})
}

// TestLeastTimeFresh: one that has never answered is tried by one request.
func TestLeastTimeFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cs := candidates(1, 1)
		cs[0].Observe(50 * time.Millisecond)
		p := newLeastTime(newList(cs))
		for range 10 {
			pick(t, p, Query{})
		}
		if got := cs[1].InFlight(); got != 1 {
			t.Errorf("%d of 10 at the fresh one, want 1", got)
		}
		cs[1].Release()
		cs[1].Observe(5 * time.Millisecond)
		for range 10 {
			pick(t, p, Query{})
		}
		if got := cs[1].InFlight(); got != 10 {
			t.Errorf("%d of 10 at the fresh one after it has answered, faster than the other, want all", got)
		}
	})
}

// TestObserve: a longer time counts at once, a shorter one by and by, and all is forgotten in the end.
func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := candidates(1)[0].Load
		ms := func() float32 {
			v, _ := cost(l.latency.Load(), stamp(time.Now()))
			return v
		}
		expect := func(what string, least, most float32) {
			t.Helper()
			if got := ms(); got < least || got > most {
				t.Errorf("%s: %v ms, want %v to %v", what, got, least, most)
			}
		}
		l.Observe(10 * time.Millisecond)
		expect("the first", 10, 10)
		l.Observe(time.Second)
		expect("a peak", 1000, 1000)
		time.Sleep(time.Second)
		l.Observe(10 * time.Millisecond)
		expect("a second later", 700, 910)
		for range 60 {
			time.Sleep(time.Second)
			l.Observe(10 * time.Millisecond)
		}
		expect("a minute later", 9, 15)
		time.Sleep(time.Minute)
		expect("idle for a minute", 0, .1)
	})
}
