package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/client"

	"longshore/discovery"
	"longshore/internal/config"
)

// A daemon serves a model as the engine does.
type daemon struct {
	t      *testing.T
	client *client.Client
	socket string
	server *httptest.Server

	mu       sync.Mutex // guards the model and the following
	model    *model
	history  []events.Message
	streams  map[chan events.Message]bool
	cut      chan struct{} // closed to end all streams
	away     bool          // answers nothing but 503
	deny     string        // requests with this text are answered 403
	frozen   chan struct{} // while it is open nothing is answered; nil: all is
	silent   bool          // sends no header of /events before the first event
	slow     map[string]chan struct{}
	late     time.Duration // every list and inspect takes as long
	onList   func()        // after the list was made and before it is sent
	requests []string
}

func startDaemon(t *testing.T, m *model) *daemon {
	t.Helper()
	m.clock = time.Now
	m.take()
	d := &daemon{t: t, model: m, streams: make(map[chan events.Message]bool), cut: make(chan struct{}), slow: make(map[string]chan struct{})}
	dir, err := os.MkdirTemp("", "longshore") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d.socket = filepath.Join(dir, "docker.sock")
	d.listen()
	t.Cleanup(d.vanish)
	d.client, err = client.NewClientWithOpts(client.WithHost("unix://"+d.socket), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.client.Close() })
	return d
}

func (d *daemon) listen() {
	ln, err := net.Listen("unix", d.socket)
	if err != nil {
		d.t.Fatal(err)
	}
	d.server = &httptest.Server{Listener: ln, Config: &http.Server{Handler: d}}
	d.server.Start()
}

// vanish ends the daemon's process, so to speak; listen starts it again.
func (d *daemon) vanish() {
	d.cutStreams()
	d.server.Close() // removes the socket
}

// do plays what happens and sends its events.
func (d *daemon) do(ops ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, op := range ops {
		d.model.do(op)
	}
	d.sendLocked()
}

func (d *daemon) sendLocked() {
	for _, e := range d.model.take() {
		d.history = append(d.history, e)
		for s := range d.streams {
			s <- e
		}
	}
}

func (d *daemon) cutStreams() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.cut)
	d.cut = make(chan struct{})
}

