package docker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/events"

	"longshore/discovery"
	"longshore/internal/dockertest"
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

// A socket that is there without anybody listening, as the mounted one of an engine that was restarted, is
// complained of again, and then counts as stale.
func TestSocketStale(t *testing.T) {
	d := startDaemon(t, demo())
	s := d.source("web")
	s.pace.remind = 500 * time.Millisecond
	w := watch(t, s)
	w.until("web-1 172.18.0.4:80 #1")
	d.server.Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	d.vanish()
	w.link("away", func(l discovery.Link) bool { return l.Trouble == discovery.Away && l.Cure == "" })
	w.link("stale", func(l discovery.Link) bool {
		return l.Trouble == discovery.Stale && strings.Contains(l.Why(), "set DOCKER_HOST=unix:///run/host/docker.sock")
	})
	dockertest.Wait(t, "two reminders", func() bool { return strings.Count(w.log.String(), "level=WARN") == 3 })
	warnings := regexp.MustCompile(`level=WARN msg="([^"]*)".*`).FindAllStringSubmatch(w.log.String(), -1)
	for i, want := range []string{"lost the docker daemon, keeping the last state", "the docker daemon is still away", "the docker daemon is still away"} {
		if got := warnings[i]; got[1] != want || strings.Contains(got[0], " cure=") != (i > 0) {
			t.Errorf("warning %d: %s, want %q", i+1, got[0], want)
		}
	}
	os.Remove(d.socket)
	d.listen()
	w.link("connected", func(l discovery.Link) bool { return l.Connected && l.Trouble == "" })
}

// An engine that is stopped with its socket open is missed although its stream is not cut, and is back when it
// goes on. What happened meanwhile is not lost.
func TestFrozen(t *testing.T) {
	d := startDaemon(t, demo())
	s := d.source("web")
	s.pace.ping, s.pace.pong = 100*time.Millisecond, 200*time.Millisecond
	w := watch(t, s)
	w.until("web-1 172.18.0.4:80 #1")
	frozen := make(chan struct{})
	d.set(func() { d.frozen = frozen })
	w.link("silent", func(l discovery.Link) bool {
		return l.Trouble == discovery.Silent && l.Why() == "docker: ping: context deadline exceeded; the engine holds its socket open and does not answer: see whether its process is stopped or overloaded"
	})
	d.set(func() { d.frozen = nil })
	close(frozen)
	w.link("connected", func(l discovery.Link) bool { return l.Connected && l.Err == nil })
	d.do("exit demo-web-1 3")
	w.until("web-1 #1 down: exited (3)")
	if n := len(d.asked("/events")); n != 1 {
		t.Errorf("%d streams of events, want one that was never cut", n)
	}
	if n := strings.Count(w.log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, w.log)
	}
}

// A socket proxy that denies pings leaves the engine's version to be learnt from its refusal.
func TestPingDenied(t *testing.T) {
	d := startDaemon(t, demo())
	d.deny = "/_ping"
	s := d.source("web")
	s.pace.ping = 10 * time.Millisecond // its refusal is an answer
	w := watch(t, s)
	w.until("web-1 172.18.0.4:80 #1")
	if got := s.Client.ClientVersion(); got != "1.41" {
		t.Errorf("version %s, want the engine's, 1.41", got)
	}
	dockertest.Wait(t, "pings", func() bool { return len(d.asked("HEAD /_ping")) > 3 })
	if l := s.Link(); !l.Connected || strings.Contains(w.log.String(), "level=WARN") {
		t.Errorf("%+v:\n%s", l, w.log)
	}
}

// What a socket proxy forbids is said with what it should allow.
func TestForbidden(t *testing.T) {
	for _, what := range []string{"/containers/json", "/events"} {
		d := startDaemon(t, demo())
		d.deny = what
		w := watch(t, d.source("web"))
		w.link("forbidden", func(l discovery.Link) bool {
			return l.Trouble == discovery.Forbidden && strings.Contains(l.Why(), "Forbidden by administrative rules.; let the socket proxy allow GET of /events, ")
		})
		if !strings.Contains(w.log.String(), "level=WARN msg=\"no docker engine answers, waiting for it\"") || !strings.Contains(w.log.String(), " cure=\"let the socket proxy allow") {
			t.Errorf("log:\n%s", w.log)
		}
	}
	d := startDaemon(t, demo())
	d.deny = d.model.boxes["demo-web-1"].id
	watch(t, d.source("web")).until("skip demo-web-1: docker: inspect: Error response from daemon: Forbidden by administrative rules.: let the socket proxy allow GET of /events, ")
}

// link waits until the link to the engine is as it should.
func (w *watched) link(what string, ok func(discovery.Link) bool) {
	w.t.Helper()
	defer func() {
		if w.t.Failed() {
			w.t.Logf("link %+v, log:\n%s", w.Link(), w.log)
		}
	}()
	dockertest.Wait(w.t, "the link to be "+what, func() bool { return ok(w.Link()) })
}

func TestDiagnose(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "docker.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := os.Chown(socket, -1, os.Getgid()); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("Cannot connect to the Docker daemon")
	for _, test := range []struct {
		name string
		err  error
		host string
		long bool
		want discovery.Trouble
		cure string
	}{
		{"refused", refused, "unix://" + socket, false, discovery.Away, ""},
		{"refused for long", refused, "unix://" + socket, true, discovery.Stale, "set DOCKER_HOST=unix:///run/host/docker.sock"},
		{"refused elsewhere", refused, "tcp://127.0.0.1:2375", true, discovery.Away, ""},
		{"no socket", refused, "unix://" + dir + "/none", false, discovery.Missing, "-v /var/run/docker.sock:" + dir + "/none:ro"},
		{"a directory", refused, "unix://" + dir, true, discovery.Missing, dir + " is a directory"},
		{"not allowed", fmt.Errorf("dial: %w", syscall.EACCES), "unix://" + socket, true, discovery.Denied, fmt.Sprintf(`(group_add: ["%d"])`, os.Getgid())},
		{"403", fmt.Errorf("list: %w", errdefs.ErrPermissionDenied), "tcp://proxy:2375", true, discovery.Forbidden, "CONTAINERS=1"},
		{"silence", fmt.Errorf("list: %w", context.DeadlineExceeded), "unix://" + socket, true, discovery.Silent, "stopped or overloaded"},
	} {
		kind, cure := diagnose(test.err, test.host, test.long)
		if kind != test.want || !strings.Contains(cure, test.cure) || (cure == "") != (test.cure == "") {
			t.Errorf("%s: %s, %q; want %s and in the cure %q", test.name, kind, cure, test.want, test.cure)
		}
	}
}

// The engine is away for six hours, and asked for every ten seconds.
func TestReminder(t *testing.T) {
	var r reminder
	var got []string
	for after := time.Duration(0); after < 6*time.Hour; after += 10 * time.Second {
		if r.due(after, 30*time.Second) {
			got = append(got, after.String())
		}
	}
	const want = "[30s 1m30s 3m30s 7m30s 15m30s 31m30s 1h3m30s 2h3m30s 3h3m30s 4h3m30s 5h3m30s]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
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
