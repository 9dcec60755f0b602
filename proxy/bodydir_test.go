package proxy

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"longshore/discovery"
)

// filesIn counts the files that this process has open in dir, and those that can be seen there.
func filesIn(t *testing.T, dir string) (n int) {
	t.Helper()
	seen, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if name, _ := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); strings.HasPrefix(name, dir+"/") {
			n++
		}
	}
	return n + len(seen)
}

// spooling serves backends with a directory for bodies.
func spooling(t *testing.T, in lane, dir string, bs ...*backend) *testProxy {
	t.Helper()
	p := newProxy(t, in)
	p.BodyTimeout, p.BodyDir = patience, dir
	s := web(bs...)
	for i := range s.Endpoints {
		s.Endpoints[i].Server.MaxConns = 10
		s.Endpoints[i].Backup = i > 0
	}
	s.Settings.BodyBuffer = 64 << 10
	s.Settings.MaxBody = discovery.Size(8 << 20)
	p.serve(s)
	return p
}

// TestSlowLargeBodies: nor do clients hold a place whose bodies are gathered in files.
func TestSlowLargeBodies(t *testing.T) { run(t, testSlowLargeBodies) }

func testSlowLargeBodies(t *testing.T, in lane) {
	b := startBackend(t, "one", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.ContentLength, " ", string(body) == numbers(200_000))
	})
	dir := t.TempDir()
	p := spooling(t, in, dir, b)
	body := numbers(200_000)
	slow := make([]*wire, 20)
	for i := range slow {
		slow[i] = p.dial()
		if i < 10 {
			slow[i].ask("POST /slow\nContent-Length: 200000\n", body[:150_000])
		} else {
			slow[i].ask("POST /slow\nTransfer-Encoding: chunked\n", fmt.Sprintf("%x\r\n%s\r\n", 150_000, body[:150_000]))
		}
	}
	until(t, "all are in files", func() bool { return filesIn(t, dir) == 20 })
	for range 20 {
		if got, want := p.do("POST /a\nContent-Length: 2\n", "ok").String(), "200 2 false"; got != want {
			t.Fatalf("beside slow bodies: got %q, want %q", got, want)
		}
	}
	if got := b.requests.Load(); got != 20 {
		t.Errorf("the backend had %d requests, want 20", got)
	}
	for i, w := range slow {
		switch {
		case i%10 == 0: // leaves
			w.Close()
			continue
		case i < 10:
			w.send(body[150_000:])
		default:
			w.send(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 50_000, body[150_000:]))
		}
		if got, want := w.reply("POST").String(), "200 200000 true"; got != want {
			t.Errorf("a slow body: got %q, want %q", got, want)
		}
	}
	w := p.dial()
	w.ask("POST /large\nTransfer-Encoding: chunked\n", fmt.Sprintf("%x\r\n", 9<<20), strings.Repeat("x", 8<<20+64<<10)) // net/http fills its buffer within a chunk
	if got, want := w.reply("POST").Status, "413 Request Entity Too Large"; got != want {
		t.Errorf("more than MAX_BODY: got %q, want %q", got, want)
	}
	until(t, "nothing is left", func() bool { return filesIn(t, dir) == 0 && p.buffered.used.Load() == 0 })
}

// TestReplayFromFile: what is gathered in a file is repeated as a whole.
func TestReplayFromFile(t *testing.T) { run(t, testReplayFromFile) }

func testReplayFromFile(t *testing.T, in lane) {
	one := rawBackend(t, "one", func(w *wire) {
		w.head()
		w.bytes(1 << 20) // and closes
	})
	two := startBackend(t, "two", nil)
	dir := t.TempDir()
	p := spooling(t, in, dir, one, two)
	body := numbers(5 << 20)
	if got, want := p.do(fmt.Sprintf("PUT /a\nContent-Length: %d\n", len(body)), body).String(), "200 two /a "+body; got != want {
		t.Errorf("got %.60q of %d bytes, want %.60q of %d", got, len(got), want, len(want))
	}
	until(t, "nothing is left", func() bool { return filesIn(t, dir) == 0 && p.buffered.used.Load() == 0 })
}

// TestBodyDirFull: what the directory does not take passes as it comes, and nothing is lost.
func TestBodyDirFull(t *testing.T) { run(t, testBodyDirFull) }

func testBodyDirFull(t *testing.T, in lane) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=200k"); err != nil {
		t.Skip("a small file system: ", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	b := startBackend(t, "one", nil)
	p := spooling(t, in, dir, b)
	body := numbers(1 << 20)
	for range 2 {
		for _, c := range [][2]string{
			{"POST /a\nContent-Length: 1048576\n", body},
			{"PUT /a\nTransfer-Encoding: chunked\n", "100000\r\n" + body + "\r\n0\r\n\r\n"},
		} {
			if got, want := p.do(c[0], c[1]).String(), "200 one /a "+body; got != want {
				t.Errorf("%q: got %.60q of %d bytes, want %.60q of %d", c[0], got, len(got), want, len(want))
			}
		}
	}
	if got := strings.Count(p.log.String(), "LONGSHORE_BODY_DIR"); got != 1 {
		t.Errorf("%d lines in the log, want 1:\n%s", got, p.log.String())
	}
	until(t, "nothing is left", func() bool { return filesIn(t, dir) == 0 && p.buffered.used.Load() == 0 })
}
