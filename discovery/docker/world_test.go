package docker

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	api "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"

	"longshore/discovery"
	"longshore/health"
)

// web1 is how web-1 is described.
func web1(w world) string {
	st, _ := w.state()
	for _, s := range st.Services {
		for _, e := range s.Endpoints {
			if strings.HasSuffix(e.Name, "web-1") {
				s := strings.TrimPrefix(describeEndpoint(e), "web-1 ")
				switch {
				case e.Down == "":
				case e.End == discovery.EndOrdered:
					s += ", by order"
				case e.End == discovery.EndCrash:
					s += ", by itself"
				}
				return s
			}
		}
	}
	for _, s := range st.Skipped {
		return "skip " + s.Why
	}
	return "-"
}

// Each step is done and its events are heard; "answer" lets the engine answer what was asked, so
// what stands before it is known from events alone.
func TestEvents(t *testing.T) {
	const up = "172.18.0.4:80 #1"
	tests := []struct{ name, steps, want string }{
		{"stop", "signal 15", up + " stopping"},
		{"stop ends", "signal 15; exit 0", "#1 down: exited (0), by order"},
		{"stop ends, disconnect first", "signal 15; die-last 0", "#1 down: exited (0), by order"},
		{"stop ends, inspected", "signal 15; exit 0; answer", "#1 down: exited (0), by order"},
		{"its end is learnt, not heard", "signal 15; update; unheard exit 0; answer", "#1 down: exited (0), by order"},
		{"its own end is learnt", "update; unheard exit 0; answer", "#1 down: exited (0), by itself"},
		{"killed", "signal 9", up + " stopping"},
		{"own stop signal", "signal 28", up + " stopping"},
		{"in words", "signal SIGWINCH", up + " stopping"},
		{"hup is no stop", "signal 1; answer", up},
		{"quit is a thread dump", "signal QUIT; answer", up},
		{"stopping outlives an inspect", "signal 15; update; answer", up + " stopping"},
		{"stop timer", "signal 15; wait 11s", up + " stopping"},
		{"stop timer ends", "signal 15; wait 12100ms", up + " stopping overdue"}, // the same run: it may be serving
		{"it ends long after", "signal 15; wait 13s; exit 1", "#1 down: exited (1), by itself"},
		{"second kill", "signal 15; wait 10s; signal 9; wait 3s", up + " stopping"},
		{"kill after the stop timer", "signal 15; wait 13s; signal 9", up + " stopping"},
		{"restart", "signal 15; exit 0; start; answer", "172.18.0.6:80 #2"},
		{"restart after the stop timer", "signal 15; wait 13s; exit 0; start; answer", "172.18.0.6:80 #2"},
		{"restart unanswered", "signal 15; exit 0; start", "#1 down: exited (0), by order"},
		{"crash after a restart", "signal 15; exit 0; start; answer; exit 1", "#2 down: exited (1), by itself"},
		{"stop while it starts", "exit 0; start; signal 15; answer", "172.18.0.6:80 #2 stopping"},
		{"an old kill", "signal 15; exit 0; start; answer; update; answer", "172.18.0.6:80 #2"},
		{"crash", "exit 137", "#1 down: exited (137), by itself"},
		{"crash, disconnect first", "die-last 137", "#1 down: exited (137), by itself"},
		{"crash loop", "crash-loop 1; answer", "#1 down: restarting (exit code 1), by itself"},
		{"out of memory", "oom; exit 137; answer", "#1 down: exited (137), by itself"},
		{"crash after a signal that is no stop", "signal 1; exit 1", "#1 down: exited (1), by itself"},
		{"pause", "pause", up + " paused"},
		{"unpause waits for the answer", "pause; unpause", up + " paused"},
		{"unpause", "pause; unpause; answer", "172.18.0.4:80 #2"},
		{"stop while paused", "pause; signal 15; answer", up + " stopping paused"},
		{"stopped while paused", "pause; signal 15; exit 0", "#1 down: exited (0), by order"},
		{"disconnect", "disconnect demo_default", "#1 down: disconnected from network demo_default"},
		{"disconnect, inspected", "disconnect demo_default; answer", "#1 down: disconnected from network demo_default, by order"},
		{"connect again", "disconnect demo_default; answer; connect demo_default; answer", "172.18.0.6:80 #2"},
		{"disconnect from another", "connect other; answer; disconnect other; answer", up},
		{"move to another", "connect shared; answer; disconnect demo_default", "172.18.0.6:80 #2"},
		{"new network beside", "connect shared; answer", up},
		{"unhealthy", "health unhealthy", up + " unhealthy"},
		{"healthy", "health unhealthy; health healthy; answer", up + " healthy"},
		{"oom kills a child", "oom; answer", up},
		{"rename", "rename renamed", up},
		{"destroy", "exit 0; destroy", "-"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := demo()
			m.boxes["demo-proxy-1"].nets["shared"] = "172.19.0.2"
			if strings.Contains(test.steps, "WINCH") || strings.Contains(test.steps, "28") {
				m.boxes["demo-web-1"].signal = "SIGWINCH"
			}
			if strings.Contains(test.steps, "health") {
				m.boxes["demo-web-1"].health = "healthy"
			}
			d := drive(t, m, world{view: upstream(t, "web")})
			name := "demo-web-1"
			for step := range strings.SplitSeq(test.steps, "; ") {
				verb, arg, _ := strings.Cut(step, " ")
				switch verb {
				case "answer":
					d.answer()
				case "wait":
					wait, err := time.ParseDuration(arg)
					if err != nil {
						t.Fatal(err)
					}
					d.now = d.now.Add(wait)
					d.hear(func(w world) (world, todo) {
						w, ask, _ := w.tick(d.now)
						return w, ask
					})
				case "unheard":
					verb, arg, _ = strings.Cut(arg, " ")
					d.do(verb + " " + name + " " + arg)
					d.take()
				default:
					d.do(verb + " " + name + " " + arg)
					d.deliver()
				}
			}
			if got := web1(d.w); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// A service says that another container of it will be there soon, before the old one is asked to stop. Each
// step is of a container and its events are heard; "answer" lets the engine answer what was asked.
func TestExpected(t *testing.T) {
	const replaced = "create 04a772e39254_demo-web-1 web " // compose v2's name until the old one is gone
	tests := []struct{ name, upstream, steps, want string }{
		{"nothing", "web", "", ""},
		{"created", "web", "create web-3 web", "web"},
		{"created and inspected", "web", "create web-3 web; answer", "web"},
		{"an event before its answer", "web", "create web-3 web; connect web-3 other", "web"},
		{"of another service", "web, /db=db", "create web-3 web", "web"},
		{"of no service", "web", "create x x", ""},
		{"one-off", "web", "create web-3 web " + oneoffLabel + "=True; answer", ""},
		{"enable=false", "web", "create web-3 web longshore.enable=false; answer", ""},
		{"bad label", "web", "create web-3 web longshore.weight=x; answer", ""},
		{"started, unanswered", "web", "create web-3 web; start web-3", "web"},
		{"started", "web", "create web-3 web; start web-3; answer", ""},
		{"ended before it was inspected", "web", "create web-3 web; start web-3; exit web-3 1", ""},
		{"destroyed", "web", "create web-3 web; destroy web-3", ""},
		{"for a minute", "web", "create web-3 web; wait 59s", "web"},
		{"inspected, for a minute", "web", "create web-3 web; answer; wait 59s", "web"},
		{"for no longer", "web", "create web-3 web; wait 61s", ""},
		{"inspected, for no longer", "web", "create web-3 web; answer; wait 61s", ""},
		{"in a list", "web", "create web-3 web; lost; list; answer", ""},
		{"the event after the list", "web", "create web-3 web; list; answer; events", "web"},
		{"the event after its start was listed", "web", "create web-3 web; start web-3; list; answer; events", ""},
		{"the event after its end was listed", "web", "create web-3 web; start web-3; exit web-3 0; list; answer; events; answer", ""},
		{"the event after it was found gone", "web", "create web-3 web; list; destroy web-3; answer; events", ""},
		{"both are created", "web", "create web-3 web; create web-4 web; start web-3; answer", "web"},
		{"replacement of a service", "web", replaced + replaceLabel + "=web-1; signal demo-web-1 15; exit demo-web-1 0; destroy demo-web-1", "web"},
		{"replacement of a name", "demo-web-1", replaced + replaceLabel + "=web-1; exit demo-web-1 0; destroy demo-web-1; answer", "demo-web-1"},
		{"a name with an underscore", "demo-web-1", replaced + "; exit demo-web-1 0; destroy demo-web-1; answer", ""},
		{"alias", "api", "create x x alias=api; answer", "api"},
		{"label", "label com.example.pool=a", "create x x com.example.pool=a", "a"},
		{"by itself", "", "create x x longshore.host=x.example.com", "x x.example.com/"},
		{"by itself, inspected", "", "create x x longshore.host=x.example.com; answer", "x x.example.com/"},
		{"of another project", "", "create x x longshore.host=x.example.com " + projectLabel + "=other", ""},
		{"restarting", "web", "crash-loop demo-web-1 1; answer", "web"},
		{"restarted", "web", "crash-loop demo-web-1 1; answer; start demo-web-1; answer", ""},
		{"restarting, listed", "web", "crash-loop demo-web-1 1; lost; list; answer", "web"},
		{"stopped while restarting", "web", "crash-loop demo-web-1 1; answer; give-up demo-web-1; answer", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			look := look{upstream: test.upstream}
			if label, ok := strings.CutPrefix(test.upstream, "label "); ok {
				look.upstream, look.label = "", label
			}
			d := drive(t, demo(), world{view: look.view(t)})
			for step := range strings.SplitSeq(test.steps, "; ") {
				verb, arg, _ := strings.Cut(step, " ")
				late := strings.Contains(test.steps, "; list") // events wait
				switch verb {
				case "":
				case "answer":
					d.answer()
				case "list":
					d.relist(0)
				case "lost":
					d.take()
				case "events":
					d.deliver()
				case "wait":
					wait, err := time.ParseDuration(arg)
					if err != nil {
						t.Fatal(err)
					}
					if _, _, next := d.w.tick(d.now); next.IsZero() {
						t.Error("nobody is to come back to it later")
					}
					d.now = d.now.Add(wait)
					d.hear(func(w world) (world, todo) { w, ask, _ := w.tick(d.now); return w, ask })
				case "create":
					words := strings.Fields(arg)
					labels := []string{projectLabel + "=demo", serviceLabel + "=" + words[1]}
					b := d.create(words[0], append(labels, words[2:]...)...).on("demo_default")
					if alias, ok := b.labels["alias"]; ok {
						b.aliases = []string{alias}
					}
				case "give-up":
					b := d.boxes[arg]
					b.status = "exited"
					d.say(b, "die", "exitCode=1")
				default:
					d.do(step)
				}
				if !late {
					d.deliver()
				}
			}
			var got []string
			st, _ := d.w.state()
			for _, s := range st.Services {
				if s.Expected {
					got = append(got, strings.TrimSuffix(s.Name+" "+s.Routes[0].String(), " /"))
				}
			}
			if got := strings.Join(got, ", "); got != test.want {
				t.Errorf("expected %q, want %q in\n%s", got, test.want, describe(st))
			}
		})
	}
}

// An event that comes late does not undo what the engine said after it happened.
func TestLateEvents(t *testing.T) {
	for _, ops := range []string{
		"exit 0; start", "signal 15; exit 0; start", "pause; unpause", "disconnect demo_default; connect demo_default",
		"die-last 0; start",
	} {
		t.Run(ops, func(t *testing.T) {
			d := drive(t, demo(), world{view: upstream(t, "web")})
			for op := range strings.SplitSeq(ops, "; ") {
				verb, arg, _ := strings.Cut(op, " ")
				d.do(verb + " demo-web-1 " + arg)
			}
			d.relist(time.Hour)
			d.answer() // all is known before the first event comes
			want := web1(d.w)
			for len(d.events) > 0 {
				rest := d.events[1:]
				d.events = d.events[:1]
				d.deliver()
				d.events = rest
				if got := web1(d.w); got != want {
					t.Errorf("after a late event: %s, want %s", got, want)
				}
			}
			d.answer()
			if got := web1(d.w); got != want {
				t.Errorf("in the end: %s, want %s", got, want)
			}
		})
	}
}

// A list that was lost on its way, and an answer older than an event, change nothing.
func TestLateAnswers(t *testing.T) {
	t.Run("inspect older than die", func(t *testing.T) {
		d := drive(t, demo(), world{view: upstream(t, "web")})
		b := d.boxes["demo-web-1"]
		a := answer{id: b.id, asked: d.now}
		a.found, _ = d.inspect(b.id)
		d.do("exit demo-web-1 1")
		d.deliver()
		d.due = make(todo)
		d.hear(func(w world) (world, todo) { return w.learn(a) })
		if got := web1(d.w); got != "#1 down: exited (1), by itself" {
			t.Errorf("got %s", got)
		}
		if !d.due[b.id] {
			t.Error("not asked again")
		}
	})
	t.Run("inspect of a destroyed container", func(t *testing.T) {
		d := drive(t, demo(), world{view: upstream(t, "web")})
		b := d.boxes["demo-web-1"]
		a := answer{id: b.id, asked: d.now}
		a.found, _ = d.inspect(b.id)
		l := listing{asked: d.now, all: d.list()}
		d.do("exit demo-web-1 1")
		d.do("destroy demo-web-1")
		d.deliver()
		d.hear(func(w world) (world, todo) { return w.learn(a) })
		d.hear(func(w world) (world, todo) { return w.list(l) })
		d.answer()
		if got := web1(d.w); got != "-" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("list older than create", func(t *testing.T) {
		d := drive(t, demo(), world{view: upstream(t, "web")})
		l := listing{asked: d.now, all: d.list()}
		d.service("web-3")
		d.play("start demo-web-3")
		d.hear(func(w world) (world, todo) { return w.list(l) })
		d.answer()
		if got := see(d.w); !strings.Contains(got, "web-3 172.18.0.6:80 #1") {
			t.Errorf("got\n%s", got)
		}
	})
	t.Run("failed inspect", func(t *testing.T) {
		m := demo()
		d := drive(t, m, world{view: upstream(t, "web")})
		b := m.service("web-3")
		m.do("start demo-web-3")
		d.deliver()
		d.hear(func(w world) (world, todo) {
			return w.learn(answer{id: b.id, asked: d.now, err: tooSlow{}})
		})
		if got := see(d.w); !strings.Contains(got, "skip demo-web-3: too slow") {
			t.Errorf("got\n%s", got)
		}
		d.due = make(todo)
		d.hear(func(w world) (world, todo) { w, ask, _ := w.tick(d.now.Add(retryAfter)); return w, ask })
		if !d.due[b.id] {
			t.Error("not asked again")
		}
		d.answer()
		if got := see(d.w); !strings.Contains(got, "web-3 172.18.0.6:80 #1") {
			t.Errorf("after the retry\n%s", got)
		}
	})
}

type tooSlow struct{}

func (tooSlow) Error() string { return "too slow" }

// What a list tells and no event did: it is inspected.
func TestLostEvents(t *testing.T) {
	for _, test := range []struct{ ops, want string }{
		{"exit 3", "#1 down: exited (3), by itself"},
		{"exit 3; start; exit 4", "#1 down: exited (4), by itself"},
		{"exit 0; start", "172.18.0.6:80 #2"},
		{"pause", "172.18.0.4:80 #1 paused"},
		{"connect shared; disconnect demo_default", "172.18.0.6:80 #2"},
		{"exit 0; destroy", "-"},
		{"crash-loop 1", "#1 down: restarting (exit code 1), by itself"},
	} {
		d := drive(t, demo(), world{view: upstream(t, "web")})
		d.boxes["demo-proxy-1"].nets["shared"] = "172.19.0.2"
		for op := range strings.SplitSeq(test.ops, "; ") {
			verb, arg, _ := strings.Cut(op, " ")
			d.do(verb + " demo-web-1 " + arg)
		}
		d.take()
		d.relist(0)
		d.answer()
		if got := web1(d.w); got != test.want {
			t.Errorf("%s: %s, want %s", test.ops, got, test.want)
		}
		d.relist(0)
		if len(d.due) != 0 {
			t.Errorf("%s: a second list asks again: %v", test.ops, d.due)
		}
	}
}

// After a gap in the stream only those are inspected that may have been restarted in it.
func TestGap(t *testing.T) {
	d := drive(t, demo(), world{view: upstream(t, "web")})
	d.now = d.now.Add(time.Hour)
	for _, name := range []string{"demo-web-1", "demo-web-2"} {
		d.do("exit " + name + " 0")
		d.do("start " + name)
	}
	d.relist(time.Hour)
	d.answer()
	d.now = d.now.Add(2 * time.Minute)
	d.do("exit demo-web-1 0")
	d.do("start demo-web-1")
	d.take()
	d.relist(10 * time.Second)
	if got, want := slices.Collect(maps.Keys(d.due)), []string{d.boxes["demo-web-1"].id}; !slices.Equal(got, want) {
		t.Errorf("asks for %v, want %v", got, want)
	}
	d.answer()
	d.relist(2 * time.Minute)
	if len(d.due) != 3 {
		t.Errorf("after a long gap it asks for %v, want all", d.due)
	}
}

// Containers of other projects are never inspected, and their events cost nothing.
func TestOtherProjects(t *testing.T) {
	m := demo()
	other := m.create("other-db-1", projectLabel+"=other", serviceLabel+"=db").on("other_default")
	d := drive(t, m, world{view: upstream(t, "web")})
	if d.w.containers[other.id].known {
		t.Error("inspected by the list")
	}
	for _, op := range []string{"start other-db-1", "pause other-db-1", "unpause other-db-1", "exit other-db-1 1"} {
		d.do(op)
		d.deliver()
		if len(d.due) > 0 {
			t.Errorf("%s: asks", op)
		}
	}
}

// However events, lists and answers interleave, and whatever was lost while the stream was cut, what
// is known in the end is what a new world learns from one list.
func TestConverges(t *testing.T) {
	runs := 3000
	if testing.Short() {
		runs = 300
	}
	v := upstream(t, "web")
	for seed := range uint64(runs) {
		converges(t, v, seed)
		if t.Failed() {
			return
		}
	}
}

func converges(t *testing.T, v view, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	m := demo()
	m.boxes["demo-proxy-1"].on("other")
	d := &driver{model: m, t: t, w: world{view: v}, due: make(todo)}
	var (
		stream  []events.Message // sent and not heard
		lists   []listing        // on their way
		answers []answer
		asked   = make(map[string]bool)
		history []string
	)
	note := func(s string) { history = append(history, s) }
	ask := func(id string) {
		d.tick()
		a := answer{id: id, asked: d.now}
		for range r.IntN(3) { // the engine takes its time
			m.random(r)
		}
		var ok bool
		a.found, ok = m.inspect(id)
		a.gone = !ok
		if r.IntN(20) == 0 {
			a = answer{id: id, asked: a.asked, err: tooSlow{}}
		}
		answers = append(answers, a)
		asked[id] = true
	}
	list := func(missed time.Duration) {
		d.tick()
		l := listing{asked: d.now, gap: missed}
		for range r.IntN(3) {
			m.random(r)
		}
		l.all = m.list()
		lists = append(lists, l)
	}
	hearOne := func() {
		e, ok := readEvent(stream[0], d.now)
		stream = stream[1:]
		if ok {
			note("hear " + e.action)
			d.hear(func(w world) (world, todo) { return w.on(e) })
		}
	}
	learnOne := func(i int) {
		a := answers[i]
		answers = slices.Delete(answers, i, i+1)
		delete(asked, a.id)
		note("learn")
		d.hear(func(w world) (world, todo) { return w.learn(a) })
	}
	listOne := func() {
		l := lists[0]
		lists = lists[1:]
		note("list")
		d.hear(func(w world) (world, todo) { return w.list(l) })
	}
	askDue := func() {
		for _, id := range slices.Sorted(maps.Keys(d.due)) {
			delete(d.due, id)
			if !asked[id] {
				ask(id)
			}
		}
	}
	m.take()
	list(time.Hour)
	for range 10 + r.IntN(50) {
		d.tick()
		stream = append(stream, m.take()...)
		switch n := r.IntN(100); {
		case n < 35:
			m.random(r)
		case n < 60 && len(stream) > 0:
			hearOne()
		case n < 75 && len(answers) > 0:
			learnOne(r.IntN(len(answers)))
		case n < 85 && len(lists) > 0:
			listOne()
		case n < 90:
			askDue()
		case n < 93:
			list(0)
		case n < 96: // the stream is cut: what was not heard is lost, and a new list is made
			stream = nil
			m.random(r)
			m.take()
			list(time.Hour)
		default:
			d.hear(func(w world) (world, todo) { w, ask, _ := w.tick(d.now); return w, ask })
		}
	}
	for range 1000 {
		d.tick()
		stream = append(stream, m.take()...)
		switch {
		case len(stream) > 0:
			hearOne()
		case len(lists) > 0:
			listOne()
		case len(answers) > 0:
			learnOne(0)
		case len(d.due) > 0:
			askDue()
		default:
			w, again, next := d.w.tick(d.now.Add(time.Hour))
			d.w = w
			maps.Copy(d.due, again)
			if next.IsZero() && len(again) == 0 {
				goto settled
			}
		}
	}
	t.Fatalf("seed %d: does not come to rest", seed)
settled:
	fresh := &driver{model: m, t: t, w: world{view: v}, due: make(todo)}
	fresh.relist(time.Hour)
	fresh.answer()
	if got, want := plain(d.w), plain(fresh.w); got != want {
		t.Errorf("seed %d: after %s\ngot\n%swant\n%s", seed, strings.Join(history, ", "), got, want)
	}
}

// plain describes what does not depend on the past.
func plain(w world) string {
	st, _ := w.state()
	var lost []discovery.Skip
	for i, s := range st.Services {
		st.Services[i].Endpoints = slices.DeleteFunc(slices.Clone(s.Endpoints), func(e discovery.Endpoint) bool {
			gone := strings.HasPrefix(e.Down, "disconnected") // a new world skips it for want of a network
			if gone {
				lost = append(lost, discovery.Skip{Name: e.Key.ID})
			}
			return gone
		})
		for j := range st.Services[i].Endpoints {
			e := &st.Services[i].Endpoints[j]
			e.Key.Run, e.Stopping, e.Overdue, e.End = 0, false, false, discovery.EndUnknown
		}
	}
	for i, s := range st.Skipped {
		if strings.HasPrefix(s.Why, "no network") {
			st.Skipped[i] = discovery.Skip{Name: s.ID}
		}
	}
	st.Skipped = append(st.Skipped, lost...)
	slices.SortFunc(st.Skipped, func(a, b discovery.Skip) int { return strings.Compare(a.Name+a.Why, b.Name+b.Why) })
	return describe(st)
}

func TestReadEvent(t *testing.T) {
	now := time.Unix(1700000000, 0)
	for _, test := range []struct {
		m    events.Message
		want event
		ok   bool
	}{
		{events.Message{Type: "container", Action: "health_status: healthy", Actor: events.Actor{ID: "a"}}, event{action: "health_status", id: "a", health: health.Healthy}, true},
		{events.Message{Type: "container", Action: "health_status", Actor: events.Actor{ID: "a", Attributes: map[string]string{"health_status": "unhealthy"}}}, event{action: "health_status", id: "a", health: health.Unhealthy}, true},
		{events.Message{Type: "container", Action: "died", Actor: events.Actor{ID: "a", Attributes: map[string]string{"containerExitCode": "3"}}}, event{action: "die", id: "a", exitCode: 3}, true},
		{events.Message{Type: "network", Action: "create", Actor: events.Actor{ID: "n"}}, event{}, false},
		{events.Message{Type: "network", Action: "connect", Actor: events.Actor{ID: "n", Attributes: map[string]string{"container": "a", "name": "x"}}}, event{action: "connect", id: "a", network: "n"}, true},
	} {
		got, ok := readEvent(test.m, now)
		if ok != test.ok {
			t.Errorf("%s: ok %v", test.m.Action, ok)
		}
		if got.action != test.want.action || got.id != test.want.id || got.health != test.want.health || got.exitCode != test.want.exitCode || got.network != test.want.network {
			if ok {
				t.Errorf("%s: %+v, want %+v", test.m.Action, got, test.want)
			}
		}
		if ok && !got.time.Equal(now) {
			t.Errorf("%s: without a time of its own it has %v", test.m.Action, got.time)
		}
	}
}

func TestSignalNumber(t *testing.T) {
	for s, want := range map[string]int{
		"TERM": 15, "SIGTERM": 15, "sigquit": 3, "15": 15, "SIGWINCH": 28, "SIGRTMIN+3": 37, "RTMAX-1": 63, "SIGRTMIN": 34, "": 0, "FOO": 0,
	} {
		if got := signalNumber(s); got != want {
			t.Errorf("%q: %d, want %d", s, got, want)
		}
	}
}

func TestNotes(t *testing.T) {
	for s, want := range map[string]string{"Exited (137) 2 hours ago": "137", "Up 3 seconds (health: starting)": "health: starting", "Up 3 seconds": "", "": ""} {
		if got := noteIn(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
	for s, want := range map[string]time.Duration{
		"Up Less than a second": 0, "Up 1 second": 0, "Up 59 seconds (healthy)": 0, "": 0, "Created": 0,
		"Up About a minute": time.Minute, "Up 3 minutes (unhealthy)": time.Minute, "Up 2 weeks (Paused)": time.Minute,
	} {
		if got := ranFor(s); got != want {
			t.Errorf("%q: ran for %v, want %v", s, got, want)
		}
	}
	if got := nameIn(api.Summary{Names: []string{"/other/link", "/me"}}); got != "me" {
		t.Errorf("name %q", got)
	}
}

// How long the way from an event to a published state is among 200 containers, for a proxy in a container
// and for one on the host, which has an interface for each.
func BenchmarkEvent(b *testing.B) {
	for _, replicas := range []int{10, 200} {
		for _, where := range []string{"container", "host"} {
			b.Run(fmt.Sprintf("replicas=%d/%s", replicas, where), func(b *testing.B) {
				m := newModel()
				m.service("proxy-1")
				for i := range 200 {
					name := "web-" + strconv.Itoa(i+1)
					if i >= replicas {
						name = "other-" + strconv.Itoa(i+1)
					}
					m.service(name, "longshore.weight=2")
				}
				for name := range m.boxes {
					m.do("start " + name)
				}
				v := upstream(b, "web")
				var local []netip.Prefix
				if where == "host" {
					v.traces, v.project = traces{}, "demo"
					local = append(local, netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("172.18.0.1/16"))
					for range 200 {
						local = append(local, netip.MustParsePrefix("fe80::1/64"))
					}
				}
				d := drive(b, m, world{view: v, local: local})
				m.do("signal demo-web-7 15")
				m.do("exit demo-web-7 0")
				sent := m.take()
				kill, _ := readEvent(sent[0], m.now)
				die, _ := readEvent(sent[1], m.now)
				published := 0
				out := outlet{s: new(Source), publish: func(discovery.State) { published++ }}
				out.tell(d.w)
				b.ReportAllocs()
				for b.Loop() {
					w := d.w
					for _, e := range []event{kill, die} {
						before := w
						w, _ = w.on(e)
						out.heard(e, before, w)
						w, _, _ = w.tick(m.now)
						w = w.settle(before)
						out.tell(w)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(published), "µs/event")
			})
		}
	}
}

// Whatever the engine sends, the world stands.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"Type":"container","Action":"kill","Actor":{"ID":"a","Attributes":{"signal":"SIGRTMIN+3"}},"timeNano":1}`))
	f.Add([]byte(`{"Type":"network","Action":"disconnect","Actor":{"ID":"n","Attributes":{"container":"a"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m events.Message
		if json.Unmarshal(data, &m) != nil {
			return
		}
		e, ok := readEvent(m, time.Unix(1, 0))
		if !ok {
			return
		}
		if e.id == "" || e.time.IsZero() {
			t.Errorf("%+v", e)
		}
		model := demo()
		d := drive(t, model, world{view: view{traces: traces{mounts: []string{model.boxes["demo-proxy-1"].id}}}})
		e.id = model.boxes["demo-web-1"].id
		d.hear(func(w world) (world, todo) { return w.on(e) })
		d.answer()
		see(d.w)
	})
}
