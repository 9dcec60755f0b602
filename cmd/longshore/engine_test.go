package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"longshore/internal/dockertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	dockertest.RemoveImages()
	os.Exit(code)
}

// TestEngineStory is what a user does first: put Longshore in the place of nginx, and scale.
func TestEngineStory(t *testing.T) {
	dockertest.Engine(t)
	for _, compose := range dockertest.Composes(t) {
		t.Run(strings.Join(compose, " "), func(t *testing.T) {
			p := project(t, compose, "LONGSHORE_UPSTREAM: flaskapp:5090", "")
			p.Run("up", "-d", "--scale", "flaskapp=2")
			ls := p.proxy()
			ls.waitUp(2)
			ls.wantShares(20, 10, 10)

			p.Run("up", "-d", "--no-recreate", "--scale", "flaskapp=4")
			ls.waitUp(4)
			ls.wantShares(20, 5, 5, 5, 5)

			p.Run("up", "-d", "--no-recreate", "--scale", "flaskapp=1")
			ls.waitUp(1)
			ls.wantShares(20, 20)
		})
	}
}

// TestEngineLabels pools by the story's label, and lets containers choose themselves.
func TestEngineLabels(t *testing.T) {
	dockertest.Engine(t)
	compose := dockertest.Composes(t)[0]
	t.Run("LABEL", func(t *testing.T) {
		p := project(t, compose, "LONGSHORE_LABEL: com.ameyalokare.type=web", "LONGSHORE_BALANCER: round_robin")
		p.Run("up", "-d", "--scale", "flaskapp=2")
		ls := p.proxy()
		ls.waitUp(2)
		ls.wantShares(20, 10, 10)
	})
	t.Run("longshore labels", func(t *testing.T) {
		p := project(t, compose, "{}", "", `
  api:
    image: `+dockertest.Image(t, "longshore/internal/testapp")+`
    expose: ["5090"]
    labels: {longshore.host: api.example.com, longshore.path: /v1, longshore.port: "5090", longshore.colour: red}
  broken:
    image: `+dockertest.Image(t, "longshore/internal/testapp")+`
    labels: {longshore.host: broken.example.com, longshore.port: "many"}
`)
		p.Run("up", "-d")
		ls := p.proxy()
		ls.waitUp(1)
		api := p.Containers("api")[0]
		for _, c := range []struct{ host, path, want string }{
			{"api.example.com", "/v1/x", "200 " + api[:12]},
			{"API.example.com.:80", "/v1", "200 " + api[:12]},
			{"api.example.com", "/v2", "404 404 Not Found"},
			{"www.example.com", "/v1", "404 404 Not Found"},
			{"broken.example.com", "/", "404 404 Not Found"},
		} {
			if got := ls.get(c.host, c.path); got != c.want {
				t.Errorf("%s%s: got %q, want %q", c.host, c.path, got, c.want)
			}
		}
		if why := ls.state().skipped("broken"); !strings.Contains(why, `longshore.port="many"`) {
			t.Errorf("the container with the bad label is skipped because %q, want the label named", why)
		}
	})
}

// TestEngineStopUnderLoad stops a replica, whose app exits at once on SIGTERM, under 200 requests/s.
func TestEngineStopUnderLoad(t *testing.T) {
	dockertest.Engine(t)
	p := project(t, dockertest.Composes(t)[0], "LONGSHORE_UPSTREAM: flaskapp:5090", "")
	p.Run("up", "-d", "--scale", "flaskapp=3")
	ls := p.proxy()
	ls.waitUp(3)
	victim := p.Containers("flaskapp")[0]

	load := ls.startLoad(200)
	load.waitFor(100)
	dockertest.Docker(t, "stop", victim)
	load.waitFor(load.count() + 200)
	answers := load.stop()
	if bad := answers.failed(); len(bad) > 0 {
		t.Errorf("%d of %d requests failed while a replica was stopped: %v", len(bad), len(answers), bad[:min(len(bad), 5)])
	}
	if n := answers.by(victim[:12]); n == 0 {
		t.Error("the stopped replica never had a request before")
	}
	if s := ls.state().backend(victim).State; s != "down" {
		t.Errorf("the stopped replica is %q, want down", s)
	}
}

