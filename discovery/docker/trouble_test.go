package docker

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
)

// inspects are requests for single containers.
func (d *daemon) inspects() int {
	return len(d.asked("/containers/")) - len(d.asked("/containers/json"))
}

// truth is what a new source would say of the model.
func (d *daemon) truth() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	fresh := &driver{model: d.model, t: d.t, w: world{view: upstream(d.t, "web")}, due: make(todo)}
	fresh.relist(time.Hour)
	fresh.answer()
	return withoutPast(see(fresh.w))
}

var past = regexp.MustCompile(` #[0-9]+| expected`)

// withoutPast removes what a new source cannot know: how often containers have run, and when they were created.
func withoutPast(state string) string { return past.ReplaceAllString(state, "") }

// However long the socket was gone, the state is right within a second after it is there again.
func TestSocketGone(t *testing.T) {
	d := startDaemon(t, demo())
	w := watch(t, d.source("web"))
	w.until("web-1 172.18.0.4:80 #1")
	d.vanish()
	d.do("exit demo-web-1 3")
	time.Sleep(4 * time.Second) // doubled from 100 ms the wait would be more than a second by now
	if w.Link().Connected {
		t.Error("still connected")
	}
	d.listen()
	began := time.Now()
	w.until("web-1 #1 down: exited (3)")
	if took := time.Since(began); took > time.Second {
		t.Errorf("the state was right %v after the daemon was back, want at most 1 s", took)
	}
	if n := strings.Count(w.log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, w.log)
	}
}

