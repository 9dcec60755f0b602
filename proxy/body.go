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

// lingerTime is how long the server may read what a client still sends when the answer is there. Some of
// that must be: the answer would be lost in a reset.
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

	end atomic.Pointer[error] // io.EOF after the last byte, else why reading failed
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

// whole reports whether all of the body was read.
func (b *clientBody) whole() bool {
	end := b.end.Load()
	return end != nil && *end == io.EOF
}

// detach ends a Read under way and waits for it, so that nothing touches the body afterwards.
func (b *clientBody) detach(w http.ResponseWriter) {
	http.NewResponseController(w).SetReadDeadline(time.Now())
	b.mu.Lock()
	b.detached = true
	b.mu.Unlock()
}

// linger limits how long the server reads a body to its end that nobody wanted, before the answer if it
// means to keep the connection, after it otherwise. It sets no limit itself.
func linger(w http.ResponseWriter) {
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingerTime))
}
