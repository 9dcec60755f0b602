package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"longshore/discovery"
	"longshore/internal/config"
	"longshore/internal/dockertest"
)

// Tests beside nginx: what is written for both must do the same with both.

// nginx starts an nginx whose http block has these lines, with ADDR for where it is to listen, and returns
// that address. Without an nginx on the machine the test is skipped; with CI=true that is a failure.
func nginx(t *testing.T, http string) (addr string) {
	t.Helper()
	binary, err := exec.LookPath("nginx")
	if err != nil {
		if binary = "/usr/sbin/nginx"; os.Getenv("CI") == "true" && exec.Command(binary, "-v").Run() != nil {
			t.Fatal("no nginx is there")
		} else if exec.Command(binary, "-v").Run() != nil {
			t.Skip("no nginx is there")
		}
	}
	dir := t.TempDir()
	addr = reservePort(t)
	conf := `daemon off; master_process off; pid ` + dir + `/pid; error_log ` + dir + `/error.log;
events { worker_connections 256; }
http {
	access_log off; keepalive_requests 1000000; absolute_redirect off;
	proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Connection "";
` + strings.ReplaceAll(http, "ADDR", addr) + "\n}\n"
	for _, what := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		conf = strings.Replace(conf, "http {", "http {\n\t"+what+"_temp_path "+dir+"/"+what+";", 1)
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-p", dir, "-e", dir+"/error.log", "-c", file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			log, _ := os.ReadFile(dir + "/error.log")
			t.Logf("nginx says: %s", log)
		}
	})
	dockertest.Wait(t, "nginx to listen", func() bool {
		select {
		case err := <-ended:
			ended <- err
			log, _ := os.ReadFile(dir + "/error.log")
			t.Fatalf("nginx ended: %v %s%s", err, stderr.Bytes(), log)
		default:
		}
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return addr
}

// serveStatic runs Longshore in this process for services that do not change, and returns its address.
func serveStatic(t *testing.T, services []discovery.Service, environ ...string) (addr string) {
	t.Helper()
	addr = reservePort(t)
	cfg, _, err := config.Load(append(environ, "LONGSHORE_LISTEN="+addr, "LONGSHORE_ADMIN=", "LONGSHORE_ACCESS_LOG=off"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range services {
		services[i].Settings = cfg.Settings
		for j := range services[i].Endpoints {
			services[i].Endpoints[j].Check = cfg.Settings.Health
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		p := newProgram(cfg, io.Discard, io.Discard)
		defer p.lines.end(0)
		ended <- p.wire(ctx, discovery.Static{Services: services})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return addr
}

// A raw is a client that sends request targets as they are.
type raw struct {
	t    *testing.T
	addr string
	c    net.Conn
	r    *bufio.Reader
}

// get returns status, the redirect's target if it is one, else the body.
func (c *raw) get(host, target string) string {
	c.t.Helper()
	if c.c == nil {
		var err error
		if c.c, err = net.Dial("tcp", c.addr); err != nil {
			c.t.Fatal(err)
		}
		conn := c.c
		c.t.Cleanup(func() { conn.Close() })
		c.r = bufio.NewReader(c.c)
	}
	fmt.Fprintf(c.c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, host)
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("%s%s: %v", host, target, err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("%s%s: %v", host, target, err)
	}
	if res.Close {
		c.c.Close()
		c.c = nil
	}
	switch {
	case res.StatusCode/100 == 3:
		return fmt.Sprint(res.StatusCode, " ", strings.TrimSuffix(res.Header.Get("Location"), "?")) // nginx drops an empty query
	case res.StatusCode != 200:
		return fmt.Sprint(res.StatusCode)
	}
	return "200 " + string(body)
}

// A place is one route in nginx's words: a location, and what stands behind the address in proxy_pass.
type place struct{ host, location, uri string }

// route is the same in ours.
func (p place) route() string {
	host := p.host
	if host != "" {
		host += " "
	}
	return host + strings.TrimSpace(p.location)
}

// both starts nginx and Longshore with the same routes, each of which leads to an origin that says which
// one it is and what it was asked for.
func both(t *testing.T, places []place) (ours, theirs *raw) {
	t.Helper()
	var services []discovery.Service
	servers := make(map[string]string) // by host
	var hosts []string
	var list []string
	var origins []string
	for i, p := range places {
		addr := origin(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%d %s", i, r.RequestURI) })
		list = append(list, p.route()+"="+addr+p.uri)
		origins = append(origins, addr)
		if _, ok := servers[p.host]; !ok {
			hosts = append(hosts, p.host)
		}
		servers[p.host] += fmt.Sprintf("\t\tlocation %s { proxy_pass http://%s%s; }\n", p.location, addr, p.uri)
	}
	cfg, _, err := config.Load([]string{"LONGSHORE_UPSTREAM=" + strings.Join(list, ", ")})
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range cfg.Upstream {
		services = append(services, discovery.Service{Name: fmt.Sprint("service", i), Routes: []discovery.Route{d.Route}, Endpoints: []discovery.Endpoint{{
			Key: discovery.Key{ID: origins[i], Run: 1, Port: d.Port}, Name: origins[i], Addr: origins[i], Server: discovery.Server{Weight: 1},
		}}})
	}
	var conf strings.Builder
	for _, h := range hosts {
		listen, name := "ADDR", h
		if h == "" {
			listen, name = "ADDR default_server", "_"
		}
		fmt.Fprintf(&conf, "\tserver {\n\t\tlisten %s; server_name %q;\n%s\t}\n", listen, name, servers[h])
	}
	if _, ok := servers[""]; !ok {
		conf.WriteString("\tserver { listen ADDR default_server; return 404; }\n")
	}
	return &raw{t: t, addr: serveStatic(t, services)}, &raw{t: t, addr: nginx(t, conf.String())}
}

// TestNginxRoutes asks both the same things, and wants the same route to be taken, and the origin to be
// asked for the same: byte for byte where nothing is replaced, and else for what means the same, since
// nginx sends such a path decoded and encoded again.
func TestNginxRoutes(t *testing.T) {
	places := []place{
		{"", "/", ""},
		{"", "/api/", "/"},
		{"", "/api/v1/", ""},
		{"", "/app/", "/v2/"},
		{"", "= /exact", ""},
		{"", "= /api/", "/index"},
		{"", "^~ /adm", ""},
		{"", "^~ /cut", "/v3"},
		{"", `~ \.png$`, ""},
		{"", `~* ^/(img|pic)/`, ""},
		{"a.example.com", "/", ""},
		{"a.example.com", "/api", ""},
		{"a.example.com", "/api/v1", "/v1"},
		{"*.example.com", "/", ""},
		{"*.b.example.com", "/", "/b/"},
		{"www.*", "/", ""},
		{"www.example.*", "/", ""},
		{`~^W1\d\.`, "/", ""},
		{`~^w\d+\.`, "/", ""},
		{`~example\.org$`, "/", ""},
	}
	ours, theirs := both(t, places)
	rnd := rand.New(rand.NewPCG(1, 1))
	pick := func(of ...string) string { return of[rnd.IntN(len(of))] }
	refused, took := 0, make(map[string]int)
	for range 4000 {
		host := pick("x", "A.example.com", "a.example.com.", "a.example.com:8080", "b.example.com", "x.b.example.com", "y.x.b.example.com",
			"www.example.com", "www.example.net", "www.other.net:80", "example.com", "w1.org", "w12.example.org", "W12.org", "example.org", "[::1]:80", "1.2.3.4")
		target := ""
		for range rnd.IntN(5) {
			target += pick("/", "/", "/", "/", "//", "%2F") +
				pick("api", "api", "%61pi", "v1", "app", "exact", "img", "IMG", "a.png", "A.PNG", "a%20b", "adm", "admin", "adm;x", "adm.png", "cut", "cut%20b", "cut;a.png", ".", "..", "%2e%2e", "", "x", "x|y", "a;b", "%C3%A4", "+")
		}
		if target = target + pick("", "", "/"); !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
		target += pick("", "", "?", "?a=b", "?/../x&c=%2F")
		got, want := ours.get(host, target), theirs.get(host, target)
		if strings.HasPrefix(want, "400") { // nginx refuses a path that leaves the root
			refused++
			continue
		}
		if offBorder(places, target) {
			continue
		}
		took[strings.SplitN(want, " ", 3)[1]]++
		if got != want && !sameAsked(places, got, want) && !keepsPrefix(places, got, want) {
			t.Errorf("%s %s:\n got %s\nwant %s", host, target, got, want)
		}
	}
	if refused > 1000 {
		t.Errorf("nginx refused %d requests: the others say little", refused)
	}
	for i := range places {
		if took[fmt.Sprint(i)] == 0 {
			t.Errorf("no request took %+v", places[i])
		}
	}
}

// offBorder reports whether a path has a location's prefix, and goes on in the middle of a segment: that is
// where we differ on purpose, see TestNginxDeviations.
func offBorder(places []place, target string) bool {
	p, _, _ := strings.Cut(target, "?")
	p, _ = url.PathUnescape(p)
	p = path.Clean(p) + "/"
	for _, l := range places {
		if prefix := l.location; prefix[0] == '/' && !strings.HasSuffix(prefix, "/") && strings.HasPrefix(p, prefix) && !strings.HasPrefix(p, prefix+"/") {
			return true
		}
	}
	return false
}

// keepsPrefix reports whether nginx sends the client to a location with a slash at its end, where we let a
// service answer that has the prefix itself.
func keepsPrefix(places []place, got, want string) bool {
	from := 0
	n, _ := fmt.Sscanf(got, "200 %d", &from)
	return n == 1 && strings.HasPrefix(want, "301 ") && places[from].uri == "" && strings.HasSuffix(places[from].location, "/")
}

// sameAsked reports whether two answers come from the same place, that was asked for paths that mean the
// same, where the place has another path for its own.
func sameAsked(places []place, got, want string) bool {
	var from [2]int
	var asked [2]string
	for i, answer := range []string{got, want} {
		if n, _ := fmt.Sscanf(answer, "200 %d", &from[i]); n != 1 {
			return false
		}
		target := strings.SplitN(answer, " ", 3)[2]
		p, query, _ := strings.Cut(target, "?")
		p, err := url.PathUnescape(p)
		if err != nil {
			return false
		}
		slash := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")
		if p = path.Clean(p); slash && p != "/" {
			p += "/"
		}
		asked[i] = p + "?" + query
	}
	return from[0] == from[1] && places[from[0]].uri != "" && asked[0] == asked[1]
}

// TestNginxDeviations is where we differ from nginx on purpose.
func TestNginxDeviations(t *testing.T) {
	ours, theirs := both(t, []place{
		{"", "/", ""},
		{"", "/api", ""},
		{"", "/strip", "/"},
		{"", "/slash/", ""},
		{"", "/v1/", "/v2"},
		{"", "/app/", "/"},
		{"a.example.com", "/api", ""},
	})
	for _, c := range []struct{ why, host, target, ours, theirs string }{
		{"a prefix ends where a segment does", "x", "/apis", "200 0 /apis", "200 1 /apis"},
		{"so no slash is doubled", "x", "/strip/x", "200 2 /x", "200 2 //x"},
		{"and none is lost", "x", "/v1/x", "200 4 /v2/x", "200 4 /v2x"},
		{"a path that is rewritten keeps its encoding", "x", "/strip/a%2Fb%7C|", "200 2 /a%2Fb%7C|", "200 2 //a/b%7C%7C"},
		{"a service that keeps its prefix answers for it", "x", "/slash", "200 3 /slash", "301 /slash/"},
		{"one that does not cannot", "x", "/app?q", "301 /app/?q", "301 /app/?q"},
		{"a host that has no route for a path leaves it to those that are less exact", "a.example.com", "/x", "200 0 /x", "404"},
		{"a path that leaves the root is at the root", "x", "/../api", "200 1 /../api", "400"},
	} {
		if got := ours.get(c.host, c.target); got != c.ours {
			t.Errorf("%s: ours answers %s%s with %q, want %q", c.why, c.host, c.target, got, c.ours)
		}
		if got := theirs.get(c.host, c.target); got != c.theirs {
			t.Errorf("%s: nginx answers %s%s with %q, want %q", c.why, c.host, c.target, got, c.theirs)
		}
	}
}
