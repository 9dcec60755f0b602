// Package accesslog writes one line per request, in nginx's combined format or as JSON.
//
// A request pays for a copy of its record into a batch. One goroutine formats and writes the batches, so
// a slow reader of stdout slows no request: when it cannot keep up, lines are dropped and counted.
package accesslog

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"longshore/proxy"
)

// batchSize is how many bytes of records are handed over at once. A longer record has a batch of its own.
const batchSize = 64 << 10

// backlog is how many bytes of batches may wait to be written, some 16,000 requests.
const backlog = 4 << 20

// flushEvery is how long a record may sit in a batch that does not get full.
const flushEvery = 200 * time.Millisecond

// A Log is told of requests by Record, and writes them while Run runs, in order.
type Log struct {
	LastFlush func() time.Duration // how long Run may go on at its end; nil: as long as it takes

	append  func([]byte, *entry) []byte // a line; only Run calls it
	all     bool                        // entries are whole; otherwise they lack what combined does without
	out     io.Writer
	log     *slog.Logger
	full    chan struct{} // a batch waits; buffered: already rung
	dropped atomic.Uint64

	mu      sync.Mutex // held for a copy at most; guards the following
	batch   []byte     // packed records, not yet handed over; nil: none
	waiting [][]byte   // batches handed over before, the oldest first
	held    int        // bytes of what waits or is being written
	free    [][]byte   // written and empty, each of batchSize
}

// New returns a Log that writes to out in a format: "combined" or "json".
func New(out io.Writer, format string, log *slog.Logger) *Log {
	l := &Log{append: new(combined).append, out: out, log: log, full: make(chan struct{}, 1)}
	if format == "json" {
		l.append, l.all = appendJSON, true
	}
	return l
}

// Record takes a request to be written. It copies what it needs of r, and never waits for the writer.
func (l *Log) Record(r *proxy.Record) {
	n := packedSize(r)
	l.mu.Lock()
	ok := l.fitLocked(n)
	if ok {
		l.batch = pack(l.batch, r, l.all)
	}
	l.mu.Unlock()
	if !ok {
		l.dropped.Add(1)
	}
}

// fitLocked sees to it that n more bytes fit into the batch. It is false when too much waits already.
func (l *Log) fitLocked(n int) bool {
	if len(l.batch)+n <= cap(l.batch) {
		return true
	}
	if l.batch != nil {
		if l.held+cap(l.batch) > backlog {
			return false
		}
		l.handOverLocked()
		select {
		case l.full <- struct{}{}:
		default:
		}
	}
	if last := len(l.free) - 1; n <= batchSize && last >= 0 {
		l.batch, l.free = l.free[last], l.free[:last]
	} else {
		l.batch = make([]byte, 0, max(n, batchSize))
	}
	return true
}

func (l *Log) handOverLocked() {
	l.waiting = append(l.waiting, l.batch)
	l.held += cap(l.batch)
	l.batch = nil
}

// handOver lets the batch wait to be written although it is not full.
func (l *Log) handOver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.batch != nil {
		l.handOverLocked()
	}
}

// next returns the oldest batch that waits, nil if none does. Its caller ends with written.
func (l *Log) next() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return nil
	}
	batch := l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1) // a few dozen at most
	return batch
}

func (l *Log) written(batch []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held -= cap(batch)
	if cap(batch) == batchSize {
		l.free = append(l.free, batch[:0])
	}
}

// Run writes until ctx is done, and then what is left, if the reader takes it within LastFlush.
func (l *Log) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() { // which may be stuck in a write, and ends with the process then
		defer close(done)
		l.run(ctx)
	}()
	<-ctx.Done()
	var over <-chan time.Time
	if l.LastFlush != nil {
		over = time.After(l.LastFlush())
	}
	select {
	case <-done:
	case <-over:
		l.log.Warn("access log: the reader of stdout is stuck, the last lines are lost")
	}
	return nil
}

func (l *Log) run(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	var s scratch
	for {
		select {
		case <-l.full:
			l.write(&s)
		case <-tick.C:
			l.flush(&s)
		case <-ctx.Done():
			l.flush(&s)
			return
		}
	}
}

// Dropped is how many lines were dropped so far.
func (l *Log) Dropped() uint64 { return l.dropped.Load() }

// A scratch is memory that Run uses again.
type scratch struct {
	entry entry
	lines []byte
	told  uint64 // how many lines are known to be dropped
}

// flush writes all there is, and tells of what is not.
func (l *Log) flush(s *scratch) {
	l.handOver()
	l.write(s)
	if n := l.dropped.Load(); n > s.told {
		l.log.Warn("access log: the reader of stdout is too slow, lines dropped", "lines", n-s.told)
		s.told = n
	}
}

// write writes the batches that wait.
func (l *Log) write(s *scratch) {
	for batch := l.next(); batch != nil; batch = l.next() {
		s.lines = s.lines[:0]
		for rest := batch; len(rest) > 0; {
			rest = s.entry.unpack(rest, l.all)
			s.lines = append(l.append(s.lines, &s.entry), '\n')
			if len(s.lines) >= batchSize || len(rest) == 0 {
				l.out.Write(s.lines) // who could be told that it fails?
				s.lines = s.lines[:0]
			}
		}
		l.written(batch)
	}
}
