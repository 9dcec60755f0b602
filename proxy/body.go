package proxy

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"longshore/internal/upstream"
)

// lingerTime is how long the server may read what a client still sends when the answer is there. Some of
// that must be: the answer would be lost in a reset.
const lingerTime = 500 * time.Millisecond

// maxReplay is how much of a request's body is kept, so that it can be sent again, or waited with.
const maxReplay = 64 << 10

var (
	errBodyDetached = errors.New("the request is over")
	errTrailerName  = errors.New("a trailer's name is not a token")
)

// A clientBody is the body of a client's request. Attempts read it, each from the beginning, in a
// goroutine of their own that may still be at it when its attempt has failed, or the response has ended:
// rewind and detach are what ends that. What is read is kept up to maxReplay bytes, and what is gathered in a file as a whole.
type clientBody struct {
	in       *http.Request
	declared []string // names of the trailers that the client has announced
	repeat   bool     // the request may be sent again after its body was: attempts keep what they read
	memory   *budget  // for what is kept

	client  *http.ResponseController // has the read deadline
	timeout time.Duration            // between two reads; zero: no limit. Guarded by mu

	reading sync.Mutex // held while reading from the client, and guards the following
	left    int64      // bytes still allowed; negative: no limit

	mu       sync.Mutex  // never held while waiting for the client; guards the following
	kept     spool       // the body from its first byte on, unless dropped
	dropped  bool        // more was read than is kept, or nobody wants it again
	turn     int         // whose reads count: those of earlier turns end
	detached bool        //
	stops    bool        // detach has begun: the deadline is no longer ours
	deadline time.Time   // of reads, as far as it was set for timeout
	waits    bool        // for the client
	late     bool        // it has waited in vain
	trailers http.Header // those that came, once end is io.EOF
	end      error       // io.EOF after the last byte, else why reading failed; nil: there is more
}

// open prepares to read r's body, at most max bytes of it; 0: no limit.
func (b *clientBody) open(r *http.Request, max int64) {
	b.in, b.left = r, -1
	if max > 0 {
		b.left = max
	}
	if r.ContentLength < 0 {
		upstream.DropTrailers(r.Trailer, r.Header["Connection"])
		b.declared = slices.Collect(maps.Keys(r.Trailer))
	}
}

// reader reads the body from its beginning, for the present turn.
func (b *clientBody) reader() *bodyReader {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &bodyReader{body: b, turn: b.turn, memory: b.memory}
	if b.in.ContentLength < 0 {
		r.trailers = make(http.Header, len(b.declared))
		for _, k := range b.declared {
			r.trailers[k] = nil
		}
	}
	return r
}

// rewind ends the reads of earlier attempts, and reports whether there can be another one: nothing was
// read that is not kept, and reading has not failed.
func (b *clientBody) rewind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.replayableLocked() {
		return false
	}
	b.turn++
	return true
}

func (b *clientBody) replayable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.replayableLocked()
}

func (b *clientBody) replayableLocked() bool {
	return !b.dropped && (b.end == nil || b.end == io.EOF)
}

// fill reads ahead as much as can be kept, while the request waits for a backend: the server notices that
// a client has left only once the body is read. It tells failed when the client's body cannot be read, and
// ends at the next rewind.
func (b *clientBody) fill(failed chan<- error) {
	r := b.readerAhead()
	b.awaitRead()              // without a buffer in hand
	buf := make([]byte, 4<<10) // small, since it is held while the client is waited for
	for b.room(maxReplay) > 0 {
		if _, err := r.Read(buf); err != nil {
			if err != io.EOF && err != errBodyDetached {
				failed <- err
			}
			return
		}
	}
}

// readerAhead reads on where what is kept ends.
func (b *clientBody) readerAhead() *bodyReader {
	r := b.reader()
	b.mu.Lock()
	defer b.mu.Unlock()
	r.ahead, r.off = true, b.kept.size()
	return r
}

// gather reads ahead before the request takes a place at a backend: to the end of the body, or max bytes of it, or as
// long as there is memory. With a directory, what is more than that goes to a file there, and an error of writing is the
// second one: then the rest is still to be read. came is called when something has come.
func (b *clientBody) gather(max int, dir string, came func()) (err, unwritten error) {
	r := b.readerAhead()
	buf := make([]byte, 4<<10)
	for {
		n := b.room(max)
		if n <= 0 {
			if more, err := b.spill(dir); !more {
				return nil, err
			}
			continue
		}
		if _, err := r.Read(buf[:min(n, len(buf))]); err == io.EOF {
			return nil, nil
		} else if err != nil {
			return err, nil
		}
		came()
	}
}

// spill makes room in memory. It reports whether there can be any.
func (b *clientBody) spill(dir string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if dir == "" || b.dropped || len(b.kept.memory) == 0 {
		return false, nil
	}
	err := b.kept.spill(dir)
	return err == nil, err
}

// length is that of a body which was in chunks and is there whole, so that it need not be any more: many applications
// read no other. Trailers keep it in chunks.
func (b *clientBody) length() (n int64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept.size(), b.end == io.EOF && !b.dropped && len(b.declared)+len(b.trailers) == 0
}

// awaitRead waits for the read of an earlier attempt.
func (b *clientBody) awaitRead() {
	b.reading.Lock()
	defer b.reading.Unlock()
}

// room is how much more of the body can be kept, of max bytes in all.
func (b *clientBody) room(max int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dropped || b.memory.full() {
		return 0
	}
	return max - len(b.kept.memory)
}

