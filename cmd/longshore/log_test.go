package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"longshore/internal/config"
	"longshore/internal/dockertest"
)

// TestLogSlowReader: a reader of stderr that is stuck costs lines, never time, and is told how many.
func TestLogSlowReader(t *testing.T) {
	stuck, out := io.Pipe()
	log, q := newLog(config.Config{LogFormat: "json"}, out)
	const n = 30_000
	for i := range n {
		log.Info("some line of the usual length, or a little more", "n", i) // returns, or the test hangs
	}
	if q.dropped.Load() == 0 {
		t.Fatal("nothing was dropped, though nobody reads")
	}
	read := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(stuck)
		read <- all
	}()
	q.spare()
	log.Error("stopped")
	q.end(patience)
	out.Close()
	lines, dropped, last := 0, 0, false
	for line := range strings.Lines(string(<-read)) {
		var l struct {
			Msg      string
			N, Lines int
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		switch {
		case strings.HasSuffix(l.Msg, "lines dropped"):
			dropped += l.Lines
		case l.Msg == "stopped":
			last = true
		case l.N != lines:
			t.Fatalf("line %d comes where line %d should", l.N, lines)
		default:
			lines++
		}
	}
	if lines == 0 || lines+dropped != n {
		t.Errorf("%d lines written and %d told to be dropped, want %d in all", lines, dropped, n)
	}
	if !last {
		t.Error("the line that says why the process ends is lost")
	}
}

// TestLogEnd: at the end what waits is written, for as long as there is time.
func TestLogEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, out := io.Pipe()
		log, q := newLog(config.Config{}, out)
		log.Info("first")
		synctest.Wait() // until that is being written
		log.Info("second")
		begin := time.Now()
		q.end(3 * time.Second)
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("the end took %v while the reader was stuck, want 3s", took)
		}
		for r, want := bufio.NewReader(stuck), []string{"first", "second"}; len(want) > 0; want = want[1:] {
			if line, _ := r.ReadString('\n'); !strings.Contains(line, want[0]) {
				t.Errorf("read %q, want the line with %q", line, want[0])
			}
		}
	})
}

// fullPipe returns the end of a pipe that has no room and that nobody reads.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	for err == nil {
		_, err = w.Write(make([]byte, 4096))
	}
	return w
}

// TestStuckReaders: with readers of stdout and stderr that are stuck requests are answered, drops are counted, and
// the stop takes no longer than SHUTDOWN_TIMEOUT.
func TestStuckReaders(t *testing.T) {
	front, back := reservePort(t), reservePort(t)
	ls := client(t, front, back)
	cmd := exec.Command(dockertest.Binary(t, "longshore/cmd/longshore", filepath.Join(t.TempDir(), "longshore")))
	cmd.Env = []string{"LONGSHORE_LISTEN=" + front, "LONGSHORE_ADMIN=" + back, "LONGSHORE_BACKENDS=" + origin(t, hello), "LONGSHORE_LOG_LEVEL=debug", "LONGSHORE_SHUTDOWN_TIMEOUT=1s"}
	cmd.Stdout, cmd.Stderr = fullPipe(t), fullPipe(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	ls.waitUp(1)

	target := "/" + strings.Repeat("x", 8000)
	dropped := func() bool {
		_, metrics := ls.admin("/metrics")
		return strings.Contains(metrics, "longshore_log_lines_dropped_total{stream=\"stdout\"}") &&
			!strings.Contains(metrics, "longshore_log_lines_dropped_total{stream=\"stdout\"} 0\n") &&
			strings.Contains(metrics, "longshore_log_lines_dropped_total{stream=\"stderr\"} 0\n")
	}
	for n := 0; !dropped(); n++ {
		if n == 20 {
			t.Fatal("no drop of the access log is counted")
		}
		for range 100 {
			if got := ls.get("localhost", target); got != "200 hello" {
				t.Fatalf("got %q", got)
			}
		}
	}
	begin := time.Now()
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the process ended with %v, want exit 0", err)
		}
	case <-time.After(patience):
		t.Fatal("the process does not end")
	}
	if took := time.Since(begin); took < time.Second/2 || took > 2*time.Second {
		t.Errorf("the stop took %v, want about the second that it may take", took)
	}
}

// TestReadersGone: readers of stdout and stderr that have gone end nothing.
func TestReadersGone(t *testing.T) {
	front, back := reservePort(t), reservePort(t)
	ls := client(t, front, back)
	cmd := exec.Command(dockertest.Binary(t, "longshore/cmd/longshore", filepath.Join(t.TempDir(), "longshore")))
	cmd.Env = []string{"LONGSHORE_LISTEN=" + front, "LONGSHORE_ADMIN=" + back, "LONGSHORE_BACKENDS=" + origin(t, hello)}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { cmd.Process.Kill() })
	ls.waitUp(1)
	for range 3 {
		if got := ls.get("localhost", "/"); got != "200 hello" {
			t.Fatalf("got %q", got)
		}
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process ended with %v, want exit 0", err)
	}
}

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second
