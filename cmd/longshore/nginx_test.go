package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"longshore/internal/dockertest"
)

// The tests of this file send the same requests through Debian's nginx and through Longshore, and compare.
// Where the two differ on purpose, a test says so, and asserts either side:
//
//	| what                                  | nginx                              | Longshore                                               | test                   |
//	|---------------------------------------|------------------------------------|---------------------------------------------------------|------------------------|
//	| all are full (max_conns)              | 502 at once                        | waits; 503 when the queue is full or off                | TestNginxMaxConns      |
//	| none can be connected to              | 502 at once                        | waits; 503 when that is over or off                     | TestNginxStatus        |
//	| the only replica breaks off          | one attempt                        | idempotent: up to three, a second apart; QUEUE=0: one   | TestNginxStatus        |
//	| a replica refused a connection        | one request tries it after         | used again as soon as a check connects, which is some   | TestNginxBackup        |
//	|                                       | fail_timeout                       | 100 ms after it listens                                 |                        |
//	| backup with hash, ip_hash, random     | refused at the start               | allowed                                                 | TestNginxBackup        |
//	| hash: a hot key                       | all on one, whatever its load      | above 1.25 times its share (and 4) to the next          | TestNginxHashSpill     |
//	| hash …, hash … consistent             | two mappings; ketama's shares are  | one mapping, as consistent, whose shares are exact but  | TestNginxHash          |
//	|                                       | off by some points                 | for chance                                              |                        |

// TestNginxWeights compares shares by weight, one request after another and several at a time.
func TestNginxWeights(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"round_robin", "least_conn"} {
		for _, weights := range [][]int{{5, 1, 1}, {3, 2}} {
			t.Run(fmt.Sprint(policy, weights), func(t *testing.T) {
				var params []string
				for _, w := range weights {
					params = append(params, fmt.Sprint("weight=", w))
				}
				beside(t, setup{policy: policy, params: params}, func(t *testing.T, f *front) any {
					f.wantShares(2100, 1, weights...)
					if policy == "round_robin" { // least_conn goes by what is in flight then
						f.wantShares(2100, 8, weights...)
					}
					return nil
				})
			})
		}
	}
}

// TestNginxLeastConn: requests that are held at the origins are spread by weight, and a slow origin gets no
// more while the others have less to do.
func TestNginxLeastConn(t *testing.T) {
	t.Parallel()
	nginx, ours := beside(t, setup{policy: "least_conn", params: []string{"weight=2", "weight=1", "weight=1"}}, func(t *testing.T, f *front) string {
		f.hold()
		answers := f.sendHeld(40)
		held := f.counts()
		for _, o := range f.origins[1:] {
			o.release()
		}
		f.waitHeld(held[0])
		f.ask(t, 100) // the first has 20 in flight all the time
		after := f.counts()
		f.origins[0].release()
		for range 40 {
			if a := <-answers; a.status != 200 {
				t.Errorf("a request that was held got %d", a.status)
			}
		}
		return fmt.Sprint(held, after)
	})
	if want := "[20 10 10] [20 60 60]"; nginx != want || ours != want {
		t.Errorf("held, and after 100 more: nginx %s, Longshore %s, want %s", nginx, ours, want)
	}
}

// TestNginxBackup: a backup is used while all others refuse, and only then.
func TestNginxBackup(t *testing.T) {
	t.Parallel()
	s := setup{params: []string{"max_fails=1 fail_timeout=1s", "max_fails=1 fail_timeout=1s", "backup"}}
	nginx, ours := beside(t, s, func(t *testing.T, f *front) string {
		f.ask(t, 20)
		well := f.counts()
		f.origins[0].close()
		f.ask(t, 20)
		oneLeft := f.counts()
		f.origins[1].close()
		f.ask(t, 20)
		noneLeft := f.counts()
		f.origins[0].listen()
		dockertest.Wait(t, "the first to be used again", func() bool { f.ask(t, 1); return f.counts()[0] > noneLeft[0] })
		back := f.counts()
		f.ask(t, 20)
		return fmt.Sprint(well, diff(oneLeft, well), diff(noneLeft, oneLeft), diff(f.counts(), back))
	})
	if want := "[10 10 0] [0 20 0] [0 0 20] [20 0 0]"; nginx != want || ours != want {
		t.Errorf("with both, one, no primary, and one again: nginx %s, Longshore %s, want %s", nginx, ours, want)
	}

	for _, policy := range []string{"ip_hash", "hash $request_uri", "random"} {
		conf := upstream(policy, []string{"127.0.0.1:1", "127.0.0.1:2 backup"}, "")
		if msg, err := nginxSays(t, conf); err == nil || !strings.Contains(msg, "backup") {
			t.Errorf("nginx -t with %s and a backup: %v %s, want that refused", policy, err, msg)
		}
	}
}

