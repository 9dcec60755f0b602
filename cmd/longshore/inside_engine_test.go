package main

import (
	"fmt"
	"testing"

	"longshore/internal/dockertest"
)

// TestEngineInside: docker-proxy shows the address of the network's gateway for who comes to a published port, so from
// there nobody is inside; a container of the project is.
func TestEngineInside(t *testing.T) {
	dockertest.Engine(t)
	app := dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090")
	p := project(t, dockertest.Composes(t)[0], "{}", "", fmt.Sprintf(`
  open:
    image: %s
    environment: {VIRTUAL_HOST: open.example.com}
  inner:
    image: %s
    environment: {VIRTUAL_HOST: inner.example.com, NETWORK_ACCESS: internal}
  edge:
    image: %s
    ports: ["127.0.0.1::80", "127.0.0.1::9180"]
    volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro"]
    environment: {LONGSHORE_UPSTREAM: "longshore:80", LONGSHORE_ACCESS_LOG: "off"}
`, app, app, dockertest.Image(t, "longshore/cmd/longshore")))
	p.Run("up", "-d")
	edge := p.Containers("edge")[0]
	for name, c := range map[string]struct {
		*longshore
		want int
	}{
		"a published port":           {p.proxy(), 403},
		"a container of the project": {client(t, dockertest.Published(t, edge, "80"), dockertest.Published(t, edge, "9180")), 200},
	} {
		status := func(host string) (code int) {
			fmt.Sscan(c.get(host, "/"), &code)
			return code
		}
		dockertest.Wait(t, name+" to be served", func() bool { return status("open.example.com") == 200 })
		dockertest.Wait(t, name+" to have a route", func() bool { code := status("inner.example.com"); return code == 200 || code == 403 })
		if got := status("inner.example.com"); got != c.want {
			t.Errorf("from %s: got %d, want %d", name, got, c.want)
		}
	}
}
