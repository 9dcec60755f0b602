package proxy

import (
	"errors"
	"os"
	"runtime/debug"
	"time"

	"longshore/internal/sock"
)

// sweepTime is how often it is seen whether connections have been in the lounge for too long.
const sweepTime = time.Second

// When manyGuests have come it is worth looking for memory that their goroutines have left: the runtime would give
// it back to the system only after the next collection, and where requests allocate nothing that may be far. It
// costs a collection, so it is done every tidyTime at most, however fast clients come and go.
const (
	manyGuests = 1000
	tidyTime   = 10 * time.Second
)

// A lounge is where connections wait for their next request that have been quiet for a while: in a set of
// the kernel's, so that they need no goroutine. One goroutine waits for all.
type lounge struct {
	set    *sock.Set
	guests map[uintptr]*fastConn // by descriptor; guarded by the lane's mu
	closed bool                  // guarded so too
	came   int                   // since memory was last given back; guarded so too
}

// rest has a quiet connection wait in the lounge; its goroutine ends. It reports false if that cannot be.
func (l *fastLane) rest(c *fastConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopping.Load() {
		return false
	}
	if l.lounge == nil {
		set, err := sock.NewSet()
		if err != nil {
			return false
		}
		l.lounge = &lounge{set: set, guests: make(map[uintptr]*fastConn)}
		go l.attend(l.lounge)
	}
	r := l.lounge
	if err := r.set.Add(c.fd); err != nil {
		return false
	}
	if len(r.guests) == 0 {
		r.set.SetDeadline(time.Now().Add(sweepTime))
	}
	c.rests, r.guests[c.fd] = true, c
	r.came++
	return true
}

// attend wakes the guests of a lounge that have something to say, and sends away those who have waited for too
// long, until it is closed.
func (l *fastLane) attend(r *lounge) {
	defer r.set.Close()
	var fds []uintptr
	var tidied time.Time
	for {
		var err error
		if fds, err = r.set.Wait(fds[:0]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		l.mu.Lock()
		for _, fd := range fds {
			if c := r.guests[fd]; c != nil {
				r.set.Remove(fd)
				l.wakeLocked(c)
				go c.run()
			}
		}
		if err != nil {
			now := time.Now()
			for _, c := range r.guests {
				if c.held != nil && c.overdue(now) { // it says so
					r.set.Remove(c.fd)
					l.wakeLocked(c)
					go c.run()
				} else if c.overdue(now) && (c.state.CompareAndSwap(connIdle, connClosed) || c.state.CompareAndSwap(connNew, connClosed)) {
					l.closeLocked(c)
				}
			}
			next := time.Time{}
			if len(r.guests) > 0 {
				next = now.Add(sweepTime)
			}
			r.set.SetDeadline(next)
		}
		tidy := err != nil && r.came >= manyGuests && time.Since(tidied) >= tidyTime
		if tidy {
			r.came = 0
		}
		closed := r.closed
		l.mu.Unlock()
		if tidy {
			debug.FreeOSMemory()
			tidied = time.Now()
		}
		if closed {
			return
		}
	}
}

// wakeLocked takes a connection out of the lounge.
func (l *fastLane) wakeLocked(c *fastConn) {
	c.rests = false
	delete(l.lounge.guests, c.fd)
}

// closeLocked closes a connection. If it has a goroutine, that is told to, by the end of the stream: Close would wait
// for what the goroutine does in its callback.
func (l *fastLane) closeLocked(c *fastConn) {
	if !c.rests {
		c.raw.Control(sock.Shutdown)
		return
	}
	l.wakeLocked(c)
	l.leaveLocked(c)
	c.unhold()
	c.nc.Close()
}
