package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	errRefused = connectError("connection refused")
	err503     = errors.New("health check /: status 503")
)

// A lab is a Checker whose probes are answered by the test. It lives in a synctest bubble, which sees
// to it that no goroutine is left.
type lab struct {
	Checker
	sets  chan []Target
	begin time.Time
	stop  func() // ends Run and waits for it

	mu     sync.Mutex // guards the following
	answer func(context.Context, Target) error
	probes map[string][]time.Duration // when they began, by target name
	heard  map[string][]string        // what Notify said: "t 50ms", by key ID
}

func newLab(t testing.TB, answer func(context.Context, Target) error) *lab {
	t.Helper()
	l := &lab{
		sets:   make(chan []Target),
		begin:  time.Now(),
		answer: answer,
		probes: make(map[string][]time.Duration),
		heard:  make(map[string][]string),
	}
	l.Probe = func(ctx context.Context, t Target) error {
		l.mu.Lock()
		answer := l.answer
		l.probes[t.Name] = append(l.probes[t.Name], time.Since(l.begin))
		l.mu.Unlock()
		return answer(ctx, t)
	}
	l.Notify = func(k Key, s Status) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.heard[k.ID] = append(l.heard[k.ID], fmt.Sprint(letter(s), " ", time.Since(l.begin)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx, l.sets) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Cleanup(l.stop)
	return l
}

// set gives a set to the Checker, and waits until what it leads to at once has happened.
func (l *lab) set(ts ...Target) {
	l.sets <- ts
	synctest.Wait()
}

// from now on, probes are answered so.
func (l *lab) from(answer func(context.Context, Target) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = answer
}

// until sleeps until the lab is d old, and what happens then has happened.
func (l *lab) until(d time.Duration) {
	time.Sleep(d - time.Since(l.begin))
	synctest.Wait()
}

func (l *lab) probed(name string) []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.probes[name])
}

// expect compares all that was heard of a target.
func (l *lab) expect(t testing.TB, name, want string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if got := strings.Join(l.heard[name], ", "); got != want {
		t.Errorf("heard of %s: %s\nwant: %s", name, got, want)
	}
}

func well(context.Context, Target) error    { return nil }
func refused(context.Context, Target) error { return errRefused }
func broken(context.Context, Target) error  { return err503 }
func hanging(ctx context.Context, _ Target) error {
	<-ctx.Done()
	return ctx.Err()
}

func target(name string) Target {
	return Target{
		Key: Key{ID: name, Port: 80}, Name: name, Addr: "192.0.2.1:80",
		Check: Check{
			Interval: 2 * time.Second, Timeout: time.Second, Rise: 1, Fall: 2,
			MaxFails: 3, FailTimeout: 10 * time.Second,
		},
	}
}

func TestStartProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, refused)
		l.set(target("web"))
		l.until(5950 * time.Millisecond)
		var want []time.Duration
		for d := time.Duration(0); d < 5*time.Second; d += 50 * time.Millisecond {
			want = append(want, d)
		}
		for d := 5 * time.Second; d < 6*time.Second; d += 100 * time.Millisecond {
			want = append(want, d)
		}
		if got := l.probed("web"); !slices.Equal(got, want) {
			t.Errorf("probes at %v\nwant %v", got, want)
		}
		l.from(well)
		l.until(7 * time.Second)
		// The second says why, the third that it is late.
		l.expect(t, "web", "p 0s, p 0s, p 3s, t 6s")
	})
}

