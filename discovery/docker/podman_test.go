package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/client"

	"longshore/internal/config"
	"longshore/internal/dockertest"
)

// The life of a container under Podman, which is told by events alone.
func TestEnginePodman(t *testing.T) {
	p := newPodman(t)
	image := p.image("longshore/internal/testapp", "EXPOSE 5090")
	for _, name := range []string{"one", "two"} {
		p.docker("network", "create", name)
	}
	c, err := client.NewClientWithOpts(client.WithHost("unix://"+p.socket), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s := &Source{Client: c, Project: "*", Settings: config.Defaults(), pace: pace{relist: time.Hour}}
	if err := s.Upstream.UnmarshalText([]byte("web")); err != nil {
		t.Fatal(err)
	}
	w := watch(t, s)
	w.until("skip web: no compose service")
	p.docker("run", "-d", "--name", "web", "--network", "one", image)
	w.until(":5090 #1\n")
	p.docker("kill", "web")
	w.until("web #1 down: exited (137)")
	p.docker("start", "web")
	w.until(":5090 #2\n")
	p.docker("pause", "web")
	w.until(":5090 #2 paused")
	p.docker("unpause", "web")
	w.until(":5090 #3\n")
	p.docker("network", "disconnect", "one", "web")
	w.until("web /\nskip web: no address that the host can reach")
	p.docker("network", "connect", "two", "web")
	w.until(":5090 #4\n")
	p.docker("stop", "web")
	w.until("web #4 down: exited (")
	p.docker("start", "web")
	w.until(":5090 #5\n")

	p.stop() // its containers run on
	p.kill("web")
	p.start()
	w.until("web #5 down: exited (137)")
	p.docker("start", "web")
	w.until(":5090 #6\n")
	p.docker("rm", "-f", "web")
	w.until("skip web: no compose service")
}

// A podman is a Podman service of one test, with storage, networks and a socket of its own.
type podman struct {
	t           *testing.T
	dir, socket string
	cmd         *exec.Cmd
}

// newPodman skips the test where there is no podman; with CI=true that is a failure.
func newPodman(t *testing.T) *podman {
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil || os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("no podman can be started: that takes root and the program")
		}
		t.Skip("no podman can be started: that takes root and the program")
	}
	dir, err := os.MkdirTemp("", "longshore") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	p := &podman{t: t, dir: dir, socket: filepath.Join(dir, "podman.sock")}
	conf := "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n" // its own are higher than some machines allow
	if err := os.WriteFile(filepath.Join(dir, "containers.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.remove)
	p.start()
	return p
}

// command runs podman itself, which needs the service for nothing.
func (p *podman) command(args ...string) *exec.Cmd {
	in := func(name string) string { return filepath.Join(p.dir, name) }
	cmd := exec.Command("podman", append([]string{
		"--root", in("root"), "--runroot", in("run"), "--tmpdir", in("tmp"), "--network-config-dir", in("networks"),
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
	}, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+in("containers.conf"))
	return cmd
}

func (p *podman) start() {
	p.t.Helper()
	p.cmd = p.command("system", "service", "-t", "0", "unix://"+p.socket)
	var log bytes.Buffer
	p.cmd.Stderr = &log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.socket)
	}}}
	dockertest.Wait(p.t, "podman to answer", func() bool {
		res, err := c.Get("http://podman/_ping")
		if err == nil {
			res.Body.Close()
		}
		return err == nil && res.StatusCode == http.StatusOK
	})
}

func (p *podman) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.cmd.Wait()
}

// docker is the Docker CLI, which talks to the service.
func (p *podman) docker(args ...string) {
	p.t.Helper()
	cmd := exec.Command("docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+p.socket)
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// kill kills a container without the service.
func (p *podman) kill(name string) {
	p.t.Helper()
	if out, err := p.command("kill", name).CombinedOutput(); err != nil {
		p.t.Fatalf("podman kill: %v\n%s", err, out)
	}
}

// image makes an image of a main package of this module. More are lines for a Dockerfile.
func (p *podman) image(pkg string, more ...string) string {
	p.t.Helper()
	binary, err := os.ReadFile(dockertest.Binary(p.t, pkg, filepath.Join(p.t.TempDir(), "app")))
	if err != nil {
		p.t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	w.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(binary))})
	w.Write(binary)
	w.Close()
	args := []string{"import"}
	for _, line := range append(more, `ENTRYPOINT ["/app"]`) {
		args = append(args, "--change", line)
	}
	const tag = "app:test"
	cmd := p.command(append(args, "-", tag)...)
	cmd.Stdin = &layer
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("podman import: %v\n%s", err, out)
	}
	return tag
}

// remove leaves nothing of it.
func (p *podman) remove() {
	p.stop()
	for _, args := range [][]string{{"rm", "-f", "-a", "-t", "0"}, {"network", "prune", "-f"}, {"system", "reset", "-f"}} {
		if out, err := p.command(args...).CombinedOutput(); err != nil {
			p.t.Errorf("podman %s: %v\n%s", fmt.Sprint(args), err, out)
		}
	}
	if err := os.RemoveAll(p.dir); err != nil {
		p.t.Error(err)
	}
}