// TestEngineRecreate recreates all replicas there are, one and then three at once, whose app listens only
// a second after its start: that costs the requests time and nothing else.
func TestEngineRecreate(t *testing.T) {
	dockertest.Engine(t)
	for _, compose := range dockertest.Composes(t) {
		t.Run(strings.Join(compose, " "), func(t *testing.T) {
			p := project(t, compose, "LONGSHORE_UPSTREAM: flaskapp:5090", "", `
    environment: {LISTEN_AFTER: 1s}
`)
			for _, n := range []int{1, 3} {
				p.Run("up", "-d", "--scale", fmt.Sprint("flaskapp=", n))
				ls := p.proxy()
				ls.waitUp(n)
				before := p.Containers("flaskapp")
				load := ls.startLoad(200)
				load.waitFor(100)
				p.Run("up", "-d", "--force-recreate", "--no-deps", "-t", "1", "--scale", fmt.Sprint("flaskapp=", n), "flaskapp")
				ls.waitUp(n)
				load.waitFor(load.count() + 100)
				answers := load.stop()
				if bad := answers.failed(); len(bad) > 0 {
					t.Errorf("%d of %d requests failed while %d replicas were recreated: %v", len(bad), len(answers), n, bad[:min(len(bad), 5)])
				}
				for _, id := range p.Containers("flaskapp") {
					if slices.Contains(before, id) || answers.by(id[:12]) == 0 {
						t.Errorf("replica %.12s was there before: %v; it had %d requests", id, slices.Contains(before, id), answers.by(id[:12]))
					}
				}
			}
		})
	}
}

// TestEngineSlowStarter checks that a replica gets no request before its app listens.
func TestEngineSlowStarter(t *testing.T) {
	dockertest.Engine(t)
	p := project(t, dockertest.Composes(t)[0], "LONGSHORE_UPSTREAM: flaskapp:5090", "")
	p.Run("up", "-d", "flaskapp", "longshore")
	ls := p.proxy()
	ls.waitUp(1)
	load := ls.startLoad(100)
	slow := dockertest.Docker(t, "run", "-d", "--network", p.Name+"_default", "--name", p.Name+"-slow", "-e", "LISTEN_AFTER=2s",
		"--label", "com.docker.compose.project="+p.Name, "--label", "com.docker.compose.service=flaskapp",
		dockertest.Image(t, "longshore/internal/testapp"))
	t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", slow) })
	dockertest.Wait(t, "the starting replica to be seen", func() bool { return ls.state().backend(slow).State == "probing" })
	dockertest.Wait(t, "the replica that listens late to answer", func() bool { return load.has(slow[:12]) })
	answers := load.stop()
	if bad := answers.failed(); len(bad) > 0 {
		t.Errorf("%d of %d requests failed while a replica started slowly: %v", len(bad), len(answers), bad[:min(len(bad), 5)])
	}
	if b := ls.state().backend(slow); b.Failures != 0 {
		t.Errorf("the slow starter was tried too early: %d failures", b.Failures)
	}
}

// TestEngineRestart checks that a restarted container, with a new address under the same ID, is used again.
func TestEngineRestart(t *testing.T) {
	dockertest.Engine(t)
	p := project(t, dockertest.Composes(t)[0], "LONGSHORE_UPSTREAM: flaskapp:5090", "")
	p.Run("up", "-d", "--scale", "flaskapp=2")
	ls := p.proxy()
	ls.waitUp(2)
	one := p.Containers("flaskapp")[0]
	before := ls.state().backend(one).Addr

	dockertest.Docker(t, "stop", "-t", "1", one)
	// Somebody else takes the address that is free now.
	squatter := dockertest.Docker(t, "run", "-d", "--network", p.Name+"_default", dockertest.Image(t, "longshore/internal/testapp"))
	t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", squatter) })
	dockertest.Docker(t, "start", one)
	dockertest.Wait(t, "the restarted container to be up", func() bool { return ls.state().backend(one).State == "up" })
	if after := ls.state().backend(one).Addr; after == before {
		t.Errorf("the address is still %s: the test wants one that has changed", after)
	}
	shares := ls.shares(20)
	if shares[one[:12]] != 10 {
		t.Errorf("shares after the restart: %v, want 10 for %s", shares, one[:12])
	}
	if shares[squatter[:12]] != 0 {
		t.Errorf("shares after the restart: %v: a container that is no replica got requests", shares)
	}
}

// TestEngineHup checks that a signal the app handles does not drain.
func TestEngineHup(t *testing.T) {
	dockertest.Engine(t)
	p := project(t, dockertest.Composes(t)[0], "LONGSHORE_UPSTREAM: flaskapp:5090", "")
	p.Run("up", "-d", "--scale", "flaskapp=2")
	ls := p.proxy()
	ls.waitUp(2)
	two := p.Containers("flaskapp")
	dockertest.Docker(t, "kill", "-s", "HUP", two[0])
	// Events come in order: when the second container is seen to be paused, the signal was seen too.
	dockertest.Docker(t, "pause", two[1])
	dockertest.Wait(t, "the pause to be seen", func() bool { return ls.state().backend(two[1]).State == "paused" })
	if b := ls.state().backend(two[0]); b.State != "up" {
		t.Errorf("after SIGHUP the backend is %s (%s), want up", b.State, b.Why)
	}
	ls.wantShares(6, 6)
	dockertest.Docker(t, "unpause", two[1])
	ls.waitUp(2)
	ls.wantShares(20, 10, 10)
}