// TestLateProbes: the longer a backend has been waited for, the fewer probes it gets, until its container is heard of.
func TestLateProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, refused)
		web := target("web")
		web.Docker = Starting
		l.set(web)
		l.until(10 * time.Minute)
		in := func(from, to time.Duration) (n int) {
			for _, at := range l.probed("web") {
				if from <= at && at < to {
					n++
				}
			}
			return n
		}
		for _, c := range []struct {
			from time.Duration
			want int // in ten seconds
		}{{0, 150}, {60 * time.Second, 15}, {5 * time.Minute, 5}} {
			if got := in(c.from, c.from+10*time.Second); got != c.want {
				t.Errorf("%d probes in the ten seconds from %v on, want %d", got, c.from, c.want)
			}
		}
		web.Docker = Unhealthy
		l.set(web)
		l.until(10*time.Minute + 5*time.Second)
		if got := in(10*time.Minute, 10*time.Minute+5*time.Second); got != 100 {
			t.Errorf("%d probes in five seconds after Docker spoke of it, want 100", got)
		}
		web.Key.Run++
		l.set(web)
		l.until(10*time.Minute + 10*time.Second)
		if got := in(10*time.Minute+5*time.Second, 10*time.Minute+10*time.Second); got != 101 { // one that was under way
			t.Errorf("%d probes in the first five seconds of the next run, want 101", got)
		}
	})
}

// TestLate: who has passed no check for three seconds is said to be late, since when it came or refused.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, refused)
		var late []string
		notify := l.Notify
		l.Notify = func(k Key, s Status) {
			notify(k, s)
			l.mu.Lock()
			defer l.mu.Unlock()
			if !s.Late.IsZero() {
				late = append(late, fmt.Sprint(time.Since(l.begin), " since ", s.Late.Sub(l.begin), " ", s.Why))
			}
		}
		web := target("web")
		l.set(web)
		l.until(4 * time.Second)
		l.from(broken)
		l.until(5 * time.Second)
		l.from(well)
		l.until(7 * time.Second)
		l.from(refused)
		l.Report(web.Key, Refused)
		l.until(12 * time.Second)
		want := "3s since 0s connection refused, 4.05s since 0s health check /: status 503, 10s since 7s connection refused"
		if got := strings.Join(late, ", "); got != want {
			t.Errorf("late: %s\nwant: %s", got, want)
		}
	})
}

func TestProbeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, hanging)
		l.set(target("web"))
		l.until(2500 * time.Millisecond)
		if got, want := fmt.Sprint(l.probed("web")), "[0s 1s 2s]"; got != want {
			t.Errorf("probes that take long began at %s, want %s", got, want)
		}
		l.expect(t, "web", "p 0s, p 1s")
	})
}

func TestInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, well)
		l.set(target("one"), target("two"))
		l.until(time.Minute)
		for _, name := range []string{"one", "two"} {
			at := l.probed(name)
			for i, d := range at[1:] {
				if gap := d - at[i]; gap < 1800*time.Millisecond || gap > 2200*time.Millisecond {
					t.Errorf("%s: %v between two probes, want 2s ± 10 %%", name, gap)
				}
			}
			l.expect(t, name, "p 0s, t 0s")
		}
		if slices.Equal(l.probed("one"), l.probed("two")) {
			t.Error("two targets are probed in lockstep")
		}
	})
}

func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := target("web")
		web.Check.Jitter = 3 * time.Second
		l := newLab(t, refused)
		l.set(web)
		l.until(time.Second) // not so at the start
		l.from(well)
		l.until(10 * time.Minute)
		at := l.probed("web")
		if n := 21; at[n] != 1050*time.Millisecond {
			t.Errorf("the start probes are at %v, want one every 50ms", at[:n+1])
		}
		least, most := time.Hour, time.Duration(0)
		for i := 22; i < len(at); i++ {
			least, most = min(least, at[i]-at[i-1]), max(most, at[i]-at[i-1])
		}
		if least < 2*time.Second || least > 3*time.Second || most > 5*time.Second || most < 4*time.Second {
			t.Errorf("from %v to %v between two probes, want from 2s to 5s", least, most)
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		web := target("web")
		l := newLab(t, well)
		l.Log = slog.New(slog.NewTextHandler(&buf, nil))
		l.set(web)
		l.Report(web.Key, Answered)
		l.from(func(context.Context, Target) error { return drainError("503 with X-Drain: 1") })
		l.until(10 * time.Second) // many say so, one is heard
		l.from(well)
		l.until(15 * time.Second)
		l.Report(web.Key, Answered)
		at := l.probed("web")
		i, _ := slices.BinarySearch(at, 10*time.Second)
		l.expect(t, "web", fmt.Sprintf("p 0s, t 0s, u 0s, q %v, t %v, u 15s", at[1], at[i]))
		l.stop()
		want := `level=INFO msg="backend draining" backend=web addr=192.0.2.1:80 why="it asked to be drained: health check answered 503 with X-Drain: 1"`
		if n := strings.Count(buf.String(), want); n != 1 {
			t.Errorf("log:\n%swant once:\n%s", buf.String(), want)
		}
	})
}

