package docker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	api "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"

	"longshore/discovery"
)

// stayConnected keeps a stream of events open until ctx is done, and has a list made at each start.
func (s *Source) stayConnected(ctx context.Context, box *mailbox) {
	const least, most = 100 * time.Millisecond, 5 * time.Second
	var last time.Time // of the newest event
	for wait := least; ; wait = min(2*wait, most) {
		up, err := s.follow(ctx, box, &last)
		if ctx.Err() != nil {
			return
		}
		if !up.IsZero() && time.Since(up) > or(s.pace.calm, 10*time.Second) {
			// Proxies before the engine's socket do this every few minutes. It is news only if it
			// cannot be mended at once.
			s.log().Debug("the stream of docker events was cut, reconnecting", "err", err)
			wait = least / 2
			continue
		}
		pause := wait/2 + rand.N(wait/2)
		s.lost(err, pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// follow is one connection: it subscribes, lists, and lists again every now and then, until the
// stream of events ends or a list fails. up is when it was complete, zero if it never was.
func (s *Source) follow(ctx context.Context, box *mailbox, last *time.Time) (up time.Time, err error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	options := events.ListOptions{Filters: wanted()}
	if !last.IsZero() {
		// What the engine remembers of the time we did not listen: a list does not show that a
		// container was asked to stop.
		since := last.Add(1)
		options.Since = fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond())
	}
	subscribed := make(chan struct{})
	cut := make(chan error, 1) // the reader's last word
	// The reader only enqueues, for the engine drops events that are not read in time. It subscribes
	// too, because Events returns only once the engine answers, which behind some socket proxies is
	// with the first event.
	wg.Go(func() {
		messages, errs := s.Client.Events(ctx, options)
		close(subscribed)
		for {
			select {
			case m := <-messages:
				if e, ok := readEvent(m, time.Now()); ok {
					*last = e.time
					box.put(e)
				}
			case err := <-errs:
				cut <- err
				return
			}
		}
	})
	select {
	case <-subscribed:
	case <-time.After(time.Second): // long enough for the request to have arrived
	case <-ctx.Done():
		return up, ctx.Err()
	}

	relist := time.NewTicker(or(s.pace.relist, 30*time.Second))
	defer relist.Stop()
	for {
		l, err := s.list(ctx)
		if err != nil {
			return up, err
		}
		if up.IsZero() {
			up, l.fresh = time.Now(), true
			s.connected()
		}
		box.put(l)
		select {
		case <-relist.C:
		case err := <-cut:
			return up, fmt.Errorf("docker: events: %w", err)
		case <-ctx.Done():
			return up, ctx.Err()
		}
	}
}

func (s *Source) list(ctx context.Context) (l listing, err error) {
	ctx, cancel := context.WithTimeout(ctx, or(s.pace.answer, 10*time.Second))
	defer cancel()
	l.asked = time.Now()
	if l.all, err = s.Client.ContainerList(ctx, api.ListOptions{All: true}); err != nil {
		return l, fmt.Errorf("docker: list containers: %w", err)
	}
	return l, nil
}

func (s *Source) connected() {
	if !s.Link().Connected {
		s.link.Store(&discovery.Link{Connected: true, Since: time.Now()})
		s.log().Info("connected to the docker engine", "host", s.Client.DaemonHost(), "api", s.Client.ClientVersion())
	}
}

func (s *Source) lost(err error, wait time.Duration) {
	was := s.link.Load()
	switch {
	case was == nil:
		s.log().Warn("no docker engine answers, waiting for it", "err", err, "host", s.Client.DaemonHost())
	case was.Connected:
		s.log().Warn("lost the docker daemon, keeping the last state", "err", err, "retry_in", wait)
	default:
		s.log().Debug("the docker daemon is still away", "err", err, "retry_in", wait)
		s.link.Store(&discovery.Link{Since: was.Since, Err: err})
		return
	}
	s.link.Store(&discovery.Link{Since: time.Now(), Err: err})
}

// An inquiry inspects containers, a few at a time, each at most once at a time. The loop of Watch
// owns it; answers come by mail.
type inquiry struct {
	s     *Source
	wg    *sync.WaitGroup
	box   *mailbox
	slots chan struct{}   // as many as may be under way
	busy  map[string]bool // who was asked for and not answered
}

// inspect asks for containers. Who is being asked for already is not asked for again: if that answer
// turns out to be too old, the world asks anew.
func (q *inquiry) inspect(ctx context.Context, ids todo) {
	for id := range ids {
		if q.busy[id] {
			continue
		}
		q.busy[id] = true
		q.wg.Go(func() {
			select {
			case q.slots <- struct{}{}:
				defer func() { <-q.slots }()
			case <-ctx.Done():
				return
			}
			q.box.put(q.s.inspect(ctx, id))
		})
	}
}

func (s *Source) inspect(ctx context.Context, id string) answer {
	ctx, cancel := context.WithTimeout(ctx, or(s.pace.answer, 10*time.Second))
	defer cancel()
	a := answer{id: id, asked: time.Now()}
	var err error
	var notFound interface{ NotFound() }
	a.found, err = s.Client.ContainerInspect(ctx, id)
	switch {
	case errors.As(err, &notFound):
		a.gone = true
	case err != nil:
		a.err = fmt.Errorf("docker: inspect: %w", err)
	case a.found.ContainerJSONBase == nil || a.found.Config == nil:
		a.err = errors.New("docker: inspect: the answer is incomplete")
	}
	a.came = time.Now()
	return a
}

// A mailbox is a queue without a limit, so that who puts something in never waits.
type mailbox struct {
	bell chan struct{} // full: already rung

	mu   sync.Mutex // guards mail
	mail []any      // event, listing, answer
}

func newMailbox() *mailbox { return &mailbox{bell: make(chan struct{}, 1)} }

func (b *mailbox) put(m any) {
	b.mu.Lock()
	b.mail = append(b.mail, m)
	b.mu.Unlock()
	select {
	case b.bell <- struct{}{}:
	default:
	}
}

// take empties the box.
func (b *mailbox) take() []any {
	b.mu.Lock()
	defer b.mu.Unlock()
	mail := b.mail
	b.mail = nil
	return mail
}

func or(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}
