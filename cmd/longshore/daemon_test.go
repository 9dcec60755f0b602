package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"longshore/internal/dockertest"
)

// TestEngineCutsUnderLoad cuts the stream every second while a service is scaled up and down.
func TestEngineCutsUnderLoad(t *testing.T) {
	dockertest.Engine(t)
	p := project(t, dockertest.Composes(t)[0], "{}", "")
	p.Run("up", "-d", "--scale", "flaskapp=2", "flaskapp")
	w := newCord(t, "/var/run/docker.sock")
	ls := onHost(t, "DOCKER_HOST=unix://"+w.path, "LONGSHORE_UPSTREAM=flaskapp:5090", "LONGSHORE_PROJECT="+p.Name)
	ls.waitUp(2)

	load := ls.startLoad(200)
	load.waitFor(200)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
				w.cut()
			}
		}
	}()
	for _, n := range []int{4, 2, 4, 2} {
		p.Run("up", "-d", "--no-recreate", "--scale", fmt.Sprint("flaskapp=", n), "flaskapp")
		time.Sleep(time.Second) // so that each size is there for a cut
	}
	close(stop)
	<-stopped
	p.Run("up", "-d", "--no-recreate", "--scale", "flaskapp=3", "flaskapp")
	w.cut()
	ls.rightWithin(time.Second, p.Containers("flaskapp"))
	load.waitFor(load.count() + 200)
	wantNoFailure(t, load)
}

// TestEngineAddressReuse gives the address of a replica that was stopped to a stranger that listens on the
// same port.
func TestEngineAddressReuse(t *testing.T) {
	dockertest.Engine(t)
	for _, replicas := range []int{2, 1} {
		t.Run(fmt.Sprint(replicas, " replicas"), func(t *testing.T) {
			image := dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090")
			lan, subnet := dockertest.Name("net"), fmt.Sprintf("10.213.%d.", 64+os.Getpid()%128)
			dockertest.Docker(t, "network", "create", "--subnet", subnet+"0/24", lan)
			t.Cleanup(func() {
				dockertest.Wait(t, "the network to be removable", func() bool { return exec.Command("docker", "network", "rm", lan).Run() == nil })
			})
			run := func(ip string, more ...string) string {
				args := append([]string{"run", "-d", "--network", lan, "--ip", subnet + ip}, more...)
				id := dockertest.Docker(t, append(args, image)...)
				t.Cleanup(func() { exec.Command("docker", "rm", "-f", id).Run() })
				return id
			}
			label := "test." + lan
			a := run("10", "--label", label)
			if replicas == 2 {
				run("11", "--label", label)
			}
			ls := onHost(t, "LONGSHORE_LABEL="+label, "LONGSHORE_PROJECT=*", "LONGSHORE_QUEUE_TIMEOUT=1s")
			ls.waitUp(replicas)
			load := ls.startLoad(200)
			load.waitFor(200)

			dockertest.Docker(t, "stop", a)
			b := run("10")
			dockertest.Wait(t, "the stranger to listen", func() bool {
				conn, err := net.Dial("tcp", subnet+"10:5090")
				if err == nil {
					conn.Close()
				}
				return err == nil
			})
			time.Sleep(time.Second)
			dockertest.Docker(t, "rm", "-f", b)
			dockertest.Docker(t, "start", a)
			ls.waitUp(replicas)
			before := load.count()
			load.waitFor(before + 200)
			answers := load.stop()
			if n := answers.by(b[:12]); n > 0 {
				t.Errorf("%d requests were answered by the stranger", n)
			}
			if n := answers[before:].by(a[:12]); n == 0 {
				t.Error("the replica got no request after it was started again")
			}
			if bad := answers.failed(); replicas == 2 && len(bad) > 0 {
				t.Errorf("%d of %d requests failed: %v", len(bad), len(answers), bad[:min(len(bad), 5)])
			}
		})
	}
}