func TestFallRise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := target("web")
		web.Check.Fall, web.Check.Rise = 3, 2
		l := newLab(t, well)
		l.set(web)
		l.Report(web.Key, Answered)
		l.until(10 * time.Second)
		l.from(broken)
		l.until(20 * time.Second)
		l.from(refused)
		l.until(30 * time.Second)
		l.from(well)
		l.until(40 * time.Second)

		after := func(d time.Duration, n int) time.Duration { // the nth probe after d
			at := l.probed("web")
			i, _ := slices.BinarySearch(at, d)
			return at[i+n-1]
		}
		l.expect(t, "web", fmt.Sprintf("p 0s, t 0s, u 0s, f %v, d %v, f %v, t %v",
			after(10*time.Second, 3), after(20*time.Second, 1), after(30*time.Second, 1), after(30*time.Second, 2)))
	})
}

// TestExhausted has the process run out of descriptors and ports: no backend changes for that, in neither direction.
func TestExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, func(_ context.Context, t Target) error {
			if t.Name == "down" {
				return errRefused
			}
			return nil
		})
		down, was, late := target("down"), target("was"), target("late")
		l.set(was, down)
		l.until(10 * time.Second)
		l.from(func(context.Context, Target) error {
			return dialError(&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)})
		})
		l.set(was, down, late)
		l.until(40 * time.Second)
		l.expect(t, "was", "p 0s, t 0s")
		l.expect(t, "down", "p 0s, p 0s, p 3s")
		l.expect(t, "late", "p 10s, p 13s")
		l.from(well)
		l.until(45 * time.Second)
		if n := len(l.heard["late"]); n != 3 {
			t.Errorf("one that came meanwhile was heard of %d times, want 3: %v", n, l.heard["late"])
		}
	})
}

func TestEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := target("web") // passes all its TCP checks
		l := newLab(t, well)
		l.set(web)
		l.Report(web.Key, Answered)
		l.Report(web.Key, Failed)
		l.Report(web.Key, Failed)
		var at time.Duration
		for _, span := range []time.Duration{10, 20, 40, 60, 60} {
			l.Report(web.Key, Failed)
			at += span * time.Second
			l.until(at)
		}
		l.Report(web.Key, Answered)
		l.expect(t, "web", "p 0s, t 0s, u 0s, f 0s, t 10s, f 10s, t 30s, f 30s, t 1m10s, f 1m10s, t 2m10s, f 2m10s, t 3m10s, u 3m10s")
	})
}

func TestEjectionEndsDuringProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := target("web")
		web.Check.Timeout = time.Minute
		l := newLab(t, well)
		l.set(web)
		l.from(hanging)
		l.until(5 * time.Second)
		for range web.Check.MaxFails {
			l.Report(web.Key, Failed)
		}
		l.until(20 * time.Second)
		l.expect(t, "web", "p 0s, t 0s, f 5s, t 15s")
	})
}

func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := target("web")
		l := newLab(t, well)
		l.set(web)
		l.until(time.Second)
		l.from(refused)
		l.Report(web.Key, Refused)
		l.expect(t, "web", "p 0s, t 0s, p 1s") // when Report returns
		l.Report(web.Key, Refused)
		l.until(1130 * time.Millisecond)
		l.from(well)
		l.until(1500 * time.Millisecond)
		l.expect(t, "web", "p 0s, t 0s, p 1s, t 1.15s")
		if got, want := fmt.Sprint(l.probed("web")), "[0s 1s 1.05s 1.1s 1.15s]"; got != want {
			t.Errorf("probes at %s, want %s", got, want)
		}
	})
}

