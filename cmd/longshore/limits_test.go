package main

import (
	"net"
	"strings"
	"testing"
	"time"

	"longshore/internal/config"
	"longshore/internal/dockertest"
)

func TestMaxClients(t *testing.T) {
	for _, c := range []struct{ want, files, got int }{
		{0, 1 << 20, 524256}, {0, 1024, 480}, {0, 256, 96}, {0, 100, 25}, {0, 1, 1}, {100, 1024, 100},
	} {
		if got, warning := maxClients(config.Config{MaxClients: c.want}, c.files); got != c.got || warning != "" {
			t.Errorf("%d wanted, %d files: %d %q, want %d", c.want, c.files, got, warning, c.got)
		}
	}
	const want = "LONGSHORE_MAX_CLIENTS=1000: the process may open 1024 files (ulimit -n), which is enough for 480"
	if n, warning := maxClients(config.Config{MaxClients: 1000}, 1024); n != 480 || warning != want {
		t.Errorf("%d %q, want 480 %q", n, warning, want)
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