// TestNginxMaxConns: neither sends more than max_conns to an origin. When all are full nginx answers 502 at
// once; Longshore lets the next ones wait, or with its queue off answers 503.
func TestNginxMaxConns(t *testing.T) {
	t.Parallel()
	s := setup{policy: "least_conn", params: []string{"max_conns=2", "max_conns=3"}, env: []string{"LONGSHORE_QUEUE=0"}}
	flood := func(t *testing.T, f *front) string {
		f.hold()
		answers := f.send(12)
		f.waitHeld(5)
		var turnedAway []int
		for range 7 {
			turnedAway = append(turnedAway, (<-answers).status)
		}
		f.release()
		for range 5 {
			if a := <-answers; a.status != 200 {
				t.Errorf("a request that had a place got %d", a.status)
			}
		}
		return fmt.Sprint(f.most(), slices.Compact(turnedAway))
	}
	nginx, ours := beside(t, s, flood)
	if nginx != "[2 3] [502]" || ours != "[2 3] [503]" {
		t.Errorf("most in flight, and statuses of the others: nginx %s, Longshore %s; want [2 3] of both, and 502 and 503", nginx, ours)
	}

	s.env = nil
	f := s.longshore(t)
	f.hold()
	answers := f.send(12)
	f.waitHeld(5)
	dockertest.Wait(t, "seven requests to wait", func() bool { return f.ls.state().Services[0].Parked == 7 })
	f.release()
	for range 12 {
		if a := <-answers; a.status != 200 {
			t.Errorf("with its queue, Longshore answered %d", a.status)
		}
	}
	if got := fmt.Sprint(f.most()); got != "[2 3]" {
		t.Errorf("with its queue, Longshore had %s in flight, want [2 3]", got)
	}
}

// TestNginxMaxFails: an origin that breaks off once is left out for fail_timeout, then tried, and used again
// when it answers. No client sees it.
func TestNginxMaxFails(t *testing.T) {
	t.Parallel()
	s := setup{params: []string{"max_fails=1 fail_timeout=2s", "max_fails=1 fail_timeout=2s"}}
	nginx, ours := beside(t, s, func(t *testing.T, f *front) string {
		sick := f.origins[0]
		sick.breakOff.Store(1)
		dockertest.Wait(t, "the sick one to be tried", func() bool { f.ask(t, 1); return f.counts()[0] > 0 })
		broke := time.Now()
		f.ask(t, 200)
		inWindow := f.counts()[0]
		dockertest.Wait(t, "the sick one to be tried again", func() bool { f.ask(t, 1); return f.counts()[0] > 1 })
		// nginx looks at a clock of seconds.
		if out := time.Since(broke); out < 1900*time.Millisecond || out > 4*time.Second {
			t.Errorf("it was left out for %v, want about 2 s", out)
		}
		before := f.counts()
		f.ask(t, 40)
		return fmt.Sprint(inWindow, diff(f.counts(), before))
	})
	if want := "1 [20 20]"; nginx != want || ours != want {
		t.Errorf("requests that reached it in the window, and shares after it: nginx %s, Longshore %s, want %s", nginx, ours, want)
	}
}