// TestEngineLiveRestore ends an engine that leaves its containers running, by each of two signals, and starts
// it again.
func TestEngineLiveRestore(t *testing.T) {
	dockertest.Engine(t)
	image := dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090")
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			e := newEngine(t)
			e.load(image)
			replicas := make(map[string]int) // process by container
			for range 3 {
				id := e.docker("run", "-d", "--label", "test.replica", image)
				pid, err := strconv.Atoi(e.docker("inspect", "-f", "{{.State.Pid}}", id))
				if err != nil {
					t.Fatal(err)
				}
				replicas[id] = pid
			}
			ls := onHost(t, "DOCKER_HOST=unix://"+e.socket, "LONGSHORE_LABEL=test.replica", "LONGSHORE_PROJECT=*")
			ls.waitUp(3)
			load := ls.startLoad(200)
			load.waitFor(200)

			ended := time.Now()
			e.stop(signal)
			dockertest.Wait(t, "the loss to be noticed", func() bool { return !ls.state().Docker.Connected })
			since := ls.state().Docker.Since
			if since.Before(ended.Add(-time.Second)) || since.After(time.Now()) {
				t.Errorf("/api/state says that the engine is away since %v, want about %v", since, ended)
			}
			if code, body := ls.admin("/readyz"); code != 200 || !strings.Contains(body, "without the docker daemon since "+since.Format(time.RFC3339)) {
				t.Errorf("/readyz while the engine is away: %d %q, want 200 and since when", code, body)
			}
			ids := slices.Sorted(maps.Keys(replicas))
			if err := syscall.Kill(replicas[ids[0]], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			load.waitFor(load.count() + 1000) // five seconds: a wait that doubled would be long by now

			e.start()
			ls.rightWithin(time.Second, ids[1:], ids[0])
			load.waitFor(load.count() + 200)
			wantNoFailure(t, load)

			e.docker("start", ids[0])
			ls.waitUp(3)
			ls.wantShares(30, 10, 10, 10)
		})
	}
}

