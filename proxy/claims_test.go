package proxy

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"longshore/discovery"
	"longshore/health"
)

// TestClaims: two services, old and new, want the route "/". Each step says how they stand, or lets time pass,
// and who has the route then. A service is up (its container is ready), starting (it runs), exited, created
// (a container is expected), restarting, gone (no container is left) or empty (of its containers none can be
// used). The log has one line for each hand-over, and one when a service does not get what it wants.
func TestClaims(t *testing.T) {
	for _, c := range []struct {
		name, steps string
		projects    string // of the two
		lines       []string
	}{
		{"the older has it", "old=up new=up -> old; wait 1h -> old", "a b", []string{"old has it, which is older"}},
		{"alone", "new=up -> new", "a b", nil},
		{"never started", "old=exited new=up -> new; wait 1h -> new", "a b", []string{"old has it until this one is ready"}},
		{"no network, no port", "old=empty new=up -> new", "a b", []string{"lost"}},
		{"only created", "old=created new=up -> new", "a b", []string{"lost"}},
		{"both are down", "old=exited new=exited -> old; old=exited new=starting -> new", "a b", []string{"lost", "old to new: no container of old runs that can be reached"}},
		{"the younger comes to one that is down", "old=exited -> old; old=exited new=up -> new", "a b", []string{"old to new: no container of old runs that can be reached"}},
		{"one that runs keeps it", "old=starting new=up -> old; wait 1h -> old", "a b", []string{"lost"}},
		{"back when it is ready, not before", "old=exited new=up -> new; old=starting new=up -> new; wait 1h -> new; old=up new=up -> old", "a b",
			[]string{"lost", "new to old: old is older, and ready"}},
		{"restarted", "old=up new=up -> old; old=exited new=up -> old; wait 4s -> old; old=starting new=up -> old; old=up new=up -> old", "a b", []string{"lost"}},
		{"stopped", "old=up new=up -> old; old=exited new=up -> old; wait 5s -> new; wait 1h -> new", "a b",
			[]string{"lost", "old to new: no container of old runs that can be reached"}},
		{"stopped, and nobody else wants it", "old=up -> old; old=exited -> old; wait 1h -> old", "a b", nil},
		{"crash loop", "old=up new=up -> old; old=restarting new=up -> old; wait 1m -> old; old=exited new=up -> new", "a b",
			[]string{"lost", "old to new: no container of old runs that can be reached"}},
		{"crash loop from the start", "old=restarting new=up -> new", "a b", []string{"lost"}},
		{"made anew", "old=up new=up -> old; old=gone new=up -> old; wait 59s -> old; old=starting new=up -> old; old=up new=up -> old", "a b", []string{"lost"}},
		{"made anew, without projects", "old=up new=up -> old; old=gone new=up -> old; wait 59s -> old; old=up new=up -> old", " ", []string{"lost"}},
		{"made anew, the other comes meanwhile", "old=up -> old; old=gone -> old; old=gone new=up -> old; wait 59s -> old; old=up new=up -> old", "a b",
			[]string{"lost"}},
		{"removed", "old=up new=up -> old; old=gone new=up -> old; wait 60s -> new; old=starting new=up -> new; old=up new=up -> old", "a b",
			[]string{"lost", "old to new: old is gone", "lost", "new to old: old is older, and ready"}},
		{"removed, in the same project", "old=up new=up -> old; old=gone new=up -> old; wait 4s -> old; wait 1s -> new; wait 1h -> new", "a a",
			[]string{"lost", "old to new: old is gone"}},
		{"removed, after it was down", "old=exited new=up -> new; old=gone new=up -> new", "a b", []string{"lost"}},
		{"stopped, then removed", "old=up new=up -> old; old=exited new=up -> old; old=gone new=up -> old; wait 6s -> old; wait 54s -> new", "a b",
			[]string{"lost", "old to new: old is gone"}},
		{"the younger had it, and is removed", "old=exited new=up -> new; old=starting new=up -> new; old=starting new=gone -> new; wait 60s -> old", "a b",
			[]string{"lost", "new to old: new is gone"}},
		{"only one, removed and forgotten", "old=up -> old; old=gone -> old; wait 61s -> nobody", "a b", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := new(bytes.Buffer)
				r := NewRouter(nil, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})))
				first, second, _ := strings.Cut(c.projects, " ")
				projects := map[string]string{"old": first, "new": second}
				for step := range strings.SplitSeq(c.steps, "; ") {
					do, want, _ := strings.Cut(step, " -> ")
					if wait, ok := strings.CutPrefix(do, "wait "); ok {
						d, err := time.ParseDuration(wait)
						if err != nil {
							t.Fatal(err)
						}
						time.Sleep(d)
						synctest.Wait()
					} else {
						r.Apply(standings(r, do, projects))
					}
					got := "nobody"
					if s, _ := r.Table().Lookup("x", "/"); s != nil {
						got = s.spec.Name
					}
					if got != want {
						t.Fatalf("%s: the route is %s's, want %s", step, got, want)
					}
					for _, s := range r.Table().Services() {
						if has := len(s.View().Routes) > 0; has != (s.spec.Name == want) {
							t.Errorf("%s: %s shows the routes %v", step, s.spec.Name, s.View().Routes)
						}
					}
				}
				lines := strings.Split(strings.TrimSpace(log.String()), "\n")
				if log.Len() == 0 {
					lines = nil
				}
				if len(lines) != len(c.lines) {
					t.Fatalf("log:\n%s\nwant %q", log, c.lines)
				}
				for i, want := range c.lines {
					from, why, handed := strings.Cut(want, ": ")
					from, to, _ := strings.Cut(from, " to ")
					switch {
					case handed:
						want = fmt.Sprintf(`msg="route handed over" route=/ from=%s to=%s why="%s"`, from, to, why)
					default:
						want = `msg="a service does not have a route that it wants"`
					}
					if !strings.Contains(lines[i], want) {
						t.Errorf("line %d of the log: %s\nwant %s", i, lines[i], want)
					}
				}
			})
		})
	}
}

