package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"longshore/internal/dockertest"
	"longshore/internal/testaddr"
)

// command runs the program in this process.
func command(args []string, environ ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, environ, &out, &errs)
	return code, out.String(), errs.String()
}

func TestCommands(t *testing.T) {
	for _, arg := range []string{"version", "-v", "-V", "-version", "--version"} {
		if code, out, _ := command([]string{arg}); code != 0 || !strings.HasPrefix(out, "longshore ") {
			t.Errorf("%s: %d %q", arg, code, out)
		}
	}
	for _, arg := range []string{"help", "-h", "-help", "--help"} {
		if code, out, _ := command([]string{arg}); code != 0 || !strings.HasPrefix(out, "usage:") {
			t.Errorf("%s: %d %q", arg, code, out)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"serve"}, `unknown command "serve"`},
		{[]string{"-c", "x"}, `unknown command "-c"`},
		{[]string{"healthcheck", "x"}, `longshore healthcheck takes no arguments, got "x"`},
	} {
		code, _, errs := command(c.args)
		if first, rest, _ := strings.Cut(errs, "\n"); code != 2 || first != c.want || !strings.HasPrefix(rest, "usage:") {
			t.Errorf("%v: %d %q, want 2, %q and the usage", c.args, code, errs, c.want)
		}
	}
	code, _, errs := command(nil, "LONGSHORE_HEALTH_RISE=0", "LONGSHORE_BALANCER=fastest", "LONGSHORE_FAST_LANE=perhaps")
	if lines := strings.Count(errs, "\n"); code != 2 || lines != 3 {
		t.Errorf("wrong variables: exit %d with %d lines, want 2 with 3:\n%s", code, lines, errs)
	}
	t.Setenv("DOCKER_HOST", "foo") // which is for the docker client to read
	code, _, errs = command(nil, "LONGSHORE_UPSTREAM=a:1")
	if code != 2 || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, `DOCKER_HOST="foo": want unix://`) {
		t.Errorf("a wrong DOCKER_HOST: exit %d %q, want 2 and one line", code, errs)
	}
	for _, dir := range []string{"/nowhere/at all", "/dev/null", "/proc"} {
		code, _, errs = command(nil, "LONGSHORE_BACKENDS=127.0.0.1:1", "LONGSHORE_BODY_DIR="+dir)
		if code != 2 || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, `LONGSHORE_BODY_DIR="`+dir+`": want a directory that can be written to`) {
			t.Errorf("LONGSHORE_BODY_DIR=%s: exit %d %q, want 2 and one line", dir, code, errs)
		}
	}
	busy, err := net.Listen("tcp", testaddr.New())
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	code, _, errs = command(nil, "LONGSHORE_BACKENDS=127.0.0.1:1", "LONGSHORE_LISTEN="+busy.Addr().String())
	if code != 1 || !strings.Contains(errs, "LONGSHORE_LISTEN") {
		t.Errorf("a listen address in use: exit %d %q, want 1 and the variable", code, errs)
	}
}

func TestZoneWarning(t *testing.T) {
	for _, c := range []struct{ tz, want string }{
		{"", ""}, {"UTC", ""}, {"Europe/Berlin", ""}, {":Asia/Kathmandu", ""}, {"/etc/localtime", ""},
		{"Europe/Berln", `TZ="Europe/Berln": unknown time zone, the access log is in UTC; want a name such as Europe/Berlin`},
		{"CET-1CEST", `TZ="CET-1CEST": unknown time zone, the access log is in UTC; want a name such as Europe/Berlin`},
	} {
		if got := zoneWarning([]string{"A=b", "TZ=" + c.tz}); got != c.want {
			t.Errorf("TZ=%s: %q, want %q", c.tz, got, c.want)
		}
	}
}

// A process is a running binary.
type process struct {
	*longshore
	cmd    *exec.Cmd
	stdout *bytes.Buffer // read after exit
	stderr *syncBuffer
	env    []string
}

// startProcess runs the binary with backends, and waits until it is ready.
func startProcess(t *testing.T, args []string, env ...string) *process {
	t.Helper()
	return startUnder(t, nil, args, env...)
}

// startUnder has another command run it, such as one that sets a limit.
func startUnder(t *testing.T, under, args []string, env ...string) *process {
	t.Helper()
	front, back := reservePort(t), reservePort(t)
	p := &process{longshore: client(t, front, back), stdout: new(bytes.Buffer), stderr: new(syncBuffer)}
	p.env = append(env, "LONGSHORE_LISTEN="+front, "LONGSHORE_ADMIN="+back)
	all := append(append(under, dockertest.Binary(t, "longshore/cmd/longshore", filepath.Join(t.TempDir(), "longshore"))), args...)
	p.cmd = exec.Command(all[0], all[1:]...)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = p.env, p.stdout, io.MultiWriter(t.Output(), p.stderr)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	dockertest.Wait(t, "the process to be ready", func() bool { code, _ := p.admin("/readyz"); return code == 200 })
	return p
}