// TestEngineFrozen stops an engine's process, which keeps its socket open: that is noticed, costs no request, and
// is over when it goes on.
func TestEngineFrozen(t *testing.T) {
	dockertest.Engine(t)
	e := newEngine(t)
	e.load(dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090"))
	e.docker("run", "-d", "--label", "test.replica", dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090"))
	ls := onHost(t, "DOCKER_HOST=unix://"+e.socket, "LONGSHORE_LABEL=test.replica", "LONGSHORE_PROJECT=*")
	ls.waitUp(1)

	frozen := time.Now()
	e.cmd.Process.Signal(syscall.SIGSTOP)
	t.Cleanup(func() { e.cmd.Process.Signal(syscall.SIGCONT) })
	dockertest.Wait(t, "the silence to be noticed", func() bool {
		_, body := ls.admin("/metrics")
		return strings.Contains(body, "\nlongshore_docker_connected 0\n") && strings.Contains(body, "\nlongshore_docker_trouble{kind=\"silent\"} 1\n")
	})
	took := time.Since(frozen)
	t.Logf("noticed after %v", took)
	if took > 15*time.Second {
		t.Errorf("noticed after %v, want a few seconds", took)
	}
	if code, body := ls.admin("/readyz"); code != 200 || !strings.Contains(body, "without the docker daemon since") || !strings.Contains(body, "stopped or overloaded") {
		t.Errorf("/readyz: %d %q, want 200 and what is wrong", code, body)
	}
	ls.wantShares(4, 4)

	e.cmd.Process.Signal(syscall.SIGCONT)
	dockertest.Wait(t, "the engine to be back", func() bool { return ls.state().Docker.Connected })
	id := e.docker("run", "-d", "--label", "test.replica", dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090"))
	dockertest.Wait(t, "another replica to be up", func() bool { return ls.state().backend(id).State == "up" })
}

// TestEngineStaleSocket restarts an engine whose socket is mounted as a file, which the container then has for ever,
// and in its directory, where the new one is found.
func TestEngineStaleSocket(t *testing.T) {
	dockertest.Engine(t)
	e := newEngine(t)
	proxy := func(args ...string) *longshore {
		t.Helper()
		args = append([]string{"run", "-d", "-p", "127.0.0.1::9180", "-e", "LONGSHORE_LABEL=test.replica"}, args...)
		id := dockertest.Docker(t, append(args, dockertest.Image(t, "longshore/cmd/longshore"))...)
		t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", id) })
		ls := client(t, "", dockertest.Published(t, id, "9180"))
		dockertest.Wait(t, "the engine to be found", func() bool { _, body := ls.admin("/readyz"); return body == "ready\n" })
		return ls
	}
	file := proxy("-v", e.socket+":/var/run/docker.sock:ro")
	dir := proxy("-v", e.dir+":/run/host:ro", "-e", "DOCKER_HOST=unix:///run/host/docker.sock")

	e.stop(syscall.SIGTERM)
	for _, ls := range []*longshore{file, dir} {
		dockertest.Wait(t, "the loss to be noticed", func() bool {
			_, body := ls.admin("/readyz")
			return strings.Contains(body, "without the docker daemon since")
		})
	}
	e.start()
	dockertest.Wait(t, "the new engine to be found in the directory", func() bool { _, body := dir.admin("/readyz"); return body == "ready\n" })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // it counts as stale after half of that
		code, body := file.admin("/readyz")
		if code == 200 && strings.Contains(body, "mount the directory (-v /run:/run/host:ro) and set DOCKER_HOST=unix:///run/host/docker.sock") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz with the dead socket: %d %q, want 200 and what to do", code, body)
		}
	}
	if _, body := file.admin("/metrics"); !strings.Contains(body, "\nlongshore_docker_trouble{kind=\"stale\"} 1\n") {
		t.Error("the metric does not say that the socket is stale")
	}
}

// TestEngineReconnects: what the proxy holds does not grow with the number of times that the stream was cut.
func TestEngineReconnects(t *testing.T) {
	dockertest.Engine(t)
	p := project(t, dockertest.Composes(t)[0], "{}", "")
	p.Run("up", "-d", "--scale", "flaskapp=2", "flaskapp")
	w := newCord(t, "/var/run/docker.sock")
	ls := onHost(t, "DOCKER_HOST=unix://"+w.path, "LONGSHORE_UPSTREAM=flaskapp:5090", "LONGSHORE_PROJECT="+p.Name)
	ls.waitUp(2)
	reconnect := func(times int) {
		for range times {
			before := w.count()
			w.cut()
			dockertest.Wait(t, "a new connection", func() bool { return w.count() > before })
			time.Sleep(20 * time.Millisecond) // for the list
		}
		time.Sleep(time.Second)
	}
	reconnect(20)
	before := ls.resources()
	reconnect(100)
	after := ls.resources()
	t.Logf("before %+v, after %+v", before, after)
	if after.goroutines > before.goroutines+5 || after.files > before.files+5 || after.memory > before.memory+4<<20 {
		t.Errorf("after 100 more reconnects %+v, before %+v", after, before)
	}
	ls.wantShares(20, 10, 10)
}

// onHost starts longshore on the host.
func onHost(t testing.TB, env ...string) *longshore {
	t.Helper()
	front, back := reservePort(t), reservePort(t)
	startBinary(t, append(env, "LONGSHORE_LISTEN="+front, "LONGSHORE_ADMIN="+back, "LONGSHORE_ACCESS_LOG=off")...)
	return client(t, front, back)
}

// rightWithin checks that soon some containers are up and others down, and that there are no more.
func (ls *longshore) rightWithin(limit time.Duration, up []string, down ...string) {
	ls.t.Helper()
	want := make(map[string]string)
	for _, id := range up {
		want[id] = "up"
	}
	for _, id := range down {
		want[id] = "down"
	}
	began := time.Now()
	dockertest.Wait(ls.t, "the right backends", func() bool {
		got := make(map[string]string)
		for _, svc := range ls.state().Services {
			for _, b := range svc.Backends {
				got[b.ID] = b.State
			}
		}
		return maps.Equal(got, want)
	})
	took := time.Since(began)
	ls.t.Logf("the state was right after %v", took)
	if took > limit {
		ls.t.Errorf("the state was right after %v, want at most %v", took, limit)
	}
}

// wantNoFailure ends a load.
func wantNoFailure(t testing.TB, l *load) {
	t.Helper()
	answers := l.stop()
	t.Logf("%d requests", len(answers))
	if bad := answers.failed(); len(bad) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(bad), len(answers), bad[:min(len(bad), 5)])
	}
}

// A cord leads to the engine's socket, byte by byte, and can be cut: it ends at once, and new connections
// get through.
type cord struct {
	path string
	to   string

	mu    sync.Mutex // guards the following
	conns []net.Conn
	made  int
}

