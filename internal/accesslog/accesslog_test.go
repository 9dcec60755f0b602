package accesslog

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"longshore/proxy"
)

var record = proxy.Record{
	Time: time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC), Duration: 1500 * time.Microsecond,
	ClientIP: "192.0.2.7", User: "ann", Method: "GET", URI: "/a?b=\"c\"\x01", Proto: "HTTP/1.1", Host: "example.com",
	Status: 200, Bytes: 42, UserAgent: "curl/8\n", Service: "web", Upstream: "10.0.0.2:80, 10.0.0.3:80",
}

// logOf runs a Log for the records and returns what it wrote.
func logOf(t *testing.T, format string, rs ...proxy.Record) string {
	t.Helper()
	var out bytes.Buffer
	l := New(&out, format, slog.New(slog.DiscardHandler))
	for i := range rs {
		l.Record(&rs[i])
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what has been recorded is written even so
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestCombined(t *testing.T) {
	bare := proxy.Record{Time: record.Time, ClientIP: "::1", Method: "POST", URI: "/", Proto: "HTTP/1.0", Status: 502}
	got := logOf(t, "combined", record, bare)
	want := `192.0.2.7 - ann [23/Nov/2026:01:02:03 +0000] "GET /a?b=\x22c\x22\x01 HTTP/1.1" 200 42 "-" "curl/8\x0A"
::1 - - [23/Nov/2026:01:02:03 +0000] "POST / HTTP/1.0" 502 0 "-" "-"
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestJSON(t *testing.T) {
	got := logOf(t, "json", record)
	var line map[string]any
	if err := json.Unmarshal([]byte(got), &line); err != nil {
		t.Fatalf("%s: %v", got, err)
	}
	for key, want := range map[string]any{
		"remote_addr": "192.0.2.7", "uri": record.URI, "status": 200.0, "bytes": 42.0, "duration": 0.0015,
		"service": "web", "upstream": "10.0.0.2:80, 10.0.0.3:80", "user_agent": "curl/8\n", "time": "2026-11-23T01:02:03Z",
	} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v", key, line[key], want)
		}
	}
}

// TestSlowReader: a reader of stdout that is stuck costs lines, never time.
func TestSlowReader(t *testing.T) {
	stuck, unstick := io.Pipe() // nobody reads
	l := New(unstick, "combined", slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- l.Run(ctx) }()
	const n = 3 * backlog
	for range n {
		l.Record(&record) // returns, or the test hangs
	}
	cancel()
	read := make(chan int, 1)
	go func() {
		all, _ := io.ReadAll(stuck)
		read <- strings.Count(string(all), "\n")
	}()
	<-done
	unstick.Close()
	if written, dropped := <-read, int(l.dropped.Load()); written+dropped != n || written == 0 {
		t.Errorf("%d written and %d dropped of %d", written, dropped, n)
	}
}
