package accesslog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"longshore/proxy"
)

func init() { time.Local = time.UTC } // the zone of all lines

var quiet = slog.New(slog.DiscardHandler)

var record = proxy.Record{
	Time: time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC), Duration: 1500 * time.Microsecond,
	ClientIP: "192.0.2.7", User: "ann", Method: "GET", URI: "/a?b=\"c\"\x01", Proto: "HTTP/1.1", Host: "example.com",
	Status: 200, Bytes: 42, UserAgent: "curl/8\n", Service: "web", Upstream: "10.0.0.2:80, 10.0.0.3:80",
}

// logOf runs a Log for the records and returns what it wrote.
func logOf(t *testing.T, format string, rs ...proxy.Record) string {
	t.Helper()
	var out bytes.Buffer
	l := New(&out, format, quiet)
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

// start runs a Log until end is called, which returns when all is written.
func start(t *testing.T, l *Log) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// writes is a Writer: what is written to it.
type writes chan string

func (w writes) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

// TestBatches: one record wakes nobody. A batch is written when it is full, or after a while.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := make(writes, 10)
		l := New(out, "json", quiet)
		defer start(t, l)()
		l.Record(&record)
		synctest.Wait()
		if len(out) != 0 {
			t.Errorf("written at once: %s", <-out)
		}
		time.Sleep(flushEvery)
		if got := strings.Count(<-out, "\n"); got != 1 {
			t.Errorf("%d lines after %v, want 1", got, flushEvery)
		}
		full, before := batchSize/packedSize(&record), time.Now()
		for range full + 1 {
			l.Record(&record)
		}
		got := 0
		for got < full {
			got += strings.Count(<-out, "\n")
		}
		if waited := time.Since(before); got != full || waited != 0 {
			t.Errorf("%d lines of a full batch after %v, want %d at once", got, waited, full)
		}
	})
}

// TestStuckAtTheEnd: Run waits for a reader of stdout that is stuck as long as LastFlush allows, and says so.
func TestStuckAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, unstick := io.Pipe()
		var said bytes.Buffer
		l := New(unstick, "combined", slog.New(slog.NewTextHandler(&said, nil)))
		l.LastFlush = func() time.Duration { return 3 * time.Second }
		end := start(t, l)
		l.Record(&record)
		begin := time.Now()
		end()
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("the end took %v, want 3s", took)
		}
		if !strings.Contains(said.String(), "the last lines are lost") {
			t.Errorf("the log says %q", said.String())
		}
		stuck.Close()
	})
}

// TestConcurrent: no line is lost, each goroutine's are in order, and a Record may be overwritten as soon
// as the call returns.
func TestConcurrent(t *testing.T) {
	const clients, requests = 8, 2000
	var out bytes.Buffer
	l := New(&out, "json", quiet)
	end := start(t, l)
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			r, buf := record, make([]byte, len("0000"))
			r.ClientIP, r.URI = fmt.Sprint(client), unsafe.String(&buf[0], len(buf))
			for i := range requests {
				copy(buf, fmt.Sprintf("%04d", i))
				l.Record(&r)
			}
		})
	}
	wg.Wait()
	end()
	next := make(map[string]int)
	for line := range strings.Lines(out.String()) {
		var got struct{ Remote_addr, URI string }
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if want := fmt.Sprintf("%04d", next[got.Remote_addr]); got.URI != want {
			t.Fatalf("client %s: %s, want %s", got.Remote_addr, got.URI, want)
		}
		next[got.Remote_addr]++
	}
	for client := range clients {
		if got := next[fmt.Sprint(client)]; got != requests {
			t.Errorf("client %d has %d lines, want %d", client, got, requests)
		}
	}
}

