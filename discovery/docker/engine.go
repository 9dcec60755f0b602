package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	api "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/client"

	"longshore/discovery"
)

// stayConnected keeps a stream of events open until ctx is done, and has a list made at each start.
func (s *Source) stayConnected(ctx context.Context, box *mailbox) {
	var seen sighting
	var again reminder
	for wait := time.Duration(0); ; {
		began := time.Now()
		up, err := s.follow(ctx, box, &seen)
		if ctx.Err() != nil {
			return
		}
		if !up.IsZero() {
			again = reminder{}
		}
		if !up.IsZero() && time.Since(up) >= or(s.pace.calm, 500*time.Millisecond) {
			// Proxies before the engine's socket do this every few minutes. It is news only if it
			// cannot be mended at once.
			s.log().Debug("the stream of docker events was cut, reconnecting", "err", err)
			wait = 0
			continue
		}
		local := strings.HasPrefix(s.Client.DaemonHost(), "unix:") && client.IsErrConnectionFailed(err)
		wait = nextWait(wait, local, !up.IsZero())
		pause := max(wait-time.Since(began), leastWait) // who let us wait for an answer is not in a hurry
		pause = pause/2 + rand.N(pause/2)
		s.lost(err, pause, &again)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

const leastWait = 100 * time.Millisecond

// nextWait is how long after the beginning of an attempt to connect the next one begins, at most. It doubles,
// but where asking costs nearly nothing the state is to be right a second after the engine is there again,
// however long it was away.
func nextWait(last time.Duration, local, answered bool) time.Duration {
	most := 5 * time.Second
	switch {
	case local: // nobody listens at the socket: nobody was troubled
		most = 250 * time.Millisecond
	case answered: // and cut the stream soon after
		most = 500 * time.Millisecond
	}
	return min(max(2*last, leastWait), most)
}

// A sighting is how far the engine's events are known.
type sighting struct {
	newest time.Time // event, by the engine's clock; zero: none
	listed time.Time // when the last list was asked for, by ours; zero: never
}

// follow is one connection: it subscribes, lists, and lists again every now and then, until the
// stream of events ends or a list fails. up is when it was complete, zero if it never was.
func (s *Source) follow(ctx context.Context, box *mailbox, seen *sighting) (up time.Time, err error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	if err := s.agree(ctx); err != nil {
		return up, err
	}
	options := events.ListOptions{Filters: wanted()}
	if !seen.newest.IsZero() {
		// What the engine remembers of the time we did not listen: a list does not show that a
		// container was asked to stop.
		since := seen.newest.Add(1)
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
					seen.newest = e.time
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
	ping := time.NewTicker(or(s.pace.ping, 5*time.Second))
	defer ping.Stop()
	for {
		l, err := s.list(ctx)
		if err != nil {
			return up, err
		}
		if up.IsZero() {
			l.gap = l.asked.Sub(seen.listed)
		}
		seen.listed = l.asked
		if up.IsZero() {
			up = time.Now()
			select {
			case err := <-cut: // there never was a stream: the engine came between that and the list
				box.put(l)
				return up, fmt.Errorf("docker: events: %w", err)
			default:
				s.connected()
			}
		}
		box.put(l)
		for listed := true; listed; {
			select {
			case <-ping.C:
				s.ping(ctx)
			case <-relist.C:
				listed = false
			case err := <-cut:
				return up, fmt.Errorf("docker: events: %w", err)
			case <-ctx.Done():
				return up, ctx.Err()
			}
		}
	}
}

// agree settles which version of the API is spoken. The answer to a ping tells the engine's. Some socket proxies
// deny that; then the engine tells when it refuses a version that is too new for it.
func (s *Source) agree(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, or(s.pace.answer, 10*time.Second))
	defer cancel()
	ping, err := s.Client.Ping(ctx)
	switch {
	case err == nil:
		s.Client.NegotiateAPIVersionPing(ping)
		return nil
	case ctx.Err() != nil || client.IsErrConnectionFailed(err):
		return fmt.Errorf("docker: ping: %w", err)
	}
	if _, err = s.Client.ContainerList(ctx, api.ListOptions{Limit: 1}); err != nil {
		if m := newestVersion.FindStringSubmatch(err.Error()); m != nil {
			s.Client.NegotiateAPIVersionPing(types.Ping{APIVersion: m[1]})
		}
	}
	return nil // what else is wrong, the list will tell
}

var newestVersion = regexp.MustCompile(`is too new. Maximum supported API version is (\d+\.\d+)`)

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

// An inquiry inspects containers, a few at a time, each at most once at a time. The loop of Watch
// owns it; answers come by mail.
type inquiry struct {
	s       *Source
	wg      *sync.WaitGroup
	box     *mailbox
	waiting todo            // for their turn
	busy    map[string]bool // who was asked for and not answered
}

// inspect asks for containers. Who is being asked for already is not asked for again: if that answer
// turns out to be too old, the world asks anew. Who is gone before its turn came need not be asked for.
func (q *inquiry) inspect(ctx context.Context, w world, ids todo) {
	maps.Copy(q.waiting, ids)
	for id := range q.waiting {
		if c := w.containers[id]; c != nil && !c.gone && !q.busy[id] {
			if len(q.busy) == atOnce {
				continue
			}
			q.busy[id] = true
			q.wg.Go(func() { q.box.put(q.s.inspect(ctx, id)) })
		}
		delete(q.waiting, id)
	}
}

// atOnce is how many inspects may be under way: more would only wait for each other in the engine.
const atOnce = 8

func (s *Source) inspect(ctx context.Context, id string) answer {
	ctx, cancel := context.WithTimeout(ctx, or(s.pace.answer, 10*time.Second))
	defer cancel()
	a := answer{id: id, asked: time.Now()}
	var err error
	a.found, err = s.Client.ContainerInspect(ctx, id)
	switch {
	case errdefs.IsNotFound(err):
		a.gone = true
	case err != nil:
		a.err = fmt.Errorf("docker: inspect: %w", err)
		if kind, cure := diagnose(err, "", false); kind == discovery.Forbidden {
			a.err = fmt.Errorf("%w: %s", a.err, cure)
		}
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
