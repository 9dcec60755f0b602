package sock

import "testing"

func TestPipesAreBounded(t *testing.T) {
	var taken []*Pipe
	defer func() {
		for _, p := range taken {
			p.Free()
		}
		if got := PipesInUse(); got != 0 {
			t.Errorf("%d pipes are in use in the end", got)
		}
	}()
	for range maxPipes() {
		p, err := TakePipe()
		if err != nil {
			t.Skipf("after %d: %v", len(taken), err)
		}
		taken = append(taken, p)
	}
	if _, err := TakePipe(); err != errNoPipe {
		t.Errorf("one more: %v, want %v", err, errNoPipe)
	}
	taken[0].Free()
	p, err := TakePipe()
	if err != nil {
		t.Fatalf("one that was given back: %v", err)
	}
	taken[0] = p
}