// standings is a State in words: "old=up new=exited".
func standings(r *Router, words string, projects map[string]string) (st discovery.State) {
	for word := range strings.FieldsSeq(words) {
		name, how, _ := strings.Cut(word, "=")
		s := service(name, "/", endpoint(name+"-1", "127.0.0.1:1"))
		s.Project = projects[name]
		s.Since = time.Unix(int64(slices.Index([]string{"old", "new"}, name)), 0)
		e := &s.Endpoints[0]
		switch how {
		case "up":
			r.Mark(e.Key, up)
		case "starting":
			r.Mark(e.Key, health.Status{State: health.Probing})
		case "restarting":
			e.Down, e.Addr, s.Expected = "restarting (exit code 1)", "", true
		case "exited":
			e.Down, e.Addr = "exited (0)", ""
		case "created":
			s.Endpoints, s.Expected = nil, true
		case "empty":
			s.Endpoints = nil
		case "gone":
			continue
		}
		st.Services = append(st.Services, s)
	}
	slices.SortFunc(st.Services, func(a, b discovery.Service) int { return strings.Compare(a.Name, b.Name) })
	return st
}

// TestClaimsSkipped: a service without its route is listed with the reason.
func TestClaimsSkipped(t *testing.T) {
	r := newRouter()
	for _, c := range []struct{ words, want string }{
		{"old=up new=up", `new: route /: service "old" has it, which is older`},
		{"old=gone new=up", `new: route /: it is kept for service "old", which was there a moment ago`},
		{"old=up new=gone", ""},
	} {
		r.Apply(standings(r, c.words, nil))
		got := ""
		for _, s := range r.Table().Skipped() {
			got += s.Name + ": " + s.Why
		}
		if got != c.want {
			t.Errorf("%s: skipped %q, want %q", c.words, got, c.want)
		}
	}
	r = newRouter()
	r.Apply(standings(r, "old=exited new=up", nil))
	if got, want := r.Table().Skipped()[0].Why, `route /: service "new" has it until this one is ready`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestClaimsMoveWhoWaits: requests that wait for a service whose route is handed over go to the one that has it.
func TestClaimsMoveWhoWaits(t *testing.T) { run(t, testClaimsMoveWhoWaits) }

func testClaimsMoveWhoWaits(t *testing.T, in lane) {
	p := old(t, in)
	first, second := queued(web(startBackend(t, "one", nil))), queued(web(startBackend(t, "two", nil)))
	second.Name, second.Since = "new", time.Now()
	p.serve(first, second)
	if got, want := p.do("GET /a").String(), "200 one /a"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	first.Endpoints = slices.Clone(first.Endpoints)
	first.Endpoints[0].Down, first.Endpoints[0].Addr = "exited (0)", ""
	p.serve(first, second)
	get, post := p.dial(), p.dial()
	get.ask("GET /b")
	post.ask("POST /c\nContent-Length: 4\n", "body")
	p.untilParked(2)
	p.Router.mu.Lock()
	table := *p.Router.table.Load()
	table.services = slices.Clone(table.services)
	for i, s := range table.services {
		if s.spec.Name == "web" { // as if it had stopped some time ago
			ago := *s
			ago.left = time.Now().Add(-moments)
			table.services[i] = &ago
		}
	}
	p.Router.table.Store(&table)
	p.Router.mu.Unlock()
	p.Router.decideAnew()
	if got, want := get.reply("GET").String(), "200 two /b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := post.reply("POST").String(), "200 two /c body"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestForgetTogether: the routes are built anew once for all services that left in a short time.
func TestForgetTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter()
		st := manyServices(100, 1)
		r.Apply(st)
		for len(st.Services) > 0 {
			st.Services = slices.Clone(st.Services[1:])
			r.Apply(st)
			time.Sleep(5 * time.Millisecond)
		}
		tables := make(map[*Table]bool)
		for range 700 {
			time.Sleep(100 * time.Millisecond)
			tables[r.Table()] = true
		}
		if n := len(r.Table().Services()); n != 0 {
			t.Errorf("%d services are remembered, want none", n)
		}
		if len(tables) > 3 {
			t.Errorf("%d tables were built to forget 100 services that left within half a second", len(tables)-1)
		}
	})
}