func newCord(t testing.TB, to string) *cord {
	dir, err := os.MkdirTemp("", "longshore") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	w := &cord{path: filepath.Join(dir, "docker.sock"), to: to}
	ln, err := net.Listen("unix", w.path)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		w.cut()
		running.Wait()
		os.RemoveAll(dir)
	})
	running.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", w.to)
			if err != nil {
				near.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, near, far)
			w.made++
			w.mu.Unlock()
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				running.Go(func() {
					io.Copy(pair[0], pair[1])
					pair[0].Close()
					pair[1].Close()
				})
			}
		}
	})
	return w
}

// cut ends all connections.
func (w *cord) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// count is how many connections there ever were.
func (w *cord) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.made
}

// An engine is a dockerd of one test, which may be ended and started again. It has a bridge of its own, since
// with none it would delete docker0, and touches no rules of the firewall, so that its containers reach only
// each other and the host.
type engine struct {
	t           testing.TB
	dir, socket string
	bridge      string
	cmd         *exec.Cmd
}

func newEngine(t testing.TB) *engine {
	t.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil || os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("no dockerd can be started: that takes root and the program")
		}
		t.Skip("no dockerd can be started: that takes root and the program")
	}
	dir, err := os.MkdirTemp("", "longshore")
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, dir: dir, socket: filepath.Join(dir, "docker.sock"), bridge: dockertest.Name("b")}
	t.Cleanup(e.remove)
	for _, args := range []string{
		"link add " + e.bridge + " type bridge", fmt.Sprintf("addr add 10.214.%d.1/24 dev %s", os.Getpid()%256, e.bridge), "link set " + e.bridge + " up",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "none.json"), []byte("{}"), 0o600); err != nil { // not the machine's
		t.Fatal(err)
	}
	e.start()
	return e
}

// start starts dockerd and waits until it answers.
func (e *engine) start() {
	e.t.Helper()
	os.Remove(filepath.Join(e.dir, "pid")) // of one that was killed
	log, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	namespace := filepath.Base(e.dir) // should the machine's containerd be used
	e.cmd = exec.Command("dockerd", "--host", "unix://"+e.socket, "--config-file", filepath.Join(e.dir, "none.json"),
		"--data-root", filepath.Join(e.dir, "data"), "--exec-root", filepath.Join(e.dir, "exec"), "--pidfile", filepath.Join(e.dir, "pid"),
		"--containerd-namespace", namespace, "--containerd-plugins-namespace", namespace+"-plugins",
		"--live-restore", "--bridge", e.bridge, "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
	e.cmd.Stdout, e.cmd.Stderr = log, log
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); !e.answers(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			out, _ := os.ReadFile(log.Name())
			e.t.Fatalf("dockerd does not answer:\n%s", out[max(0, len(out)-4000):])
		}
	}
}

func (e *engine) answers() bool {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", e.socket)
	}}}
	res, err := c.Get("http://docker/_ping")
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func (e *engine) stop(signal syscall.Signal) {
	e.cmd.Process.Signal(signal)
	e.cmd.Wait()
}

func (e *engine) command(args ...string) *exec.Cmd {
	cmd := exec.Command("docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+e.socket)
	return cmd
}

func (e *engine) docker(args ...string) string {
	e.t.Helper()
	out, err := e.command(args...).CombinedOutput()
	if err != nil {
		e.t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// load copies an image from the machine's engine.
func (e *engine) load(image string) {
	e.t.Helper()
	save, load := exec.Command("docker", "save", image), e.command("load")
	pipe, err := save.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	load.Stdin = pipe
	if err := save.Start(); err != nil {
		e.t.Fatal(err)
	}
	if out, err := load.CombinedOutput(); err != nil {
		e.t.Fatalf("docker load: %v\n%s", err, out)
	}
	if err := save.Wait(); err != nil {
		e.t.Fatalf("docker save: %v", err)
	}
}

// remove leaves nothing of the engine.
func (e *engine) remove() {
	if e.cmd != nil {
		if e.cmd.ProcessState != nil { // the test ended while it was stopped
			e.start()
		}
		if ids := strings.Fields(e.docker("ps", "-aq")); len(ids) > 0 {
			e.docker(append([]string{"rm", "-f"}, ids...)...)
		}
		e.stop(syscall.SIGTERM)
		syscall.Unmount(filepath.Join(e.dir, "data"), syscall.MNT_DETACH) // it mounts its root onto itself
	}
	exec.Command("ip", "link", "del", e.bridge).Run()
	if err := os.RemoveAll(e.dir); err != nil {
		e.t.Error(err)
	}
}
