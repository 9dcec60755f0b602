package docker

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"longshore/internal/config"
)

// A look is a view in words.
type look struct {
	upstream, label, project, network string
	engine, defaultHost               string
	host                              bool // the proxy runs on the host
}

func (l look) view(t *testing.T) view {
	v := view{settings: config.Defaults(), project: l.project, network: l.network, engine: l.engine, defaultHost: l.defaultHost}
	if l.upstream != "" {
		v = upstream(t, l.upstream)
		v.project, v.network, v.engine = l.project, l.network, l.engine
	}
	if l.label != "" {
		if err := v.label.UnmarshalText([]byte(l.label)); err != nil {
			t.Fatal(err)
		}
	}
	v.traces.mounts = []string{fmt.Sprintf("%064x", 0xabc001)}
	if l.host {
		v.traces = traces{}
	}
	return v
}

// Containers get 172.18.0.3 and up in the order they are made; the proxy is the first. All are
// started unless they are made with the name of a state.
func TestState(t *testing.T) {
	other := []string{projectLabel + "=other", serviceLabel + "=web", numberLabel + "=1"}
	tests := []struct {
		name string
		look look
		make func(m *model)
		want string
	}{
		{"compose service", look{upstream: "web:5090"}, func(m *model) {
			m.service("web-1")
			m.service("web-2")
		}, `
web /
  web-1 172.18.0.4:5090 #1
  web-2 172.18.0.5:5090 #1`},
		{"nothing is there yet", look{upstream: "web:5090"}, func(m *model) {}, `
web /
skip web: no compose service, container or network alias has this name in project "demo"`},
		{"container name", look{upstream: "demo-db:1"}, func(m *model) {
			m.create("demo-db", projectLabel+"=demo").on("demo_default")
		}, `
demo-db /
  demo-db 172.18.0.4:1 #1`},
		{"network alias", look{upstream: "api:1"}, func(m *model) {
			m.service("web-1").aliases = []string{"api"}
		}, `
api /
  web-1 172.18.0.4:1 #1`},
		{"alias in a network of others", look{upstream: "api:1"}, func(m *model) {
			b := m.service("web-1")
			b.nets, b.aliases = map[string]string{"x": ""}, []string{"api"}
		}, `
api /
skip api: no compose service, container or network alias has this name in project "demo"`},
		{"service before container before alias", look{upstream: "web:1"}, func(m *model) {
			m.service("web-1")
			m.create("web", projectLabel+"=demo").on("demo_default")
			m.service("x-1").aliases = []string{"web"}
		}, `
web /
  web-1 172.18.0.4:1 #1`},
		{"external", look{upstream: "web:1, /x=x.example.com, /y=192.0.2.1:99"}, func(m *model) {}, `
192.0.2.1 /y
  192.0.2.1 192.0.2.1:99 #1
web /
x.example.com /x
  x.example.com x.example.com:80 #1
skip web: no compose service, container or network alias has this name in project "demo"`},
		{"several routes", look{upstream: "web:1, /a=web:1, /b=web:2"}, func(m *model) {
			m.service("web-1")
		}, `
web / /a
  web-1 172.18.0.4:1 #1
web:2 /b
  web-1 172.18.0.4:2 #1`},
		{"several services in one", look{upstream: "web:1|api:2, /a=api:2|web:1, /b=web:1, /c=api:2"}, func(m *model) {
			m.service("web-1")
			m.service("api-1", "longshore.weight=2")
			m.service("web-2", "longshore.port=9")
		}, `
api /c
  api-1 172.18.0.5:2 #1 weight 2
web /b
  web-1 172.18.0.4:1 #1
  web-2 172.18.0.6:9 #1
web|api / /a
  api-1 172.18.0.5:2 #1 weight 2
  web-1 172.18.0.4:1 #1
  web-2 172.18.0.6:9 #1`},
		{"the same route twice", look{upstream: "web:1, api, web:2, x.example.com, x.example.com:81"}, func(m *model) {
			m.service("web-1")
		}, `
web|api|web|x.example.com|x.example.com /
  web-1 172.18.0.4:1 #1
  web-1:2 172.18.0.4:2 #1
  x.example.com x.example.com:80 #1
  x.example.com:81 x.example.com:81 #1
skip api: no compose service, container or network alias has this name in project "demo"`},
		{"other project", look{upstream: "web"}, func(m *model) {
			m.service("web-1")
			m.create("other-web-1", other...).on("demo_default")
			m.create("web").on("demo_default")
		}, `
web /
  web-1 172.18.0.4:80 #1
skip other-web-1: in project "other": only "demo" is looked at (LONGSHORE_PROJECT)`},
		{"named project", look{upstream: "web", project: "other"}, func(m *model) {
			m.service("web-1")
			m.create("other-web-1", other...).on("demo_default")
		}, `
web /
  web-1 172.18.0.5:80 #1
skip demo-web-1: in project "demo": only "other" is looked at (LONGSHORE_PROJECT)`},
		{"all projects", look{upstream: "web", project: "*"}, func(m *model) {
			m.service("web-1")
			m.create("other-web-1", other...).on("demo_default")
		}, `
web /
  demo/web-1 172.18.0.4:80 #1
  other/web-1 172.18.0.5:80 #1`},
		{"one-off", look{upstream: "web"}, func(m *model) {
			m.service("web-1", oneoffLabel+"=True")
		}, `
web /
skip demo-web-1: a one-off container, as docker compose run makes them
skip web: no compose service, container or network alias has this name in project "demo"`},
		{"not the proxy itself", look{upstream: "proxy"}, func(m *model) {}, `
proxy /
skip proxy: no compose service, container or network alias has this name in project "demo"`},
		{"enable=false", look{upstream: "web"}, func(m *model) {
			m.service("web-1", "longshore.enable=false")
		}, `
web /
skip demo-web-1: label longshore.enable=false`},
		{"bad label", look{upstream: "web"}, func(m *model) {
			m.service("web-1", "longshore.weight=x")
			m.service("web-2", "longshore.weight=3")
		}, `
web /
  web-2 172.18.0.5:80 #1 weight 3
skip demo-web-1: label longshore.weight="x": want a whole number from 1 to 65535`},

		{"pool by label", look{label: "com.ameyalokare.type=web"}, func(m *model) {
			m.service("a-1", "com.ameyalokare.type=web")
			m.service("b-1", "com.ameyalokare.type=web")
			m.service("c-1", "com.ameyalokare.type=db")
		}, `
web /
  a-1 172.18.0.4:80 #1
  b-1 172.18.0.5:80 #1`},
		{"pool by key", look{label: "com.example.pool"}, func(m *model) {
			m.service("a-1", "com.example.pool=")
			m.service("b-1", "com.example.pool=x", "longshore.enable=off")
		}, `
pool /
  a-1 172.18.0.4:80 #1
skip demo-b-1: label longshore.enable=false`},

		{"by themselves", look{}, func(m *model) {
			m.service("web-1", "longshore.host=a.example.com,b.example.com", "longshore.path=/x")
			m.service("web-2", "longshore.enable=true")
			m.service("db-1")
		}, `
web /
  web-1 172.18.0.4:80 #1
  web-2 172.18.0.5:80 #1`},
		{"the newest says the routes", look{}, func(m *model) {
			m.service("web-1", "longshore.enable=true")
			m.service("web-2", "longshore.host=b.example.com,a.example.com", "longshore.path=/x")
		}, `
web a.example.com/x b.example.com/x
  web-1 172.18.0.4:80 #1
  web-2 172.18.0.5:80 #1`},
		{"a route twice", look{}, func(m *model) {
			m.service("old-1", "longshore.path=/x")
			m.service("new-1", "longshore.path=/x")
		}, `
new /x
  new-1 172.18.0.5:80 #1
old /x
  old-1 172.18.0.4:80 #1`},
		{"services that say to be one", look{project: "*"}, func(m *model) {
			m.service("blue-1", "longshore.service=shop", "longshore.host=shop.example.com")
			m.service("green-1", "longshore.service=shop", "longshore.host=shop.example.com")
			m.service("shop-1", "longshore.host=shop.example.com")
			m.create("other-web-1", append([]string{"longshore.service=shop", "longshore.path=/b"}, other...)...).on("demo_default")
			m.create("web", "longshore.service=shop", "longshore.path=/c").on("demo_default")
		}, `
container/shop /c
  web 172.18.0.8:80 #1
other/shop /b
  web-1 172.18.0.7:80 #1
shop shop.example.com/
  blue-1 172.18.0.4:80 #1
  green-1 172.18.0.5:80 #1
  shop-1 172.18.0.6:80 #1`},
		{"empty labels", look{}, func(m *model) {
			m.service("web-1", "longshore.host=")
			m.service("api-1", "longshore.port=80", "longshore.path=")
			m.service("ok-1", "longshore.port=80", "longshore.weight=")
		}, `
ok /
  ok-1 172.18.0.6:80 #1
skip demo-api-1: label longshore.path="": it is empty: perhaps a variable in the compose file is not set
skip demo-web-1: label longshore.host="": it is empty: perhaps a variable in the compose file is not set`},
		{"the same service in projects", look{project: "*"}, func(m *model) {
			m.service("web-1", "longshore.path=/a")
			m.create("other-web-1", append([]string{"longshore.path=/b"}, other...)...).on("demo_default")
			m.create("web", "longshore.path=/c").on("demo_default")
		}, `
container/web /c
  web 172.18.0.6:80 #1
other/web /b
  web-1 172.18.0.5:80 #1
web /a
  web-1 172.18.0.4:80 #1`},

		{"port from VIRTUAL_PORT", look{upstream: "web"}, func(m *model) {
			b := m.service("web-1")
			b.env, b.expose = []string{"SECRET=x", "VIRTUAL_PORT=8080"}, []int{1, 2}
		}, `
web /
  web-1 172.18.0.4:8080 #1`},
		{"port from label", look{upstream: "web:1"}, func(m *model) {
			m.service("web-1", "longshore.port=9").env = []string{"VIRTUAL_PORT=8080"}
		}, `
web /
  web-1 172.18.0.4:9 #1`},
		{"several ports", look{upstream: "web"}, func(m *model) {
			m.service("web-1").expose = []int{443, 80}
			m.service("web-2").expose = nil
			m.service("web-3").env = []string{"VIRTUAL_PORT=http"}
		}, `
web /
skip demo-web-1: no port: set label longshore.port (it exposes 80, 443)
skip demo-web-2: no port: set label longshore.port
skip demo-web-3: VIRTUAL_PORT="http": want a port from 1 to 65535`},
		{"down needs no port", look{upstream: "web"}, func(m *model) {
			b := m.service("web-1")
			b.expose, b.nets, b.status = nil, map[string]string{}, "exited"
		}, `
web /
  web-1 #0 down: exited (0)`},

		{"project's default network first", look{upstream: "web"}, func(m *model) {
			m.boxes["demo-proxy-1"].on("a")
			m.service("web-1").on("a")
		}, `
web /
  web-1 172.18.0.6:80 #1`},
		{"then by name", look{upstream: "web"}, func(m *model) {
			m.boxes["demo-proxy-1"].on("a", "b")
			b := m.service("web-1").on("a", "b")
			delete(b.nets, "demo_default")
		}, `
web /
  web-1 172.18.0.6:80 #1`},
		{"network of the label", look{upstream: "web", network: "b"}, func(m *model) {
			m.boxes["demo-proxy-1"].on("a", "b", "demo_c")
			m.service("web-1", "longshore.network=a").on("a", "b")
			m.service("web-2", "longshore.network=c").on("demo_c", "b")
			m.service("web-3").on("b")
		}, `
web /
  web-1 172.18.0.7:80 #1
  web-2 172.18.0.11:80 #1
  web-3 172.18.0.13:80 #1`},
		{"network of the proxy's project", look{upstream: "web", network: "front"}, func(m *model) {
			m.boxes["demo-proxy-1"].on("demo_front")
			m.service("web-1").on("demo_front")
			m.create("shop-web-1", projectLabel+"=shop", serviceLabel+"=web", numberLabel+"=1").on("demo_front", "demo_default")
		}, `
web /
  web-1 172.18.0.6:80 #1
skip shop-web-1: in project "shop": only "demo" is looked at (LONGSHORE_PROJECT)`},
		{"network of the proxy's project, for a backend of another", look{upstream: "web", project: "*", network: "front"}, func(m *model) {
			m.boxes["demo-proxy-1"].on("demo_front")
			m.create("shop-web-1", projectLabel+"=shop", serviceLabel+"=web", numberLabel+"=1").on("demo_default", "demo_front")
			m.create("shop-web-2", projectLabel+"=shop", serviceLabel+"=web", numberLabel+"=2", "longshore.network=front").on("demo_default", "demo_front")
			m.create("shop-web-3", projectLabel+"=shop", serviceLabel+"=web", numberLabel+"=3").on("demo_default")
		}, `
web /
  web-1 172.18.0.6:80 #1
  web-2 172.18.0.8:80 #1
skip shop-web-3: LONGSHORE_NETWORK="front": the proxy can reach it only through demo_default`},
		{"link of the proxy", look{upstream: "backend:5090, /x=legacy"}, func(m *model) {
			m.boxes["demo-proxy-1"].links = []string{"demo-web-1:backend", "demo-web-1:web-1", "old:legacy"}
			m.service("web-1")
			m.service("web-2") // made after the link
			m.service("db-1")
			m.create("old", projectLabel+"=demo").on("demo_default")
		}, `
backend /
  web-1 172.18.0.4:5090 #1
  web-2 172.18.0.5:5090 #1
legacy /x
  old 172.18.0.7:80 #1`},
		{"service before link", look{upstream: "db"}, func(m *model) {
			m.boxes["demo-proxy-1"].links = []string{"demo-web-1:db"}
			m.service("web-1")
			m.service("db-1")
		}, `
db /
  db-1 172.18.0.5:80 #1`},
		{"link of another container", look{upstream: "backend"}, func(m *model) {
			m.service("web-1").links = []string{"demo-web-1:backend"}
		}, `
backend /
skip backend: no compose service, container or network alias has this name in project "demo"`},
		{"extra host of the proxy", look{upstream: "legacy:8080, /y=other"}, func(m *model) {
			m.boxes["demo-proxy-1"].hosts = []string{"legacy:10.0.0.9", "old=fd00::9"}
			m.service("web-1").hosts = []string{"other:10.0.0.9"}
		}, `
legacy /
  legacy legacy:8080 #1
other /y
skip other: no compose service, container or network alias has this name in project "demo"`},
		{"network that is not shared", look{upstream: "web"}, func(m *model) {
			m.service("web-1", "longshore.network=x").on("x")
		}, `
web /
skip demo-web-1: label longshore.network="x": the proxy can reach it only through demo_default`},
		{"no shared network", look{upstream: "web"}, func(m *model) {
			b := m.service("web-1").on("b", "a")
			delete(b.nets, "demo_default")
		}, `
web /
skip demo-web-1: no network shared with the proxy: it is on a, b; the proxy is on demo_default`},
		{"IPv6 only", look{upstream: "web"}, func(m *model) {
			b := m.service("web-1")
			m.do("start demo-web-1")
			b.nets["demo_default"] = "fd00::3"
		}, `
web /
  web-1 [fd00::3]:80 #1`},
		{"host network, from a container", look{upstream: "web:80"}, func(m *model) {
			b := m.service("web-1")
			b.nets, b.mode = map[string]string{"host": ""}, "host"
		}, `
web /
  web-1 172.18.0.1:80 #1`},
		{"host network, from the host", look{upstream: "web:80", host: true}, func(m *model) {
			b := m.service("web-1")
			b.nets, b.mode = map[string]string{"host": ""}, "host"
		}, `
web /
  web-1 127.0.0.1:80 #1`},
		{"network of another container", look{upstream: "web:80"}, func(m *model) {
			vpn := m.create("vpn", projectLabel+"=other").on("demo_default")
			b := m.service("web-1")
			b.nets, b.mode = map[string]string{}, "container:"+vpn.id
		}, `
web /
  web-1 172.18.0.4:80 #1`},
		{"network of a container that is down", look{upstream: "web:80"}, func(m *model) {
			vpn := m.service("vpn-1")
			vpn.status = "exited"
			b := m.service("web-1")
			b.nets, b.mode = map[string]string{}, "container:"+vpn.id
		}, `
web /
skip demo-web-1: it uses the network of container 000000000000, which does not run`},
		{"on the host, bridge is near", look{upstream: "web", host: true}, func(m *model) {
			m.service("web-1")
			m.service("web-2").publish = map[int]string{80: "0.0.0.0:8080"}
		}, `
web /
  web-1 172.18.0.4:80 #1
  web-2 172.18.0.5:80 #1`},
		{"on the host, macvlan", look{upstream: "web", host: true}, func(m *model) {
			// lan is the network that the host itself is in, where it is 192.168.1.5 and a router is the gateway.
			for i, nets := range [][]string{{"a-lan", "demo_default"}, {"a-lan", "far"}, {"a-lan", "far"}} {
				b := m.service(fmt.Sprint("web-", i+1))
				b.nets = map[string]string{}
				b.on(nets...)
				b.gateways = map[string]string{"a-lan": "192.168.1.1"}
				if i == 1 {
					b.publish = map[int]string{80: "0.0.0.0:8080"}
				}
				m.do("start " + b.name)
				b.nets["a-lan"] = fmt.Sprint("192.168.1.2", i)
				if b.nets["far"] != "" {
					b.nets["far"] = fmt.Sprint("10.9.9.", i)
				}
			}
		}, `
web /
  web-1 172.18.0.4:80 #1
  web-2 127.0.0.1:8080 #1 relay
  web-3 192.168.1.22:80 #1`},
		{"on the host, macvlan that was asked for", look{upstream: "web", host: true, network: "a-lan"}, func(m *model) {
			b := m.service("web-1").on("a-lan")
			b.gateways = map[string]string{"a-lan": "192.168.1.1"}
			m.do("start " + b.name)
			b.nets["a-lan"] = "192.168.1.20"
		}, `
web /
  web-1 192.168.1.20:80 #1`},
		{"proxy in the host's network", look{upstream: "web"}, func(m *model) {
			b := m.boxes["demo-proxy-1"]
			b.mode, b.nets = "host", map[string]string{"host": ""}
			m.service("web-1")
		}, `
web /
  web-1 172.18.0.4:80 #1`},
		{"on the host, published", look{upstream: "web", host: true, engine: ""}, func(m *model) {
			for i, at := range []string{"0.0.0.0:8080", ":::8081", "192.0.2.9:8082", "127.0.0.1:8083", ":8084"} {
				b := m.service(fmt.Sprint("web-", i+1))
				b.nets, b.publish = map[string]string{"far": ""}, map[int]string{80: at}
				m.do("start " + b.name)
				b.nets["far"] = "10.9.9.9"
			}
			b := m.service("web-6").on()
			b.nets = map[string]string{"far": ""}
			m.do("start " + b.name)
			b.nets["far"] = "10.9.9.8"
			b = m.service("web-7", "longshore.port=81")
			b.nets, b.publish = map[string]string{"far": ""}, map[int]string{80: "0.0.0.0:1"}
			m.do("start " + b.name)
			b.nets["far"] = "10.9.9.7"
		}, `
web /
  web-1 127.0.0.1:8080 #1 relay
  web-2 [::1]:8081 #1 relay
  web-3 192.0.2.9:8082 #1 relay
  web-4 127.0.0.1:8083 #1 relay
  web-5 127.0.0.1:8084 #1 relay
skip demo-web-6: no address that the host can reach: it is on far and publishes no port
skip demo-web-7: the host cannot reach its address, and port 81 is not published`},
		{"on the host, published, checked on another port", look{upstream: "web", host: true, engine: ""}, func(m *model) {
			for i, ports := range []map[int]string{{80: ":8080", 81: ":8081"}, {80: ":8082"}} {
				b := m.service(fmt.Sprint("web-", i+1), "longshore.health.port=81")
				b.nets, b.publish = map[string]string{"far": ""}, ports
				m.do("start " + b.name)
				b.nets["far"] = "10.9.9.9"
			}
		}, `
web /
  web-1 127.0.0.1:8080 #1 relay checked at 127.0.0.1:8081
skip demo-web-2: health check: the host cannot reach its address, and port 81 is not published`},
		{"engine elsewhere", look{upstream: "web", host: true, engine: "docker.example.com"}, func(m *model) {
			m.service("web-1").publish = map[int]string{80: "0.0.0.0:8080"}
			m.service("web-2").publish = map[int]string{80: "127.0.0.1:8080"}
			b := m.service("web-3")
			b.nets, b.mode = map[string]string{"host": ""}, "host"
		}, `
web /
  web-1 docker.example.com:8080 #1 relay
  web-3 docker.example.com:80 #1
skip demo-web-2: no address that the host can reach: it is on demo_default and publishes no port`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := newModel()
			m.service("proxy-1")
			test.make(m)
			for i := 1; i <= m.lastID; i++ { // in the order they were made
				for name, b := range m.boxes {
					if b.id == fmt.Sprintf("%064x", 0xabc000+i) && b.status == "created" {
						m.do("start " + name)
						if b.mode == "host" {
							clear(b.nets)
							b.nets["host"] = ""
						}
					}
				}
			}
			d := drive(t, m, world{view: test.look.view(t), local: []netip.Prefix{
				netip.MustParsePrefix("172.18.0.1/16"), netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("192.168.1.5/24"),
			}})
			if got, want := strings.TrimSpace(see(d.w)), strings.TrimSpace(test.want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// The gateways are those of the networks that the proxy is on, as its own inspect has them.
func TestGateways(t *testing.T) {
	const v4, v6 = "172.18.0.1", "fd00::1"
	tests := []struct {
		name   string
		change func(m *model, proxy *box)
		want   string
	}{
		{"one network", func(*model, *box) {}, v4},
		{"two with one gateway, one with IPv6", func(m *model, proxy *box) {
			m.do("connect demo-proxy-1 a")
			proxy.nets["six"] = "fd00::2"
		}, v4 + " " + v6},
		{"of the container that lends its network", func(m *model, proxy *box) {
			vpn := m.create("vpn").on("six")
			m.do("start vpn")
			vpn.nets["six"] = "fd00::2"
			proxy.mode, proxy.nets = "container:"+vpn.id, map[string]string{}
		}, v6},
		{"internal network", func(m *model, proxy *box) { proxy.nets = map[string]string{"inner": ""} }, ""},
		{"host's network", func(m *model, proxy *box) { proxy.mode, proxy.nets = "host", map[string]string{"host": ""} }, ""},
		{"on the host", func(m *model, proxy *box) { delete(m.boxes, proxy.name) }, ""},
	}
	for _, test := range tests {
		m := demo()
		test.change(m, m.boxes["demo-proxy-1"])
		d := drive(t, m, world{view: upstream(t, "web")})
		st, _ := d.w.state()
		if got := strings.Trim(fmt.Sprint(st.Gateways), "[]"); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}

	d := drive(t, demo(), world{view: upstream(t, "web")})
	d.play("disconnect demo-proxy-1 demo_default")
	if st, _ := d.w.state(); len(st.Gateways) > 0 {
		t.Errorf("after the network was lost: %v", st.Gateways)
	}
}

// TestHint: a port that the image does not expose is a likely mistake; one that it exposes, or that it says nothing
// of, is none. The start period of the HEALTHCHECK is passed on.
func TestHint(t *testing.T) {
	for _, c := range []struct {
		upstream string
		expose   []int
		want     string
	}{
		{"web:8080", []int{5090}, "its image exposes 5090: set LONGSHORE_UPSTREAM or label longshore.port"},
		{"web:8080", []int{443, 80}, "its image exposes 80, 443: set LONGSHORE_UPSTREAM or label longshore.port"},
		{"web:8080", []int{80, 8080}, ""},
		{"web:8080", nil, ""},
		{"web", []int{80}, ""},
	} {
		m := demo()
		m.boxes["demo-web-1"].expose = c.expose
		m.boxes["demo-web-1"].startPeriod = 5 * time.Minute
		st, _ := drive(t, m, world{view: upstream(t, c.upstream)}).w.state()
		e := st.Services[0].Endpoints[0]
		if e.Hint != c.want || e.Starts != 5*time.Minute {
			t.Errorf("%s, exposed %v: hint %q, may take %v; want %q and 5m", c.upstream, c.expose, e.Hint, e.Starts, c.want)
		}
	}
}

// TestIdleLabels: labels that do nothing are named.
func TestIdleLabels(t *testing.T) {
	for _, c := range []struct {
		look look
		want []string
	}{
		{look{upstream: "web:80"}, []string{
			"demo-web-1: no effect beside LONGSHORE_UPSTREAM: longshore.admin.port, longshore.host, longshore.path, longshore.service, longshore.strip",
			"demo-api-1: its longshore labels have no effect: LONGSHORE_UPSTREAM does not choose it",
		}},
		{look{label: "x"}, []string{
			"demo-web-1: its longshore labels have no effect: LONGSHORE_LABEL does not choose it",
			"demo-api-1: no effect beside LONGSHORE_LABEL: longshore.host",
		}},
		{look{}, nil},
	} {
		m := newModel()
		m.service("proxy-1")
		m.service("web-1", "longshore.host=a", "longshore.path=/x", "longshore.strip=true", "longshore.weight=2", "longshore.service=x", "longshore.admin.port=1")
		m.service("web-2", "longshore.weight=2", "longshore.port=80")
		m.service("api-1", "longshore.host=b", "x=")
		m.service("db-1")
		m.service("off-1", "longshore.enable=false", "longshore.host=c")
		m.start()
		_, notes := drive(t, m, world{view: c.look.view(t)}).w.state()
		var got []string
		for _, n := range notes {
			if n.level == slog.LevelWarn {
				got = append(got, n.container+": "+n.text)
			}
		}
		if c.look.label != "" { // web-2 too has labels, and is not chosen
			got = slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "demo-web-2") })
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v:\ngot  %q\nwant %q", c.look, got, c.want)
		}
	}
}

// TestLongLabels: what containers say is not repeated at any length.
func TestLongLabels(t *testing.T) {
	long := strings.Repeat("x", 600_000)
	m := newModel()
	m.service("proxy-1")
	for i, l := range []string{"longshore.host=", "longshore.path=", "longshore.network=", "longshore.port=", "longshore.", "longshore.service=", "longshore.balancer=", "longshore.sticky="} {
		m.service(fmt.Sprint("web-", i+1), "longshore.health.path=/", l+long)
	}
	m.service("hash-1", "longshore.balancer=hash $host"+long)
	m.service("virtual-4").env = []string{"VIRTUAL_HOST=a", "VIRTUAL_PATH=/" + long[:4000]}
	m.service("virtual-1").env = []string{"VIRTUAL_HOST=a", "VIRTUAL_PORT=" + long}
	m.service("virtual-2").env = []string{"VIRTUAL_HOST=" + long}
	m.service("virtual-3", balanceLabel+"="+long).env = []string{"VIRTUAL_HOST=a", "VIRTUAL_PORT=80"}
	m.create("named", projectLabel+"="+long, serviceLabel+"="+long, numberLabel+"="+long, "longshore.port=80").on("demo_default")
	m.start()
	st, notes := drive(t, m, world{view: look{project: "*"}.view(t)}).w.state()
	if len(st.Skipped) < 8 {
		t.Errorf("only %d containers are skipped", len(st.Skipped))
	}
	if n := len(describe(st)); n > 20_000 {
		t.Errorf("the state takes %d bytes", n)
	}
	for _, s := range st.Services {
		if len(s.Name) > 1000 || len(s.Settings.Balancer.String()) > 1000 {
			t.Errorf("service %.50s…: a name of %d bytes", s.Name, len(s.Name))
		}
	}
	for _, n := range notes {
		if len(n.text)+len(n.container) > 1000 {
			t.Errorf("%.50s…: a note of %d bytes", n.text, len(n.text))
		}
	}
}

// Containers of other projects are many, and come and go: one line says that there are some, whatever they
// are and whatever their labels say.
func TestForeignLog(t *testing.T) {
	for _, test := range []struct {
		name   string
		look   look
		labels []string // of the other project's containers
	}{
		{"of the upstream's name", look{upstream: "web"}, nil},
		{"with labels", look{}, []string{"longshore.port=80", "longshore.pot=80", "longshore.Host=a.example"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := demo()
			for i := range 20 {
				m.create(fmt.Sprint("other-web-", i), append(test.labels, projectLabel+"=other", serviceLabel+"=web")...)
			}
			// A label that is not known chooses nobody.
			m.create("odd", projectLabel+"=other", serviceLabel+"=odd", "longshore.pot=80")
			m.create("alone", "longshore.bench.1")
			st, notes := drive(t, m, world{view: test.look.view(t)}).w.state()
			if got := len(st.Skipped); got != 20 {
				t.Errorf("%d skipped, want all 20", got)
			}
			var told []string
			for _, n := range notes {
				if n.level >= slog.LevelInfo {
					told = append(told, n.container+n.text)
				}
			}
			told = slices.Compact(told) // as the log does
			const want = `containers of other projects than "demo" match too and are not used (LONGSHORE_PROJECT); /api/state lists them`
			if len(told) != 1 || told[0] != want {
				t.Errorf("the log has %q, want %q alone", told, want)
			}
		})
	}
}