func (d *daemon) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.requests = append(d.requests, r.Method+" "+r.URL.String())
	away, late, frozen, deny := d.away, d.late, d.frozen, d.deny
	d.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-r.Context().Done():
			return
		}
	}
	if deny != "" && strings.Contains(r.URL.Path, deny) {
		http.Error(w, "Forbidden by administrative rules.", http.StatusForbidden)
		return
	}
	if away {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if version, _, _ := strings.Cut(r.URL.Path[1:], "/"); strings.HasPrefix(version, "v") && version != "v1.41" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"message":"client version %s is too new. Maximum supported API version is 1.41"}`, version[1:])
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v1.41")
	if strings.HasPrefix(path, "/containers/") {
		time.Sleep(late)
	}
	switch {
	case path == "/_ping":
		w.Header().Set("Api-Version", "1.41")
	case path == "/events":
		d.serveEvents(w, r)
	case path == "/containers/json":
		d.mu.Lock()
		body, _ := json.Marshal(d.model.list())
		then := d.onList
		d.onList = nil
		d.mu.Unlock()
		if then != nil {
			then()
		}
		w.Write(body)
	default:
		id := strings.TrimSuffix(strings.TrimPrefix(path, "/containers/"), "/json")
		d.mu.Lock()
		slow := d.slow[id]
		d.mu.Unlock()
		if slow != nil {
			select {
			case <-slow:
			case <-r.Context().Done():
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		c, ok := d.model.inspect(id)
		if !ok {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprintf(w, `{"message":"No such container: %s"}`, id)
			return
		}
		json.NewEncoder(w).Encode(c)
	}
}

// asked lists the requests with a text in them.
func (d *daemon) asked(what string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(d.requests), func(r string) bool { return !strings.Contains(r, what) })
}

func (d *daemon) serveEvents(w http.ResponseWriter, r *http.Request) {
	s := make(chan events.Message, 2000)
	d.mu.Lock()
	if since := r.URL.Query().Get("since"); since != "" {
		sec, nano, _ := strings.Cut(since, ".")
		a, _ := strconv.ParseInt(sec, 10, 64)
		b, _ := strconv.ParseInt(nano, 10, 64)
		for _, e := range d.history {
			if e.TimeNano >= time.Unix(a, b).UnixNano() {
				s <- e
			}
		}
	}
	d.streams[s] = true
	cut, silent := d.cut, d.silent
	d.mu.Unlock()
	defer d.set(func() { delete(d.streams, s) })
	if !silent {
		w.(http.Flusher).Flush()
	}
	for {
		select {
		case e := <-s:
			json.NewEncoder(w).Encode(e)
			w.(http.Flusher).Flush()
		case <-cut:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// A watched is a Source that watches a daemon.
type watched struct {
	*Source
	t      *testing.T
	states chan string
	last   string // of those that were taken
	log    *syncBuffer
}

func watch(t *testing.T, s *Source) *watched {
	t.Helper()
	w := &watched{Source: s, t: t, states: make(chan string, 1000), log: new(syncBuffer)}
	s.Log = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, func(st discovery.State) { w.states <- describe(st) }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Watch: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Watch does not return when its context is done")
		}
	})
	return w
}

func (d *daemon) source(names string) *Source {
	var u config.Upstream
	if err := u.UnmarshalText([]byte(names)); err != nil {
		d.t.Fatal(err)
	}
	return &Source{
		Client: d.client, Upstream: u, Settings: config.Defaults(),
		traces: func() traces { return traces{mounts: []string{fmt.Sprintf("%064x", 0xabc001)}} },
		pace:   pace{relist: time.Hour},
		local:  func() []netip.Prefix { return nil }, // not this machine's
	}
}

// until waits for a state with all of some texts in it, and returns those before.
func (w *watched) until(texts ...string) (before []string) {
	w.t.Helper()
	return w.find(fmt.Sprintf("with %q", texts), func(st string) bool {
		return !slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(st, s) })
	})
}

func (w *watched) find(what string, ok func(state string) bool) (before []string) {
	w.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case st := <-w.states:
			w.last = st
			if ok(st) {
				return before
			}
			before = append(before, st)
		case <-timeout:
			w.t.Fatalf("no state %s; before:\n%s\nlog:\n%s", what, strings.Join(before, "\n"), w.log)
		}
	}
}

// rest waits until no more states come, and returns the last.
func (w *watched) rest() string {
	for {
		select {
		case w.last = <-w.states:
		case <-time.After(100 * time.Millisecond):
			return w.last
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestWatch(t *testing.T) {
	d := startDaemon(t, demo())
	s := d.source("web")
	w := watch(t, s)
	if before := w.until("web-1 172.18.0.4:80 #1", "web-2 172.18.0.5:80 #1"); len(before) > 0 {
		t.Errorf("states before all was known: %q", before)
	}
	if !s.Link().Connected {
		t.Error("not connected")
	}
	d.do("signal demo-web-1 15")
	w.until("web-1 172.18.0.4:80 #1 stopping")
	d.do("exit demo-web-1 0")
	w.until("web-1 #1 down: exited (0)")
	d.do("start demo-web-1")
	w.until("web-1 172.18.0.6:80 #2")
	for _, r := range d.asked("") {
		if !strings.HasPrefix(r, "GET ") && r != "HEAD /_ping" {
			t.Errorf("not a read: %s", r)
		}
		if strings.Contains(r, "/events") && (strings.Contains(r, "exec") || strings.Contains(r, "label") || !strings.Contains(r, "kill")) {
			t.Errorf("filter: %s", r)
		}
	}
}

// Applied tells of events that made a container usable or unusable, after the publish that they led to.
func TestApplied(t *testing.T) {
	var got []string
	s := &Source{Applied: func(a Applied) {
		got = append(got, map[bool]string{true: "add", false: "remove"}[a.Add])
		if a.Event.IsZero() || a.Received.Before(a.Event) || a.Add && a.Inspected.Before(a.Received) {
			t.Errorf("odd times: %+v", a)
		}
	}}
	m := demo()
	m.service("other-1")
	m.do("start demo-other-1")
	d := drive(t, m, world{view: upstream(t, "web")})
	out := outlet{s: s, publish: func(discovery.State) { got = append(got, "publish") }}
	out.tell(d.w)
	for _, test := range []struct{ op, want string }{
		{"signal demo-web-1 1", ""},
		{"signal demo-web-1 15", "publish remove"},
		{"exit demo-web-1 0", "publish"},
		{"start demo-web-1", "publish add"},
		{"pause demo-web-1", "publish remove"},
		{"unpause demo-web-1", "publish add"},
		{"die-last demo-web-1 0", "publish remove publish"},
		{"exit demo-other-1 0", ""},
		{"start demo-other-1", ""},
	} {
		got = nil
		d.do(test.op)
		for _, m := range d.take() {
			d.tick()
			if e, ok := readEvent(m, d.now); ok {
				before := d.w
				d.hear(func(w world) (world, todo) { return w.on(e) })
				out.heard(e, before, d.w)
				out.tell(d.w)
			}
		}
		for id := range d.due {
			delete(d.due, id)
			d.tick()
			a := answer{id: id, asked: d.now}
			a.found, _ = d.inspect(id)
			d.tick()
			a.came = d.now
			d.hear(func(w world) (world, todo) { return w.learn(a) })
			out.learned(a, d.w)
			out.tell(d.w)
		}
		if got := strings.Join(got, " "); got != test.want {
			t.Errorf("%s: %q, want %q", test.op, got, test.want)
		}
	}
}

// An answer may know what an event has yet to tell: the addition is counted then.
func TestAppliedLate(t *testing.T) {
	var got []Applied
	d := drive(t, demo(), world{view: upstream(t, "web")})
	d.play("pause demo-web-1")
	out := outlet{s: &Source{Applied: func(a Applied) { got = append(got, a) }}, publish: func(discovery.State) {}}
	out.tell(d.w)
	d.do("unpause demo-web-1")
	d.relist(time.Hour)
	d.answer()
	out.tell(d.w)
	e, _ := readEvent(d.take()[0], d.now)
	out.heard(e, d.w, d.w)
	out.tell(d.w)
	if len(got) != 1 || !got[0].Add {
		t.Errorf("%+v, want one addition", got)
	}
}

// The interfaces are looked at when a container has come to an address that none is known to lead to, and
// then again, less and less often.
func TestLookout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		s := &Source{local: func() []netip.Prefix {
			looks++
			return []netip.Prefix{netip.MustParsePrefix("172.18.0.1/16")}
		}}
		m := demo()
		v := upstream(t, "web")
		v.traces = traces{}
		d := drive(t, m, world{view: v})
		var l lookout
		around := func(what string, want int) {
			t.Helper()
			looks = 0
			d.w.local = l.around(s, d.w)
			d.w.touched = nil
			if looks != want {
				t.Errorf("%s: %d looks, want %d", what, looks, want)
			}
		}
		d.w, _ = d.w.list(listing{asked: d.now, all: d.list()})
		around("first list", 1)
		around("nothing", 0)
		touch := func(name string) { d.w.touched = []string{d.boxes[name].id} }
		touch("demo-web-1")
		around("a near one", 0)

		b := d.service("web-3")
		d.play("start demo-web-3")
		b.nets["demo_default"] = "10.9.9.9"
		d.play("update demo-web-3")
		touch("demo-web-3")
		around("a far one", 1)
		touch("demo-web-3")
		around("an event of the far one", 0)
		for _, wait := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			time.Sleep(wait*time.Second - time.Millisecond)
			around("soon after", 0)
			time.Sleep(time.Millisecond)
			around("later", 1)
		}
		b.nets["demo_default"] = "10.9.9.8"
		d.play("update demo-web-3")
		touch("demo-web-3")
		around("another far address", 1)
		d.play("exit demo-web-3 0")
		time.Sleep(time.Second)
		around("after its end", 1)
		time.Sleep(time.Hour)
		around("long after its end", 0)
	})
}

// A proxy with the host's network may learn that after it has learned the others' addresses, where the list of
// what passes for an engine does not tell.
func TestLookoutLate(t *testing.T) {
	looks := 0
	s := &Source{local: func() []netip.Prefix { looks++; return nil }}
	m := demo()
	self := m.boxes["demo-proxy-1"]
	self.mode, self.nets = "host", map[string]string{"host": ""}
	d := &driver{model: m, t: t, w: world{view: upstream(t, "web")}, due: make(todo)}
	all := d.list()
	for i := range all {
		all[i].HostConfig.NetworkMode = ""
	}
	d.w, _ = d.w.list(listing{asked: d.now, all: all})
	var l lookout
	for _, name := range []string{"demo-web-1", "demo-web-2", "demo-proxy-1"} {
		d.tick()
		a := answer{id: m.boxes[name].id, asked: d.now}
		a.found, _ = m.inspect(a.id)
		d.w, _ = d.w.learn(a)
		d.w.local = l.around(s, d.w)
		d.w = d.w.settle(d.w)
	}
	if looks != 1 {
		t.Errorf("%d looks, want 1", looks)
	}
}

// What happens between the subscription and the list is not lost, however the two interleave.
func TestEventsBeforeTheList(t *testing.T) {
	d := startDaemon(t, demo())
	d.onList = func() {
		d.do("exit demo-web-1 1", "signal demo-web-2 15")
		time.Sleep(50 * time.Millisecond) // so that the events come before the list, which is older
	}
	watch(t, d.source("web")).until("web-1 #", "down: exited (1)", "web-2 172.18.0.5:80 #1 stopping")
	d.mu.Lock()
	defer d.mu.Unlock()
	events := slices.IndexFunc(d.requests, func(r string) bool { return strings.Contains(r, "/events") })
	list := slices.IndexFunc(d.requests, func(r string) bool { return strings.Contains(r, "/containers/json") })
	if events > list {
		t.Errorf("listed before subscribed: %q", d.requests)
	}
}

// A cut keeps the state. What happened meanwhile is there afterwards, also what no list shows.
func TestCut(t *testing.T) {
	d := startDaemon(t, demo())
	w := watch(t, d.source("web"))
	w.until("web-1 172.18.0.4:80 #1")
	d.do("oom demo-web-1") // so that there is an event to go on from

	// The oom must have been read, for the cut to be the newest thing.
	time.Sleep(50 * time.Millisecond)
	d.set(func() { d.away = true })
	d.cutStreams()
	for w.Link().Connected {
		time.Sleep(time.Millisecond)
	}
	if err := w.Link().Err; err == nil {
		t.Error("not connected and no error")
	}
	d.do("exit demo-web-1 3", "signal demo-web-2 15")
	d.set(func() {
		d.model.service("web-3")
		d.model.do("start demo-web-3")
		d.sendLocked()
	})
	select {
	case st := <-w.states:
		t.Errorf("published while the daemon was away:\n%s", st)
	case <-time.After(300 * time.Millisecond):
	}
	d.set(func() { d.away = false })
	w.until("web-1 #1 down: exited (3)", "web-2 172.18.0.5:80 #1 stopping", "web-3 172.18.0.6:80 #1")
	for !w.Link().Connected { // events may have told all before the list was there
		time.Sleep(time.Millisecond)
	}
	if n := strings.Count(w.log.String(), "lost the docker daemon"); n != 1 {
		t.Errorf("%d lines about the loss, want 1:\n%s", n, w.log)
	}
}

// A stream that lived for long is taken up again at once and without a word.
func TestSilentCut(t *testing.T) {
	d := startDaemon(t, demo())
	s := d.source("web")
	s.pace.calm = time.Millisecond
	w := watch(t, s)
	w.until("web-1 172.18.0.4:80 #1")
	since := w.Link().Since
	for i := range 3 {
		for len(d.asked("/containers/json")) == i {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond)
		d.cutStreams()
	}
	d.do("exit demo-web-1 3")
	w.until("web-1 #1 down: exited (3)")
	if l := w.Link(); !l.Connected || !l.Since.Equal(since) {
		t.Errorf("link %+v, want connected since %v", l, since)
	}
	if log := w.log.String(); strings.Contains(log, "level=WARN") || !strings.Contains(log, "was cut") {
		t.Errorf("log:\n%s", log)
	}
}

// A removal does not wait for the answer about another container, and the first state waits for all.
func TestSlowInspect(t *testing.T) {
	d := startDaemon(t, demo())
	w := watch(t, d.source("web"))
	w.until("web-1 172.18.0.4:80 #1")
	release := make(chan struct{})
	d.set(func() {
		b := d.model.service("web-3")
		d.slow[b.id] = release
		d.slow[d.model.boxes["demo-web-1"].id] = release // its own answer is slow as well
		d.model.do("start demo-web-3")
		d.sendLocked()
	})
	d.do("exit demo-web-1 1")
	if before := w.until("web-1 #1 down: exited (1)"); strings.Contains(strings.Join(before, ""), "web-3") {
		t.Errorf("before: %q", before)
	}
	close(release)
	w.until("web-3 172.18.0.6:80 #1")
}

// Some proxies before the socket send no header before the first event.
func TestSilentStream(t *testing.T) {
	d := startDaemon(t, demo())
	d.silent = true
	w := watch(t, d.source("web"))
	w.until("web-1 172.18.0.4:80 #1")
	d.do("exit demo-web-1 1")
	w.until("web-1 #1 down: exited (1)")
}

// Lost events are found by the next list.
func TestRelist(t *testing.T) {
	d := startDaemon(t, demo())
	s := d.source("web")
	s.pace.relist = 20 * time.Millisecond
	w := watch(t, s)
	w.until("web-1 172.18.0.4:80 #1")
	d.set(func() {
		d.model.do("exit demo-web-1 9")
		d.model.take()
	})
	w.until("web-1 #1 down: exited (9)")
}

// Without an engine Watch waits, says so once, and returns when it is told to.
func TestNoEngine(t *testing.T) {
	d := startDaemon(t, demo())
	d.away = true
	w := watch(t, d.source("web"))
	for w.Link().Err == nil {
		time.Sleep(time.Millisecond)
	}
	d.set(func() { d.away = false })
	w.until("web-1 172.18.0.4:80 #1")
	if n := strings.Count(w.log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, w.log)
	}
}

// Reasons and warnings are told once.
func TestLogsOnce(t *testing.T) {
	m := demo()
	m.service("web-3", "longshore.wieght=2").expose = nil
	m.do("start demo-web-3")
	d := startDaemon(t, m)
	w := watch(t, d.source("web"))
	w.until("skip demo-web-3: no port")
	d.do("exit demo-web-1 0")
	w.until("web-1 #1 down")
	log := w.log.String()
	for _, text := range []string{"no port: set label longshore.port", "unknown label longshore.wieght", "connected to the docker engine"} {
		if n := strings.Count(log, text); n != 1 {
			t.Errorf("%q is there %d times:\n%s", text, n, log)
		}
	}
}

// TestLonely: where nothing was configured and no container chooses itself, that is said once, with what to set.
func TestLonely(t *testing.T) {
	const line = `level=WARN msg="nothing is proxied, since no container is chosen: set LONGSHORE_UPSTREAM`
	for _, c := range []struct {
		upstream string
		labels   []string
		want     int
	}{
		{"", nil, 1},
		{"", []string{"longshore.port=80"}, 0},
		{"web", nil, 0},
	} {
		m := newModel()
		m.service("proxy-1")
		m.service("db-1", c.labels...)
		m.start()
		d := startDaemon(t, m)
		s := d.source("x")
		if s.Upstream = nil; c.upstream != "" {
			s = d.source(c.upstream)
		}
		s.pace.lonely, s.pace.relist = 10*time.Millisecond, 20*time.Millisecond
		w := watch(t, s)
		w.until("")
		for n := len(d.asked("/containers/json")); len(d.asked("/containers/json")) < n+5; time.Sleep(time.Millisecond) {
		}
		if got := strings.Count(w.log.String(), line); got != c.want {
			t.Errorf("UPSTREAM=%q, labels %q: said %d times, want %d\n%s", c.upstream, c.labels, got, c.want, w.log)
		}
	}
}
