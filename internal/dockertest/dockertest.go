// Package dockertest runs compose projects on the real Docker engine for tests.
//
// What it makes it names uniquely and removes again. Images are built FROM scratch of static binaries
// that are compiled for the test.
package dockertest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Engine skips the test where no Docker engine answers; with CI=true that is a failure.
func Engine(t testing.TB) {
	t.Helper()
	if out, err := exec.Command("docker", "info", "-f", "{{.ServerVersion}}").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no Docker engine answers: %v: %s", err, out)
		}
		t.Skip("no Docker engine answers")
	}
}

// Composes lists the compose commands of this machine: v2 ("docker compose") and v1 ("docker-compose").
// With CI=true both must be there.
func Composes(t testing.TB) [][]string {
	t.Helper()
	var all [][]string
	for _, c := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if exec.Command(c[0], append(c[1:], "version")...).Run() == nil {
			all = append(all, c)
		} else if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not there", strings.Join(c, " "))
		}
	}
	if len(all) == 0 {
		t.Skip("no compose command is there")
	}
	return all
}

// Docker runs a docker command and returns what it prints, without the last newline.
func Docker(t testing.TB, args ...string) string {
	t.Helper()
	return run(t, "", append([]string{"docker"}, args...)...)
}

// Logs returns what a container has written, to stderr too.
func Logs(t testing.TB, container string) string {
	t.Helper()
	out, err := exec.Command("docker", "logs", container).CombinedOutput()
	if err != nil {
		t.Fatalf("docker logs: %v: %s", err, out)
	}
	return string(out)
}

func run(t testing.TB, dir string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return strings.TrimRight(stdout.String(), "\n")
}

var images struct {
	mu   sync.Mutex // guards tags
	tags map[string]string
}

// Image builds a main package of this module into an image FROM scratch, once per test binary, and
// returns its tag. More are lines for the Dockerfile.
func Image(t testing.TB, pkg string, more ...string) string {
	t.Helper()
	images.mu.Lock()
	defer images.mu.Unlock()
	key := pkg + "\n" + strings.Join(more, "\n")
	if tag, ok := images.tags[key]; ok {
		return tag
	}
	dir := t.TempDir()
	Binary(t, pkg, filepath.Join(dir, "app"))
	dockerfile := "FROM scratch\nCOPY app /app\n" + strings.Join(more, "\n") + "\nENTRYPOINT [\"/app\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	tag := fmt.Sprintf("%s-%d:test", Name(filepath.Base(pkg)), len(images.tags))
	run(t, dir, "docker", "build", "-q", "-t", tag, ".")
	if images.tags == nil {
		images.tags = make(map[string]string)
	}
	images.tags[key] = tag
	return tag
}

// RemoveImages removes what Image built: for TestMain.
func RemoveImages() {
	images.mu.Lock()
	defer images.mu.Unlock()
	for _, tag := range images.tags {
		exec.Command("docker", "rmi", "-f", tag).Run()
	}
	images.tags = nil
}

// Binary compiles a main package of this module statically.
func Binary(t testing.TB, pkg, out string) string {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, msg)
	}
	return out
}

// Network creates a network that is removed when the test ends.
func Network(t testing.TB, name string) {
	t.Helper()
	Docker(t, "network", "create", name)
	t.Cleanup(func() { // the engine forgets endpoints a moment after their containers
		Wait(t, "the network to be removable", func() bool { return exec.Command("docker", "network", "rm", name).Run() == nil })
	})
}

var serial atomic.Int64

// Name returns a name that nobody else uses: of the test process and a serial number.
func Name(base string) string {
	return fmt.Sprintf("lst%d%s%d", os.Getpid(), base, serial.Add(1))
}

// A Project is a compose project of one test, taken down at its end.
type Project struct {
	Name    string
	t       testing.TB
	compose []string
	dir     string
}

// Compose writes a compose file for a project of its own. Nothing is started.
func Compose(t testing.TB, compose []string, file string) *Project {
	t.Helper()
	p := &Project{Name: Name("p"), t: t, compose: compose, dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(p.dir, "docker-compose.yml"), []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := p.command("logs", "--tail=60").CombinedOutput()
			t.Logf("logs of %s:\n%s", p.Name, out)
		}
		p.Run("down", "-v", "-t", "1", "--remove-orphans")
	})
	return p
}

func (p *Project) command(args ...string) *exec.Cmd {
	all := append(append([]string{}, p.compose...), "-p", p.Name)
	all = append(all, args...)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Dir = p.dir
	return cmd
}

// Run runs a compose command in the project.
func (p *Project) Run(args ...string) {
	p.t.Helper()
	if out, err := p.command(args...).CombinedOutput(); err != nil {
		p.t.Errorf("compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Containers lists the running containers of a service, oldest first.
func (p *Project) Containers(service string) []string {
	p.t.Helper()
	out := Docker(p.t, "ps", "-q", "--no-trunc", "--filter", "label=com.docker.compose.project="+p.Name,
		"--filter", "label=com.docker.compose.service="+service)
	ids := strings.Fields(out)
	for i, j := 0, len(ids)-1; i < j; i, j = i+1, j-1 { // docker ps lists the newest first
		ids[i], ids[j] = ids[j], ids[i]
	}
	return ids
}

// Published returns where a container's port is published on this host: "127.0.0.1:49153".
func Published(t testing.TB, container, port string) string {
	t.Helper()
	addr, _, _ := strings.Cut(Docker(t, "port", container, port), "\n")
	return addr
}

// Wait polls until ok returns true. It fails the test after a time that no working machine needs.
func Wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}
