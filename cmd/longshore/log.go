package main

import (
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"longshore/internal/config"
)

// logBacklog is how many bytes of the log may wait to be written. As many again may be stuck in a write.
const logBacklog = 1 << 20

// lastFlush is how long each log may take for its last lines when nothing of SHUTDOWN_TIMEOUT is left.
const lastFlush = 250 * time.Millisecond

// newLog returns the logger that the configuration asks for, and the queue that it writes to.
func newLog(cfg config.Config, out io.Writer) (*slog.Logger, *logQueue) {
	q := &logQueue{out: out, bell: make(chan struct{}, 1), ending: make(chan struct{}), ended: make(chan struct{}), room: logBacklog}
	opts := &slog.HandlerOptions{Level: cfg.LogLevel}
	log := slog.New(slog.NewTextHandler(q, opts))
	if cfg.LogFormat == "json" {
		log = slog.New(slog.NewJSONHandler(q, opts))
	}
	go q.run(log)
	return log, q
}

// A logQueue keeps requests, discovery and the stop from waiting for the reader of stderr. When the reader cannot
// keep up, lines are dropped and counted, as in the access log.
type logQueue struct {
	out     io.Writer
	bell    chan struct{} // something waits; buffered: already rung
	ending  chan struct{} // closed by end
	ended   chan struct{} // closed when all is written
	dropped atomic.Uint64

	mu      sync.Mutex // held for a copy at most; guards the following
	room    int        // how long waiting may become
	waiting []byte     // whole lines
}

// Write takes a line, or drops it. It never waits and never fails.
func (q *logQueue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting)+len(line) > q.room {
		q.dropped.Add(1)
		return len(line), nil
	}
	q.waiting = append(q.waiting, line...)
	select {
	case q.bell <- struct{}{}:
	default:
	}
	return len(line), nil
}

// spare makes room for the line that says why the process ends, however much waits.
func (q *logQueue) spare() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.room = logBacklog + 64<<10
}

// end returns when all is written, or after the limit.
func (q *logQueue) end(limit time.Duration) {
	close(q.ending)
	select {
	case <-q.ended:
	case <-time.After(limit):
	}
}

// run writes what waits until end is called. It tells of dropped lines in the log itself.
func (q *logQueue) run(log *slog.Logger) {
	defer close(q.ended)
	var lines []byte
	var told uint64
	for ending := false; !ending; {
		select {
		case <-q.bell:
		case <-q.ending:
			ending = true
		}
		for lines = q.swap(lines); len(lines) > 0; lines = q.swap(lines) {
			q.out.Write(lines) // who could be told that it fails?
			if n := q.dropped.Load(); n > told {
				log.Warn("log: the reader of stderr is too slow, lines dropped", "lines", n-told)
				told = n
			}
		}
	}
}

// swap returns the lines that wait, and takes the memory of those that are written for the next ones.
func (q *logQueue) swap(written []byte) []byte {
	if cap(written) > 64<<10 { // a burst is over
		written = nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	lines := q.waiting
	q.waiting = written[:0]
	return lines
}
