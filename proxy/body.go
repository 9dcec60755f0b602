package proxy

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// lingerTime is how long the server may read what a client still sends after it was answered, so
// that the answer is not lost in a reset.
const lingerTime = 500 * time.Millisecond

var errBodyDetached = errors.New("the request is over")

// A clientBody is the body of a client's request. The uploader of an attempt reads it, in its own
// goroutine, and may still be at it when the response has ended: detach is what ends that.
type clientBody struct {
	in       *http.Request
	trailers http.Header // what the backend will be sent; filled at the end of the body

	mu       sync.Mutex // held while reading, and guards the following
	left     int64      // bytes still allowed; negative: no limit
	detached bool

	started atomic.Bool
	end     atomic.Pointer[error] // io.EOF after the last byte, else why reading failed
}

// open prepares to read r's body, at most max bytes of it; 0: no limit.
func (b *clientBody) open(r *http.Request, max int64) {
	b.in, b.left = r, -1
	if max > 0 {
		b.left = max
	}
	if r.ContentLength < 0 {
		b.trailers = make(http.Header)
		maps.Copy(b.trailers, r.Trailer)
	}
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.detached {
		return 0, errBodyDetached
	}
	b.started.Store(true)
	n, err := b.in.Body.Read(p)
	if b.left >= 0 {
		if b.left -= int64(n); b.left < 0 {
			n, err = 0, errTooLarge
		}
	}
	if err == io.EOF && b.trailers != nil {
		maps.Copy(b.trailers, b.in.Trailer) // the server has put them there by now
	}
	if err != nil {
		b.end.Store(&err)
	}
	return n, err
}

// Close leaves the body to the server, which closes it at the end of the request.
func (b *clientBody) Close() error { return nil }

// ended reports whether the whole body was read, or none of it.
func (b *clientBody) ended() bool {
	if !b.started.Load() {
		return true
	}
	end := b.end.Load()
	return end != nil && *end == io.EOF
}

// failed reports whether reading failed, so that nobody knows where the body ends.
func (b *clientBody) failed() bool {
	end := b.end.Load()
	return end != nil && *end != io.EOF
}

// detach ends a Read under way and waits for it, so that nothing touches the body afterwards.
func (b *clientBody) detach(w http.ResponseWriter) {
	if b.ended() {
		return
	}
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Now())
	b.mu.Lock()
	b.detached = true
	b.mu.Unlock()
	rc.SetReadDeadline(time.Now().Add(lingerTime))
}