// TestNginxHash: the same key goes to the same origin, and keys are spread by weight. Which goes where is
// another matter: nginx hashes addresses by CRC-32, Longshore ranks names.
func TestNginxHash(t *testing.T) {
	t.Parallel()
	const keys = 10000 // by chance alone, a share of a half is off by half a point then
	weights := []int{2, 1, 1}
	for _, c := range []struct {
		policy string
		apart  float64 // how far nginx's shares may be off
	}{
		{"hash $request_uri", .02},
		{"hash $request_uri consistent", .10}, // 160 points on a ring for each unit of weight
		{"ip_hash", .02},
	} {
		t.Run(c.policy, func(t *testing.T) {
			s := setup{policy: c.policy, params: []string{"weight=2", "weight=1", "weight=1"}, env: []string{"LONGSHORE_TRUSTED_PROXIES=127.0.0.1"},
				nginx: "set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;"}
			beside(t, s, func(t *testing.T, f *front) any {
				f.each(50, 1) // until a backend has answered once, Longshore lets it have one request at a time
				// Four at a time are too few for Longshore to spread a hot key.
				where := f.each(keys, 4)
				if again := f.each(500, 4); !slices.Equal(again, where[:500]) {
					t.Error("asked again, some keys went elsewhere")
				}
				by := make(map[string]int)
				for _, origin := range where {
					by[origin]++
				}
				allowed := .02
				if f.ls == nil {
					allowed = c.apart
				}
				if off := apart(by, weights); off > allowed {
					t.Errorf("shares %v of %d keys are off by %.1f points, allowed are %.0f", by, keys, 100*off, 100*allowed)
				} else {
					t.Logf("shares %v of %d keys are off by %.1f points", by, keys, 100*off)
				}
				return nil
			})
		})
	}
}

// TestNginxHashSpill: nginx sends a hot key to its origin however busy that is; Longshore sends what is above
// 1.25 times its share of all in flight, here 5 of 12, to the next one. ip_hash never spills, since sessions
// may live there.
func TestNginxHashSpill(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ policy, nginx, ours string }{
		{"hash $request_uri consistent", "[0 0 12]", "[2 5 5]"},
		{"ip_hash", "[0 0 12]", "[0 0 12]"},
	} {
		nginx, ours := beside(t, setup{policy: c.policy, params: []string{"", "", ""}}, func(t *testing.T, f *front) string {
			f.hold()
			answers := f.sendHeld(12)
			held := f.counts()
			f.release()
			for range 12 {
				<-answers
			}
			slices.Sort(held)
			return fmt.Sprint(held)
		})
		if nginx != c.nginx || ours != c.ours {
			t.Errorf("%s: of 12 requests with one key, nginx had %s in flight and Longshore %s, want %s and %s", c.policy, nginx, ours, c.nginx, c.ours)
		}
	}
}

// TestNginxStatus compares what clients see of origins that fail, and how often the origin was asked.
func TestNginxStatus(t *testing.T) {
	t.Parallel()
	var (
		refuse = func(o *echo) { o.close() }
		hang   = func(o *echo) { o.hold() }
		breaks = func(o *echo) { o.breakOff.Store(math.MaxInt64) }
		well   = func(*echo) {}
	)
	one, two := []string{""}, []string{"", ""}
	for _, c := range []struct {
		name        string
		method      string
		params      []string
		first, rest func(*echo)
		env         string
		nginx, ours string // status, and how often the first two origins were asked together
	}{
		{"dead", "GET", one, refuse, nil, "LONGSHORE_QUEUE=0", "502 after 0", "503 after 0"},
		{"dead, with a wait", "GET", one, refuse, nil, "LONGSHORE_QUEUE_TIMEOUT=300ms", "502 after 0", "503 after 0"},
		{"one of two dead", "POST", two, refuse, well, "", "200 after 1", "200 after 1"},
		{"no answer in time", "GET", one, hang, nil, "LONGSHORE_QUEUE=0", "504 after 1", "504 after 1"},
		{"no answer in time, with a wait", "GET", one, hang, nil, "", "504 after 1", "504 after 1"},
		{"no answer in time from either", "GET", two, hang, hang, "LONGSHORE_QUEUE=0", "504 after 2", "504 after 2"},
		{"no answer in time to a POST", "POST", two, hang, hang, "", "504 after 1", "504 after 1"},
		{"breaks off", "GET", one, breaks, nil, "LONGSHORE_QUEUE=0", "502 after 1", "502 after 1"},
		{"breaks off, with a wait", "GET", one, breaks, nil, "", "502 after 1", "502 after 3"},
		{"breaks off a POST", "POST", one, breaks, nil, "", "502 after 1", "502 after 1"},
		{"one of two breaks off", "GET", two, breaks, well, "", "200 after 2", "200 after 2"},
		{"both break off a POST", "POST", two, breaks, breaks, "", "502 after 1", "502 after 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := setup{params: c.params, nginx: "proxy_read_timeout 300ms;", env: []string{"LONGSHORE_READ_TIMEOUT=300ms", c.env}}
			nginx, ours := beside(t, s, func(t *testing.T, f *front) string {
				c.first(f.origins[0])
				if c.rest != nil {
					c.rest(f.origins[1])
				}
				var got string
				for range c.params { // round robin begins with either: until the first was asked, or both
					before := sum(f.counts())
					status := f.do(c.method, "/").status
					got = fmt.Sprintf("%d after %d", status, sum(f.counts())-before)
					if status != 200 || f.counts()[0] > 0 {
						break
					}
				}
				f.release()
				return got
			})
			if nginx != c.nginx || ours != c.ours {
				t.Errorf("nginx: %s, Longshore: %s; want %s and %s", nginx, ours, c.nginx, c.ours)
			}
		})
	}
}

