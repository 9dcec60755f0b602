package proxy

import (
	"sync"
	"time"
)

// A limiter lets through so few lines of a kind that a log stays readable: some in each sayEvery. The zero value is
// ready.
type limiter struct {
	mu     sync.Mutex // guards the following
	since  time.Time  // when the present span began
	said   int        // in it
	unsaid int        // since the last that was let through
}

const sayEvery = 10 * time.Second

// allow reports whether a line may be written, of which there may be some in each sayEvery, and how many were not since
// the last one.
func (l *limiter) allow(now time.Time, some int) (unsaid int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= sayEvery {
		l.since, l.said = now, 0
	}
	if l.said >= some {
		l.unsaid++
		return 0, false
	}
	l.said++
	unsaid, l.unsaid = l.unsaid, 0
	return unsaid, true
}

// maxQuoted is how much of what others wrote stands in a line of the log.
const maxQuoted = 200

// shorten is s, or its beginning.
func shorten(s string) string {
	if len(s) > maxQuoted {
		return s[:maxQuoted] + "…"
	}
	return s
}