// TestEngineStopping checks that a replica that was told to stop, and takes its time, drains.
func TestEngineStopping(t *testing.T) {
	dockertest.Engine(t)
	p := project(t, dockertest.Composes(t)[0], "LONGSHORE_UPSTREAM: flaskapp:5090", "", `
    environment: {ON_TERM: ignore}
`)
	p.Run("up", "-d", "--scale", "flaskapp=2")
	ls := p.proxy()
	ls.waitUp(2)
	two := p.Containers("flaskapp")
	stop := exec.Command("docker", "stop", "-t", "5", two[0])
	if err := stop.Start(); err != nil {
		t.Fatal(err)
	}
	dockertest.Wait(t, "the replica to drain", func() bool { return ls.state().backend(two[0]).State == "draining" })
	if shares := ls.shares(10); shares[two[1][:12]] != 10 {
		t.Errorf("while %s drains: shares %v, want all 10 on %s", two[0][:12], shares, two[1][:12])
	}
	if err := stop.Wait(); err != nil {
		t.Error(err)
	}
}

// TestEngineFelling: a request that ends its container by itself gets a second one, and no third, whether the app
// exits or the kernel ends it. The others go on.
func TestEngineFelling(t *testing.T) {
	dockertest.Engine(t)
	p := project(t, dockertest.Composes(t)[0], "LONGSHORE_UPSTREAM: flaskapp:5090", "", `
    restart: always
    environment: {CHILD: "true"}
`)
	p.Run("up", "-d", "--scale", "flaskapp=2")
	ls := p.proxy()
	for _, path := range []string{"/crash", "/killed"} {
		ls.waitUp(2)
		begin := time.Now()
		load := ls.startLoad(30)
		load.waitFor(30)
		if got, want := ls.get("localhost", path+"?secret"), "502 502 Bad Gateway"; got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
		ls.waitUp(2)
		load.waitFor(load.count() + 30)
		answers := load.stop()
		ends := 0
		for _, id := range p.Containers("flaskapp") {
			out := dockertest.Docker(t, "events", "--since", fmt.Sprint(begin.Unix()), "--until", fmt.Sprint(time.Now().Unix()+1), "--filter", "event=die", "--filter", "container="+id)
			ends += strings.Count(out, " die ")
		}
		if ends != 2 {
			t.Errorf("%s: %d containers ended, want 2", path, ends)
		}
		if bad := answers.failed(); len(bad) > 0 {
			t.Errorf("%s: %d of %d other requests failed: %v", path, len(bad), len(answers), bad[:min(len(bad), 5)])
		}
		if said := dockertest.Logs(t, p.Containers("longshore")[0]); !strings.Contains(said, "\" method=GET path="+path+"\n") {
			t.Errorf("the log does not name GET %s:\n%s", path, said)
		}
	}
	if _, body := ls.admin("/metrics"); !strings.Contains(body, `longshore_fatal_requests_total{service="flaskapp"} 2`) {
		t.Errorf("two fatal requests are not counted:\n%s", body)
	}
}

// TestEngineNotReady: a backend on a wrong port is said, with the port that its image exposes, and answers of ours
// have the reason.
func TestEngineNotReady(t *testing.T) {
	dockertest.Engine(t)
	p := project(t, dockertest.Composes(t)[0], "LONGSHORE_UPSTREAM: flaskapp:8080", "LONGSHORE_ACCESS_LOG: json\n      LONGSHORE_QUEUE_TIMEOUT: 1s")
	p.Run("up", "-d")
	ls, id := p.proxy(), p.Containers("longshore")[0]
	dockertest.Wait(t, "the warning", func() bool {
		return strings.Contains(dockertest.Logs(t, id), `why="connection refused" hint="its image exposes 5090: set LONGSHORE_UPSTREAM or label longshore.port"`)
	})
	if got, want := ls.get("localhost", "/"), "503 503 Service Unavailable"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	dockertest.Wait(t, "the reason in the access log", func() bool {
		return strings.Contains(dockertest.Logs(t, id), `"reason":"no backend became ready within 1s: flaskapp-1: connection refused"`)
	})
	if n := strings.Count(dockertest.Logs(t, id), "does not become ready"); n != 1 {
		t.Errorf("it is said %d times, want once", n)
	}
}

