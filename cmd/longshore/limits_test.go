package main

import (
	"net"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"longshore/internal/dockertest"
)

func TestMaxClients(t *testing.T) {
	for _, c := range []struct {
		want, files int
		container   int64
		got         int
	}{
		{0, 1 << 20, 0, 524256}, {0, 1024, 0, 480}, {0, 256, 0, 96}, {0, 100, 0, 25}, {0, 1, 0, 1}, {100, 1024, 0, 100},
		{0, 1 << 20, 128 << 20, 3276}, {5000, 1 << 20, 128 << 20, 5000}, {0, 1024, 128 << 20, 480},
	} {
		m := machine{files: c.files, memory: c.container, limited: c.container > 0}
		if got, warning := m.maxClients(c.want); got != c.got || warning != "" {
			t.Errorf("%+v: %d %q", c, got, warning)
		}
	}
	const want = "LONGSHORE_MAX_CLIENTS=1000: the process may open 1024 files (ulimit -n), which is enough for 480"
	if n, warning := (machine{files: 1024}).maxClients(1000); n != 480 || warning != want {
		t.Errorf("%d %q, want 480 %q", n, warning, want)
	}
}

func TestMemoryLimit(t *testing.T) {
	const meminfo = "MemTotal:        8000000 kB\nMemFree:         1000000 kB\n"
	for _, c := range []struct {
		name    string
		files   map[string]string
		want    int64
		limited bool
	}{
		{"nobody knows", nil, 1 << 30, false},
		{"no limit", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 8000000 << 10, false},
		{"version 2, in a container", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "134217728\n"}, 128 << 20, true},
		{"version 2, a parent has less", map[string]string{
			"proc/self/cgroup": "0::/a.slice/b.service\n", "sys/fs/cgroup/a.slice/memory.max": "1000000\n", "sys/fs/cgroup/a.slice/b.service/memory.max": "2000000\n",
		}, 1000000, true},
		{"version 1, in a container, which sees the path of the host", map[string]string{
			"proc/self/cgroup": "9:cpu:/docker/x\n4:memory:/docker/x\n0::/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "134217728\n",
		}, 128 << 20, true},
		{"version 1, no limit", map[string]string{
			"proc/self/cgroup": "4:memory:/docker/x\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 8000000 << 10, false},
	} {
		root := fstest.MapFS{}
		for name, text := range c.files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if c.files != nil {
			root["proc/meminfo"] = &fstest.MapFile{Data: []byte(meminfo)}
		}
		if got, limited := memoryLimit(root); got != c.want || limited != c.limited {
			t.Errorf("%s: %d %v, want %d %v", c.name, got, limited, c.want, c.limited)
		}
	}
}

// TestFewDescriptors opens a thousand connections to a process that may open 256 files, and sends nothing. Requests,
// the admin listener and health checks go on.
func TestFewDescriptors(t *testing.T) {
	b := origin(t, hello)
	p := startUnder(t, []string{"sh", "-c", `ulimit -n 256; exec "$0" "$@"`}, nil, "LONGSHORE_BACKENDS="+b, "LONGSHORE_HEALTH_INTERVAL=100ms", "LONGSHORE_HEALTH_PATH=/", "LONGSHORE_ACCESS_LOG=off")
	p.waitUp(1)
	old, err := net.Dial("tcp", p.front)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	for range 1000 {
		c, err := net.DialTimeout("tcp", p.front, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	dockertest.Wait(t, "the proxy to have seen them all", func() bool {
		_, metrics := p.admin("/metrics")
		return strings.Contains(metrics, `longshore_client_connections_closed_total{reason="idle"} 9`)
	})
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); { // some 20 health checks
		if got := p.get("example.com", "/"); got != "200 hello" {
			t.Fatalf("got %q", got)
		}
		if code, text := p.admin("/healthz"); code != 200 {
			t.Fatalf("/healthz: %d %q", code, text)
		}
		if b := p.state().backend(b); b.State != "up" || b.Failures != 0 {
			t.Fatalf("the backend is %+v", b)
		}
	}
}
