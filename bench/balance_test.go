package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestBalanceRivals: every policy of Longshore is there, the default one first, and both proxies take all.
func TestBalanceRivals(t *testing.T) {
	dir, longshore := t.TempDir(), builtLongshore(t)
	all, err := rivals(t.Context(), longshore)
	if err != nil {
		t.Fatal(err)
	}
	if !all[0].Default || all[0].Proxy != "longshore" {
		t.Errorf("the first rival is %+v, want Longshore's default policy", all[0])
	}
	for _, want := range []string{"longshore:least_conn", "longshore:round_robin", "longshore:hash $request_uri", "longshore:ip_hash", "longshore:first", "nginx:least_conn"} {
		if !slices.ContainsFunc(all, func(r rival) bool { return r.String() == want }) {
			t.Errorf("%s is not there", want)
		}
	}
	_, noNginx := exec.LookPath("nginx")
	for _, r := range all {
		switch {
		case r.Proxy == "nginx" && noNginx == nil:
			file := filepath.Join(dir, "nginx.conf")
			if err := os.WriteFile(file, []byte(r.nginxConf(dir, "127.0.0.1:3", []string{"127.0.0.1:1", "127.0.0.1:2"})), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("nginx", "-t", "-p", dir, "-c", file).CombinedOutput(); err != nil {
				t.Errorf("%s: %s", r, out)
			}
		case r.Proxy == "longshore":
			cmd := exec.Command(longshore)
			cmd.Env = environ("LONGSHORE_BALANCER="+r.Policy, "LONGSHORE_LISTEN=none", "LONGSHORE_BACKENDS=127.0.0.1:1") // what is wrong is the address
			if out, err := cmd.CombinedOutput(); err == nil || strings.Contains(string(out), "BALANCER") {
				t.Errorf("%s: %v %s", r, err, out)
			}
		}
	}
}

// TestBalanceBackend: the port of one that joins late refuses connections until then; one that stalls
// answers all when that is over; one that fails does so at once.
func TestBalanceBackend(t *testing.T) {
	get := func(p *plot, id int) (int, string, error) {
		req, _ := http.NewRequest("GET", "http://"+p.replicas[0].addr, nil)
		req.Header.Set("X-Request-Id", shot{ID: id}.requestID())
		req.Close = true
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return res.StatusCode, strings.TrimSpace(string(body)), err
	}
	begin := func(c conduct) *plot {
		p := newPlot(c, warmUp+600*time.Millisecond, 100)
		t.Cleanup(func() { p.end() })
		if err := p.cast(0); err != nil {
			t.Fatal(err)
		}
		p.start(time.Now())
		return p
	}

	p := begin(conduct{Joins: true})
	if _, _, err := get(p, 0); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("before it joined: %v, want its connection refused", err)
	}
	<-p.replicas[0].joined
	if code, body, err := get(p, 1000); code != 200 || body != "1" {
		t.Errorf("after it joined: %d %q %v", code, body, err)
	}
	if n, first := p.replicas[0].seen.Load(), time.Duration(p.replicas[0].first.Load()); n != 1 || first < p.joins {
		t.Errorf("it has seen %d requests, the first after %v, want 1, not before %v", n, first, p.joins)
	}

	p = begin(conduct{Stalls: true})
	time.Sleep(p.stall[0])
	if code, _, err := get(p, 1); code != 200 || time.Since(*p.begin.Load()) < p.stall[1] {
		t.Errorf("one that stalls: %d %v after %v, want an answer after %v", code, err, time.Since(*p.begin.Load()), p.stall[1])
	}
	if n := p.replicas[0].seen.Load(); n != 0 {
		t.Errorf("a request from the time of warming up was counted")
	}

	if code, _, err := get(begin(conduct{Fails: true}), 1); code != 500 {
		t.Errorf("one that fails: %d %v", code, err)
	}
}

// TestBalanceLoad: the load is what the report says of it.
func TestBalanceLoad(t *testing.T) {
	const n = 20000
	total, frequent := time.Duration(0), 0
	for id := range n {
		total += serviceTime(id)
		if keyOf(id) < keys/10 {
			frequent++
		}
	}
	if mean := total / n; mean < 9800*time.Microsecond || mean > 10200*time.Microsecond {
		t.Errorf("requests take %v on average, want %v", mean, meanTime)
	}
	if share := float64(frequent) / n; math.Abs(share-.75) > .05 {
		t.Errorf("a tenth of the keys makes %.0f %% of the requests, want about 75", 100*share)
	}
	if a, b := serviceTime(7), serviceTime(7); a != b {
		t.Errorf("the same request takes %v and %v", a, b)
	}
}

