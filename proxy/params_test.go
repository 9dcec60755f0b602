package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"longshore/discovery"
	"longshore/health"
)

// balanced is a service with a policy.
func balanced(t testing.TB, policy string, s discovery.Service) discovery.Service {
	t.Helper()
	if err := s.Settings.Balancer.UnmarshalText([]byte(policy)); err != nil {
		t.Fatal(err)
	}
	return s
}

// by counts the answers to n requests by backend.
func by(w *wire, n int, request string) map[string]int {
	counts := make(map[string]int)
	for range n {
		name, _, _ := strings.Cut(w.do(request).body, " ")
		counts[name]++
	}
	return counts
}

// TestMaxConns: a backend has no more requests in flight than it may; then a backup is used, and then
// they wait, whatever else accepts connections.
func TestMaxConns(t *testing.T) { run(t, testMaxConns) }

func testMaxConns(t *testing.T, in lane) {
	arrived, finish := make(chan string, 10), make(chan bool)
	start := func(name string) *backend {
		return startBackend(t, name, func(w http.ResponseWriter, r *http.Request) {
			arrived <- name
			<-finish
			io.WriteString(w, name)
		})
	}
	one, two, sick := start("one"), start("two"), start("sick")
	s := queued(web(one, two, sick))
	s.Endpoints[0].MaxConns, s.Endpoints[1].MaxConns, s.Endpoints[1].Backup = 2, 1, true
	p := newProxy(t, in)
	p.Router.Mark(sick.key, health.Status{State: health.Failing, Reachable: true})
	p.serve(s)
	var clients sync.WaitGroup
	ask := func() {
		w := p.dial()
		clients.Go(func() { w.do("GET /") })
	}
	for _, want := range []string{"one", "one", "two"} {
		ask()
		if got := soon(t, arrived, "a request"); got != want {
			t.Errorf("got it at %s, want %s", got, want)
		}
	}
	ask()
	ask()
	p.untilParked(2)
	finish <- true
	soon(t, arrived, "the first that waited")
	if got := p.parked(); got != 1 || len(arrived) > 0 {
		t.Errorf("%d wait, %d more arrived; want 1 and none", got, len(arrived))
	}
	close(finish)
	clients.Wait()
}

// TestSlowStart: a backend that comes up begins with a tenth of its weight, and grows.
func TestSlowStart(t *testing.T) { run(t, testSlowStart) }

func testSlowStart(t *testing.T, in lane) {
	one, two := startBackend(t, "one", nil), startBackend(t, "two", nil)
	s := balanced(t, "round_robin", web(one, two))
	p := newProxy(t, in)
	p.serve(s)
	s.Endpoints[1].SlowStart = time.Hour
	p.Router.Mark(two.key, probing)
	p.Router.Mark(two.key, up)
	p.serve(s)
	w := p.dial()
	if got := by(w, 110, "GET /"); got["two"] != 10 {
		t.Errorf("just up: %v, want 10 of 110 for two", got)
	}
	p.Router.mu.Lock()
	p.Router.backends[two.key].rose = time.Now().Add(-time.Hour / 2)
	p.Router.rebuildLocked("web")
	p.Router.mu.Unlock()
	if got := by(w, 150, "GET /"); got["two"] != 50 {
		t.Errorf("half way: %v, want 50 of 150 for two", got)
	}
	// It is rebuilt by itself until it is there.
	s.Endpoints = append([]discovery.Endpoint(nil), s.Endpoints...)
	s.Endpoints[1].SlowStart = 4 * blink
	p.Router.Mark(two.key, probing)
	p.Router.Mark(two.key, up)
	p.serve(s)
	until(t, "its weight is whole", func() bool { return !p.Router.Table().byName("web").rising })
	if got := by(w, 100, "GET /"); got["two"] != 50 {
		t.Errorf("at the end: %v, want 50 of 100 for two", got)
	}
}

// TestHashKey: what nginx's variables stand for decides.
func TestHashKey(t *testing.T) { run(t, testHashKey) }