// TestEngineStopOutlived: whoever says docker stop --time tells nobody. A container that runs on after
// its own stop timeout is a last resort still, and what it was serving all the time is not cut.
func TestEngineStopOutlived(t *testing.T) {
	dockertest.Engine(t)
	p := project(t, dockertest.Composes(t)[0], "LONGSHORE_UPSTREAM: flaskapp:5090", "", `
    environment: {ON_TERM: ignore}
    stop_grace_period: 1s
`)
	p.Run("up", "-d")
	ls := p.proxy()
	ls.waitUp(1)
	one := p.Containers("flaskapp")[0]
	answer := make(chan string, 1)
	go func() { answer <- ls.get("localhost", "/slow?6s") }()
	dockertest.Wait(t, "the long request to be in flight", func() bool { return ls.state().backend(one).InFlight == 1 })
	stop := exec.Command("docker", "stop", "-t", "8", one)
	if err := stop.Start(); err != nil {
		t.Fatal(err)
	}
	dockertest.Wait(t, "the replica to drain", func() bool { return ls.state().backend(one).State == "draining" })
	ls.wantShares(2, 2) // the last resort
	dockertest.Wait(t, "its stop timeout to be over", func() bool {
		b := ls.state().backend(one)
		return b.State == "draining" && strings.Contains(b.Why, "runs on")
	})
	ls.wantShares(2, 2) // still
	p.Run("up", "-d", "--no-recreate", "--scale", "flaskapp=2", "flaskapp")
	dockertest.Wait(t, "another replica", func() bool { return ls.shares(1)[one[:12]] == 0 })
	if shares := ls.shares(6); shares[one[:12]] != 0 {
		t.Errorf("shares %v, want none for the one that was told to stop", shares)
	}
	if got := <-answer; got != "200 "+one[:12] {
		t.Errorf("the request that was in flight all the time got %q", got)
	}
	if err := stop.Wait(); err != nil {
		t.Error(err)
	}
}

// TestEngineHealthcheck: a container's HEALTHCHECK gates it only while others are ready.
func TestEngineHealthcheck(t *testing.T) {
	dockertest.Engine(t)
	checked := dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090", `HEALTHCHECK --interval=1s --retries=1 CMD ["/app", "check"]`)
	p := project(t, dockertest.Composes(t)[0], "LONGSHORE_UPSTREAM: web:5090", "", `
  web:
    image: `+checked+`
`)
	p.Run("up", "-d", "--scale", "flaskapp=0", "--scale", "web=2")
	ls := p.proxy()
	// The first run of the HEALTHCHECK comes a second after the start. Alone, they need not wait for it.
	dockertest.Wait(t, "an answer", func() bool { return strings.HasPrefix(ls.get("localhost", "/"), "200 ") })
	ls.waitUp(2)
	ls.wantShares(20, 10, 10)

	answer := ls.get("localhost", "/sick")
	if answer != "200 " && answer != "200" {
		t.Fatalf("/sick: %q", answer)
	}
	var well apiBackend
	dockertest.Wait(t, "one backend to be unhealthy", func() bool {
		states := make(map[string]apiBackend)
		for _, b := range ls.state().Services[0].Backends {
			states[b.State] = b
		}
		well = states["up"]
		return states["unhealthy"].ID != "" && well.ID != ""
	})
	if shares := ls.shares(10); shares[well.ID[:12]] != 10 {
		t.Errorf("shares %v, want all on %s, the healthy one", shares, well.ID[:12])
	}
	dockertest.Docker(t, "stop", "-t", "1", well.ID)
	if shares := ls.shares(4); len(shares) != 1 || shares[well.ID[:12]] != 0 {
		t.Errorf("shares %v, want all on the unhealthy one, which is the only one that runs", shares)
	}
}

// TestEngineStrangers checks that containers of another project, and on a network that is not shared,
// are not used, and that the state says why.
func TestEngineStrangers(t *testing.T) {
	dockertest.Engine(t)
	compose := dockertest.Composes(t)[0]
	p := project(t, compose, "LONGSHORE_UPSTREAM: flaskapp:5090", "")
	other := project(t, compose, "LONGSHORE_UPSTREAM: flaskapp:5090", "")
	other.Run("up", "-d", "flaskapp")
	island := dockertest.Name("island")
	dockertest.Network(t, island)
	lonely := dockertest.Docker(t, "run", "-d", "--name", island+"-app", "--network", island,
		"--label", "com.docker.compose.project="+p.Name, "--label", "com.docker.compose.service=flaskapp",
		dockertest.Image(t, "longshore/internal/testapp"))
	t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", lonely) })

	p.Run("up", "-d", "flaskapp", "longshore")
	ls := p.proxy()
	ls.waitUp(1)
	ls.wantShares(10, 10)
	s := ls.state()
	if why := s.skipped(other.Containers("flaskapp")[0]); !strings.Contains(why, "project") || !strings.Contains(why, other.Name) {
		t.Errorf("the other project's container is skipped because %q, want the project named", why)
	}
	if why := s.skipped(lonely); !strings.Contains(why, "network") || !strings.Contains(why, island) {
		t.Errorf("the container on the other network is skipped because %q, want the network named", why)
	}
}