// TestBalanceOne plays short runs in front of Longshore.
func TestBalanceOne(t *testing.T) {
	b := &balanceRun{dir: t.TempDir(), longshore: builtLongshore(t), rate: 100, seconds: 1}
	who := rival{Proxy: "longshore", Policy: "least_conn", Default: true}
	for _, name := range []string{"healthy", "failing", "late"} {
		i := slices.IndexFunc(conducts, func(c conduct) bool { return c.Name == name })
		s, err := b.one(t.Context(), 3, conducts[i], who)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.
		for _, share := range s.Shares {
			sum += share
		}
		if s.Requests < 90 || s.Requests > 110 || math.Abs(sum-1) > 1e-9 || s.P50 == 0 || s.P99 < s.P50 {
			t.Errorf("%s: %+v, want about 100 requests, all of whom somebody had", name, s)
		}
		if failed := s.Errors > 0; failed != (name == "failing") && s.Causes["status 500"] == 0 {
			t.Errorf("%s: %v", name, s.Causes)
		}
		if name == "late" && (s.FirstUse == nil || s.Shares[0] == 0) {
			t.Errorf("one that joined was not used: %+v", s)
		}
	}
}

func TestBalanceGoals(t *testing.T) {
	scores := func(stalled, share float64, invalid string) *balanceReport {
		who := rival{Proxy: "longshore", Policy: "least_conn", Default: true}
		other := rival{Proxy: "longshore", Policy: "round_robin"}
		return &balanceReport{Scores: []*score{
			{Replicas: 3, Conduct: "healthy", rival: who, P99: 50, Shares: []float64{.3, .3, .4}},
			{Replicas: 3, Conduct: "healthy", rival: other, P99: 5, Shares: []float64{.3, .3, .4}},
			{Replicas: 3, Conduct: "stalled", rival: who, P99: stalled, Shares: []float64{.3, .3, .4}, Invalid: invalid},
			{Replicas: 3, Conduct: "failing", rival: who, Shares: []float64{share, .3, .4}},
			{Replicas: 2, Conduct: "failing", rival: who, Shares: []float64{.5, .5}},
		}}
	}
	for _, c := range []struct {
		stalled, share float64
		invalid        string
		want           string
	}{
		{99, .1, "", "met, met, met"},
		{100, .1, "", "not met, met, met"},
		{99, .34, "", "met, not met, met"},
		{99, .1, "late", "not known, met, met"},
	} {
		r := scores(c.stalled, c.share, c.invalid)
		var words []string
		for _, g := range r.goals() {
			words = append(words, g.Word())
		}
		if got := strings.Join(words, ", "); got != c.want {
			t.Errorf("%+v: %s, want %s", c, got, c.want)
		}
		if err := r.verdict(); (err == nil) != (c.want == "met, met, met") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	text := scores(99, .1, "").markdown()
	for _, want := range []string{"## 3 replicas: stalled\n", "| longshore | **least_conn** | 0.0 | 50.0 |", "**met** (99.0 ms, healthy 50.0 ms, 0.0 % errors)"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}

func TestBalanceFlags(t *testing.T) {
	for s, want := range map[string]string{"2,3,5": "[2 3 5]", "7": "[7]", "1": "[]", "x": "[]", "17": "[]"} {
		if ns, err := replicaCounts(s); fmt.Sprint(ns) != want || (err == nil) != (want != "[]") {
			t.Errorf("%q: %v %v, want %s", s, ns, err, want)
		}
	}
	all := []rival{{Proxy: "longshore", Policy: "a"}, {Proxy: "longshore", Policy: "b"}, {Proxy: "nginx", Policy: "a"}}
	for s, want := range map[string]int{"all": 3, "longshore": 2, "nginx:a,longshore:b": 2, "haproxy": 0} {
		if picked, err := pickRivals(all, s); len(picked) != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v %v, want %d", s, picked, err, want)
		}
	}
}

func builtLongshore(t *testing.T) string {
	t.Helper()
	longshore, err := build(context.Background(), t.TempDir(), "longshore/cmd/longshore")
	if err != nil {
		t.Fatal(err)
	}
	return longshore
}
