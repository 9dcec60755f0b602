package upstream

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestRelief: idle connections are closed for who waits over a new one, less and less often while it is of no use, and
// at once when it is.
func TestRelief(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool("", Options{MaxIdle: 10})
		defer p.Close(nil)
		begin := time.Now()
		made := func() *Conn { // as dial does
			ours, theirs := net.Pipe()
			t.Cleanup(func() { theirs.Close() })
			p.mu.Lock()
			defer p.mu.Unlock()
			c := newConn(p, ours)
			p.lookAfterLocked(c)
			p.holdLocked(c, Attempt{})
			return c
		}
		answered := func(c *Conn) {
			c.answered.Store(true)
			p.put(c, time.Now())
		}
		others := func(span time.Duration) string { // are answered at once; when their connections are closed
			var closed []string
			for end := time.Now().Add(span); time.Now().Before(end); {
				if c := p.takeIdle(time.Now(), Attempt{}); c != nil {
					answered(c)
				} else {
					closed = append(closed, fmt.Sprint(time.Since(begin)))
					c := made()
					c.reused = true // it has been in use for some time
					answered(c)
				}
				time.Sleep(125 * time.Millisecond)
			}
			return strings.Join(closed, " ")
		}
		if got, want := others(10*time.Second), "0s"; got != want {
			t.Errorf("without anybody who waits: connections made at %s, want %s", got, want)
		}
		begin = time.Now()
		slow := made()
		got := others(20 * time.Second)
		// For the second after each time they are not kept.
		if n := len(strings.Fields(got)); !strings.HasPrefix(got, "1s ") && !strings.HasPrefix(got, "1.125s ") || n > 60 {
			t.Errorf("beside one that is slow: %d connections made for 160 requests, at %s; want the first at 1s, or just after, and at most 60", n, got)
		}
		for _, quiet := range []string{"6.5s", "7s", "11s", "12s", "16s", "17s"} {
			if strings.Contains(" "+got+" ", " "+quiet+" ") {
				t.Errorf("beside one that is slow: a connection was made at %s, when it has been of no use", quiet)
			}
		}
		answered(slow)
		if p.Idle() != 2 {
			t.Errorf("%d are idle in the end, want 2", p.Idle())
		}
	})
}
