package main

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const wrkWell = `Running 1s test @ http://127.0.0.1:19010/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.35ms    3.31ms  64.54ms   94.51%
    Req/Sec    88.24k     9.27k  102.53k    80.00%
  Latency Distribution
     50%  635.00us
     75%    0.91ms
     90%    2.53ms
     99%    1.02s
  96428 requests in 1.10s, 15.17MB read
Requests/sec:  87661.90
Transfer/sec:     13.79MB
`

// TestParseWrk: all units, and no round counts in which anything went wrong.
func TestParseWrk(t *testing.T) {
	s, n, err := parseWrk(wrkWell)
	if err != nil {
		t.Fatal(err)
	}
	if want := (sample{Rate: 87661.9, P50: .635, P99: 1020}); *s != want || n != 96428 {
		t.Errorf("%+v and %d requests, want %+v and 96428", *s, n, want)
	}
	for name, c := range map[string]struct{ out, want string }{
		"status":     {wrkWell + "  Non-2xx or 3xx responses: 12\n", "wrk: Non-2xx or 3xx responses: 12"},
		"sockets":    {wrkWell + "  Socket errors: connect 0, read 3, write 0, timeout 0\n", "wrk: Socket errors: connect 0, read 3, write 0, timeout 0"},
		"nothing":    {strings.Replace(wrkWell, "96428 requests", "0 requests", 1), "wrk: no request was answered"},
		"no latency": {strings.Replace(wrkWell, "99%", "98%", 1), "wrk does not tell totals and latencies"},
		"no wrk":     {"unable to connect to 127.0.0.1:19010 Connection refused\n", "wrk does not tell totals and latencies"},
	} {
		if s, _, err := parseWrk(c.out); err == nil || s != nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v, want %q", name, s, err, c.want)
		}
	}
}

