package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"longshore/internal/dockertest"
)

// ownMemory is the memory of a process that is its own, in bytes; zero: there is no such process.
func ownMemory(pid string) (kB int) {
	status, _ := os.ReadFile("/proc/" + pid + "/status")
	_, rest, _ := bytes.Cut(status, []byte("RssAnon:"))
	fmt.Sscan(string(rest), &kB)
	return kB << 10
}

// TestEngineMemory has many clients hold on to as much as they can of a proxy in a container of 128 MB. It lives, serves
// others meanwhile, and gives the memory back when they have left.
func TestEngineMemory(t *testing.T) {
	dockertest.Engine(t)
	image := dockertest.Image(t, "longshore/cmd/longshore")
	lan := dockertest.Name("lan")
	dockertest.Network(t, lan)
	gateway := dockertest.Docker(t, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", lan)
	ln, err := net.Listen("tcp", gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	b := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/tunnel" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			w.WriteHeader(http.StatusSwitchingProtocols)
			if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
				io.Copy(io.Discard, c)
				c.Close()
			}
			return
		}
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "hello\n")
	}))
	b.Listener = ln
	b.Start()
	defer b.CloseClientConnections()

	id := dockertest.Docker(t, "run", "-d", "-m", "128m", "--network", lan, "-e", "LONGSHORE_BACKENDS="+ln.Addr().String(), "-e", "LONGSHORE_ACCESS_LOG=off", image)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(dockertest.Docker(t, "logs", id))
		}
		dockertest.Docker(t, "rm", "-f", id)
	})
	inspect := func(what string) string { return dockertest.Docker(t, "inspect", "-f", "{{"+what+"}}", id) }
	ip, pid := inspect("(index .NetworkSettings.Networks \""+lan+"\").IPAddress"), inspect(".State.Pid")
	ls := client(t, ip+":80", ip+":9180")
	ls.waitUp(1)
	for range 100 {
		ls.get("example.com", "/")
	}
	start := ownMemory(pid)

	for _, c := range []struct {
		name  string
		count int
		send  string
	}{
		{"60 of 61 kB", 700, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 61000\r\n\r\n" + strings.Repeat("x", 60000)},
		{"silent WebSockets", 2200, "GET /tunnel HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		{"chunked uploads", 3000, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conns := make([]net.Conn, 0, c.count)
			defer func() {
				for _, conn := range conns {
					conn.Close()
				}
			}()
			for range c.count {
				conn, err := net.DialTimeout("tcp", ip+":80", 10*time.Second)
				if err != nil {
					t.Fatalf("after %d: %v", len(conns), err)
				}
				conns = append(conns, conn)
				conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.WriteString(conn, c.send); err != nil {
					t.Fatalf("after %d: %v", len(conns), err)
				}
			}
			most := 0
			for end := time.Now().Add(3 * time.Second); time.Now().Before(end); most = max(most, ownMemory(pid)) {
				if got := ls.get("example.com", "/"); got != "200 hello" {
					t.Fatalf("a good request beside them got %q; it had %.1f MB; running, killed for its memory: %s", got, float64(most)/1e6, inspect(".State.Running")+inspect(".State.OOMKilled"))
				}
			}
			if got := inspect(".State.Running") + inspect(".State.OOMKilled"); got != "truefalse" {
				t.Fatalf("running, killed for its memory: %s", got)
			}
			for _, conn := range conns {
				conn.Close()
			}
			const near = 16 << 20
			left := 0
			for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
				if left = ownMemory(pid); left < start+near {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("a minute after they left it has %d MB, %d at the start", left>>20, start>>20)
				}
			}
			t.Logf("start %.1f MB, at most %.1f MB: %d bytes each; %.1f MB after they left", float64(start)/1e6, float64(most)/1e6, (most-start)/c.count, float64(left)/1e6)
		})
	}
}
