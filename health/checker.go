package health

import (
	"cmp"
	"context"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A Checker watches the targets it is given: it probes them, hears how requests to them went, and
// tells what it decides. Its fields do not change once it runs.
type Checker struct {
	// Probe checks a target once, in at most Check.Timeout, which is its ctx's. Nil error: the target
	// is well. Nil func: [Probe].
	Probe func(context.Context, Target) error

	// Notify is called once per change, in order per key. The first call for a target tells where it
	// starts. It runs with the target locked, and in the goroutine that saw the change, which may be
	// one of the data path inside Report: so it must not call the Checker, and Report must not be
	// called with a lock held that Notify takes. Locks are taken in the order: target, then Notify's.
	Notify func(Key, Status)

	Log *slog.Logger // one line per change of State; nil: none

	watches atomic.Pointer[map[Key]*watch] // the map does not change; stored by Run only
}

// Run watches the targets of the set it received last, until ctx is done, then returns nil. A set
// replaces the one before it; a target that is not in it is forgotten, and not heard of any more.
// Receiving a set never waits for a probe. The channel may be closed: the last set stays.
func (c *Checker) Run(ctx context.Context, sets <-chan []Target) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.replace(ctx, &wg, nil)
	for {
		select {
		case <-ctx.Done():
			return nil
		case set, ok := <-sets:
			if !ok {
				sets = nil
				continue
			}
			c.replace(ctx, &wg, set)
		}
	}
}

// Report tells what the data path saw of one attempt. It is cheap, and safe for any goroutine;
// what it changes is in effect, and has been notified, when it returns. Unknown keys are ignored.
//
// Refused, DialFailed and Failed are to be reported always, Answered only while the backend is in
// trial or after a failure was reported.
func (c *Checker) Report(k Key, o Outcome) {
	if watches := c.watches.Load(); watches != nil {
		if w := (*watches)[k]; w != nil {
			w.report(o)
		}
	}
}

func (c *Checker) replace(ctx context.Context, wg *sync.WaitGroup, set []Target) {
	var old map[Key]*watch
	if p := c.watches.Load(); p != nil {
		old = *p
	}
	next := make(map[Key]*watch, len(set))
	var fresh []*watch
	for _, t := range set {
		w := old[t.Key]
		switch {
		case next[t.Key] != nil: // twice in one set: the first counts
			continue
		case w != nil:
			w.update(t)
		default:
			w = &watch{checker: c, bell: make(chan struct{}, 1), target: t, machine: newMachine(t.Docker, time.Now())}
			fresh = append(fresh, w)
		}
		next[t.Key] = w
	}
	c.watches.Store(&next) // before a new one is probed and used, or its first report is lost
	for k, w := range old {
		if next[k] == nil {
			w.forget()
		}
	}
	for _, w := range fresh {
		wg.Go(func() { w.run(ctx) })
	}
}

// A watch is one target under watch. Its goroutine runs the clock and starts the probes.
type watch struct {
	checker *Checker
	bell    chan struct{} // something is due at another time than it was; full: already rung

	mu      sync.Mutex // guards the following, and is held over Notify so that the order is right
	target  Target
	machine machine
	status  Status             // as last notified
	due     time.Time          // the next probe, when none is running
	cancel  context.CancelFunc // of the running probe; nil: none
	gone    bool               // forgotten
}

func (w *watch) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		alarm, ok := w.advance(ctx, &wg)
		if !ok {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-w.bell:
		case <-alarm:
		}
	}
}

// advance does what is due. The alarm goes off when something else is; ok is false when nothing will be.
func (w *watch) advance(ctx context.Context, wg *sync.WaitGroup) (alarm <-chan time.Time, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.stepLocked(tick{}, now)
	if w.gone || w.target.Paused {
		return nil, !w.gone
	}
	wait := time.Duration(math.MaxInt64)
	if w.machine.requests.open {
		wait = w.machine.requests.until.Sub(now)
	}
	if w.cancel == nil {
		if w.due.After(now) {
			wait = min(wait, w.due.Sub(now))
		} else {
			w.probeLocked(ctx, wg, now)
		}
	}
	return time.After(wait), true
}

// probeLocked probes in another goroutine, because meanwhile the target's ejection may end.
func (w *watch) probeLocked(ctx context.Context, wg *sync.WaitGroup, start time.Time) {
	probe, t := w.checker.Probe, w.target
	if probe == nil {
		probe = Probe
	}
	ctx, w.cancel = context.WithCancel(ctx)
	wg.Go(func() {
		timed, cancel := context.WithTimeout(ctx, cmp.Or(t.Check.Timeout, time.Second))
		defer cancel()
		w.probed(ctx, start, probe(timed, t))
	})
}

// probed takes the result of a probe, unless ctx says that it was called off.
func (w *watch) probed(ctx context.Context, start time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	w.cancel()
	w.cancel = nil
	now := time.Now()
	if !Exhausted(err) { // else nothing was found out
		w.stepLocked(checked{err}, now)
	}
	gap := w.machine.gap(w.target.Check, now)
	switch jitter := w.target.Check.Jitter; {
	case !w.machine.admitted:
	case jitter > 0:
		gap += rand.N(jitter)
	default:
		gap = time.Duration(float64(gap) * (0.9 + 0.2*rand.Float64())) // or all backends are probed at once
	}
	w.due = start.Add(gap)
	w.ring()
}

func (w *watch) report(o Outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.machine.admitted
	w.stepLocked(o, time.Now())
	if was && !w.machine.admitted {
		w.reprobeLocked() // one that runs may have connected before the refusal
	}
	w.ring()
}

func (w *watch) update(t Target) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t == w.target {
		return
	}
	old := w.target
	w.target = t
	w.stepLocked(t.Docker, time.Now())
	// What HEALTHCHECK says changes nothing about the probes, unless it says that there is more to hope for. Anything
	// else makes the running one moot.
	news := old.Docker != t.Docker && !w.machine.admitted
	if old.Name, old.Docker = t.Name, t.Docker; old != t || news {
		w.reprobeLocked()
	}
	w.ring()
}

func (w *watch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
	w.reprobeLocked()
	w.ring()
}

// reprobeLocked calls off the running probe and makes the next one due.
func (w *watch) reprobeLocked() {
	if w.cancel != nil {
		w.cancel()
		w.cancel = nil
	}
	w.due = time.Time{}
}

func (w *watch) ring() {
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

// stepLocked does nothing for a target that is paused: whatever is seen of it then, or said by the
// Docker list (which hides the health of a paused container), is no news.
func (w *watch) stepLocked(in input, now time.Time) {
	if w.gone || w.target.Paused {
		return
	}
	w.machine = w.machine.step(in, w.target.Check, now)
	was, is := w.status, w.machine.status()
	if is == was {
		return
	}
	w.status = is
	if log := w.checker.Log; log != nil && is.State != was.State {
		level := slog.LevelInfo
		if is.State == Failing {
			level = slog.LevelWarn
		}
		log.Log(context.Background(), level, "backend "+is.State.String(),
			"backend", w.target.Name, "addr", w.target.Addr, "why", is.Why)
	}
	if w.checker.Notify != nil {
		w.checker.Notify(w.target.Key, is)
	}
}