func testHashKey(t *testing.T, in lane) {
	var bs []*backend
	for i := range 5 {
		bs = append(bs, startBackend(t, fmt.Sprint("b", i), nil))
	}
	for _, c := range []struct {
		policy  string
		request string // %d varies
	}{
		{"hash $request_uri", "GET /a?%d"},
		{"hash $host", "GET /\nHost: h%d.example.com\n"},
		{"hash $http_x_user consistent", "GET /\nX-User: %d\n"},
		{"hash $cookie_id", "GET /\nCookie: a=b; id=%d\n"},
		{"hash $arg_user", "GET /?x=y&user=%d"},
		{"hash $host$arg_user", "GET /?user=%d"},
	} {
		p := serve(t, in, balanced(t, c.policy, web(bs...)))
		w := p.dial()
		ask := func(v int) string {
			request := fmt.Sprintf(c.request, v)
			if line, rest, _ := strings.Cut(request, "\n"); strings.HasPrefix(rest, "Host: ") {
				w.send(strings.ReplaceAll(line+" HTTP/1.1\n"+rest+"\n", "\n", "\r\n"))
			} else {
				w.ask(request)
			}
			return w.reply("GET").Header.Get("Backend")
		}
		homes := make(map[string]bool)
		for v := range 20 {
			home := ask(v)
			homes[home] = true
			if again := ask(v); again != home {
				t.Errorf("%s: %d went to %s, then to %s", c.policy, v, home, again)
			}
		}
		if len(homes) < 3 {
			t.Errorf("%s: 20 values are at %v only", c.policy, homes)
		}
		// Without a value they take turns.
		if c.policy != "hash $host$arg_user" && c.policy != "hash $host" && c.policy != "hash $request_uri" {
			if got := by(w, 10, "GET /none"); len(got) != 5 {
				t.Errorf("%s: without a value all go to %v", c.policy, got)
			}
		}
	}
	p := serve(t, in, balanced(t, "ip_hash", web(bs...)))
	if got := by(p.dial(), 10, "GET /"); len(got) != 1 {
		t.Errorf("ip_hash: one client is at %v", got)
	}
}

// TestLeastTime: requests go where answers come sooner; an event stream says nothing.
func TestLeastTime(t *testing.T) { run(t, testLeastTime) }

func testLeastTime(t *testing.T, in lane) {
	const long = 6 * blink // more than the other one takes on a busy machine
	for _, policy := range []string{"least_time header", "least_time last_byte"} {
		slow := startBackend(t, "slow", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/warm" || policy == "least_time header" {
				time.Sleep(long)
			}
			w.Header().Set("Backend", "slow")
			w.(http.Flusher).Flush()
			if policy != "least_time header" {
				time.Sleep(long)
			}
			io.WriteString(w, "slow ")
		})
		fast := startBackend(t, "fast", nil)
		p := serve(t, in, balanced(t, policy, web(slow, fast)))
		w := p.dial()
		by(w, 2, "GET /warm") // both are tried
		if got := by(w, 20, "GET /"); got["fast"] != 20 {
			t.Errorf("%s: %v, want all with the fast one", policy, got)
		}
	}
}

// TestSticky: a client stays with a backend, which is known by its name, and goes elsewhere only while
// that is away.
func TestSticky(t *testing.T) { run(t, testSticky) }