func TestNextWait(t *testing.T) {
	for _, test := range []struct {
		name            string
		local, answered bool
		want            string
	}{
		{"no answer or an error", false, false, "100ms 200ms 400ms 800ms 1.6s 3.2s 5s 5s"},
		{"nobody at the socket", true, false, "100ms 200ms 250ms 250ms 250ms 250ms 250ms 250ms"},
		{"streams that are cut at once", false, true, "100ms 200ms 400ms 500ms 500ms 500ms 500ms 500ms"},
	} {
		var got []string
		var wait time.Duration
		for range 8 {
			wait = nextWait(wait, test.local, test.answered)
			got = append(got, wait.String())
		}
		if got := strings.Join(got, " "); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// After a cut the engine may send a thousand events at once. They are worked off in few steps.
func TestReplayedBurst(t *testing.T) {
	d := startDaemon(t, demo())
	w := watch(t, d.source("web"))
	w.until("web-1 172.18.0.4:80 #1")
	d.do("oom demo-web-1") // so that there is an event to go on from
	time.Sleep(50 * time.Millisecond)

	d.set(func() { d.away = true })
	d.cutStreams()
	d.set(func() {
		for i := range 100 { // ten events each
			name := fmt.Sprint("web-", 10+i)
			d.model.service(name)
			for _, op := range []string{"start demo-%s", "oom demo-%s", "signal demo-%s 15", "exit demo-%s 0", "destroy demo-%s", "oom demo-web-1"} {
				d.model.do(strings.ReplaceAll(op, "%s", name))
			}
			if i == 50 {
				d.model.do("exit demo-web-2 7")
			}
			d.model.service(name)
		}
		for i := range 100 {
			d.model.do(fmt.Sprint("destroy demo-web-", 10+i))
		}
		d.model.do("exit demo-web-1 8")
		if n := len(d.model.events); n < 1000 {
			t.Errorf("%d events", n)
		}
		d.sendLocked()
		d.requests = nil
		d.away = false
	})
	before := w.until("web-1 #1 down: exited (8)", "web-2 #1 down: exited (7)")
	if got, want := w.rest(), d.truth(); withoutPast(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if n := len(before); n > 20 {
		t.Errorf("published %d times", n)
	}
	if n := d.inspects(); n > 2*202 { // at most twice each, mostly not at all: it depends on how fast the events come
		t.Errorf("inspected %d times", n)
	}
}

// What ignores filters, as some proxies before the socket do, sends three events for each run of a
// HEALTHCHECK, and much else. They cost nothing.
func TestUnfiltered(t *testing.T) {
	d := startDaemon(t, demo())
	w := watch(t, d.source("web"))
	w.until("web-1 172.18.0.4:80 #1")
	inspects := d.inspects()
	d.set(func() {
		b := d.model.boxes["demo-web-1"]
		for range 200 {
			for _, action := range []string{"exec_create: /app check", "exec_start: /app check", "exec_die"} {
				d.model.say(b, action)
			}
		}
		for _, action := range []string{"top", "attach", "resize", "stop", "archive-path", "export"} {
			d.model.say(b, action)
		}
		d.model.events = append(d.model.events, []events.Message{
			{Type: events.NetworkEventType, Action: "create", Actor: events.Actor{ID: "n"}},
			{Type: events.ImageEventType, Action: "pull", Actor: events.Actor{ID: "demo"}},
			{Type: events.VolumeEventType, Action: "mount", Actor: events.Actor{ID: "v", Attributes: map[string]string{"container": b.id}}},
		}...)
		d.sendLocked()
	})
	d.do("exit demo-web-1 1")
	if before := w.until("web-1 #1 down: exited (1)"); len(before) > 0 {
		t.Errorf("published %q", before)
	}
	w.rest()
	if n := d.inspects() - inspects; n > 2 { // after the end and the loss of the network
		t.Errorf("inspected %d times", n)
	}
}

// With an engine that takes two seconds for every answer the first state is there a second after the list,
// and events take containers away at once.
func TestSlowDaemon(t *testing.T) {
	d := startDaemon(t, demo())
	d.late = 2 * time.Second
	began := time.Now()
	w := watch(t, d.source("web"))
	w.until("web /")
	if took := time.Since(began); took > d.late+2*patience {
		t.Errorf("the first state came after %v", took)
	}
	w.until("web-1 172.18.0.4:80 #1", "web-2 172.18.0.5:80 #1")
	began = time.Now()
	d.do("signal demo-web-1 15")
	w.until("web-1 172.18.0.4:80 #1 stopping")
	d.do("exit demo-web-1 1")
	w.until("web-1 #1 down: exited (1)")
	d.do("pause demo-web-2")
	w.until("web-2 172.18.0.5:80 #1 paused")
	if took := time.Since(began); took > d.late/2 {
		t.Errorf("removals took %v: they waited for an answer", took)
	}
}

// Streams are cut again and again while containers come and go: the state is right in the end, and
// nothing is left behind.
func TestManyCuts(t *testing.T) {
	d := startDaemon(t, demo())
	s := d.source("web")
	s.pace.calm = 5 * time.Millisecond
	w := watch(t, s)
	w.until("web-1 172.18.0.4:80 #1")
	r := rand.New(rand.NewPCG(1, 2))
	next := 3
	round := func() {
		d.cutStreams()
		for range r.IntN(4) {
			switch name := fmt.Sprint("demo-web-", max(1, next-1-r.IntN(8))); r.IntN(6) {
			case 0:
				d.set(func() {
					if len(d.model.boxes) < 8 {
						d.model.service(fmt.Sprint("web-", next))
						next++
					}
					d.sendLocked()
				})
			case 1, 2:
				d.do("start " + name)
			case 3:
				d.do("signal "+name+" 15", "exit "+name+" 0")
			case 4:
				d.do("exit "+name+" 1", "destroy "+name)
			case 5:
				d.do("pause "+name, "unpause "+name)
			}
		}
		d.set(func() {
			d.history = d.history[max(0, len(d.history)-256):]
			d.requests = nil
		})
		time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
		for len(w.states) > 0 {
			w.last = <-w.states
		}
	}
	for range 20 {
		round()
	}
	w.rest()
	goroutines, heap := resources()
	for range 100 {
		round()
	}
	want := d.truth()
	for deadline := time.After(time.Second); withoutPast(w.last) != want; {
		select {
		case w.last = <-w.states:
		case <-deadline:
			t.Fatalf("a second after the last cut:\n%s\nwant\n%s\n%s", w.last, want, w.log)
		}
	}
	w.rest()
	goroutines2, heap2 := resources()
	if goroutines2 > goroutines+10 {
		t.Errorf("%d goroutines, before a hundred cuts %d", goroutines2, goroutines)
	}
	if heap2 > heap+1<<20 {
		t.Errorf("%d bytes on the heap, before a hundred cuts %d", heap2, heap)
	}
}

func resources() (goroutines int, heap uint64) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc
}

// A container whose end nobody told is gone when the engine says that there is none.
func TestNoSuchContainer(t *testing.T) {
	d := startDaemon(t, demo())
	if a := d.source("web").inspect(t.Context(), "nobody"); !a.gone || a.err != nil {
		t.Errorf("gone %v, error %v", a.gone, a.err)
	}
}
