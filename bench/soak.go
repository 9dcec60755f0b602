package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// soak restarts one replica after another under load for long, and watches what the proxy holds.
func soak(ctx context.Context, fs *flag.FlagSet, args []string) error {
	length := fs.Duration("for", 30*time.Minute, "how long")
	rate := fs.Int("rate", 500, "requests per second")
	every := fs.Duration("every", 5*time.Second, "time between two restarts")
	marks := fs.Duration("mark", 5*time.Minute, "time between two lines")
	compose := fs.String("compose", "v2", "compose command: v1 (docker-compose) or v2 (docker compose)")
	fs.Parse(args)
	if *length <= 0 || *rate < 1 || *rate > 2000 || *every <= 0 || *marks <= 0 || *compose != "v1" && *compose != "v2" {
		return usageError("-rate is from 1 to 2000, durations are positive, -compose is v1 or v2")
	}

	t, err := assemble(*compose)
	if err != nil {
		return err
	}
	defer t.dismiss()
	sc := scenario{Name: "soak", Replicas: 3}
	who := contenders[0]
	who.Env = maps.Clone(who.Env)
	who.Env["LONGSHORE_LOG_LEVEL"], who.Env["LONGSHORE_ACCESS_LOG"] = "info", "off" // half an hour of lines that nobody reads
	st, err := t.raise(ctx, sc, who)
	if err != nil {
		return err
	}
	defer st.close()
	proxy, err := st.containerOf(ctx, "proxy")
	if err != nil {
		return err
	}
	inspected, err := t.docker.ContainerInspect(ctx, proxy.ID)
	if err != nil {
		return err
	}
	pid := inspected.State.Pid

	tally := &tally{took: hdrhistogram.New(1, time.Minute.Microseconds(), 3), hosts: make(map[string]bool), causes: make(map[string]int)}
	_, replicas := st.watch.all()
	for _, r := range replicas {
		tally.hosts[r.Host] = true
	}
	l := &load{addr: st.addr, begin: time.Now(), streams: sc.streams(*rate), each: tally.add}
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		l.run(ctx, stop)
		close(ended)
	}()

	fmt.Printf("%d requests/s, one of 3 replicas restarted every %s\n\n", *rate, *every)
	fmt.Print("| after | sent | failed | p99.9 ms | max ms | restarts | resident MB | goroutines | descriptors |\n|---|---|---|---|---|---|---|---|---|\n")
	restarts := 0
	line := func() {
		sent, failed, p999, most := tally.figures()
		fmt.Printf("| %s | %d | %d | %.1f | %.1f | %d | %s | %s | %s |\n", time.Since(l.begin).Round(time.Second), sent, failed, p999, most, restarts,
			resident(pid), goroutines(st.admin), descriptors(pid))
	}
	line()
	nextMark, nextRestart := *marks, *every
	for time.Since(l.begin) < *length && ctx.Err() == nil {
		until := min(nextMark, nextRestart, *length)
		sleep(ctx, time.Until(l.begin.Add(until)))
		now := time.Since(l.begin)
		if now >= nextRestart && now < *length {
			if err := verbs["restart"](ctx, st, 1+restarts%sc.Replicas); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, err)
			}
			restarts++
			nextRestart += *every
		}
		if now >= nextMark {
			line()
			nextMark += *marks
		}
		sent, failed, _, _ := tally.figures()
		live("%s of %s: %d answered, %d failed", now.Round(time.Second), *length, sent, failed)
	}
	close(stop)
	<-ended
	live("")
	line()
	tally.mu.Lock()
	defer tally.mu.Unlock()
	for _, f := range tally.first {
		fmt.Printf("failed at %.3f s after %.0f ms: %s\n", f.Due.Seconds(), ms(f.Took), f.Cause)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if n := tally.failed; n > 0 {
		return fmt.Errorf("%d of %d requests failed: %s", n, tally.sent, causesText(tally.causes))
	}
	return nil
}

// A tally counts without keeping every request.
type tally struct {
	hosts map[string]bool // the replicas

	mu     sync.Mutex // guards the following
	sent   int
	failed int
	causes map[string]int
	first  []shot // failures, not all
	took   *hdrhistogram.Histogram
}

func (t *tally) add(s shot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent++
	if s.Cause == "" && !t.hosts[s.Replica] {
		s.Cause = "another service answered"
	}
	if s.Cause == "" {
		t.took.RecordValue(max(1, s.Took.Microseconds()))
		return
	}
	t.failed++
	t.causes[s.Cause]++
	if len(t.first) < 50 {
		t.first = append(t.first, s)
	}
}

func (t *tally) figures() (sent, failed int, p999, most float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent, t.failed, float64(t.took.ValueAtQuantile(99.9)) / 1000, float64(t.took.Max()) / 1000
}

// resident reads the resident memory of a process, in megabytes; "?" where it cannot be read, as with an
// engine on another machine.
func resident(pid int) string {
	n, err := residentOf(pid)
	if err != nil {
		return "?"
	}
	return fmt.Sprintf("%.1f", float64(n)/(1<<20))
}

func descriptors(pid int) string {
	fds, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	if err != nil {
		return "?"
	}
	return strconv.Itoa(len(fds))
}

func goroutines(admin string) string {
	all, err := counters(admin)
	if err != nil {
		return "?"
	}
	return fmt.Sprint(all["go_goroutines"])
}