// TestLongLines: a record may be longer than a batch.
func TestLongLines(t *testing.T) {
	var want, agents []string
	var rs []proxy.Record
	for _, n := range []int{1, batchSize - 200, 1, batchSize, 3 * batchSize, 1, backlog / 2, 1} {
		r := record
		r.UserAgent = strings.Repeat("u", n)
		rs, want = append(rs, r), append(want, r.UserAgent)
	}
	var out bytes.Buffer
	l := New(&out, "json", quiet)
	for i := range rs {
		l.Record(&rs[i])
	}
	l.flush(new(scratch))
	for line := range strings.Lines(out.String()) {
		var r struct{ User_agent string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		agents = append(agents, r.User_agent)
	}
	if got, want := strings.Join(agents, " "), strings.Join(want, " "); got != want {
		t.Errorf("%d bytes in %d lines, want %d bytes in %d", len(got), len(agents), len(want), len(rs))
	}
	if l.held != 0 {
		t.Errorf("%d bytes are held after all is written", l.held)
	}
	for _, b := range l.free {
		if cap(b) != batchSize {
			t.Errorf("%d bytes are kept for reuse, want batches of %d", cap(b), batchSize)
		}
	}
}

// TestSlowReader: a reader of stdout that is stuck costs lines, never time.
func TestSlowReader(t *testing.T) {
	stuck, unstick := io.Pipe() // nobody reads
	var said bytes.Buffer
	l := New(unstick, "combined", slog.New(slog.NewJSONHandler(&said, nil)))
	end := start(t, l)
	n := 3 * backlog / packedSize(&record)
	for range n {
		l.Record(&record) // returns, or the test hangs
	}
	l.mu.Lock()
	if l.held > backlog {
		t.Errorf("%d bytes wait, at most %d may", l.held, backlog)
	}
	l.mu.Unlock()
	read := make(chan int, 1)
	go func() {
		all, _ := io.ReadAll(stuck)
		read <- strings.Count(string(all), "\n")
	}()
	end()
	unstick.Close()
	dropped := 0
	for line := range strings.Lines(said.String()) {
		var warning struct{ Lines int }
		if err := json.Unmarshal([]byte(line), &warning); err != nil {
			t.Fatal(err)
		}
		dropped += warning.Lines
	}
	if written := <-read; written+dropped != n || written == 0 || dropped == 0 {
		t.Errorf("%d written and %d said to be dropped of %d", written, dropped, n)
	}
}

func TestAllocations(t *testing.T) {
	for _, format := range []string{"combined", "json"} {
		l := New(io.Discard, format, quiet)
		r := typical
		var s scratch
		const requests = 2000
		if got := testing.AllocsPerRun(10, func() {
			for range requests {
				r.Time = r.Time.Add(time.Second)
				l.Record(&r)
			}
			l.flush(&s)
		}); got != 0 {
			t.Errorf("%s: %v allocations for %d requests", format, got, requests)
		}
	}
}

// typical is what a browser sends.
var typical = proxy.Record{
	Time: record.Time.Add(123456789), Duration: 1234567, ClientIP: "192.0.2.7", Method: "GET",
	URI: "/static/app.js?v=3&lang=en", Proto: "HTTP/1.1", Host: "www.example.com", Status: 200, Bytes: 51234,
	Referer:   "https://www.example.com/products/list?page=2",
	UserAgent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
	Service:   "web", Upstream: "172.18.0.5:8000",
}

// BenchmarkRecord is all that a line costs, but for the write: also what the log's goroutine does.
func BenchmarkRecord(b *testing.B) {
	for _, format := range []string{"combined", "json"} {
		b.Run(format, func(b *testing.B) {
			l := New(io.Discard, format, quiet)
			var s scratch
			b.ReportAllocs()
			for b.Loop() {
				l.Record(&typical)
				if len(l.waiting) > 0 {
					l.write(&s)
				}
			}
		})
	}
}

// BenchmarkCaller is what of it the caller of Record pays.
func BenchmarkCaller(b *testing.B) {
	l := New(io.Discard, "combined", quiet)
	b.ReportAllocs()
	for b.Loop() {
		l.Record(&typical)
		if len(l.waiting) > 0 {
			l.written(l.next())
		}
	}
}