// TestEngineHost runs the proxy on the host, and in a container with host networking.
func TestEngineHost(t *testing.T) {
	dockertest.Engine(t)
	compose := dockertest.Composes(t)[0]
	for _, how := range []string{"binary", "host network"} {
		t.Run(how, func(t *testing.T) {
			p := project(t, compose, "{}", "")
			p.Run("up", "-d", "--scale", "flaskapp=2", "flaskapp")
			env := []string{"LONGSHORE_UPSTREAM=flaskapp:5090", "LONGSHORE_PROJECT=" + p.Name,
				"LONGSHORE_LISTEN=" + reservePort(t), "LONGSHORE_ADMIN=" + reservePort(t)}
			if how == "binary" {
				startBinary(t, env...)
			} else {
				args := []string{"run", "-d", "--network", "host", "-v", "/var/run/docker.sock:/var/run/docker.sock:ro"}
				for _, kv := range env {
					args = append(args, "-e", kv)
				}
				id := dockertest.Docker(t, append(args, dockertest.Image(t, "longshore/cmd/longshore"))...)
				t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", id) })
			}
			ls := client(t, value(env[2]), value(env[3]))
			ls.waitUp(2)
			ls.wantShares(20, 10, 10)
		})
	}
}

// TestEngineImageHealth: without an admin listener and without an application the container is healthy.
func TestEngineImageHealth(t *testing.T) {
	dockertest.Engine(t)
	image := dockertest.Image(t, "longshore/cmd/longshore", `HEALTHCHECK --interval=1s --timeout=4s --retries=1 CMD ["/app", "healthcheck"]`)
	id := dockertest.Docker(t, "run", "-d", "--read-only", "-e", "LONGSHORE_ADMIN=", "-e", "LONGSHORE_BACKENDS=127.0.0.1:1", image)
	t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", id) })
	health := func() string { return dockertest.Docker(t, "inspect", "-f", "{{.State.Health.Status}}", id) }
	dockertest.Wait(t, "a result of the HEALTHCHECK", func() bool { return health() != "starting" })
	if got := health(); got != "healthy" {
		t.Errorf("the container is %s, want healthy", got)
	}
}

// TestEngineImageState: the image has no other program that could show what longshore knows.
func TestEngineImageState(t *testing.T) {
	dockertest.Engine(t)
	id := dockertest.Docker(t, "run", "-d", "-e", "LONGSHORE_BACKENDS=127.0.0.1:1", dockertest.Image(t, "longshore/cmd/longshore"))
	t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", id) })
	dockertest.Wait(t, "a refused backend in the table", func() bool {
		out, err := exec.Command("docker", "exec", id, "/app", "state").CombinedOutput()
		return err == nil && strings.Contains(string(out), "127.0.0.1:1") && strings.Contains(string(out), "connection refused")
	})
}

