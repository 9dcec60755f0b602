package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Where everything listens in this scenario. Each peer has a port of its own, and so has Longshore's admin.
const (
	loopback      = "127.0.0.1"
	otherLoopback = "127.0.0.2" // for a second instance of the same peer
)

// origins are three addresses of one nginx. Only the realistic work uses the third.
var origins = []string{"127.0.0.1:19001", "127.0.0.1:19002", "127.0.0.1:19003"}

// weights are those of the origins in the realistic work.
var weights = []int{3, 2, 1}

// A setup is how origins and proxies are started for a work.
type setup struct {
	Host  string // where the proxy listens, without the port
	Cores int    // 1: proxy alone on one, everything else on the other; 2: all on both
	Real  bool   // with access log, three weighted backends, health checks and metrics
	Idle  int    // how many idle connections there will be, for as long as an hour
}

// proxyCPU and loadCPU are for taskset.
func (s setup) proxyCPU() string {
	if s.Cores == 2 {
		return "0,1"
	}
	return "0"
}

func (s setup) loadCPU() string {
	if s.Cores == 2 {
		return "0,1"
	}
	return "1"
}

// servers joins the origins: each is printed with its address, and its weight where it has one.
func (s setup) servers(plain, weighted, sep string) string {
	var all []string
	for i, o := range origins {
		switch {
		case s.Real:
			all = append(all, fmt.Sprintf(weighted, o, weights[i]))
		case i < 2:
			all = append(all, fmt.Sprintf(plain, o))
		}
	}
	return strings.Join(all, sep)
}

// A peer is a proxy that is measured.
type peer struct {
	Key, Name string
	Program   string // what must be in the path; empty: it is there
	Port      int
	Addr      string // instead of Port: where one of -extra listens, always
	Command   func(t *trial, dir string, s setup, in *instance) error
}

// peers are all that are built in, nginx first, which the others are compared with.
var peers = []peer{
	{Key: "nginx", Name: "nginx", Program: "nginx", Port: 19010, Command: nginxPeer},
	{Key: "longshore", Name: "longshore", Port: 19011, Command: longshorePeer()},
	{Key: "general", Name: "longshore, general path", Port: 19013, Command: longshorePeer("LONGSHORE_FAST_LANE=off")},
	{Key: "haproxy", Name: "haproxy", Program: "haproxy", Port: 19014, Command: haproxyPeer},
	{Key: "caddy", Name: "caddy", Program: "caddy", Port: 19015, Command: caddyPeer},
	{Key: "reverseproxy", Name: "httputil.ReverseProxy", Port: 19012, Command: reverseProxyPeer},
}

// adminPort is where a Longshore that listens on port tells its metrics.
func adminPort(port int) int { return port + 7 }

// readExtra reads the file of -extra.
func readExtra(file string) ([]peer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	ps, err := parseExtra(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return ps, nil
}

func parseExtra(text string) (ps []peer, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) < 3 {
			return nil, fmt.Errorf("line %d: want NAME ADDR COMMAND and its arguments", n)
		}
		name, addr, command := words[0], words[1], words[2:]
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("line %d: %q is no address with a port", n, addr)
		}
		if slices.ContainsFunc(slices.Concat(peers, ps), func(p peer) bool { return p.Key == name }) {
			return nil, fmt.Errorf("line %d: there is a peer %q already", n, name)
		}
		ps = append(ps, peer{Key: name, Name: name, Program: command[0], Addr: addr, Command: func(_ *trial, _ string, s setup, in *instance) error {
			in.args, in.env = command, environ(fmt.Sprintf("GOMAXPROCS=%d", s.Cores))
			return nil
		}})
	}
	return ps, nil
}

// An instance is a peer that runs.
type instance struct {
	addr    string
	metrics string // URL that is read each second while it is measured; empty: none
	stdout  *os.File
	args    []string
	env     []string

	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
}