// A probe that began before a refusal may have connected before it.
func TestRefusedDuringProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := target("web")
		l := newLab(t, well)
		l.set(web)
		l.from(func(ctx context.Context, _ Target) error {
			<-ctx.Done() // called off: passes nevertheless
			return nil
		})
		l.until(2500 * time.Millisecond)
		l.from(refused)
		l.Report(web.Key, Refused)
		l.until(4 * time.Second)
		l.expect(t, "web", "p 0s, t 0s, p 2.5s")
	})
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := target("one"), target("two")
		l := newLab(t, well)
		l.set(one, two)
		l.from(hanging)
		l.until(2500 * time.Millisecond) // both are being probed
		l.set(two)
		l.Report(one.Key, Refused)
		l.from(well)
		l.until(10 * time.Second)
		if n := len(l.probed("one")); n != 2 {
			t.Errorf("%d probes of a target that is gone, want the 2 from before", n)
		}
		l.set(one)
		l.Report(two.Key, Refused)
		l.until(20 * time.Second)
		l.expect(t, "one", "p 0s, t 0s, p 10s, t 10s") // as if never seen before
		l.expect(t, "two", "p 0s, t 0s")
	})
}

func TestRunReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := target("web")
		l := newLab(t, well)
		l.set(web)
		close(l.sets) // no more sets: the last one stays
		l.until(5 * time.Second)
		l.from(hanging)
		l.until(8 * time.Second)
		n := len(l.probed("web"))
		if n < 4 {
			t.Errorf("%d probes in 8s", n)
		}
		l.stop()
		l.Report(web.Key, Refused)
		l.expect(t, "web", "p 0s, t 0s")
	})
}

func TestReportUnknown(t *testing.T) {
	new(Checker).Report(Key{ID: "web"}, Refused)
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, well)
		l.set(target("web"))
		l.Report(Key{ID: "web", Run: 1, Port: 80}, Refused)
		l.expect(t, "web", "p 0s, t 0s")
	})
}

func TestUpdate(t *testing.T) {
	t.Run("docker", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			web := target("web")
			web.Docker = Starting
			l := newLab(t, well)
			l.set(web)
			for i, d := range []Docker{Starting, Healthy, Unhealthy, Healthy, NoCheck} {
				l.until(time.Duration(i) * 100 * time.Millisecond)
				web.Docker = d
				l.set(web)
			}
			l.expect(t, "web", "p 0s, s 0s, t 100ms, f 200ms, t 300ms")
			if n := len(l.probed("web")); n != 1 {
				t.Errorf("%d probes, want 1: HEALTHCHECK is no reason for another", n)
			}
		})
	})
	t.Run("check", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			web := target("web")
			web.Check.Interval = time.Hour
			l := newLab(t, func(_ context.Context, t Target) error {
				if t.Check.Path != "" {
					return err503
				}
				return nil
			})
			l.set(web)
			l.Report(web.Key, Answered)
			l.until(time.Second)
			web.Check.Path, web.Check.Interval, web.Check.Fall = "/", time.Second, 1
			l.set(web)
			l.expect(t, "web", "p 0s, t 0s, u 0s, f 1s")
		})
	})
	t.Run("addr during a probe", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			web := target("web")
			l := newLab(t, func(ctx context.Context, t Target) error {
				if t.Addr == "192.0.2.2:80" {
					return nil
				}
				return hanging(ctx, t)
			})
			l.set(web)
			l.until(500 * time.Millisecond)
			web.Addr = "192.0.2.2:80"
			l.set(web)
			l.until(1500 * time.Millisecond)
			l.expect(t, "web", "p 0s, t 500ms")
		})
	})
	t.Run("twice in a set", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			first, second := target("web"), target("web")
			second.Check.Path = "/"
			l := newLab(t, well)
			l.set(first, second)
			l.set(first, second)
			if n := len(l.probed("web")); n != 1 {
				t.Errorf("%d probes, want 1", n)
			}
		})
	})
}

func TestPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := target("web")
		l := newLab(t, well)
		l.set(web)
		l.until(time.Second)
		l.from(hanging)
		l.until(2500 * time.Millisecond)
		for range web.Check.MaxFails {
			l.Report(web.Key, Failed) // until 12.5s
		}
		web.Paused, web.Docker = true, Unhealthy
		l.set(web)
		l.Report(web.Key, Refused)
		n := len(l.probed("web"))
		l.until(30 * time.Second)
		l.expect(t, "web", "p 0s, t 0s, f 2.5s")
		if got := len(l.probed("web")); got != n {
			t.Errorf("%d probes while paused", got-n)
		}

		l.from(well)
		web.Paused, web.Docker = false, NoCheck
		l.set(web)
		l.expect(t, "web", "p 0s, t 0s, f 2.5s, t 30s")
		if got := len(l.probed("web")); got != n+1 {
			t.Errorf("%d probes when no longer paused, want 1 at once", got-n)
		}
	})
}

func TestPausedFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := target("web")
		web.Paused = true
		l := newLab(t, well)
		l.set(web)
		l.until(time.Second)
		l.expect(t, "web", "")
		web.Paused = false
		l.set(web)
		l.expect(t, "web", "p 1s, t 1s")
	})
}

// Not even a Probe that does not look at its ctx holds up anything but the end of Run.
func TestStubbornProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		l := newLab(t, func(_ context.Context, t Target) error {
			if t.Name == "stubborn" {
				<-release
			}
			return nil
		})
		stubborn, web := target("stubborn"), target("web")
		l.set(stubborn)
		stubborn.Check.Path = "/"
		l.set(stubborn, web)
		l.set(web)
		if d := time.Since(l.begin); d != 0 {
			t.Errorf("sets waited %v for a probe", d)
		}
		l.expect(t, "web", "p 0s, t 0s")
		l.until(time.Minute)
		close(release)
		synctest.Wait()
		l.expect(t, "stubborn", "p 0s")
	})
}

func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		web := target("web-1")
		l := newLab(t, well)
		l.Log = slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		}))
		l.set(web)
		l.Report(web.Key, Answered)
		l.from(refused)
		l.Report(web.Key, Refused)
		l.until(time.Second)
		l.from(well)
		l.until(2 * time.Second)
		web.Docker = Unhealthy
		l.set(web)
		l.stop()
		want := strings.Join([]string{
			`level=INFO msg="backend up" backend=web-1 addr=192.0.2.1:80 why=""`,
			`level=INFO msg="backend probing" backend=web-1 addr=192.0.2.1:80 why="connection refused"`,
			`level=INFO msg="backend up" backend=web-1 addr=192.0.2.1:80 why=""`,
			`level=WARN msg="backend unhealthy" backend=web-1 addr=192.0.2.1:80 why="HEALTHCHECK says unhealthy"`,
			"",
		}, "\n")
		if got := buf.String(); got != want {
			t.Errorf("log:\n%swant:\n%s", got, want)
		}
	})
}

// Many goroutines report while probes and sets go on: every call of Notify is a change, and the last
// one is what the machine says.
func TestConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		targets := []Target{target("one"), target("two"), target("three")}
		for i := range targets {
			targets[i].Check.Interval = 10 * time.Millisecond
			targets[i].Check.FailTimeout = 5 * time.Millisecond
		}
		l := newLab(t, func(context.Context, Target) error {
			return []error{nil, nil, err503, errRefused}[rand.IntN(4)]
		})
		last := make(map[Key]Status)
		l.Notify = func(k Key, s Status) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if s == last[k] || s.Since.Before(last[k].Since) {
				t.Errorf("%v: %+v after %+v", k.ID, s, last[k])
			}
			last[k] = s
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 1000 {
					l.Report(targets[rand.IntN(3)].Key, Outcome(rand.IntN(4)))
					time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
				}
			})
		}
		for i := range 100 {
			targets[0].Docker = Docker(i % 4)
			l.sets <- slices.Clone(targets)
			time.Sleep(5 * time.Millisecond)
		}
		wg.Wait()
		synctest.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		for k, w := range *l.watches.Load() {
			if got := w.machine.status(); got != last[k] {
				t.Errorf("%v: is %+v, last heard of as %+v", k.ID, got, last[k])
			}
		}
	})
}