// A setup is how both proxies are set up: origins, and what the server line of each says.
type setup struct {
	policy string   // an upstream directive; empty: round_robin
	params []string // of each origin's server line
	nginx  string   // more directives, of nginx's server block
	env    []string // more variables, of Longshore
}

// beside runs a case through either proxy, each with origins of its own, and returns what came of it.
func beside[R any](t *testing.T, s setup, run func(*testing.T, *front) R) (nginx, ours R) {
	t.Run("nginx", func(t *testing.T) { nginx = run(t, s.inNginx(t)) })
	t.Run("longshore", func(t *testing.T) { ours = run(t, s.longshore(t)) })
	return nginx, ours
}

func (s setup) inNginx(t testing.TB) *front {
	t.Helper()
	f := newFront(t, len(s.params))
	f.addr = startNginx(t, upstream(s.policy, f.servers(s.params), s.nginx))
	return f
}

func (s setup) longshore(t testing.TB) *front {
	t.Helper()
	f := newFront(t, len(s.params))
	policy := s.policy
	if policy == "" {
		policy = "round_robin"
	}
	f.ls = startLongshore(t, append(s.env, "LONGSHORE_BALANCER="+policy, "LONGSHORE_BACKENDS="+strings.Join(f.servers(s.params), ", "))...)
	f.ls.waitUp(len(s.params))
	f.addr = f.ls.front
	return f
}

// startLongshore runs the binary on free ports, and waits until it is ready.
func startLongshore(t testing.TB, env ...string) *longshore {
	t.Helper()
	ls := client(t, reservePort(t), reservePort(t))
	cmd := exec.Command(builtOnce(t))
	cmd.Env = append(os.Environ(), env...)
	cmd.Env = append(cmd.Env, "LONGSHORE_LISTEN="+ls.front, "LONGSHORE_ADMIN="+ls.back, "LONGSHORE_ACCESS_LOG=off", "LONGSHORE_LOG_LEVEL=error")
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	dockertest.Wait(t, "longshore to be ready", func() bool { code, _ := ls.admin("/readyz"); return code == 200 })
	return ls
}

// reservePort is an address of this test: it refuses connections until somebody listens there, and nobody else
// is given its port. A socket is bound to it, which does not listen, until the test ends.
func reservePort(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	// Who listens there sets it too; both must.
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
}

var built struct {
	mu   sync.Mutex // guards file
	file *os.File
}

// builtOnce is a path of the binary, which takes longer to build than most cases of this file take. The file
// is removed with the folder of the test that came first; the descriptor keeps it.
func builtOnce(t testing.TB) string {
	t.Helper()
	built.mu.Lock()
	defer built.mu.Unlock()
	if built.file == nil {
		f, err := os.Open(dockertest.Binary(t, "longshore/cmd/longshore", filepath.Join(t.TempDir(), "longshore")))
		if err != nil {
			t.Fatal(err)
		}
		built.file = f
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), built.file.Fd())
}