// A syncBuffer may be read while it is written.
type syncBuffer struct {
	mu  sync.Mutex // guards the following
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// exit sends a signal, waits for the end, and returns the exit code.
func (p *process) exit(sig syscall.Signal) int {
	p.cmd.Process.Signal(sig)
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

func origin(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func hello(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }

func TestServeBackends(t *testing.T) {
	one, two := origin(t, hello), origin(t, hello)
	p := startProcess(t, nil, "LONGSHORE_BACKENDS="+one+" weight=2, "+two+" backup")
	p.waitUp(2)
	for range 4 {
		if got := p.get("example.com", "/x?y"); got != "200 hello" {
			t.Fatalf("got %q", got)
		}
	}

	s := p.state()
	if len(s.Services) != 1 || len(s.Services[0].Backends) != 2 || s.Services[0].Balancer != "least_conn" || s.Services[0].Routes[0] != "/" {
		t.Fatalf("state: %+v", s)
	}
	if b := s.backend(one); b.Requests != 4 || b.State != "up" || b.Weight != 2 || b.Addr != one {
		t.Errorf("the primary is %+v, want it up with 4 requests and weight 2", b)
	}
	if b := s.backend(two); b.Requests != 0 {
		t.Errorf("the backup has had %d requests while the primary was up", b.Requests)
	}
	var metrics string
	dockertest.Wait(t, "the last request to be counted, which is after its answer", func() bool {
		_, metrics = p.admin("/metrics")
		return strings.Contains(metrics, `longshore_requests_total{code="200",service="backends"} 4`) &&
			strings.Contains(metrics, `longshore_request_duration_seconds_count{service="backends"} 4`)
	})
	for _, want := range []string{
		`longshore_backend_requests_total{backend="` + one + `",service="backends"} 4`,
		`longshore_backend_failures_total{backend="` + one + `",reason="refused",service="backends"} 0`,
		`longshore_backend_inflight{backend="` + one + `",service="backends"} 0`,
		`longshore_backend_up{backend="` + one + `",service="backends"} 1`,
		`longshore_retries_total{reason="refused",service="backends"} 0`,
		`longshore_parked{service="backends"} 0`,
		`longshore_parked_total{service="backends"} 0`,
		`longshore_docker_connected 0`,
		`longshore_build_info{`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if code, _ := p.admin("/healthz"); code != 200 {
		t.Errorf("/healthz: %d", code)
	}

	if code, _, errs := command([]string{"healthcheck"}, p.env...); code != 0 {
		t.Errorf("healthcheck: exit %d %s", code, errs)
	}
	if code := p.exit(syscall.SIGQUIT); code != 0 {
		t.Errorf("after SIGQUIT: exit %d, want 0", code)
	}
	if code, _, _ := command([]string{"healthcheck"}, p.env...); code != 1 {
		t.Errorf("healthcheck of nobody: exit %d, want 1", code)
	}
	if lines := strings.Count(p.stdout.String(), `"GET /x?y HTTP/1.1" 200 6 "-" "Go-http-client/1.1"`+"\n"); lines != 4 {
		t.Errorf("the access log has %d lines of our 4 requests:\n%s", lines, p.stdout)
	}
}

// TestHealthcheckWithoutAdmin: the proxy itself answers, whatever its application does.
func TestHealthcheckWithoutAdmin(t *testing.T) {
	var asked atomic.Int64
	hangs := origin(t, func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done()
	})
	for _, backend := range []string{hangs, "127.0.0.1:1"} {
		env := []string{"LONGSHORE_LISTEN=" + reservePort(t), "LONGSHORE_ADMIN=", "LONGSHORE_BACKENDS=" + backend}
		cmd := startBinary(t, env...)
		dockertest.Wait(t, "healthcheck to exit with 0", func() bool { code, _, _ := command([]string{"healthcheck"}, env...); return code == 0 })
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if code, _, errs := command([]string{"healthcheck"}, env...); code != 1 || strings.Count(errs, "\n") != 1 {
			t.Errorf("healthcheck of nobody: exit %d %q, want 1 and a line", code, errs)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the application got %d requests, want none", n)
	}
}

// TestStopGracefully: a request in flight is finished, new connections are refused, readiness fails.
func TestStopGracefully(t *testing.T) {
	arrived, finish := make(chan struct{}), make(chan struct{})
	slow := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-finish
		fmt.Fprintln(w, "late")
	})
	p := startProcess(t, nil, "LONGSHORE_BACKENDS="+slow, "LONGSHORE_ACCESS_LOG=json")
	p.waitUp(1)
	silent, err := net.Dial("tcp", p.front) // a connection that a browser keeps ready
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	answer := make(chan string, 1)
	go func() { answer <- p.get("localhost", "/") }()
	<-arrived

	p.cmd.Process.Signal(syscall.SIGTERM)
	dockertest.Wait(t, "readiness to fail", func() bool { code, _ := p.admin("/readyz"); return code == 503 })
	dockertest.Wait(t, "new connections to be refused", func() bool {
		c, err := net.Dial("tcp", p.front)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	close(finish)
	if got := <-answer; got != "200 late" {
		t.Errorf("the request in flight got %q, want its answer", got)
	}
	begin := time.Now()
	p.cmd.Wait()
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("it took %v to leave with nothing in flight", took)
	}
	if log := p.stdout.String(); !strings.Contains(log, `"status":200`) || !strings.Contains(log, `"upstream":"`+slow+`"`) {
		t.Errorf("access log: %s", log)
	}
}

func TestSecondSignal(t *testing.T) {
	arrived := make(chan struct{})
	never := origin(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	p := startProcess(t, nil, "LONGSHORE_BACKENDS="+never, "LONGSHORE_SHUTDOWN_TIMEOUT=1h")
	p.waitUp(1)
	go p.get("localhost", "/")
	<-arrived
	p.cmd.Process.Signal(syscall.SIGTERM)
	dockertest.Wait(t, "readiness to fail", func() bool { code, _ := p.admin("/readyz"); return code == 503 })
	if code := p.exit(syscall.SIGTERM); code != 1 {
		t.Errorf("after a second signal: exit %d, want 1", code)
	}
}

// TestSignalsOfNginx: hooks send an nginx signals that would end another process.
func TestSignalsOfNginx(t *testing.T) {
	p := startProcess(t, nil, "LONGSHORE_BACKENDS="+origin(t, hello))
	p.waitUp(1)
	for sig, want := range map[syscall.Signal]string{
		syscall.SIGHUP:   `level=INFO msg="SIGHUP: nothing to reload`,
		syscall.SIGUSR1:  `level=INFO msg="SIGUSR1: nothing to reopen`,
		syscall.SIGUSR2:  `level=INFO msg="SIGUSR2: ignored`,
		syscall.SIGWINCH: `level=INFO msg="SIGWINCH: ignored`,
	} {
		p.cmd.Process.Signal(sig)
		dockertest.Wait(t, "a line about "+want, func() bool { return strings.Contains(p.stderr.String(), want) })
	}
	if got := p.get("localhost", "/"); got != "200 hello" {
		t.Errorf("after the signals: %q, want 200 hello", got)
	}
	if code := p.exit(syscall.SIGTERM); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
}

func TestShutdownTimeout(t *testing.T) {
	arrived := make(chan struct{})
	never := origin(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	p := startProcess(t, nil, "LONGSHORE_BACKENDS="+never, "LONGSHORE_SHUTDOWN_TIMEOUT=200ms")
	p.waitUp(1)
	go p.get("localhost", "/")
	<-arrived
	if code := p.exit(syscall.SIGTERM); code != 0 {
		t.Errorf("when the time is over: exit %d, want 0", code)
	}
}

// TestNotReady: without a first state there is liveness, and no readiness.
func TestNotReady(t *testing.T) {
	front, back := reservePort(t), reservePort(t)
	startBinary(t, "LONGSHORE_LISTEN="+front, "LONGSHORE_ADMIN="+back, "DOCKER_HOST=unix:///nowhere/docker.sock", "LONGSHORE_UPSTREAM=web:80")
	ls := client(t, front, back)
	dockertest.Wait(t, "the process to live", func() bool { code, _ := ls.admin("/healthz"); return code == 200 })
	if code, body := ls.admin("/readyz"); code != 503 {
		t.Errorf("/readyz without a state: %d %q, want 503", code, body)
	}
	if got := ls.get("localhost", "/"); !strings.HasPrefix(got, "503 ") {
		t.Errorf("a request before the first state: %q, want 503: 404 would say that there is no such route", got)
	}
}

// TestDemo: two backends are always there, and the third comes.
func TestDemo(t *testing.T) {
	p := startProcess(t, []string{"demo"})
	p.waitUp(3)
	p.wantShares(9, 3, 3, 3)
	if code := p.exit(syscall.SIGINT); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
}

// TestRawRequest goes once through the whole binary at the level of bytes.
func TestRawRequest(t *testing.T) {
	got := make(chan string, 1)
	ln, err := net.Listen("tcp", testaddr.New())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				line, err := bufio.NewReader(c).ReadString('\n')
				if err != nil {
					return // a health check
				}
				got <- strings.TrimSpace(line)
				io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			}()
		}
	}()
	p := startProcess(t, nil, "LONGSHORE_BACKENDS="+ln.Addr().String())
	p.waitUp(1)
	c, err := net.Dial("tcp", p.front)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET //x|y/%2f;z? HTTP/1.1\r\nHost: a\r\n\r\n")
	if line := <-got; line != "GET //x|y/%2f;z? HTTP/1.1" {
		t.Errorf("the backend got %q", line)
	}
}
