package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A sample is what a round says of a proxy.
type sample struct {
	CPU      float64 // µs per request
	Rate     float64 // requests per second
	P50, P99 float64 // ms
	Late     float64 // ms, p99 of the generator's own, where it has one
}

// charge does a load, and returns what CPU time the proxy has spent on it.
func (in *instance) charge(ctx context.Context, do func() error) (time.Duration, error) {
	pid := in.cmd.Process.Pid
	before, err := cpuTime(pid)
	if err != nil {
		return 0, err
	}
	scraping, stop := context.WithCancel(ctx)
	scraped := make(chan error, 1)
	go func() { scraped <- in.scrape(scraping) }()
	err = do()
	stop()
	if err := cmp.Or(err, <-scraped); err != nil {
		return 0, err
	}
	after, err := cpuTime(pid)
	return after - before, err
}

// scrape reads the metrics each second until ctx is done.
func (in *instance) scrape(ctx context.Context) error {
	if in.metrics == "" {
		return nil
	}
	for ; ctx.Err() == nil; sleep(ctx, time.Second) {
		if _, err := fetch(in.metrics); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	return nil
}

// wrk lets wrk do a work for a round. A round with any error counts for nothing.
func (t *trial) wrk(ctx context.Context, w work, in *instance) (*sample, error) {
	args := []string{"-c", w.Setup.loadCPU(), "wrk", "-t1", "-c" + strconv.Itoa(w.Connections), "-d" + strconv.Itoa(t.seconds) + "s", "--latency"}
	if w.Post {
		args = append(args, "-s", filepath.Join(t.dir, "post.lua"))
	}
	var s *sample
	requests := 0
	spent, err := in.charge(ctx, func() error {
		out, err := exec.CommandContext(ctx, "taskset", append(args, "http://"+in.addr+w.Path)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("wrk: %w\n%s", err, out)
		}
		s, requests, err = parseWrk(string(out))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.CPU = perRequest(spent, requests)
	return s, nil
}

// pace lets a pace ask for a rate for a round.
func (t *trial) pace(ctx context.Context, w work, in *instance, rate int) (*sample, error) {
	const warm = 200 * time.Millisecond
	length := time.Duration(t.seconds) * time.Second
	cmd := exec.CommandContext(ctx, "taskset", "-c", w.Setup.loadCPU(), t.self, "pacer", "-addr", in.addr, "-rate", strconv.Itoa(rate),
		"-connections", strconv.Itoa(w.Connections), "-warm", warm.String(), "-for", length.String())
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2") // its one thread must not have to hand over what lets it run while it waits
	var why strings.Builder
	cmd.Stderr = &why
	var got pacing
	spent, err := in.charge(ctx, func() error {
		out, err := cmd.Output()
		if err != nil {
			return errors.New(strings.TrimSpace(cmp.Or(why.String(), err.Error())))
		}
		return json.Unmarshal(out, &got)
	})
	if err != nil {
		return nil, err
	}
	all := float64(got.Requests) * float64(warm+length) / float64(length)
	return &sample{CPU: perRequest(spent, int(all)), Rate: got.Rate, P50: got.P50, P99: got.P99, Late: got.Late}, nil
}

// perRequest is in microseconds.
func perRequest(spent time.Duration, requests int) float64 {
	return spent.Seconds() * 1e6 / float64(max(1, requests))
}

var (
	wrkTotal = regexp.MustCompile(`(\d+) requests in`)
	wrkRate  = regexp.MustCompile(`Requests/sec: +([\d.]+)`)
	wrkBad   = regexp.MustCompile(`(?m)^ *((?:Non-2xx|Socket errors).*)$`)
	wrkAt    = regexp.MustCompile(`(?m)^ *(50|99)% +([\d.]+)(us|ms|s|m)\b`)
)

// parseWrk reads what wrk prints. Any answer that is not 2xx, and any broken connection, is an error.
func parseWrk(out string) (s *sample, requests int, err error) {
	if bad := wrkBad.FindStringSubmatch(out); bad != nil {
		return nil, 0, fmt.Errorf("wrk: %s", bad[1])
	}
	total, rate, at := wrkTotal.FindStringSubmatch(out), wrkRate.FindStringSubmatch(out), wrkAt.FindAllStringSubmatch(out, -1)
	if total == nil || rate == nil || len(at) != 2 {
		return nil, 0, fmt.Errorf("wrk does not tell totals and latencies:\n%s", out)
	}
	s = &sample{}
	if requests, err = strconv.Atoi(total[1]); err != nil || requests == 0 {
		return nil, 0, errors.New("wrk: no request was answered")
	}
	s.Rate, _ = strconv.ParseFloat(rate[1], 64)
	for i, to := range []*float64{&s.P50, &s.P99} {
		d, err := time.ParseDuration(at[i][2] + at[i][3])
		if err != nil {
			return nil, 0, err
		}
		*to = ms(d)
	}
	return s, requests, nil
}
