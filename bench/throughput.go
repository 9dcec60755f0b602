package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Where everything listens in this scenario.
const (
	originA = "127.0.0.1:19001"
	originB = "127.0.0.1:19002"
)

const originConf = `worker_processes 1; daemon off; pid %[1]s/origin.pid; error_log stderr crit;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000;
  server { listen %[2]s; listen %[3]s; default_type text/plain; location / { return 200 "hello from an origin\n"; } } }
`

const nginxConf = `worker_processes 1; daemon off; pid %[1]s/nginx.pid; error_log stderr crit;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000;
  upstream origins { least_conn; server %[2]s; server %[3]s; keepalive 256; keepalive_requests 1000000000; }
  server { listen %[4]s; location / {
    proxy_pass http://origins; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port; } } }
`

// A peer is a proxy that is measured.
type peer struct {
	name, addr string
	args, env  []string

	cmd  *exec.Cmd
	cost []float64 // CPU µs per request, a value a round
	rate []float64 // requests per second
}

// throughput pins the proxy under test to one processor, and origins and load to the other.
func throughput(ctx context.Context, fs *flag.FlagSet, args []string) error {
	rounds := fs.Int("rounds", 5, "interleaved rounds; the median is reported")
	seconds := fs.Int("seconds", 4, "length of a round for each proxy")
	connections := fs.Int("connections", 64, "client connections")
	fs.Parse(args)

	dir, longshore, err := workshop(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	write := func(name, format string, a ...any) string {
		path := filepath.Join(dir, name)
		if e := os.WriteFile(path, fmt.Appendf(nil, format, a...), 0o644); e != nil {
			err = e
		}
		return path
	}
	origins := &peer{name: "origins", addr: originA, args: []string{"nginx", "-p", dir, "-c", write("origin.conf", originConf, dir, originA, originB)}}
	peers := []*peer{
		{name: "nginx", addr: "127.0.0.1:19010", args: []string{"nginx", "-p", dir, "-c", write("nginx.conf", nginxConf, dir, originA, originB, "127.0.0.1:19010")}},
		{name: "longshore", addr: "127.0.0.1:19011", args: []string{longshore}, env: environ(
			"LONGSHORE_LISTEN=127.0.0.1:19011", "LONGSHORE_ADMIN=", "LONGSHORE_ACCESS_LOG=off", "LONGSHORE_BACKENDS="+originA+", "+originB)},
		{name: "httputil.ReverseProxy", addr: "127.0.0.1:19012", args: []string{self, "reverseproxy", "-listen", "127.0.0.1:19012"}, env: environ("GOMAXPROCS=1")},
	}
	if err != nil {
		return err
	}
	for _, p := range append([]*peer{origins}, peers...) {
		cpu := "0"
		if p == origins {
			cpu = "1"
		}
		if err := p.start(ctx, cpu); err != nil {
			return err
		}
		defer p.stop()
	}

	for round := range *rounds {
		for _, p := range peers {
			if err := p.measure(ctx, *seconds, *connections); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", round+1, *rounds)
	}
	fmt.Printf("GET, small body, %d connections, proxy on one core; median of %d interleaved rounds of %d s\n\n", *connections, *rounds, *seconds)
	fmt.Print("| proxy | CPU µs per request | ratio to nginx | requests/s |\n|---|---|---|---|\n")
	for _, p := range peers {
		ratios := make([]float64, len(p.cost))
		for i := range ratios { // round by round, so that the machine's changing speed cancels out
			ratios[i] = p.cost[i] / peers[0].cost[i]
		}
		fmt.Printf("| %s | %.1f | %.2f | %.0f |\n", p.name, median(p.cost), median(ratios), median(p.rate))
	}
	return nil
}

func (p *peer) start(ctx context.Context, cpu string) error {
	p.cmd = exec.CommandContext(ctx, "taskset", append([]string{"-c", cpu}, p.args...)...)
	p.cmd.Env, p.cmd.Stderr = p.env, os.Stderr
	if err := p.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		res, err := http.Get("http://" + p.addr + "/")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	return fmt.Errorf("%s does not answer", p.name)
}

func (p *peer) stop() {
	for _, child := range childrenOf(p.cmd.Process.Pid) {
		syscall.Kill(child, syscall.SIGKILL)
	}
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

var (
	wrkTotal = regexp.MustCompile(`(\d+) requests in`)
	wrkBad   = regexp.MustCompile(`(?m)^ *(Non-2xx.*|Socket errors.*)$`)
)

// measure runs wrk for a round. A round with any error counts for nothing.
func (p *peer) measure(ctx context.Context, seconds, connections int) error {
	before, err := cpuTime(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "taskset", "-c", "1", "wrk", "-t1", "-c"+strconv.Itoa(connections),
		"-d"+strconv.Itoa(seconds)+"s", "http://"+p.addr+"/").CombinedOutput()
	if err != nil {
		return fmt.Errorf("wrk: %w\n%s", err, out)
	}
	after, err := cpuTime(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if bad := wrkBad.Find(out); bad != nil {
		return fmt.Errorf("wrk: %s", bad)
	}
	m := wrkTotal.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("wrk says no total:\n%s", out)
	}
	n, _ := strconv.ParseFloat(string(m[1]), 64)
	p.cost = append(p.cost, float64((after-before).Microseconds())/n)
	p.rate = append(p.rate, n/float64(seconds))
	return nil
}

// cpuTime adds up user and system time of a process and of its children that live (nginx's worker).
func cpuTime(pid int) (sum time.Duration, err error) {
	for _, p := range append(childrenOf(pid), pid) {
		stat, err := statOf(p)
		if err != nil {
			return 0, err
		}
		for _, f := range stat[11:13] { // utime, stime
			ticks, err := strconv.Atoi(f)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on Linux
		}
	}
	return sum, nil
}

// statOf returns the fields of /proc/PID/stat behind the name, which may hold anything: the first is
// field 3, the state.
func statOf(pid int) ([]string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:])), nil
}

func childrenOf(parent int) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if stat, err := statOf(pid); err == nil && stat[1] == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// reverseProxy is the baseline: the standard library's proxy as one would write it in ten lines, with
// a tuned Transport and the same forwarded headers.
func reverseProxy(_ context.Context, fs *flag.FlagSet, args []string) error {
	listen := fs.String("listen", "127.0.0.1:19012", "address")
	fs.Parse(args)
	var next atomic.Uint64
	targets := []*url.URL{{Scheme: "http", Host: originA}, {Scheme: "http", Host: originB}}
	return http.ListenAndServe(*listen, &httputil.ReverseProxy{
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		Transport:    &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(targets[next.Add(1)%2])
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
	})
}
