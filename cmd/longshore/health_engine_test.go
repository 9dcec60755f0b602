package main

import (
	"strings"
	"testing"

	"longshore/internal/dockertest"
)

// TestEngineHealth: a service says by labels how it is checked. A replica that asks to be drained, under
// 200 requests/s, costs no request and gets nothing new until it is well again; when all ask for it, they
// go on as the last resort.
func TestEngineHealth(t *testing.T) {
	dockertest.Engine(t)
	p := project(t, dockertest.Composes(t)[0], "LONGSHORE_UPSTREAM: web:5090", "", `
  web:
    image: `+dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090")+`
    labels:
      longshore.health.uri: /health
      longshore.health.interval: 100ms
      longshore.health.timeout: 5s
      longshore.health.fails: "3"
      longshore.health.mandatory: "true"
      longshore.health.match: 'status 200; header Content-Type ~ "^text/plain"; header ! X-Maintenance; body ~ ^ok'
`)
	p.Run("up", "-d", "--scale", "flaskapp=0", "--scale", "web=3")
	ls := p.proxy()
	ls.waitUp(3)
	ls.wantShares(30, 10, 10, 10)

	slow := make(chan string)
	for range 3 { // one in flight on each
		go func() { slow <- ls.get("localhost", "/slow?4s") }()
	}
	load := ls.startLoad(200)
	load.waitFor(100)
	id := func(host string) string {
		for _, b := range ls.state().Services[0].Backends {
			if strings.HasPrefix(b.ID, host) {
				return b.ID
			}
		}
		t.Fatalf("no backend has the hostname %s", host)
		return ""
	}
	drain := func(d string) (victim string) {
		host, ok := strings.CutPrefix(ls.get("localhost", "/drain?"+d), "200 ")
		if !ok {
			t.Fatalf("/drain: %q", host)
		}
		victim = id(host)
		dockertest.Wait(t, "the replica to be drained", func() bool { return ls.state().backend(victim).State == "draining" })
		return victim
	}

	victim := drain("8s")
	before := ls.state().backend(victim)
	if want := "it asked to be drained: health check answered 503 with X-Drain: 1"; before.Why != want {
		t.Errorf("the replica drains because %q, want %q", before.Why, want)
	}
	load.waitFor(load.count() + 200)
	during := ls.state().backend(victim)
	if during.State != "draining" || during.Requests != before.Requests || before.Requests == 0 {
		t.Errorf("the replica is %s and has had %d requests, %d before it was drained", during.State, during.Requests, before.Requests)
	}
	for range 3 {
		if answer := <-slow; !strings.HasPrefix(answer, "200 ") {
			t.Errorf("in flight when a replica drained itself: %s", answer)
		}
	}
	ls.waitUp(3)
	dockertest.Wait(t, "the replica to be used again", func() bool { return ls.state().backend(victim).Requests > during.Requests })

	for range 3 {
		drain("10s")
	}
	ls.shares(20)
	ls.waitUp(3)
	answers := load.stop()
	if bad := answers.failed(); len(bad) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(bad), len(answers), bad[:min(len(bad), 5)])
	}
}
