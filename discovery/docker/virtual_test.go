package docker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// site makes a container of another project, in a network that it shares with the proxy, with an
// environment as nginx-proxy's users write it.
func (m *model) site(name string, env ...string) *box {
	b := m.create(name, projectLabel+"="+name, serviceLabel+"=app", numberLabel+"=1").on("shared")
	b.env = append([]string{"SECRET=x"}, env...)
	return b
}

// start starts all that is only created, in the order it was made.
func (m *model) start() {
	names := make([]string, 0, len(m.boxes))
	for name, b := range m.boxes {
		if b.status == "created" {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(m.boxes[a].id, m.boxes[b].id) })
	for _, name := range names {
		m.do("start " + name)
	}
}

// TestVirtualHosts: the proxy, at 172.18.0.3 and .4, is in its project's network and in one that is shared.
func TestVirtualHosts(t *testing.T) {
	for _, test := range []struct {
		name string
		look look
		make func(m *model)
		want string
	}{
		{"containers of every project", look{}, func(m *model) {
			m.site("a", "VIRTUAL_HOST=a.example.com")
			m.site("b", "VIRTUAL_HOST=b.example.com,*.b.example.com", "VIRTUAL_PORT=8080").expose = []int{1, 2}
			m.site("c")
		}, `
*.b.example.com *.b.example.com/
  app-1 172.18.0.6:8080 #1
a.example.com a.example.com/
  app-1 172.18.0.5:80 #1
b.example.com b.example.com/
  app-1 172.18.0.6:8080 #1`},
		{"a pool of several services", look{}, func(m *model) {
			m.site("a", "VIRTUAL_HOST=a.example.com")
			m.site("b", "VIRTUAL_HOST=a.example.com", "NETWORK_ACCESS=internal")
			m.create("c").on("shared").env = []string{"VIRTUAL_HOST=A.example.com"}
		}, `
a.example.com a.example.com/ internal
  a/app-1 172.18.0.5:80 #1
  b/app-1 172.18.0.6:80 #1
  c 172.18.0.7:80 #1`},
		{"ports", look{}, func(m *model) {
			m.site("a", "VIRTUAL_HOST=a").expose = []int{8000}
			m.site("b", "VIRTUAL_HOST=b").expose = []int{8000, 9000}
			m.site("c", "VIRTUAL_HOST=c").expose = nil
			m.site("d", "VIRTUAL_HOST=d", "VIRTUAL_PORT=x")
			m.site("e", "VIRTUAL_HOST_MULTIPORTS={www.e: {/: {port: 1}, /api/: {port: 2, dest: /}}, e: }").expose = []int{7}
		}, `
a a/
  app-1 172.18.0.5:8000 #1
b b/
  app-1 172.18.0.6:80 #1
c c/
  app-1 172.18.0.7:80 #1
e e/
  app-1 172.18.0.9:7 #1
www.e www.e/
  app-1 172.18.0.9:1 #1
www.e/api www.e/api/->/
  app-1 172.18.0.9:2 #1
skip d: VIRTUAL_PORT="x": want a port from 1 to 65535`},
		{"paths", look{}, func(m *model) {
			m.site("a", "VIRTUAL_HOST=x", "VIRTUAL_PATH=/app1/", "VIRTUAL_DEST=/")
			m.site("b", "VIRTUAL_HOST=x", "VIRTUAL_PATH=/")
			m.site("c", "VIRTUAL_HOST=x", "VIRTUAL_PATH=~^/(c|d)/")
		}, `
x x/
  app-1 172.18.0.6:80 #1
x ~^/(c|d)/ x ~^/(c|d)/
  app-1 172.18.0.7:80 #1
x/app1 x/app1/->/
  app-1 172.18.0.5:80 #1`},
		{"what cannot be used", look{}, func(m *model) {
			m.site("a", "VIRTUAL_HOST=a", "VIRTUAL_PROTO=https")
			m.site("b", "VIRTUAL_HOST=b").nets = map[string]string{"elsewhere": ""}
			m.site("c", "VIRTUAL_HOST=~(")
		}, `
skip a: VIRTUAL_PROTO="https": not built yet: want http
skip b: no network shared with the proxy: it is on elsewhere; the proxy is on demo_default, shared
skip c: VIRTUAL_HOST="~(": regular expression: missing closing ): "(" (RE2: no lookaround, no backreferences)`},
		{"labels count more", look{}, func(m *model) {
			m.service("web-1", "longshore.host=label.example.com").env = []string{"VIRTUAL_HOST=a"}
			m.service("api-1", "longshore.port=8080", "longshore.weight=3").env = []string{"VIRTUAL_HOST=b", "VIRTUAL_PORT=1"}
			m.service("off-1", "longshore.enable=false").env = []string{"VIRTUAL_HOST=c"}
			m.service("bad-1", "longshore.weight=x").env = []string{"VIRTUAL_HOST=c"}
		}, `
b b/
  api-1 172.18.0.6:8080 #1 weight 3
web label.example.com/
  web-1 172.18.0.5:80 #1
skip demo-bad-1: label longshore.weight="x": want a whole number from 1 to 65535
skip demo-off-1: label longshore.enable=false`},
		{"only who is asked for", look{upstream: "web"}, func(m *model) {
			m.service("web-1").env = []string{"VIRTUAL_HOST=a"}
			m.site("a", "VIRTUAL_HOST=a.example.com")
		}, `
web /
  web-1 172.18.0.5:80 #1`},
		{"only one project", look{project: "b"}, func(m *model) {
			m.site("a", "VIRTUAL_HOST=a.example.com")
			m.site("b", "VIRTUAL_HOST=b.example.com")
		}, `
b.example.com b.example.com/
  app-1 172.18.0.6:80 #1`},
		{"default host", look{defaultHost: "a.example.com"}, func(m *model) {
			m.site("a", "VIRTUAL_HOST=a.example.com")
			m.site("b", "VIRTUAL_HOST=a.example.com", "VIRTUAL_PATH=/b")
			m.site("c", "VIRTUAL_HOST=c.example.com")
		}, `
a.example.com / a.example.com/
  app-1 172.18.0.5:80 #1
a.example.com/b /b a.example.com/b
  app-1 172.18.0.6:80 #1
c.example.com c.example.com/
  app-1 172.18.0.7:80 #1`},
		{"one that is down", look{}, func(m *model) {
			m.site("a", "VIRTUAL_HOST=a").status = "exited"
		}, `
a a/
  app-1 #0 down: exited (0)`},
		{"the newest says the rest", look{}, func(m *model) {
			m.site("a", "VIRTUAL_HOST=a", "VIRTUAL_PATH=/x", "VIRTUAL_DEST=/old")
			m.site("b", "VIRTUAL_HOST=a", "VIRTUAL_PATH=/x/", "VIRTUAL_DEST=/new")
		}, `
a/x a/x/->/new
  a/app-1 172.18.0.5:80 #1
  b/app-1 172.18.0.6:80 #1`},
		{"a label wants the route too", look{}, func(m *model) {
			m.service("web-1", "longshore.host=a")
			m.site("a", "VIRTUAL_HOST=a")
		}, `
a a/
  app-1 172.18.0.6:80 #1
web a/
  web-1 172.18.0.5:80 #1`},

		{"several services of one container", look{}, func(m *model) {
			m.service("web-1", "longshore.port=8080", "longshore.host=a.example.com",
				"longshore.admin.port=9000", "longshore.admin.host=admin.example.com", "longshore.admin.path=/x/", "longshore.admin.strip=true", "longshore.admin.weight=2")
			m.service("web-2", "longshore.port=8080", "longshore.host=a.example.com")
		}, `
web a.example.com/
  web-1 172.18.0.5:8080 #1
  web-2 172.18.0.6:8080 #1
web:admin admin.example.com/x/->/
  web-1 172.18.0.5:9000 #1 weight 2`},
		{"only named services", look{}, func(m *model) {
			m.service("web-1", "longshore.max_fails=1", "longshore.a.port=1", "longshore.a.path=/a", "longshore.b.port=2", "longshore.b.path=/b", "longshore.b.enable=false")
		}, `
web:a /a
  web-1 172.18.0.5:1 #1`},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newModel()
			m.service("proxy-1").on("shared")
			test.make(m)
			m.start()
			d := drive(t, m, world{view: test.look.view(t)})
			if got, want := strings.TrimSpace(see(d.w)), strings.TrimSpace(test.want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestEnvironmentIsNotKept: of a container's environment nothing is remembered but what nginx-proxy reads.
func TestEnvironmentIsNotKept(t *testing.T) {
	m := newModel()
	m.service("proxy-1").on("shared")
	m.site("a", "VIRTUAL_HOST=a", "PASSWORD=hunter2").env = append(m.boxes["a"].env, "VIRTUAL_ROOT=hunter2")
	m.start()
	d := drive(t, m, world{view: look{}.view(t)})
	for _, c := range d.w.containers {
		if text := fmt.Sprintf("%+v", *c); strings.Contains(text, "hunter2") || strings.Contains(text, "SECRET") {
			t.Errorf("%s is remembered with its environment: %s", c.name, text)
		}
	}
}

func TestBalanceLabel(t *testing.T) {
	for _, c := range []struct{ loadbalance, ours, want, note string }{
		{"", "", "least_conn", ""},
		{"round_robin;", "", "round_robin", ""},
		{"least_conn;", "random", "random", ""},
		{"fair;", "", "least_conn", `label com.github.nginx-proxy.nginx-proxy.loadbalance="fair;", ignored: unknown balancing policy "fair"`},
	} {
		m := newModel()
		m.service("proxy-1").on("shared")
		b := m.site("a", "VIRTUAL_HOST=a")
		if b.labels[balanceLabel] = c.loadbalance; c.ours != "" {
			b.labels["longshore.balancer"] = c.ours
		}
		m.start()
		st, notes := drive(t, m, world{view: look{}.view(t)}).w.state()
		if got := st.Services[0].Settings.Balancer.String(); got != c.want {
			t.Errorf("%q and %q: %s, want %s", c.loadbalance, c.ours, got, c.want)
		}
		if c.note == "" && len(notes) > 0 || c.note != "" && (len(notes) != 1 || !strings.HasPrefix(notes[0].text, c.note)) {
			t.Errorf("%q: notes %v, want %s", c.loadbalance, notes, c.note)
		}
	}
}

// TestRecreateKeepsAge: a service whose containers are recreated stays as old as it was, so that its routes stay
// its own; also if it was away at a list, but not for ever.
func TestRecreateKeepsAge(t *testing.T) {
	m := newModel()
	m.service("proxy-1")
	m.service("old-1", "longshore.path=/x")
	m.service("new-1", "longshore.path=/x")
	m.start()
	d := drive(t, m, world{view: look{}.view(t)})
	oldest := func() string {
		st, _ := d.w.state()
		oldest := st.Services[0]
		for _, s := range st.Services {
			if s.Since.Before(oldest.Since) {
				oldest = s
			}
		}
		return oldest.Name
	}
	again := func() {
		m.service("old-1", "longshore.path=/x")
		d.deliver()
		d.answer()
		d.play("start demo-old-1")
	}
	for _, how := range []struct {
		name string
		do   func()
		want string
	}{
		{"start first, as compose v2", func() {
			m.service("old-2", "longshore.path=/x")
			d.deliver()
			d.answer()
			d.play("signal demo-old-1 15", "exit demo-old-1 0", "destroy demo-old-1", "start demo-old-2", "rename demo-old-2 demo-old-1")
		}, "old"},
		{"stop first", func() {
			d.play("signal demo-old-1 15", "exit demo-old-1 0", "destroy demo-old-1")
			again()
		}, "old"},
		{"away at lists, for 59 minutes", func() {
			d.play("exit demo-old-1 0", "destroy demo-old-1")
			d.relist(0)
			d.now = d.now.Add(59 * time.Minute)
			d.relist(0)
			again()
		}, "old"},
		{"away for an hour", func() {
			d.relist(0)
			d.play("exit demo-old-1 0", "destroy demo-old-1")
			d.now = d.now.Add(time.Hour)
			d.relist(0)
			again()
		}, "new"},
	} {
		how.do()
		if got := oldest(); got != how.want {
			t.Errorf("recreated, %s: the oldest is %s, want %s\n%s", how.name, got, how.want, see(d.w))
		}
		d.relist(0)
		d.answer()
		if got := oldest(); got != how.want {
			t.Errorf("recreated, %s, and listed: the oldest is %s, want %s", how.name, got, how.want)
		}
	}
}

// TestStrangers: a host that several projects share is worth a word.
func TestStrangers(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(m *model)
		want []string
	}{
		{"a longer path in another project", func(m *model) {
			m.service("web-1", "longshore.host=shop.example.com")
			m.create("evil", projectLabel+"=x", serviceLabel+"=evil", "longshore.host=shop.example.com", "longshore.path=/login").on("demo_default")
		}, []string{`evil: route shop.example.com/login is of a host that another project's service "web" answers to`}},
		{"a longer path, without projects", func(m *model) {
			m.create("web", "longshore.host=shop.example.com").on("demo_default")
			m.create("evil", "longshore.host=shop.example.com", "longshore.path=/login").on("demo_default")
		}, []string{`evil: route shop.example.com/login is of a host that another project's service "web" answers to`}},
		{"a longer path in one project", func(m *model) {
			m.service("web-1", "longshore.host=shop.example.com")
			m.service("api-1", "longshore.host=shop.example.com", "longshore.path=/api")
		}, nil},
		{"any host", func(m *model) {
			m.create("web", "longshore.path=/").on("demo_default")
			m.create("api", "longshore.path=/api").on("demo_default")
		}, nil},
		{"the same route", func(m *model) { // the data plane says that
			m.create("web", "longshore.host=shop.example.com").on("demo_default")
			m.create("evil", "longshore.host=shop.example.com").on("demo_default")
		}, nil},
		{"a virtual host of two projects", func(m *model) {
			m.create("a", projectLabel+"=a", serviceLabel+"=app").on("demo_default").env = []string{"VIRTUAL_HOST=shop.example.com"}
			m.create("b", projectLabel+"=b", serviceLabel+"=app").on("demo_default").env = []string{"VIRTUAL_HOST=shop.example.com"}
			m.create("c", projectLabel+"=b", serviceLabel+"=api").on("demo_default").env = []string{"VIRTUAL_HOST=shop.example.com", "VIRTUAL_PATH=/api"}
		}, []string{"shop.example.com: containers of several projects share this virtual host: a, b",
			`shop.example.com/api: route shop.example.com/api is of a host that another project's service "shop.example.com" answers to`}},
	} {
		m := newModel()
		m.service("proxy-1")
		c.make(m)
		m.start()
		_, notes := drive(t, m, world{view: look{project: "*"}.view(t)}).w.state()
		var got []string
		for _, n := range notes {
			got = append(got, n.container+": "+n.text)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
