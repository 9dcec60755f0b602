package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// balance plays each conduct in front of each rival, for two, three and five replicas.
func balance(ctx context.Context, fs *flag.FlagSet, args []string) error {
	b := balanceRun{}
	fs.IntVar(&b.rate, "rate", 300, "requests per second")
	fs.IntVar(&b.seconds, "seconds", 6, "length of each run, after half a second to warm up")
	quick := fs.Bool("quick", false, "three replicas only")
	counts := fs.String("replicas", "2,3,5", "how many there are, comma-separated")
	conductNames := fs.String("conducts", "all", "comma-separated, or all")
	rivalNames := fs.String("rivals", "all", "longshore, nginx, or both with a policy (longshore:least_conn), comma-separated, or all")
	out := fs.String("out", "", "directory for balance.md and balance.json (default: Markdown on stdout only)")
	fs.Usage = func() { balanceUsage(fs) }
	fs.Parse(args)

	var err error
	if b.conducts, err = pick("conduct", conducts, func(c conduct) string { return c.Name }, *conductNames); err != nil {
		return err
	}
	if *quick {
		*counts = "3"
	}
	if b.replicas, err = replicaCounts(*counts); err != nil {
		return err
	}
	if b.rate < 1 || b.rate > 2000 || b.seconds < 1 || b.seconds > 60 {
		return usageError("-rate is from 1 to 2000, -seconds from 1 to 60")
	}
	if *out != "" {
		if err := os.MkdirAll(*out, 0o755); err != nil {
			return err
		}
	}
	if b.dir, b.longshore, err = workshop(ctx); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	all, err := rivals(ctx, b.longshore)
	if err != nil {
		return err
	}
	if b.rivals, err = pickRivals(all, *rivalNames); err != nil {
		return err
	}
	r, err := b.play(ctx)
	if len(r.Scores) > 0 {
		if e := r.write(*out); e != nil {
			return e
		}
	}
	if err != nil {
		return err
	}
	return r.verdict()
}

// replicaCounts reads "2,3,5".
func replicaCounts(s string) (ns []int, err error) {
	for part := range strings.SplitSeq(s, ",") {
		var n int
		if _, err := fmt.Sscanf(part, "%d", &n); err != nil || n < 2 || n > 16 {
			return nil, usageError(fmt.Sprintf("-replicas %q: numbers from 2 to 16", s))
		}
		ns = append(ns, n)
	}
	return ns, nil
}

// pickRivals finds rivals by proxy, or by proxy and policy.
func pickRivals(all []rival, names string) ([]rival, error) {
	if names == "all" {
		return all, nil
	}
	var picked []rival
	for name := range strings.SplitSeq(names, ",") {
		before := len(picked)
		for _, r := range all {
			if name == r.Proxy || name == r.String() {
				picked = append(picked, r)
			}
		}
		if len(picked) == before {
			var known []string
			for _, r := range all {
				known = append(known, r.String())
			}
			return nil, usageError(fmt.Sprintf("there is no rival %q; there are longshore, nginx, %s", name, strings.Join(known, ", ")))
		}
	}
	return picked, nil
}

func balanceUsage(fs *flag.FlagSet) {
	w := fs.Output()
	fmt.Fprint(w, `usage: go run ./bench balance [flags]

Sends requests that do not wait for answers through Longshore with each of its policies, and through
nginx with each of its own, to replicas of which the first misbehaves. A request takes as long with every
policy: 10 ms on average, spread exponentially, by its number. Ends with 1 if Longshore's default policy
has a p99 of twice the healthy one while one of three replicas is stalled, or sends one that fails fast
more than its fair share.

conducts of the first replica:
`)
	for _, c := range conducts {
		fmt.Fprintf(w, "  %-12s %s\n", c.Name, c.What)
	}
	fmt.Fprint(w, "\nflags:\n")
	fs.PrintDefaults()
}

// warmUp is how long the load lasts before it counts: connections are made, latencies get known.
const warmUp = 500 * time.Millisecond

// A balanceRun is what was asked for.
type balanceRun struct {
	dir, longshore string
	rivals         []rival
	conducts       []conduct
	replicas       []int
	rate, seconds  int
}

// play plays all, and returns what there is also when it is interrupted.
func (b *balanceRun) play(ctx context.Context) (*balanceReport, error) {
	r := &balanceReport{Rate: b.rate, Seconds: b.seconds, Began: time.Now()}
	runs := len(b.replicas) * len(b.conducts) * len(b.rivals)
	fmt.Fprintf(os.Stderr, "%d runs, about %d minutes\n", runs, runs*(b.seconds+1)/60+1)
	for _, n := range b.replicas {
		for _, c := range b.conducts {
			for _, who := range b.rivals {
				var best *score
				for try := 0; try == 0 || best.Invalid != "" && try < 3; try++ {
					s, err := b.one(ctx, n, c, who)
					if ctx.Err() != nil {
						return r, errors.New("interrupted")
					}
					if err != nil {
						return r, err
					}
					if best == nil || s.Late < best.Late {
						best = s
					}
				}
				r.Scores = append(r.Scores, best)
			}
		}
	}
	r.Took = time.Since(r.Began)
	return r, nil
}

// one plays one conduct in front of one rival.
func (b *balanceRun) one(ctx context.Context, n int, c conduct, who rival) (*score, error) {
	title := fmt.Sprintf("%d replicas, one %-10s %-45s", n, c.Name, who)
	live("%s", title)
	span := warmUp + time.Duration(b.seconds)*time.Second
	p := newPlot(c, span, b.rate)
	defer p.end()
	for i := range n {
		if err := p.cast(i); err != nil {
			return nil, err
		}
	}
	proxy, err := who.start(ctx, filepath.Join(b.dir, "proxy"), b.longshore, p.replicas)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", who, err)
	}
	defer proxy.stop()

	l := &load{addr: proxy.addr, begin: time.Now(), streams: []stream{{Rate: b.rate, Method: "GET", Target: target}}}
	p.start(l.begin)
	over := make(chan struct{})
	timer := time.AfterFunc(time.Until(l.begin.Add(span)), func() { close(over) })
	defer timer.Stop()
	shots := l.run(ctx, over)
	if err := cmp.Or(ctx.Err(), p.end()); err != nil {
		return nil, err
	}
	s := newScore(n, c, who, p, shots)
	live("")
	fmt.Fprintln(os.Stderr, title, s)
	return s, nil
}

// seed is what all that is random comes from: a request is the same in every run.
const seed = 20240229

// keys is how many different ones policies that hash see. They are skewed: a tenth of them makes three
// quarters of the requests.
const keys = 1000

// keyOf draws a request's key.
func keyOf(id int) uint64 {
	return rand.NewZipf(rand.New(rand.NewPCG(seed, uint64(id))), 1.1, 1, keys-1).Uint64()
}

// target has a key of its own for hash, and a network of its own for ip_hash.
func target(id int) (path, header string) {
	k := keyOf(id)
	return fmt.Sprintf("/key/%d", k), fmt.Sprintf("X-Forwarded-For: 10.%d.%d.1\r\n", k>>8, k&255)
}

// meanTime is how long a healthy replica takes on average.
const meanTime = 10 * time.Millisecond

// serviceTime is how long a healthy replica takes for a request.
func serviceTime(id int) time.Duration {
	return time.Duration(rand.New(rand.NewPCG(seed+1, uint64(id))).ExpFloat64() * float64(meanTime))
}