// launch starts a peer, and waits until it answers.
func (t *trial) launch(ctx context.Context, p peer, s setup) (*instance, error) {
	dir, err := os.MkdirTemp(t.dir, p.Key+"-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	in := &instance{addr: cmp.Or(p.Addr, fmt.Sprintf("%s:%d", s.Host, p.Port))}
	if err := p.Command(t, dir, s, in); err != nil {
		return nil, err
	}
	if err := in.start(ctx, s.proxyCPU()); err != nil {
		return nil, err
	}
	return in, nil
}

// serve starts the origins.
func (t *trial) serve(ctx context.Context, s setup) (stop func(), err error) {
	conf := filepath.Join(t.dir, "origin.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, originConf, t.dir, s.Cores, "listen "+strings.Join(origins, " backlog=4096; listen ")+" backlog=4096;"), 0o644); err != nil {
		return nil, err
	}
	in := &instance{addr: origins[0], args: []string{"nginx", "-p", t.dir, "-c", conf}, env: os.Environ()}
	if err := in.start(ctx, s.loadCPU()); err != nil {
		return nil, fmt.Errorf("origins: %w", err)
	}
	return in.stop, nil
}

// start starts the program in a process group, which ends with ctx or with stop.
func (in *instance) start(ctx context.Context, cpu string) error {
	if conn, err := net.Dial("tcp", in.addr); err == nil {
		conn.Close()
		return fmt.Errorf("something listens on %s already", in.addr)
	}
	in.cmd = exec.CommandContext(ctx, "taskset", append([]string{"-c", cpu}, in.args...)...)
	in.cmd.Env, in.cmd.Stderr = in.env, os.Stderr
	if in.stdout != nil {
		defer in.stdout.Close()
		in.cmd.Stdout = in.stdout
	}
	in.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in.cmd.Cancel = func() error { return syscall.Kill(-in.cmd.Process.Pid, syscall.SIGTERM) }
	in.cmd.WaitDelay = 3 * time.Second
	in.ended = make(chan struct{})
	if err := in.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(in.ended)
		in.cmd.Wait()
	}()
	if err := in.await(ctx); err != nil {
		in.stop()
		return err
	}
	return nil
}

// await waits until a request is answered as it should be.
func (in *instance) await(ctx context.Context) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); sleep(ctx, 20*time.Millisecond) {
		select {
		case <-in.ended:
			return errors.New("it has ended")
		default:
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if res, err := client.Get("http://" + in.addr + "/"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	return errors.New("it does not answer")
}

// stop ends the process group. Nothing of it is left after that.
func (in *instance) stop() {
	group := -in.cmd.Process.Pid
	syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-in.ended:
	case <-time.After(3 * time.Second):
	}
	syscall.Kill(group, syscall.SIGKILL) // children that outlive their parent, too
	<-in.ended
}

const originConf = `worker_processes %[2]d; daemon off; pid %[1]s/origin.pid; error_log stderr crit;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_header_buffer_size 32k; # has room for the body of a POST
  client_body_temp_path %[1]s/ob; proxy_temp_path %[1]s/op; fastcgi_temp_path %[1]s/of; uwsgi_temp_path %[1]s/ou; scgi_temp_path %[1]s/os;
  sendfile on; tcp_nopush on; open_file_cache max=10;
  server { %[3]s default_type text/plain; root %[1]s;
    location = / { return 200 "hello from an origin\n"; } location = /post { return 200 "thanks\n"; } location / { } } }
`

// nginxConf is nginx as its documentation sets up a proxy with kept connections, as many idle ones for each
// origin as Longshore keeps by default.
const nginxConf = `worker_processes %[2]d; daemon off; pid %[1]s/nginx.pid; error_log stderr crit; worker_rlimit_nofile %[4]d;
events { worker_connections %[3]d; }
http { access_log %[5]s; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  client_body_buffer_size 32k; # by default a body of 16 KiB just misses staying in memory
  upstream origins { least_conn; %[6]s keepalive 512; keepalive_requests 1000000000; }
  server { listen %[7]s backlog=4096; %[8]s location / {
    proxy_pass http://origins; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port; } } }
`

func nginxPeer(_ *trial, dir string, s setup, in *instance) error {
	log, status, room := "off", "", 4096
	if s.Real {
		log = dir + "/access.log combined"
		if v, err := exec.Command("nginx", "-V").CombinedOutput(); err == nil && strings.Contains(string(v), "http_stub_status_module") {
			status = "location = /stub_status { access_log off; stub_status; }"
			in.metrics = "http://" + in.addr + "/stub_status"
		}
	}
	room += s.Idle // not more than needed: nginx takes the memory at its start
	limit, err := openFiles(uint64(room))
	if err != nil {
		return err
	}
	conf := filepath.Join(dir, "nginx.conf")
	in.args = []string{"nginx", "-p", dir, "-c", conf}
	return os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, s.Cores, room, limit, log,
		s.servers("server %s;", "server %s weight=%d;", " "), in.addr, status), 0o644)
}