// startNginx runs nginx, with one worker, until the test ends. conf stands in its http block; LISTEN in it
// becomes the address that is returned. It skips the test where nginx is not installed; with CI=true that
// is a failure.
func startNginx(t testing.TB, conf string) (addr string) {
	t.Helper()
	addr = reservePort(t)
	cmd := nginxCommand(t, strings.ReplaceAll(conf, "LISTEN", addr))
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // the master takes its worker along
		<-ended
	})
	dockertest.Wait(t, "nginx to listen", func() bool {
		select {
		case <-ended:
			t.Fatal("nginx did not start")
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

// nginxSays has nginx check a configuration.
func nginxSays(t testing.TB, conf string) (string, error) {
	t.Helper()
	cmd := nginxCommand(t, strings.ReplaceAll(conf, "LISTEN", "127.0.0.1:1"), "-t")
	out, err := cmd.CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}

func nginxCommand(t testing.TB, conf string, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath("nginx"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("nginx is not installed")
		}
		t.Skip("nginx is not installed")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`worker_processes 1; daemon off; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 1000000;
client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
%[2]s
}`, dir, conf)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return exec.Command("nginx", append([]string{"-p", dir, "-c", file, "-e", filepath.Join(dir, "error.log")}, args...)...)
}

// upstream is a configuration with one upstream block, which everything goes to.
func upstream(policy string, servers []string, more string) string {
	if policy += ";"; policy == ";" || policy == "round_robin;" {
		policy = ""
	}
	return fmt.Sprintf(`upstream origins { %s server %s; keepalive 64; keepalive_requests 1000000; }
server { listen LISTEN; %s location / { proxy_pass http://origins; proxy_http_version 1.1; proxy_set_header Connection ""; } }`,
		policy, strings.Join(servers, "; server "), more)
}

// A front is a proxy with its origins.
type front struct {
	t       testing.TB
	addr    string
	ls      *longshore // nil: it is nginx
	origins []*echo
	http    *http.Client
}

func newFront(t testing.TB, origins int) *front {
	t.Helper()
	f := &front{t: t, http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	for i := range origins {
		f.origins = append(f.origins, newEcho(t, fmt.Sprint(i+1)))
	}
	return f
}

// servers are the lines of an upstream block without the word server.
func (f *front) servers(params []string) (lines []string) {
	for i, o := range f.origins {
		lines = append(lines, strings.TrimSpace(o.addr+" "+params[i]))
	}
	return lines
}

// An answer is what a client got.
type answer struct {
	status int
	origin string // which one answered, if the status is 200
}

func (f *front) do(method, path string, header ...string) (a answer) {
	var body io.Reader
	if method == "POST" {
		body = strings.NewReader("one order")
	}
	req, err := http.NewRequest(method, "http://"+f.addr+path, body)
	if err != nil {
		f.t.Error(err)
		return a
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := f.http.Do(req)
	if err != nil {
		f.t.Error(err)
		return a
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Error(err)
	}
	if a.status = res.StatusCode; a.status == 200 {
		a.origin = string(text)
	}
	return a
}

// ask sends n requests, one after another, which must be answered.
func (f *front) ask(t testing.TB, n int) {
	t.Helper()
	for range n {
		if a := f.do("GET", "/"); a.status != 200 {
			t.Errorf("got %d, want 200", a.status)
		}
	}
}

// send sends n requests at once.
func (f *front) send(n int) <-chan answer {
	answers := make(chan answer, n)
	for range n {
		go func() { answers <- f.do("GET", "/") }()
	}
	return answers
}

// sendHeld sends n requests, each when the one before it is held by an origin.
func (f *front) sendHeld(n int) <-chan answer {
	answers := make(chan answer, n)
	for i := range n {
		go func() { answers <- f.do("GET", "/") }()
		f.waitHeld(i + 1)
	}
	return answers
}

// each sends a request for each of n keys, which are paths and client addresses, and returns who answered.
func (f *front) each(n, atATime int) []string {
	where := make([]string, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range atATime {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				a := f.do("GET", fmt.Sprint("/key/", i), "X-Forwarded-For", fmt.Sprintf("10.%d.%d.1", i>>8, i&255))
				if a.status != 200 {
					f.t.Errorf("key %d: got %d", i, a.status)
				}
				where[i] = a.origin
			}
		})
	}
	wg.Wait()
	return where
}

// wantShares sends n requests, and wants them spread by weight to 2 points.
func (f *front) wantShares(n, atATime int, weights ...int) {
	f.t.Helper()
	by := make(map[string]int)
	for _, origin := range f.each(n, atATime) {
		by[origin]++
	}
	if off := apart(by, weights); off > .02 {
		f.t.Errorf("%d requests, %d at a time, were shared %v: off by %.1f points for weights %v", n, atATime, by, 100*off, weights)
	}
}

// apart is the greatest difference between a share and what it should be by weight.
func apart(by map[string]int, weights []int) (most float64) {
	total, all := sum(slices.Collect(maps.Values(by))), sum(weights)
	for i, w := range weights {
		share := float64(by[fmt.Sprint(i+1)]) / float64(total)
		most = max(most, math.Abs(share-float64(w)/float64(all)))
	}
	return most
}

func sum(ns []int) (all int) {
	for _, n := range ns {
		all += n
	}
	return all
}

func diff(after, before []int) (d []int) {
	for i := range after {
		d = append(d, after[i]-before[i])
	}
	return d
}

// counts are the requests that each origin ever had.
func (f *front) counts() (n []int) {
	for _, o := range f.origins {
		n = append(n, int(o.requests.Load()))
	}
	return n
}

// most is the most that each origin had in flight.
func (f *front) most() (n []int) {
	for _, o := range f.origins {
		n = append(n, int(o.most.Load()))
	}
	return n
}

func (f *front) hold() {
	for _, o := range f.origins {
		o.hold()
	}
}

func (f *front) release() {
	for _, o := range f.origins {
		o.release()
	}
}

// waitHeld waits until n requests are at the origins.
func (f *front) waitHeld(n int) {
	f.t.Helper()
	dockertest.Wait(f.t, fmt.Sprint(n, " requests at the origins"), func() bool {
		at := 0
		for _, o := range f.origins {
			at += int(o.now.Load())
		}
		return at == n
	})
}

// An echo is an origin that answers with its name, and counts.
type echo struct {
	name, addr string
	t          testing.TB

	requests, now, most atomic.Int64
	breakOff            atomic.Int64 // how many requests more get no answer but the end of their connection

	mu     sync.Mutex // guards the following
	server *http.Server
	gate   chan struct{} // closed: requests need not wait
}

func newEcho(t testing.TB, name string) *echo {
	t.Helper()
	o := &echo{name: name, addr: reservePort(t), t: t, gate: make(chan struct{})}
	close(o.gate)
	o.listen()
	t.Cleanup(func() {
		o.release()
		o.close()
	})
	return o
}

// listen accepts connections, again after close.
func (o *echo) listen() {
	o.t.Helper()
	ln, err := net.Listen("tcp", o.addr)
	if err != nil {
		o.t.Fatal(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.server = &http.Server{Handler: o}
	go o.server.Serve(ln)
}

// close refuses connections, and ends those there are.
func (o *echo) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.server != nil {
		o.server.Close()
		o.server = nil
	}
}

// hold lets requests wait for release.
func (o *echo) hold() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gate = make(chan struct{})
}

func (o *echo) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.gate:
	default:
		close(o.gate)
	}
}

func (o *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	o.requests.Add(1)
	n := o.now.Add(1)
	defer o.now.Add(-1)
	for most := o.most.Load(); n > most && !o.most.CompareAndSwap(most, n); most = o.most.Load() {
	}
	if o.breakOff.Load() > 0 && o.breakOff.Add(-1) >= 0 {
		panic(http.ErrAbortHandler)
	}
	o.mu.Lock()
	gate := o.gate
	o.mu.Unlock()
	select {
	case <-gate:
	case <-r.Context().Done():
	}
	io.WriteString(w, o.name)
}
