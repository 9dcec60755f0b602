package docker

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"longshore/internal/config"
	"longshore/internal/dockertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	dockertest.RemoveImages()
	os.Exit(code)
}

// The life of a container on the real engine, seen from the host.
func TestEngine(t *testing.T) {
	dockertest.Engine(t)
	image := dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090")
	web, lan := dockertest.Name("web"), dockertest.Name("net")
	docker := func(args ...string) {
		t.Helper()
		dockertest.Docker(t, args...)
	}
	dockertest.Network(t, lan)
	client, err := NewClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	s := &Source{Client: client, Project: "*", Settings: config.Defaults()}
	if err := s.Upstream.UnmarshalText([]byte(web)); err != nil {
		t.Fatal(err)
	}
	w := watch(t, s)
	w.until(web + " /")

	id := dockertest.Docker(t, "run", "-d", "--name", web, "--network", lan, "-e", "ON_TERM=ignore", "-e", "SECRET=hidden", image)
	t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", id) })
	w.until(":5090 #1\n")
	listens := func() {
		t.Helper()
		dockertest.Wait(t, "the app to listen, and so to heed signals", func() bool {
			conn, err := net.Dial("tcp", strings.Fields(w.last)[3])
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	listens()
	docker("kill", "-s", "HUP", web)
	docker("kill", "-s", "QUIT", web) // ends it, but is not its stop signal
	for _, st := range w.until("down: exited (2)") {
		if strings.Contains(st, "stopping") {
			t.Errorf("stopping after HUP and QUIT:\n%s", st)
		}
	}
	docker("start", web)
	w.until(":5090 #2\n")
	listens()
	docker("stop", "-t", "1", web)
	w.until(":5090 #2 stopping")
	w.until("down: exited (137)")
	docker("start", web)
	w.until(":5090 #3\n")
	docker("pause", web)
	w.until(":5090 #3 paused")
	docker("unpause", web)
	w.until(":5090 #4\n")
	docker("network", "disconnect", lan, web)
	w.until("down: disconnected from network " + lan)
	docker("network", "connect", lan, web)
	w.until(":5090 #5\n")
	docker("rename", web, web+"x")
	w.find("without "+web, func(st string) bool {
		return !strings.Contains(st, ":5090") && strings.Contains(st, "skip "+web+": no compose service")
	})
	docker("rename", web+"x", web)
	w.until(":5090 #5\n")
	docker("restart", "-t", "0", web)
	w.until(":5090 #6\n")
	docker("kill", web)
	w.until("down: exited (137)")
	if log := w.log.String(); strings.Contains(log, "hidden") || strings.Count(log, "level=WARN") > strings.Count(log, "no compose service") {
		t.Errorf("log:\n%s", log)
	}
}

// Both composes, from up to down.
func TestEngineCompose(t *testing.T) {
	dockertest.Engine(t)
	image := dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090")
	for _, compose := range dockertest.Composes(t) {
		t.Run(strings.Join(compose, " "), func(t *testing.T) {
			p := dockertest.Compose(t, compose, "version: '2.4'\nservices:\n  web:\n    image: "+image+"\n    labels: {longshore.weight: '2'}\n")
			client, err := NewClient()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { client.Close() })
			w := watch(t, &Source{Client: client, Project: p.Name, Settings: config.Defaults()})
			p.Run("up", "-d")
			w.until("web /\n", "web-1 ", ":5090 #1 weight 2")
			p.Run("up", "-d", "--scale", "web=2")
			w.until("web-1 ", "web-2 ", ":5090 #1 weight 2\n  web-2")
			p.Run("up", "-d", "--scale", "web=2", "--force-recreate")
			w.until("stopping")
			w.until("web-1 1", "web-2 1", ":5090")
			p.Run("down", "-t", "1")
			w.find("without anything", func(st string) bool { return st == "" })
		})
	}
}

// The host cannot reach the containers of a macvlan network on one of its own interfaces, although their addresses
// are of a network that it is in: it takes another of their addresses.
func TestEngineMacvlan(t *testing.T) {
	dockertest.Engine(t)
	if os.Getuid() != 0 {
		t.Skip("it takes root to make an interface")
	}
	image := dockertest.Image(t, "longshore/internal/testapp", "EXPOSE 5090")
	parent, lan, bridge := dockertest.Name("m"), dockertest.Name("a"), dockertest.Name("b") // the macvlan's comes first by name
	subnet := fmt.Sprintf("10.216.%d.", os.Getpid()%256)
	t.Cleanup(func() { exec.Command("ip", "link", "del", parent).Run() })
	for _, args := range []string{"link add " + parent + " type bridge", "addr add " + subnet + "253/24 dev " + parent, "link set " + parent + " up"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	dockertest.Docker(t, "network", "create", "-d", "macvlan", "-o", "parent="+parent, "--subnet", subnet+"0/24", "--gateway", subnet+"254", lan)
	t.Cleanup(func() { dockertest.Docker(t, "network", "rm", lan) })
	dockertest.Network(t, bridge)
	web := dockertest.Name("web")
	id := dockertest.Docker(t, "create", "--name", web, "--network", lan, image)
	t.Cleanup(func() { dockertest.Docker(t, "rm", "-f", id) })
	dockertest.Docker(t, "network", "connect", bridge, web)
	dockertest.Docker(t, "start", web)

	client, err := NewClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	s := &Source{Client: client, Project: "*", Settings: config.Defaults()}
	if err := s.Upstream.UnmarshalText([]byte(web)); err != nil {
		t.Fatal(err)
	}
	w := watch(t, s)
	w.until(":5090 #1\n")
	addr := strings.Fields(w.last)[3]
	if strings.HasPrefix(addr, subnet) {
		t.Errorf("the address is %s, which is of the macvlan network", addr)
	}
	dockertest.Wait(t, addr+" to answer", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}
