package proxy

import (
	"strings"
	"testing"
	"time"

	"longshore/health"
)

// TestNotReadySaid: a backend that does not become ready is said once, with the reason and a hint, and again when
// the reason changes.
func TestNotReadySaid(t *testing.T) {
	b := listen(t, "one")
	p := newProxy(t, lanes[0])
	s := web(b)
	s.Endpoints[0].Hint = "its image exposes 5090: set LONGSHORE_UPSTREAM or label longshore.port"
	const refused, sick = "connection refused", "health check /up: status 404"
	status := func(why string, late bool) health.Status {
		st := health.Status{State: health.Probing, Why: why}
		if late {
			st.Late = time.Unix(1, 0)
		}
		return st
	}
	p.Router.Mark(b.key, status("waiting", false))
	p.serve(s)
	for _, step := range []struct {
		health.Status
		want string
	}{
		{status(refused, false), ""},
		{status(refused, true), `level=WARN msg="backend does not become ready" service=web backend=one addr=` + b.addr() + ` why="connection refused" hint="its image exposes 5090: set LONGSHORE_UPSTREAM or label longshore.port"`},
		{status(refused, true), ""},
		{status(sick, true), `level=WARN msg="backend does not become ready" service=web backend=one addr=` + b.addr() + ` why="health check /up: status 404" hint="it runs, but does not pass its check: labels longshore.health.*, or LONGSHORE_HEALTH_*"`},
		{up, `level=INFO msg="backend up" service=web backend=one addr=` + b.addr()},
		{status(refused, false), ""},
		{status(refused, true), `level=WARN msg="backend does not become ready"`},
	} {
		before := len(p.log.String())
		p.Router.Mark(b.key, step.Status)
		if said := p.log.String()[before:]; !strings.Contains(said, step.want) || (said == "") != (step.want == "") {
			t.Errorf("%v: the log says %q, want %q", step.Status, said, step.want)
		}
	}
	s.Endpoints[0].Hint = ""
	p.serve(s)
	p.Router.Mark(b.key, probing)
	before := len(p.log.String())
	p.Router.Mark(b.key, status(refused, true))
	if said := p.log.String()[before:]; !strings.Contains(said, "127.0.0.1 alone") {
		t.Errorf("without a known port: the log says %q, want a hint", said)
	}
}

// TestHopeless: a service whose backends have passed no check for longer than a start may take is answered 503 at
// once, until that changes.
func TestHopeless(t *testing.T) { run(t, testHopeless) }

func testHopeless(t *testing.T, in lane) {
	const busy = "503 503 Service Unavailable"
	late := func(since time.Duration) health.Status {
		return health.Status{State: health.Probing, Why: "connection refused", Late: time.Now().Add(-since)}
	}
	b, other := listen(t, "one"), startBackend(t, "two", nil)
	p := newProxy(t, in) // it may have come after them
	s := queued(web(b))
	p.Router.Mark(b.key, late(time.Hour))
	p.serve(s)
	if got := p.do("GET /").String(); got != busy {
		t.Errorf("it has refused for an hour: got %q, want %q at once", got, busy)
	}
	if got, want := p.record().Reason, "no backend is ready, and none is expected: one: connection refused"; got != want {
		t.Errorf("the reason is %q, want %q", got, want)
	}
	// As long as one may still come, requests wait, and they get the answer when it does not.
	p.Router.Mark(b.key, late(startTime-10*time.Second))
	w := p.dial()
	w.ask("GET /")
	p.untilParked(1)
	p.Router.Mark(b.key, late(startTime+10*time.Second))
	if got := w.reply("GET").String(); got != busy {
		t.Errorf("when it is too long: got %q, want %q", got, busy)
	}
	// It says that it takes longer.
	slow := queued(web(b))
	slow.Endpoints[0].Starts = time.Hour
	p.serve(slow)
	w.ask("GET /")
	p.untilParked(1)
	p.Router.Mark(b.key, late(time.Hour+time.Second))
	if got := w.reply("GET").String(); got != busy {
		t.Errorf("when its start period is over: got %q, want %q", got, busy)
	}
	// A new replica.
	p.Router.Mark(other.key, probing)
	p.serve(queued(web(b, other)))
	w.ask("GET /")
	p.untilParked(1)
	p.Router.Mark(other.key, up)
	if got, want := w.reply("GET").String(), "200 two /"; got != want {
		t.Errorf("a new replica: got %q, want %q", got, want)
	}
	// There was one a moment ago.
	p.serve(s)
	w.ask("GET /")
	p.untilParked(1)
}

// TestExplained: an answer of our own says why in the access log, and in the log whose fault it is, now and then.
func TestExplained(t *testing.T) { run(t, testExplained) }

func testExplained(t *testing.T, in lane) {
	silent := make(chan bool)
	t.Cleanup(func() { close(silent) })
	for _, c := range []struct {
		name   string
		talk   func(*wire)
		status int
		kind   string
		why    string
	}{
		{"breaks off", func(w *wire) { w.head() }, 502, "broken", "no response: connection closed"},
		{"status line", func(w *wire) { w.head(); w.send("HELLO\r\n\r\n") }, 502, "malformed", `malformed HTTP response \"HELLO\"`},
		{"field", func(w *wire) { w.head(); w.send("HTTP/1.1 200 OK\r\nno colon here\r\n\r\n") }, 502, "malformed", `malformed MIME header: missing colon: \"no colon here\"`},
		{"silent", func(w *wire) { w.head(); <-silent }, 504, "timeout", "no response within 50ms (LONGSHORE_READ_TIMEOUT)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := rawBackend(t, "one", c.talk)
			s := web(b)
			s.Settings.ReadTimeout = blink
			p := serve(t, in, s)
			for range 3 {
				if got := p.do("POST /a?secret").StatusCode; got != c.status {
					t.Errorf("got %d, want %d", got, c.status)
				}
				why := strings.ReplaceAll(c.why, `\"`, `"`)
				if got := p.record().Reason; !strings.Contains(got, why) && in.name != "transport" {
					t.Errorf("the reason is %q, want %q in it", got, why)
				}
			}
			said := p.log.String()
			want := "for a backend\" service=web backend=one addr=" + b.addr() + " reason=" + c.kind + " why="
			if n := strings.Count(said, want); n != 1 || strings.Contains(said, "secret") {
				t.Errorf("it is said %d times, want once:\n%s\nwant %s", n, said, want)
			}
			if in.name != "transport" && !strings.Contains(said, c.why) {
				t.Errorf("the log lacks %s:\n%s", c.why, said)
			}
		})
	}
	t.Run("a new one", func(t *testing.T) { // that no backend is ready is nobody's fault alone
		b := listen(t, "one")
		p := newProxy(t, in)
		p.Router.Mark(b.key, health.Status{State: health.Probing, Why: "connection refused"})
		s := queued(web(b))
		s.Settings.QueueTimeout = blink
		p.serve(s)
		p.do("GET /")
		if got, want := p.record().Reason, "no backend became ready within 50ms: one: connection refused"; got != want {
			t.Errorf("the reason is %q, want %q", got, want)
		}
		if said := p.log.String(); strings.Contains(said, "WARN") {
			t.Errorf("the log warns:\n%s", said)
		}
	})
}
