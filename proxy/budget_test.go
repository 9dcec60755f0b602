package proxy

import (
	"sync"
	"testing"
)

func TestMemoryBudget(t *testing.T) {
	b := budget{limit: 100}
	if !b.take(60) || !b.take(40) {
		t.Error("60 and 40 of 100 bytes are refused")
	}
	if b.take(1) {
		t.Error("there are 101 of 100 bytes")
	}
	b.give(40)
	if b.take(41) {
		t.Error("what was refused, or given back, counts")
	}
	if !b.take(40) {
		t.Error("40 bytes that were given back are refused")
	}
	if got := b.refused.Load(); got != 2 {
		t.Errorf("refused %d times, want 2", got)
	}

	var none budget
	if !none.take(1 << 30) {
		t.Error("without a limit there is one")
	}
}

// TestMemoryBudgetIsShared has many take of one budget: never more than there is, and in the end all is back.
func TestMemoryBudgetIsShared(t *testing.T) {
	b := budget{limit: 10}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				if b.take(3) {
					b.give(3)
				}
			}
		})
	}
	all.Wait()
	if got := b.used.Load(); got != 0 {
		t.Errorf("%d bytes are taken in the end", got)
	}
}
