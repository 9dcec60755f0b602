package main

import (
	"strings"
	"testing"

	"longshore/internal/dockertest"
)

// TestEngineClaims: two containers want the same host. One that can serve nobody does not keep the route from one
// that can; one that is made anew keeps it; and a hand-over loses no request.
func TestEngineClaims(t *testing.T) {
	dockertest.Engine(t)
	image := dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090")
	ls := onHost(t, "LONGSHORE_PROJECT=*")
	host := dockertest.Name("h") + ".example.com"
	first, second := dockertest.Name("old"), dockertest.Name("new")
	remove := func(name string) { dockertest.Docker(t, "rm", "-f", name) }
	t.Cleanup(func() {
		remove(first)
		remove(second)
	})
	make := func(how, name string) (hostname string) {
		args := append(strings.Fields(how), "--name", name, "-l", "longshore.host="+host, image)
		return dockertest.Docker(t, args...)[:12]
	}
	served := func(by string) {
		t.Helper()
		dockertest.Wait(t, "the host to be served by "+by, func() bool { return ls.get(host, "/") == "200 "+by })
	}
	under := func(do func(*load)) answers {
		l := startLoad(t, 50, func(int) string { return ls.get(host, "/") })
		l.waitFor(25)
		do(l)
		l.waitFor(l.count() + 25)
		all := l.stop()
		if bad := all.failed(); len(bad) > 0 {
			t.Errorf("%d of %d requests failed, such as %q", len(bad), len(all), bad[0])
		}
		return all
	}

	older := make("create", first) // and never started
	younger := make("run -d", second)
	served(younger)

	all := under(func(*load) {
		dockertest.Docker(t, "start", first)
		served(older)
	})
	if all.by(younger) == 0 || all.by(older) == 0 {
		t.Errorf("the younger served %d, the older %d", all.by(younger), all.by(older))
	}

	all = under(func(*load) {
		remove(first)
		again := make("run -d", first)
		served(again)
		if again == older {
			t.Fatal("it is the same container")
		}
	})
	if n := all.by(younger); n > 0 {
		t.Errorf("%d requests went to another container while theirs was made anew", n)
	}

	all = under(func(*load) {
		dockertest.Docker(t, "restart", "-t", "1", first)
	})
	if n := all.by(younger); n > 0 {
		t.Errorf("%d requests went to another container while theirs was restarted", n)
	}

	under(func(*load) {
		dockertest.Docker(t, "stop", "-t", "1", first)
		served(younger)
	})
}

// TestEngineSeveralServices: containers of several compose services are one pool, by one route or by a label.
func TestEngineSeveralServices(t *testing.T) {
	dockertest.Engine(t)
	compose := dockertest.Composes(t)[0]
	more := func(labels string) string {
		service := func(name string) string {
			return "\n  " + name + ":\n    image: " + dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090") + "\n    labels: {" + labels + "}\n"
		}
		return service("web1") + service("web2")
	}
	for name, p := range map[string]testProject{
		"UPSTREAM": project(t, compose, `LONGSHORE_UPSTREAM: "web1:5090|web2:5090"`, "", more("")),
		"newlines": project(t, compose, `LONGSHORE_UPSTREAM: "web1:5090\nweb2:5090"`, "", more("")),
		"labels":   project(t, compose, "{}", "", more("longshore.service: web")),
	} {
		t.Run(name, func(t *testing.T) {
			p.Run("up", "-d", "--scale", "flaskapp=0")
			ls := p.proxy()
			ls.waitUp(2)
			ls.wantShares(20, 10, 10)
		})
	}
}
