package main

import (
	"strings"
	"testing"

	"longshore/internal/dockertest"
)

// TestEngineVirtualHost is how nginx-proxy's users have it: the proxy in a project of its own, with the
// socket where that image wants it, and the applications in others, on a network that is shared. Only the
// image is another.
func TestEngineVirtualHost(t *testing.T) {
	dockertest.Engine(t)
	compose := dockertest.Composes(t)[0]
	shared := dockertest.Name("shared")
	dockertest.Network(t, shared)
	networks := `
networks:
  default: {external: true, name: ` + shared + `}
`
	app := dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090")
	front := testProject{t: t, Project: dockertest.Compose(t, compose, `
version: "3.5"
services:
  longshore:
    image: `+dockertest.Image(t, "longshore/cmd/longshore")+`
    ports: ["127.0.0.1::80", "127.0.0.1::9180"]
    volumes: ["/var/run/docker.sock:/tmp/docker.sock:ro"]
    environment: {DEFAULT_HOST: shop.example.com}
`+networks)}
	shop := dockertest.Compose(t, compose, `
version: "3.5"
services:
  web:
    image: `+app+`
    environment: {VIRTUAL_HOST: "shop.example.com,www.shop.*"}
  api:
    image: `+app+`
    expose: ["9999"]
    environment: {VIRTUAL_HOST: shop.example.com, VIRTUAL_PATH: /api/, VIRTUAL_DEST: /, VIRTUAL_PORT: "5090"}
  db:
    image: `+app+`
  legacy:
    image: `+app+`
    environment: {VIRTUAL_HOST: legacy.example.com, VIRTUAL_PROTO: fastcgi}
`+networks)
	blog := dockertest.Compose(t, compose, `
version: "3.5"
services:
  blog:
    image: `+app+`
    environment:
      VIRTUAL_HOST_MULTIPORTS: |-
        "~^blog\\d?\\.example\\.(com|org)$$":
        wiki.example.com:
          "/wiki":
            port: 5090
            dest: "/"
    labels: {com.github.nginx-proxy.nginx-proxy.loadbalance: "round_robin;"}
  intern:
    image: `+app+`
    environment: {VIRTUAL_HOST: intern.example.com, NETWORK_ACCESS: internal}
`+networks)

	front.Run("up", "-d")
	ls := front.proxy()
	shop.Run("up", "-d")
	blog.Run("up", "-d")
	ls.waitUp(6) // web twice, api, blog twice, intern
	web, api, post := "200 "+shop.Containers("web")[0][:12], "200 "+shop.Containers("api")[0][:12], "200 "+blog.Containers("blog")[0][:12]
	for _, c := range []struct{ host, path, want string }{
		{"shop.example.com", "/", web},
		{"www.shop.example.org", "/x", web},
		{"shop.example.com", "/api/x", api},
		{"shop.example.com", "/apis", web},
		{"blog7.example.org", "/", post},
		{"wiki.example.com", "/wiki/x", post},
		{"nobody.example.com", "/", web},                 // DEFAULT_HOST
		{"intern.example.com", "/", "403 403 Forbidden"}, // who comes through the network's gateway may be anybody
	} {
		if got := ls.get(c.host, c.path); got != c.want {
			t.Errorf("%s%s: got %q, want %q", c.host, c.path, got, c.want)
		}
	}
	if why := ls.state().skipped("legacy"); !strings.Contains(why, `VIRTUAL_PROTO="fastcgi"`) {
		t.Errorf("legacy is skipped because %q, want its VIRTUAL_PROTO named", why)
	}

	shop.Run("up", "-d", "--no-recreate", "--scale", "web=3")
	ls.waitUp(10)
	ls.wantShares(12, 4, 4, 4) // asks for a host that nobody has

	blog.Run("down", "-t", "1")
	ls.waitUp(7)
}