// TestEngineLinks: the names that compose gives the proxy alone, by links and extra_hosts, are upstream names.
func TestEngineLinks(t *testing.T) {
	dockertest.Engine(t)
	for _, compose := range dockertest.Composes(t) {
		t.Run(strings.Join(compose, " "), func(t *testing.T) {
			p := testProject{t: t, Project: dockertest.Compose(t, compose, fmt.Sprintf(`
version: "2.4"
services:
  longshore:
    image: %s
    ports: ["127.0.0.1::80", "127.0.0.1::9180"]
    volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro"]
    environment: {LONGSHORE_UPSTREAM: "backend:5090, /healthz=legacy:9180"}
    links: ["flaskapp:backend"]
    extra_hosts: ["legacy:127.0.0.1"]
  flaskapp:
    image: %s
`, dockertest.Image(t, "longshore/cmd/longshore"), dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090")))}
			p.Run("up", "-d")
			ls := p.proxy()
			dockertest.Wait(t, "the extra host to answer", func() bool { return ls.get("localhost", "/healthz") == "200 ok" })
			p.Run("up", "-d", "--no-recreate", "--scale", "flaskapp=2")
			ls.waitUp(3) // legacy is one
			ls.wantShares(20, 10, 10)
		})
	}
}

// TestEngineTimeZone: TZ holds in the access log, though the image has no zones.
func TestEngineTimeZone(t *testing.T) {
	dockertest.Engine(t)
	id := dockertest.Docker(t, "run", "-d", "-p", "127.0.0.1::80", "-e", "TZ=Asia/Kathmandu", "-e", "LONGSHORE_BACKENDS=127.0.0.1:1", "-e", "LONGSHORE_QUEUE=0",
		dockertest.Image(t, "longshore/cmd/longshore"))
	t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", id) })
	ls := client(t, dockertest.Published(t, id, "80"), "")
	dockertest.Wait(t, "an answer", func() bool { return strings.HasPrefix(ls.get("x", "/zone"), "503 ") })
	dockertest.Wait(t, "a line of the access log", func() bool { return strings.Contains(dockertest.Docker(t, "logs", id), "GET /zone") })
	if log := dockertest.Docker(t, "logs", id); !strings.Contains(log, ` +0545] "GET /zone`) {
		t.Errorf("the access log is not in Nepal's time:\n%s", log)
	}
}

// TestEngineSharedNetwork runs the proxy in the network of the application that it is for, as nginx runs beside one:
// its hostname and files in /etc are then the application's. Whose container is whose is told by the cgroup, and
// where a namespace hides that, by the command.
func TestEngineSharedNetwork(t *testing.T) {
	dockertest.Engine(t)
	image, app := dockertest.Image(t, "longshore/cmd/longshore"), dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090")
	const socket = "/var/run/docker.sock:/var/run/docker.sock:ro"
	t.Run("service", func(t *testing.T) {
		p := testProject{t: t, Project: dockertest.Compose(t, dockertest.Composes(t)[0], fmt.Sprintf(`
version: "2.4"
services:
  web:
    image: %s
    ports: ["127.0.0.1::80", "127.0.0.1::9180"]
  longshore:
    image: %s
    network_mode: service:web
    volumes: ["%s"]
    environment: {LONGSHORE_UPSTREAM: "web:5090"}
`, app, image, socket))}
		p.Run("up", "-d")
		web, proxy := p.Containers("web")[0], p.Containers("longshore")[0]
		ls := client(t, dockertest.Published(t, web, "80"), dockertest.Published(t, web, "9180"))
		ls.waitUp(1)
		ls.wantShares(4, 4)
		if got, want := ls.state().backend(web).Addr, "127.0.0.1:5090"; got != want {
			t.Errorf("the application in the proxy's own network is had at %s, want %s", got, want)
		}
		wantOwn(t, proxy, "found by cgroup; it uses the network of container "+strings.TrimPrefix(dockertest.Docker(t, "inspect", "-f", "{{.Name}}", web), "/"))
	})
	for _, cgroupns := range []string{"host", "private"} {
		t.Run("container of another project, cgroup namespace "+cgroupns, func(t *testing.T) {
			p := project(t, dockertest.Composes(t)[0], "{}", "")
			p.Run("up", "-d", "--scale", "flaskapp=2", "flaskapp")
			owner := dockertest.Docker(t, "run", "-d", "--network", p.Name+"_default", "-p", "127.0.0.1::80", "-p", "127.0.0.1::9180",
				"--label", "com.docker.compose.project=other", "--label", "com.docker.compose.service=vpn", app, "serve") // all test images have the same entrypoint
			t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", owner) })
			proxy := dockertest.Docker(t, "run", "-d", "--network", "container:"+owner, "--cgroupns", cgroupns, "-v", socket,
				"--label", "com.docker.compose.project="+p.Name, "--label", "com.docker.compose.service=longshore",
				"-e", "LONGSHORE_UPSTREAM=flaskapp:5090", image)
			t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", proxy) })
			ls := client(t, dockertest.Published(t, owner, "80"), dockertest.Published(t, owner, "9180"))
			ls.waitUp(2)
			ls.wantShares(20, 10, 10)
			why := "found by cgroup;"
			if cgroupns == "private" {
				why = "of those in one network it alone has the proxy's command;"
			}
			wantOwn(t, proxy, why)
		})
	}
}

// wantOwn checks that a proxy has said which container is its own, and why.
func wantOwn(t *testing.T, proxy, why string) {
	t.Helper()
	log, err := exec.Command("docker", "logs", proxy).CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(dockertest.Docker(t, "inspect", "-f", "{{.Name}}", proxy), "/")
	if want := fmt.Sprintf(`msg="the proxy's own container is known" container=%s why="%s`, name, why); strings.Count(string(log), want) != 1 {
		t.Errorf("want one line with %s in the log:\n%s", want, log)
	}
}

// TestEngineUser runs the image as another user than root, who gets at the socket by its group.
func TestEngineUser(t *testing.T) {
	dockertest.Engine(t)
	socket, err := os.Stat("/var/run/docker.sock")
	if err != nil {
		t.Skip("the engine's socket is not on this host")
	}
	gid := fmt.Sprint(socket.Sys().(*syscall.Stat_t).Gid)
	p := project(t, dockertest.Composes(t)[0], "LONGSHORE_UPSTREAM: flaskapp:5090", "")
	p.Run("up", "-d", "flaskapp")
	id := dockertest.Docker(t, "run", "-d", "--network", p.Name+"_default", "-u", "65534:65534", "--group-add", gid,
		"-p", "127.0.0.1::80", "-p", "127.0.0.1::9180", "-e", "LONGSHORE_UPSTREAM=flaskapp:5090", "-e", "LONGSHORE_PROJECT="+p.Name,
		"-v", "/var/run/docker.sock:/var/run/docker.sock:ro", dockertest.Image(t, "longshore/cmd/longshore"))
	t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", id) })
	ls := client(t, dockertest.Published(t, id, "80"), dockertest.Published(t, id, "9180"))
	ls.waitUp(1)
	ls.wantShares(4, 4)

	stranger := dockertest.Docker(t, "run", "-d", "-u", "65534:65534", "-p", "127.0.0.1::9180",
		"-v", "/var/run/docker.sock:/var/run/docker.sock:ro", dockertest.Image(t, "longshore/cmd/longshore"))
	t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", stranger) })
	ls = client(t, "", dockertest.Published(t, stranger, "9180"))
	dockertest.Wait(t, "/readyz to name the group", func() bool {
		code, body := ls.admin("/readyz")
		return code == 503 && strings.Contains(body, fmt.Sprintf(`(group_add: ["%s"])`, gid))
	})
}

// TestEngineStreamCut puts a proxy in front of the socket that cuts the stream: neither state nor a
// change made meanwhile is lost.
func TestEngineStreamCut(t *testing.T) {
	dockertest.Engine(t)
	compose := dockertest.Composes(t)[0]
	p := project(t, compose, "{}", "")
	p.Run("up", "-d", "--scale", "flaskapp=2", "flaskapp")
	socket := newSocketProxy(t)
	env := []string{"DOCKER_HOST=unix://" + socket.path, "LONGSHORE_UPSTREAM=flaskapp:5090", "LONGSHORE_PROJECT=" + p.Name,
		"LONGSHORE_LISTEN=" + reservePort(t), "LONGSHORE_ADMIN=" + reservePort(t)}
	startBinary(t, env...)
	ls := client(t, value(env[3]), value(env[4]))
	ls.waitUp(2)

	socket.cut()
	dockertest.Wait(t, "the cut to be noticed", func() bool { return !ls.state().Docker.Connected })
	if code, body := ls.admin("/readyz"); code != 200 || !strings.Contains(body, "without the docker daemon since") {
		t.Errorf("/readyz while the daemon is away: %d %q, want 200 and since when", code, body)
	}
	ls.wantShares(20, 10, 10)
	p.Run("up", "-d", "--no-recreate", "--scale", "flaskapp=3", "flaskapp")
	gone := p.Containers("flaskapp")[0]
	dockertest.Docker(t, "kill", gone)

	socket.mend()
	dockertest.Wait(t, "the killed replica to be seen as down", func() bool { return ls.state().backend(gone).State == "down" })
	ls.waitUp(2) // only now: before, the killed one counted
	ls.wantShares(20, 10, 10)
}

// A longshore is a running proxy as a user sees it.
type longshore struct {
	t           testing.TB
	front, back string // host:port of the proxy and of its admin listener
	http        *http.Client
}

func client(t testing.TB, front, back string) *longshore {
	// A connection per request: this client never repeats one by itself.
	return &longshore{t, front, back, &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
}

type testProject struct {
	*dockertest.Project
	t testing.TB
}

// project writes a compose file with a proxy and a flaskapp. env are lines for the proxy's
// environment; more continues the file.
func project(t testing.TB, compose []string, env, env2 string, more ...string) testProject {
	t.Helper()
	return testProject{t: t, Project: dockertest.Compose(t, compose, fmt.Sprintf(`
services:
  longshore:
    image: %s
    ports: ["127.0.0.1::80", "127.0.0.1::9180"]
    volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro"]
    environment:
      %s
      %s
  flaskapp:
    image: %s
    labels: {com.ameyalokare.type: web}
%s`, dockertest.Image(t, "longshore/cmd/longshore"), env, env2, dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090"), strings.Join(more, "\n")))}
}

// proxy finds the project's proxy.
func (p testProject) proxy() *longshore {
	t, id := p.t, p.Containers("longshore")[0]
	return client(t, dockertest.Published(t, id, "80"), dockertest.Published(t, id, "9180"))
}

// get asks for a path under a host and returns "STATUS BODY".
func (ls *longshore) get(host, path string) string {
	ls.t.Helper()
	req, err := http.NewRequest("GET", "http://"+ls.front+path, nil)
	if err != nil {
		ls.t.Fatal(err)
	}
	req.Host = host
	res, err := ls.http.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", res.StatusCode, strings.TrimSpace(string(body)))
}

// shares sends n requests one after another and counts the answers by hostname.
func (ls *longshore) shares(n int) map[string]int {
	ls.t.Helper()
	by := make(map[string]int)
	for range n {
		answer := ls.get("localhost", "/")
		host, ok := strings.CutPrefix(answer, "200 ")
		if !ok {
			ls.t.Errorf("got %q, want a hostname", answer)
		}
		by[host]++
	}
	return by
}

func (ls *longshore) wantShares(n int, want ...int) {
	ls.t.Helper()
	by := ls.shares(n)
	if got := slices.Sorted(maps.Values(by)); !slices.Equal(got, want) {
		ls.t.Errorf("%d requests were shared %v, want %v", n, by, want)
	}
}

func (ls *longshore) admin(path string) (int, string) {
	ls.t.Helper()
	res, err := ls.http.Get("http://" + ls.back + path)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

// apiState is what /api/state promises.
type apiState struct {
	Docker struct {
		Connected bool
		Since     time.Time
	}
	Services []struct {
		Name, Balancer string
		Routes         []string
		Parked         int
		Backends       []apiBackend
	}
	Skipped []struct{ ID, Name, Why string }
}

type apiBackend struct {
	ID, Name, Addr, State, Why string
	Weight, InFlight           int
	Requests, Failures         int
}

func (ls *longshore) state() (s apiState) {
	ls.t.Helper()
	if code, body := ls.admin("/api/state"); code == 200 {
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			ls.t.Fatal(err)
		}
	}
	return s
}

func (s apiState) backend(id string) apiBackend {
	for _, svc := range s.Services {
		for _, b := range svc.Backends {
			if b.ID == id {
				return b
			}
		}
	}
	return apiBackend{}
}

// skipped tells why a container is not used, by ID or by a part of its name.
func (s apiState) skipped(what string) string {
	for _, sk := range s.Skipped {
		if sk.ID == what || strings.Contains(sk.Name, what) {
			return sk.Why
		}
	}
	return ""
}

// waitUp waits until exactly n backends are up and proven, and none is on its way.
func (ls *longshore) waitUp(n int) {
	ls.t.Helper()
	var s apiState
	defer func() {
		if ls.t.Failed() {
			ls.t.Logf("state: %+v", s)
		}
	}()
	dockertest.Wait(ls.t, fmt.Sprintf("%d backends to be up", n), func() bool {
		s = ls.state()
		up, others := 0, 0
		for _, svc := range s.Services {
			for _, b := range svc.Backends {
				switch b.State {
				case "up":
					up++
				case "probing", "draining":
					others++
				}
			}
		}
		return up == n && others == 0
	})
}

// A load sends requests at a fixed rate, whatever becomes of them.
type load struct {
	cancel  context.CancelFunc
	stopped sync.WaitGroup

	mu      sync.Mutex // guards answers
	answers answers
}

type answers []string // "200 HOSTNAME", or why there is none

func (ls *longshore) startLoad(perSecond int) *load {
	return startLoad(ls.t, perSecond, func(int) string { return ls.get("localhost", "/") })
}

// startLoad calls ask, with a number that grows, at a fixed rate.
func startLoad(t testing.TB, perSecond int, ask func(n int) string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	t.Cleanup(func() { l.stop() })
	l.stopped.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for n := range 180 * perSecond { // a bound, should the test hang
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			l.stopped.Go(func() {
				a := ask(n)
				l.mu.Lock()
				defer l.mu.Unlock()
				l.answers = append(l.answers, a)
			})
		}
	})
	return l
}

// stop waits for the last answer and returns all of them.
func (l *load) stop() answers {
	l.cancel()
	l.stopped.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.answers)
}

func (l *load) has(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.answers, "200 "+host)
}

// waitFor waits until n requests are answered.
func (l *load) waitFor(n int) {
	for l.count() < n {
		time.Sleep(5 * time.Millisecond)
	}
}

func (as answers) failed() (bad []string) {
	for _, a := range as {
		if !strings.HasPrefix(a, "200 ") {
			bad = append(bad, a)
		}
	}
	return bad
}

func (as answers) by(host string) (n int) {
	for _, a := range as {
		if a == "200 "+host {
			n++
		}
	}
	return n
}

// startBinary runs longshore on the host until the test ends.
func startBinary(t testing.TB, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(dockertest.Binary(t, "longshore/cmd/longshore", filepath.Join(t.TempDir(), "longshore")))
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

func value(kv string) string {
	_, v, _ := strings.Cut(kv, "=")
	return v
}

// A socketProxy stands between longshore and the engine's socket, and can be cut.
type socketProxy struct {
	path string
	t    testing.TB
	s    *http.Server
}

func newSocketProxy(t testing.TB) *socketProxy {
	p := &socketProxy{path: filepath.Join(t.TempDir(), "docker.sock"), t: t}
	p.mend()
	t.Cleanup(p.cut)
	return p
}

// cut ends all connections and refuses new ones.
func (p *socketProxy) cut() {
	p.s.Close()
	os.Remove(p.path)
}

// mend lets connections through again.
func (p *socketProxy) mend() {
	ln, err := net.Listen("unix", p.path)
	if err != nil {
		p.t.Fatal(err)
	}
	engine := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	engine.FlushInterval = -1
	engine.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", "/var/run/docker.sock")
	}}
	engine.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(502) }
	p.s = &http.Server{Handler: engine}
	go p.s.Serve(ln)
}
