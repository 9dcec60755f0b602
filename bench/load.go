package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	answerTimeout = 10 * time.Second // a request that takes longer has failed
	mostInFlight  = 4000             // more than that, and the generator itself is the limit
	notSent       = "not sent: too many in flight"
)

// A load sends requests at times that are fixed before, whatever becomes of those sent earlier. Each
// has a connection of its own and is sent once: what a client of net/http would hide is seen.
type load struct {
	addr    string
	begin   time.Time
	streams []stream
	each    func(shot) // called for each when it has ended, if set, by several goroutines; they are not kept then

	inFlight atomic.Int64
	mu       sync.Mutex // guards shots
	shots    []shot
}

// A stream is the part of a load whose requests are alike.
type stream struct {
	Rate   int           // per second
	Method string        // GET or POST
	Path   string        // %d is the request's number
	Asked  time.Duration // how long the path asks the app to take

	Target func(id int) (path, header string) // instead of Path: that and more header lines of a request; nil: Path
}

// A shot is one request and what became of it.
type shot struct {
	ID      int           `json:"id"`
	Method  string        `json:"method"`
	Due     time.Duration `json:"due"`  // since the load's begin
	Late    time.Duration `json:"late"` // how long after that the generator came to it
	Took    time.Duration `json:"took"` // from Due to the end of the answer
	Asked   time.Duration `json:"asked,omitempty"`
	Status  int           `json:"status,omitempty"`
	Replica string        `json:"replica,omitempty"` // what the body says, if it came whole
	Cause   string        `json:"cause,omitempty"`   // of the failure; empty: none
}

// end is when the answer was there.
func (s shot) end() time.Duration { return s.Due + s.Took }

// requestID is what a shot sends as X-Request-Id.
func (s shot) requestID() string { return fmt.Sprintf("shot-%d", s.ID) }

// run sends until stop is closed or ctx is done, and returns when all is answered or has timed out:
// every request, in the order of their due times.
func (l *load) run(ctx context.Context, stop <-chan struct{}) []shot {
	var sending, waiting sync.WaitGroup
	for i, s := range l.streams {
		sending.Go(func() {
			for n := 0; ; n++ {
				due := time.Duration(n) * time.Second / time.Duration(s.Rate)
				select {
				case <-time.After(time.Until(l.begin.Add(due))):
				case <-stop:
					return
				case <-ctx.Done():
					return
				}
				one := shot{ID: n*len(l.streams) + i, Method: s.Method, Due: due, Asked: s.Asked}
				one.Late = time.Since(l.begin) - due
				waiting.Go(func() { l.send(one, s) })
			}
		})
	}
	sending.Wait()
	waiting.Wait()
	slices.SortFunc(l.shots, func(a, b shot) int { return int(a.Due - b.Due) })
	return l.shots
}

func (l *load) send(one shot, s stream) {
	if l.inFlight.Add(1) > mostInFlight {
		one.Cause = notSent
	} else {
		path, more := s.Path, ""
		if s.Target != nil {
			path, more = s.Target(one.ID)
		} else if strings.Contains(path, "%d") {
			path = fmt.Sprintf(path, one.ID)
		}
		one.Status, one.Replica, one.Cause = request(l.addr, s.Method, path, one.requestID(), l.begin.Add(one.Due+answerTimeout), more)
	}
	l.inFlight.Add(-1)
	one.Took = time.Since(l.begin) - one.Due
	if l.each != nil {
		l.each(one)
		return
	}
	l.mu.Lock()
	l.shots = append(l.shots, one)
	l.mu.Unlock()
}

// sofar counts for who shows progress.
func (l *load) sofar() (sent, failed int, latest map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	latest = make(map[string]int)
	for i, s := range l.shots {
		if s.Cause != "" {
			failed++
		} else if len(l.shots)-i <= 300 {
			latest[s.Replica]++
		}
	}
	return len(l.shots), failed, latest
}

// request does one exchange on a new connection. The cause is empty if a whole answer with a status
// of 2xx came. More are header lines, each with its end.
func request(addr, method, path, id string, deadline time.Time, more ...string) (status int, body, cause string) {
	conn, err := net.DialTimeout("tcp", addr, time.Until(deadline))
	if err != nil {
		return 0, "", causeOf(err, false)
	}
	defer conn.Close()
	conn.SetDeadline(deadline)
	content := ""
	if method == http.MethodPost {
		content = "one order"
	}
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: bench\r\nX-Request-Id: %s\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n%s",
		method, path, id, len(content), strings.Join(more, ""), content); err != nil {
		return 0, "", causeOf(err, false)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return 0, "", causeOf(err, false)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return res.StatusCode, "", causeOf(err, true)
	case res.StatusCode/100 != 2:
		return res.StatusCode, "", fmt.Sprintf("status %d", res.StatusCode)
	}
	return res.StatusCode, strings.TrimSpace(string(all)), ""
}

// causeOf names a failure of the connection; begun says that the head of the answer was there.
func causeOf(err error, begun bool) string {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in 10 s"
	case begun:
		return "truncated"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed before an answer"
	}
	return err.Error()
}