// keepLocked keeps the next bytes of the body. It reports false if there is no memory for them, unless it must.
func (b *clientBody) keepLocked(p []byte, must bool) bool {
	if need := len(b.kept.memory) + len(p); need > cap(b.kept.memory) {
		need += need / 4
		switch more := need - cap(b.kept.memory); {
		case must:
			b.memory.force(more)
		case !b.memory.take(more):
			return false
		}
		b.kept.memory = append(make([]byte, 0, need), b.kept.memory...)
	}
	b.kept.memory = append(b.kept.memory, p...)
	return true
}

// dropLocked gives up repetition, and the memory and the file for it.
func (b *clientBody) dropLocked() {
	b.memory.give(cap(b.kept.memory))
	b.kept.close()
	b.dropped, b.kept = true, spool{}
}

// release is for the end of the request. What is kept in memory stays for an uploader that may still be at it.
func (b *clientBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept.close()
	if b.memory != nil {
		b.memory.give(cap(b.kept.memory))
		b.memory = new(budget)
	}
}

// failure is why the body could not be read; nil, or io.EOF, if it could.
func (b *clientBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end
}

// whole reports whether all of the body was read.
func (b *clientBody) whole() bool { return b.failure() == io.EOF }

// detach ends a Read under way and waits for it, so that nothing touches the body afterwards.
func (b *clientBody) detach(w http.ResponseWriter) {
	b.mu.Lock()
	b.stops = true
	http.NewResponseController(w).SetReadDeadline(time.Now())
	b.mu.Unlock()
	b.reading.Lock()
	defer b.reading.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.detached = true
}

// read reads from the client.
func (b *clientBody) read(p []byte) (int, error) {
	if !b.expect() {
		return 0, errBodyDetached
	}
	n, err := b.in.Body.Read(p)
	b.mu.Lock()
	b.waits, b.late = false, b.lateLocked()
	b.mu.Unlock()
	if err != nil {
		b.noTimeout()
	}
	if b.left >= 0 {
		if b.left -= int64(n); b.left < 0 {
			n, err = 0, errTooLarge
		}
	}
	return n, err
}

// expect has a read end with an error after timeout, or an eighth later: so the deadline is rarely moved. It reports
// false if nothing is to be read any more.
func (b *clientBody) expect() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := time.Now(); b.timeout > 0 && !b.stops && b.deadline.Sub(now) < b.timeout {
		b.deadline = now.Add(b.timeout + b.timeout/8)
		b.client.SetReadDeadline(b.deadline)
	}
	b.waits = true
	return !b.stops
}

// timedOut reports whether the client was waited for in vain. net/http has it look as if it had left, maybe before the
// read has returned.
func (b *clientBody) timedOut() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.late || b.lateLocked()
}

func (b *clientBody) lateLocked() bool {
	return b.waits && !b.stops && !b.deadline.IsZero() && !time.Now().Before(b.deadline)
}

// noTimeout ends that for good.
func (b *clientBody) noTimeout() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timeout = 0
	if !b.stops && !b.deadline.IsZero() {
		b.deadline = time.Time{}
		b.client.SetReadDeadline(b.deadline)
	}
}

// A bodyReader is one attempt's view of the body.
type bodyReader struct {
	body  *clientBody
	turn  int
	off   int64 // read so far, as long as all is kept
	ahead bool  // it is fill's, for the attempts to come

	memory *budget // the body's, also after the request

	trailers http.Header // what its backend is sent: names at first, values once Read has returned io.EOF; nil: none can come
}

func (r *bodyReader) Read(p []byte) (int, error) {
	b := r.body
	if n, err, done := r.known(p); done {
		return n, err
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	if n, err, done := r.known(p); done { // the read of an earlier turn was under way
		return n, err
	}
	n, err := b.read(p)

	b.mu.Lock()
	defer b.mu.Unlock()
	// What an earlier turn, or fill, has read is what the next attempt needs, so that is always kept.
	attempts := r.turn == b.turn && !r.ahead
	if attempts && (!b.repeat || b.kept.size()+int64(n) > maxReplay) || !b.dropped && !b.keepLocked(p[:n], !attempts) {
		b.dropLocked()
	}
	r.off += int64(n)
	if err == io.EOF && r.trailers != nil {
		if b.trailers, err = trailersOf(b.in); err == io.EOF {
			maps.Copy(r.trailers, b.trailers)
		}
	}
	if err != nil {
		b.end = err
	}
	return n, err
}

// trailersOf is what is passed on of the trailers of a request whose body was read to its end. Then the error is
// io.EOF.
func trailersOf(r *http.Request) (http.Header, error) {
	trailers := maps.Clone(r.Trailer) // the server has put them there by now
	for k, v := range trailers {
		if v != nil && strings.IndexByte(k, ' ') >= 0 { // all that net/http lets through, for the sake of responses
			return nil, errTrailerName
		}
	}
	upstream.DropTrailers(trailers, r.Header["Connection"])
	return trailers, io.EOF
}

// known reads what needs no waiting for the client.
func (r *bodyReader) known(p []byte) (n int, err error, done bool) {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.detached || r.turn != b.turn:
		return 0, errBodyDetached, true
	case !b.dropped && r.off < b.kept.size():
		n, err = b.kept.readAt(p, r.off)
		r.off += int64(n)
		return n, err, true
	}
	if b.end == io.EOF {
		maps.Copy(r.trailers, b.trailers)
	}
	return 0, b.end, b.end != nil
}

// Lend is for who reads it into a large buffer.
func (r *bodyReader) Lend(n int) bool {
	if n < 0 {
		r.memory.give(-n)
		return true
	}
	return r.memory.take(n)
}

// Close leaves the body to the server, which closes it at the end of the request.
func (r *bodyReader) Close() error { return nil }

// linger limits how long the server reads a body to its end that nobody wanted, before the answer if it
// means to keep the connection, after it otherwise. It sets no limit itself.
func linger(w http.ResponseWriter) {
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingerTime))
}
