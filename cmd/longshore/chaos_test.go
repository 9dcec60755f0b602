package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"longshore/internal/dockertest"
)

// chaosTime is how long TestEngineChaos goes on.
const chaosTime = 50 * time.Second

// TestEngineChaos does to two of three replicas whatever Docker can do to a container, and scales, under
// load: no GET fails, no POST is executed twice, and a POST fails only while a container ends or loses
// its network under it. Afterwards the proxy holds no more than before.
func TestEngineChaos(t *testing.T) {
	dockertest.Engine(t)
	compose := dockertest.Composes(t)[0]
	executed := t.TempDir()
	p := project(t, compose, "LONGSHORE_UPSTREAM: flaskapp:5090", "LONGSHORE_LOG_LEVEL: debug", fmt.Sprintf(`
    environment: {EXECUTED: /executed}
    volumes: ["%s:/executed"]
`, executed))
	p.Run("up", "-d", "--scale", "flaskapp=3")
	ls := p.proxy()
	ls.waitUp(3)
	warm := ls.startLoad(200)
	warm.waitFor(200)
	warm.stop()
	before := ls.resources()

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	posts := postLog{ls: ls}
	gets := ls.startLoad(150)
	writes := startLoad(t, 50, posts.post)
	c := chaos{t: t, p: p, random: random}
	for begin := time.Now(); time.Since(begin) < chaosTime; {
		ls.waitUp(3)
		c.round()
	}
	ls.waitUp(3)
	answers := gets.stop()
	writes.stop()

	t.Logf("%d GETs, %d POSTs, of which %d failed, during %d changes: %v", len(answers), posts.sent(), len(posts.failed), len(c.done), c.counts())
	if bad := answers.failed(); len(bad) > 0 {
		t.Errorf("%d of %d GETs failed: %v", len(bad), len(answers), bad[:min(len(bad), 5)])
	}
	for _, f := range posts.failed {
		if !slices.ContainsFunc(c.done, func(d deed) bool { return d.fatal && f.begin.Before(d.end) && f.end.After(d.begin) }) {
			t.Errorf("a POST failed though no container ended under it: %s, from %v to %v", f.answer, f.begin, f.end)
		}
	}
	counts := executions(t, executed)
	for id, n := range counts {
		if n > 1 {
			t.Errorf("POST %s was executed %d times", id, n)
		}
	}
	for _, id := range posts.fine {
		if counts[id] != 1 {
			t.Errorf("POST %s was answered and executed %d times", id, counts[id])
		}
	}
	var after resources
	dockertest.Wait(t, "the proxy to hold no more than before", func() bool {
		after = ls.resources()
		return after.goroutines <= before.goroutines+4 && after.files <= before.files+32
	})
	t.Logf("resources before %+v, after %+v", before, after)
	if after.memory > before.memory+16<<20 {
		t.Errorf("%d MB resident, %d before", after.memory>>20, before.memory>>20)
	}
}

// A chaos does things to replicas, and keeps a record.
type chaos struct {
	t      testing.TB
	p      testProject
	random *rand.Rand

	mu   sync.Mutex // guards done
	done []deed
}

// A deed is what was done to a container.
type deed struct {
	name       string
	begin, end time.Time
	fatal      bool // requests in flight on it cannot be answered
}

// round scales, or hurts one or two replicas at the same time; in the end there are three that run.
func (c *chaos) round() {
	replicas := c.p.Containers("flaskapp")
	if c.random.IntN(5) == 0 {
		for _, n := range []int{4 + c.random.IntN(2), 3} {
			c.do("scale", true, func() {
				c.p.Run("up", "-d", "--no-recreate", "-t", "1", "--scale", fmt.Sprint("flaskapp=", n), "flaskapp")
			})
		}
		return
	}
	c.random.Shuffle(len(replicas), func(i, j int) { replicas[i], replicas[j] = replicas[j], replicas[i] })
	var wg sync.WaitGroup
	for _, victim := range replicas[1:][:1+c.random.IntN(2)] {
		how, hold := c.random.IntN(5), time.Duration(c.random.IntN(1000))*time.Millisecond
		wg.Go(func() { c.hurt(victim, how, hold) })
	}
	wg.Wait()
}

func (c *chaos) hurt(id string, how int, hold time.Duration) {
	network := c.p.Name + "_default"
	run := func(args ...string) func() {
		return func() {
			if out, err := exec.Command("docker", args...).CombinedOutput(); err != nil {
				c.t.Errorf("docker %s: %v: %s", strings.Join(args, " "), err, out)
			}
		}
	}
	first, last := run("start", id), func() {}
	switch how {
	case 0:
		c.do("kill", true, run("kill", id))
		last = first
	case 1:
		c.do("stop", true, run("stop", "-t", "1", id))
		last = first
	case 2:
		c.do("restart", true, run("restart", "-t", "1", id))
	case 3:
		c.do("pause", false, run("pause", id))
		last = run("unpause", id)
	case 4:
		c.do("disconnect", true, run("network", "disconnect", network, id))
		last = run("network", "connect", "--alias", "flaskapp", network, id)
	}
	time.Sleep(hold) // the replica is away for that long
	last()
}

// do does something and records it. What it leads to may come a moment later.
func (c *chaos) do(name string, fatal bool, f func()) {
	d := deed{name: name, begin: time.Now(), fatal: fatal}
	f()
	d.end = time.Now().Add(time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = append(c.done, d)
}

func (c *chaos) counts() map[string]int {
	n := make(map[string]int)
	for _, d := range c.done {
		n[d.name]++
	}
	return n
}

// A postLog sends POSTs and notes what became of them.
type postLog struct {
	ls *longshore

	mu     sync.Mutex // guards the following
	fine   []string   // X-Request-Ids
	failed []failedPost
}

type failedPost struct {
	answer     string
	begin, end time.Time
}

func (l *postLog) sent() int { return len(l.fine) + len(l.failed) }

func (l *postLog) post(n int) string {
	id := fmt.Sprint("post-", n)
	begin := time.Now()
	req, err := http.NewRequest("POST", "http://"+l.ls.front+"/", strings.NewReader("hello"))
	if err != nil {
		l.ls.t.Error(err)
		return ""
	}
	req.Header.Set("X-Request-Id", id)
	answer := ""
	res, err := l.ls.http.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		answer = res.Status
	}
	if err != nil {
		answer = err.Error()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if answer == "200 OK" {
		l.fine = append(l.fine, id)
	} else {
		l.failed = append(l.failed, failedPost{answer, begin, time.Now()})
	}
	return answer
}

// executions counts by X-Request-Id what the replicas have written down.
func executions(t testing.TB, dir string) map[string]int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no replica wrote anything down: %v", err)
	}
	counts := make(map[string]int)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for id := range strings.FieldsSeq(string(b)) {
			counts[id]++
		}
	}
	return counts
}

// resources are what the proxy holds.
type resources struct{ goroutines, files, memory int }

func (ls *longshore) resources() (r resources) {
	ls.t.Helper()
	_, body := ls.admin("/metrics")
	for lines := bufio.NewScanner(strings.NewReader(body)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		for n, dst := range map[string]*int{"go_goroutines": &r.goroutines, "process_open_fds": &r.files, "process_resident_memory_bytes": &r.memory} {
			if name == n {
				f, err := strconv.ParseFloat(value, 64)
				if err != nil {
					ls.t.Fatalf("%s: %v", lines.Text(), err)
				}
				*dst = int(f)
			}
		}
	}
	if r.goroutines == 0 || r.files == 0 || r.memory == 0 {
		ls.t.Fatalf("the metrics do not tell: %+v", r)
	}
	return r
}