// longshorePeer has the defaults, without what a work is not about.
func longshorePeer(env ...string) func(*trial, string, setup, *instance) error {
	return func(t *trial, dir string, s setup, in *instance) (err error) {
		in.args = []string{t.longshore}
		in.env = environ(slices.Concat([]string{"LONGSHORE_LISTEN=" + in.addr, fmt.Sprintf("GOMAXPROCS=%d", s.Cores),
			"LONGSHORE_BACKENDS=" + s.servers("%s", "%s weight=%d", ", "), "LONGSHORE_LOG_LEVEL=warn"}, env)...)
		if s.Idle > 0 {
			in.env = append(in.env, "LONGSHORE_IDLE_TIMEOUT=1h")
		}
		if !s.Real {
			in.env = append(in.env, "LONGSHORE_ADMIN=", "LONGSHORE_ACCESS_LOG=off")
			return nil
		}
		_, port, err := net.SplitHostPort(in.addr)
		if err != nil {
			return err
		}
		n := 0
		fmt.Sscan(port, &n)
		admin := fmt.Sprintf("%s:%d", s.Host, adminPort(n))
		in.metrics = "http://" + admin + "/metrics"
		in.env = append(in.env, "LONGSHORE_ADMIN="+admin, "LONGSHORE_ACCESS_LOG=combined", "LONGSHORE_BALANCER=least_conn", "LONGSHORE_HEALTH_PATH=/")
		in.stdout, err = os.Create(filepath.Join(dir, "access.log"))
		return err
	}
}

const haproxyConf = `global
  nbthread %[1]d
  maxconn %[2]d
  no strict-limits
defaults
  mode http
  timeout connect 1s
  timeout client 1h
  timeout server 60s
  timeout http-keep-alive 1h
frontend in
  bind %[3]s backlog 4096
  http-request set-header X-Real-IP %%[src]
  http-request set-header X-Forwarded-For %%[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %%[req.hdr(host)]
  http-request set-header X-Forwarded-Port %%[dst_port]
  default_backend origins
backend origins
  balance leastconn
  http-reuse always
%[4]s
`

func haproxyPeer(_ *trial, dir string, s setup, in *instance) error {
	var servers []string
	for i, o := range strings.Split(s.servers("%s", "%s weight %d", ","), ",") {
		servers = append(servers, fmt.Sprintf("  server origin%d %s", i, o))
	}
	conf := filepath.Join(dir, "haproxy.cfg")
	in.args = []string{"haproxy", "-db", "-f", conf}
	return os.WriteFile(conf, fmt.Appendf(nil, haproxyConf, s.Cores, 4096+s.Idle, in.addr, strings.Join(servers, "\n")), 0o644)
}

const caddyConf = `{
	admin off
	auto_https off
	log {
		output discard
	}
}
http://:%[2]s {
	bind %[1]s
	reverse_proxy %[3]s {
		lb_policy least_conn
		header_up X-Real-IP {remote_host}
		header_up X-Forwarded-Port {http.request.local.port}
		transport http {
			compression off
			keepalive 1h
			keepalive_idle_conns_per_host 256
		}
	}
}
`

func caddyPeer(_ *trial, dir string, s setup, in *instance) error {
	host, port, err := net.SplitHostPort(in.addr)
	if err != nil {
		return err
	}
	conf := filepath.Join(dir, "Caddyfile")
	in.args = []string{"caddy", "run", "--config", conf, "--adapter", "caddyfile"}
	in.env = environ(fmt.Sprintf("GOMAXPROCS=%d", s.Cores), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	return os.WriteFile(conf, fmt.Appendf(nil, caddyConf, host, port, s.servers("%s", "%s", " ")), 0o644)
}

func reverseProxyPeer(t *trial, _ string, s setup, in *instance) error {
	in.args, in.env = []string{t.self, "reverseproxy", "-listen", in.addr}, environ(fmt.Sprintf("GOMAXPROCS=%d", s.Cores))
	return nil
}

// versionsOf asks the programs for theirs, as far as they tell.
func versionsOf(ctx context.Context, ps []peer) (all []string) {
	for _, p := range ps {
		var args []string
		switch p.Key {
		case "nginx", "haproxy":
			args = []string{"-v"}
		case "caddy":
			args = []string{"version"}
		default:
			continue
		}
		out, _ := exec.CommandContext(ctx, p.Program, args...).CombinedOutput()
		first, _, _ := strings.Cut(string(out), "\n")
		first = strings.TrimPrefix(first, "nginx version: ")
		if !strings.Contains(strings.ToLower(first), p.Key) {
			first = p.Key + " " + first
		}
		all = append(all, first)
	}
	return all
}