func testSticky(t *testing.T, in lane) {
	session := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/login" {
				http.SetCookie(w, &http.Cookie{Name: "app", Value: "session-of-" + name})
			}
			w.Header().Set("Backend", name)
			io.WriteString(w, name+" ")
		}
	}
	for _, c := range []struct {
		sticky, login string
		request       func(r reply) string // for who got this reply
	}{
		{"cookie srv expires=1h httponly", "GET /", func(r reply) string {
			c := r.Cookies()[0]
			if c.Name != "srv" || c.MaxAge != 3600 || !c.HttpOnly || c.Path != "/" || strings.Contains(c.Value, "one") {
				t.Errorf("cookie %v", c)
			}
			return "GET /\nCookie: x=y; srv=" + c.Value + "\n"
		}},
		{"route $cookie_sid $arg_r", "GET /", func(r reply) string {
			return "GET /\nCookie: sid=abc.r-" + r.Header.Get("Backend") + "\n"
		}},
		{"route $cookie_sid $arg_r", "GET /", func(r reply) string { return "GET /?r=r-" + r.Header.Get("Backend") }},
		{"learn create=$upstream_cookie_app lookup=$cookie_app", "GET /login", func(r reply) string {
			return "GET /\nCookie: app=session-of-" + r.Header.Get("Backend") + "\n"
		}},
	} {
		bs := []*backend{startBackend(t, "one", session("one")), startBackend(t, "two", session("two")), startBackend(t, "three", session("three"))}
		s := web(bs...)
		if err := s.Settings.Sticky.UnmarshalText([]byte(c.sticky)); err != nil {
			t.Fatal(err)
		}
		for i := range s.Endpoints {
			s.Endpoints[i].Route = "r-" + s.Endpoints[i].Name
		}
		p := serve(t, in, s)
		w := p.dial()
		for range 3 {
			first := w.do(c.login)
			home := first.Header.Get("Backend")
			request := c.request(first)
			expect := func(what string, at bool) {
				t.Helper()
				for range 6 {
					r := w.do(request)
					if got := r.Header.Get("Backend"); (got == home) != at {
						t.Errorf("%s: %s: went to %s, bound to %s", c.sticky, what, got, home)
					}
					if rebound := len(r.Cookies()) > 0; rebound == at && strings.HasPrefix(c.sticky, "cookie") {
						t.Errorf("%s: %s: cookies %v", c.sticky, what, r.Cookies())
					}
				}
			}
			change := func(f func(*discovery.Endpoint)) {
				changed := s
				changed.Endpoints = append([]discovery.Endpoint(nil), s.Endpoints...)
				for i := range changed.Endpoints {
					if changed.Endpoints[i].Name == home {
						f(&changed.Endpoints[i])
					}
				}
				p.serve(changed)
			}
			expect("bound", true)
			change(func(e *discovery.Endpoint) { e.Drain = true })
			expect("marked to drain", true)
			if got := by(w, 12, "GET /"); got[home] != 0 {
				t.Errorf("marked to drain: %v of those that are not bound", got)
			}
			change(func(e *discovery.Endpoint) { e.Stopping = true })
			expect("stopping", false)
			change(func(e *discovery.Endpoint) { e.Key.ID, e.Key.Run = "another", e.Key.Run+1000 })
			expect("recreated", true)
			p.serve(s)
		}
	}
}

// TestLearnt: sessions are forgotten when they are over, or too many.
func TestLearnt(t *testing.T) {
	var s sessions
	for i := range 1000 {
		s.add(fmt.Sprint(i), "b", 100, time.Hour)
		if len(s.all) > 100 {
			t.Fatalf("%d sessions are kept, want 100 at most", len(s.all))
		}
	}
	if s.find("999", time.Hour) != "b" || s.find("none", time.Hour) != "" {
		t.Error("the newest session is not found, or one that never was")
	}
	s.all["999"].used = time.Now().Add(-2 * time.Hour)
	if got := s.find("999", time.Hour); got != "" {
		t.Errorf("a session that is over: %q", got)
	}
}

// TestShared: a backend of two services counts for each its own requests, and a place that one gives back
// is had by the other at once.
func TestShared(t *testing.T) { run(t, testShared) }

func testShared(t *testing.T, in lane) {
	arrived, finish := make(chan string, 10), make(chan bool)
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.URL.Path
		<-finish
	})
	web, api := queued(web(b)), queued(web(b))
	api.Name, api.Routes = "api", []discovery.Route{{Path: "/api"}}
	web.Endpoints[0].MaxConns, api.Endpoints[0].MaxConns = 1, 1
	p := serve(t, in, api, web)
	first, second := p.dial(), p.dial()
	first.ask("GET /api")
	soon(t, arrived, "the first")
	second.ask("GET /")
	p.untilParked(1)
	start := time.Now()
	finish <- true
	soon(t, arrived, "the second")
	if took := time.Since(start); took > again/2 {
		t.Errorf("the place was free, and it took %v to be had", took)
	}
	close(finish)
	first.reply("GET")
	second.reply("GET")
	for _, s := range p.Router.Table().Services() {
		if got := s.View().Backends[0].Requests; got != 1 {
			t.Errorf("%s: %d requests, want 1", s.spec.Name, got)
		}
	}
}