// TestParseExtra: words, comments, and what is wrong is said with its line.
func TestParseExtra(t *testing.T) {
	ps, err := parseExtra("# more\n\nenvoy 127.0.0.1:10000 envoy -c bench.yaml # one worker\n  second  [::1]:81\tx\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(ps) != 2 || ps[0].Key != "envoy" || ps[0].Program != "envoy" || ps[0].Addr != "127.0.0.1:10000" || ps[1].Addr != "[::1]:81" {
		t.Errorf("got %+v", ps)
	}
	in := &instance{}
	if err := ps[0].Command(nil, "", setup{Cores: 2}, in); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(in.args, "|"); got != "envoy|-c|bench.yaml" || !slices.Contains(in.env, "GOMAXPROCS=2") {
		t.Errorf("runs %q", got)
	}
	for text, want := range map[string]string{
		"\nx 127.0.0.1:1\n":                "line 2: want NAME ADDR COMMAND",
		"x here y":                         `line 1: "here" is no address`,
		"x :80 y":                          `line 1: ":80" is no address`,
		"nginx 127.0.0.1:1 y":              `line 1: there is a peer "nginx" already`,
		"x 127.0.0.1:1 y\nx 127.0.0.1:2 y": `line 2: there is a peer "x" already`,
	} {
		if _, err := parseExtra(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// cpus are samples that cost that much; zero: the round failed.
func cpus(values ...float64) (all []*sample) {
	for _, v := range values {
		var s *sample
		if v > 0 {
			s = &sample{CPU: v, P99: 10 * v}
		}
		all = append(all, s)
	}
	return all
}

// TestCompared: ratios are taken round by round, rounds that failed on either side are not in them, and a
// target is of one row only.
func TestCompared(t *testing.T) {
	targets := map[string]float64{"longshore": .95}
	for name, c := range map[string]struct {
		base, me []*sample
		want     float64
		word     string
	}{
		"round by round":   {cpus(10, 20, 40), cpus(9, 18, 36), .9, "0.95: met"},
		"a slower machine": {cpus(10, 100, 10), cpus(10, 10, 10), 1, "0.95: missed"},
		"failed rounds":    {cpus(10, 0, 10), cpus(0, 1, 5), .5, "0.95: met"},
		"never together":   {cpus(10, 0), cpus(0, 10), math.NaN(), "0.95: not known"},
		"did not start":    {cpus(10, 10), nil, math.NaN(), "0.95: not known"},
	} {
		r := &result{work: work{Targets: targets}, Rows: []*row{{Key: "nginx", Samples: c.base}, {Key: "longshore", Samples: c.me}}}
		got := r.compared(1)
		if got != c.want && !(math.IsNaN(got) && math.IsNaN(c.want)) || r.Word(1) != c.word || r.Word(0) != "" {
			t.Errorf("%s: %v, %q and for the base %q, want %v, %q and none", name, got, r.Word(1), r.Word(0), c.want, c.word)
		}
	}
}

// TestThroughputReport: every work is in the summary and has a table, failures are named and make an error, and
// the page can be written.
func TestThroughputReport(t *testing.T) {
	broken := &row{Key: "caddy", Name: "caddy", Samples: cpus(0)}
	broken.fail(errors.New("round 1: wrk: Socket errors"))
	r := &throughputReport{Rounds: 1, Seconds: 1, Versions: []string{"nginx/1"}, Notes: []string{"haproxy is left out."}, Results: []*result{
		{work{Key: "small", What: "GET", Connections: 64, Targets: map[string]float64{"longshore": .95}},
			[]*row{{Key: "nginx", Name: "nginx", Samples: cpus(10)}, {Key: "longshore", Name: "longshore", Samples: cpus(9)}, broken}},
		{work{Key: "half", What: "GET", Connections: 64, Value: byP99},
			[]*row{{Key: "nginx", Name: "nginx", Samples: cpus(10)}, {Key: "longshore", Name: "longshore", Samples: cpus(12)}}},
		{work{Key: "idle", What: "GET", Connections: 1, Targets: map[string]float64{"longshore": 1.05}},
			[]*row{{Key: "nginx", Name: "nginx", Samples: cpus(7)}, {Key: "nginx", Name: "nginx, idle", Samples: cpus(7)},
				{Key: "longshore", Name: "longshore", Base: 2, Samples: cpus(10)}, {Key: "longshore", Name: "longshore, idle", Base: 2, Samples: cpus(11)}}},
		{work{Key: "memory", What: "Memory", Value: byMemory, Targets: map[string]float64{"longshore": 6}},
			[]*row{{Key: "nginx", Name: "nginx", Memory: &footprint{Rest: 5 << 20, Idle: 10, Each: 512, Later: 1024}},
				{Key: "longshore", Name: "longshore", Base: 0, Memory: &footprint{Rest: 14 << 20, Idle: 10, Each: 7000, Later: 6000}}}},
	}}
	text := r.markdown()
	for _, want := range []string{
		"haproxy is left out.",
		"| small | CPU, ratio to nginx | 1.00 | 0.90 | failed | longshore 0.95: met |",
		"| half | p99, ratio to nginx | 1.00 | 1.20 |  |  |",
		"| idle | CPU, ratio to no idle connections | 1.00 | 1.10 |  | longshore 1.05: missed |",
		"| memory | kB per idle connection | 0.50 | 6.84 |  | longshore 6: missed |",
		"| longshore | 9.0 | 0 | 0.000 | 90.000 | 0.90 | 0.95: met |",
		"| longshore | 14.0 | 10 | 6.8 | 5.9 | 6: missed |",
		"GET, 64 connections.", "GET, 1 connection.",
		"Failed: caddy: round 1: wrk: Socket errors",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report has no %q:\n%s", want, text)
		}
	}
	if err := r.verdict(); err == nil || !strings.Contains(err.Error(), "small: caddy: round 1") {
		t.Errorf("the verdict is %v, want one about caddy", err)
	}
	page := filepath.Join(t.TempDir(), "page.html")
	if err := r.writePage(page); err != nil {
		t.Fatal(err)
	}
	html, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(html), "<svg"); n != 4 || !strings.HasSuffix(strings.TrimSpace(string(html)), "</html>") {
		t.Errorf("the page has %d charts, want 4, and ends with %q", n, html[max(0, len(html)-30):])
	}
}

// TestInterleave: every other round goes backwards; one that fails is repeated once, and after that it counts for nothing and is named.
func TestInterleave(t *testing.T) {
	trial := &trial{rounds: 3}
	good, bad := &instance{}, &instance{}
	res := &result{Rows: []*row{{Name: "good"}, {Name: "bad"}, {Name: "absent"}}}
	var order []string
	calls := 0
	err := trial.interleave(t.Context(), res, []*instance{good, bad, nil}, func(in *instance) (*sample, error) {
		if in == good {
			order = append(order, "good")
			return &sample{CPU: 1}, nil
		}
		order = append(order, "bad")
		if calls++; calls == 1 || calls == 3 || calls == 4 { // once in the first round, twice in the second
			return nil, errors.New("wrk: Socket errors")
		}
		return &sample{CPU: 2}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(order, " "), "good bad bad bad bad good good bad"; got != want {
		t.Errorf("order %q, want %q", got, want)
	}
	if s := res.Rows[1].Samples; len(s) != 3 || s[0] == nil || s[1] != nil || s[2] == nil {
		t.Errorf("samples %v, want the second to be missing", s)
	}
	if f := res.Failures(); len(f) != 1 || f[0] != "bad: round 2: wrk: Socket errors" {
		t.Errorf("failures %q", f)
	}
	if s := res.Rows[2].Samples; len(s) != 3 {
		t.Errorf("the one that did not start has %d samples, want 3 that are missing", len(s))
	}
}

// TestCPUTime: what a child burns counts, to less than the 10 ms of a tick.
func TestCPUTime(t *testing.T) {
	cmd := exec.Command("sh", "-c", `sh -c 'i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; read x' ; true`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	var last time.Duration
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		spent, err := cpuTime(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if spent > 5*time.Millisecond && spent == last { // it has done its work
			if n := len(family(cmd.Process.Pid)); n != 2 {
				t.Errorf("a family of %d, want 2", n)
			}
			if m, err := memoryOf(cmd.Process.Pid); err != nil || m < 100<<10 {
				t.Errorf("resident %d bytes, %v", m, err)
			}
			return
		}
		last = spent
	}
	t.Errorf("the family has spent %v", last)
}

// TestInstanceStops: with the context, and with stop, and nothing of its group stays.
func TestInstanceStops(t *testing.T) {
	if _, err := exec.LookPath("taskset"); err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	addr := free(t)
	// A stranger to the protocol: it never answers, so that start gives up when ctx is done.
	in := &instance{addr: addr, args: []string{"sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000"}, env: os.Environ()}
	time.AfterFunc(200*time.Millisecond, cancel)
	if err := in.start(ctx, "0"); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v, want that it was canceled", err)
	}
	// Its children are init's now, which may take a moment to bury them, but none of them runs.
	for deadline := time.Now().Add(5 * time.Second); runs(in.cmd.Process.Pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("its process group is still there")
		}
	}
}

// runs reports whether a process of the group is no zombie.
func runs(group int) bool {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if stat, err := statOf(pid); err == nil && stat[2] == strconv.Itoa(group) && stat[0] != "Z" {
			return true
		}
	}
	return false
}
