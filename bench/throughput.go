package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// throughput pins the proxy under test to one processor, and origins and load to the other, unless a work
// has two for all.
func throughput(ctx context.Context, fs *flag.FlagSet, args []string) error {
	t := trial{}
	fs.IntVar(&t.rounds, "rounds", 5, "interleaved rounds; the median is reported")
	fs.IntVar(&t.seconds, "seconds", 2, "length of a round for each proxy")
	fs.IntVar(&t.connections, "connections", 64, "client connections, unless the work says how many")
	fs.IntVar(&t.idle, "idle", 10000, "idle connections of the works idle and memory")
	fs.Float64Var(&t.fraction, "fraction", .5, "share of nginx's highest rate that the work half asks for")
	workNames := fs.String("works", "all", "comma-separated, or all")
	peerNames := fs.String("peers", "all", "comma-separated, or all; nginx, which the others are compared with, is always one")
	extra := fs.String("extra", "", "file with more peers, a line each: NAME ADDR COMMAND [ARGUMENT]...")
	page := fs.String("html", "", "file for the same figures as a page with charts")
	fs.Usage = func() { throughputUsage(fs) }
	fs.Parse(args)
	if t.rounds < 1 || t.seconds < 1 || t.connections < 1 || t.idle < 1 || t.fraction <= 0 || t.fraction > 1 {
		return usageError("-rounds, -seconds, -connections and -idle are positive, -fraction is above 0 and at most 1")
	}
	works, err := pick("work", works, func(w work) string { return w.Key }, *workNames)
	if err != nil {
		return err
	}
	all := slices.Clone(peers)
	if *extra != "" {
		more, err := readExtra(*extra)
		if err != nil {
			return err
		}
		all = append(all, more...)
	}
	chosen, err := pick("peer", all, func(p peer) string { return p.Key }, *peerNames)
	if err != nil {
		return err
	}
	if chosen[0].Key != "nginx" {
		chosen = append([]peer{all[0]}, slices.DeleteFunc(slices.Clone(chosen), func(p peer) bool { return p.Key == "nginx" })...)
	}
	for _, needed := range []string{"nginx", "wrk", "taskset"} {
		if _, err := exec.LookPath(needed); err != nil {
			return err
		}
	}
	if t.dir, t.longshore, err = workshop(ctx); err != nil {
		return err
	}
	defer os.RemoveAll(t.dir)
	if err := t.prepare(); err != nil {
		return err
	}
	r := &throughputReport{Began: time.Now(), Rounds: t.rounds, Seconds: t.seconds}
	for _, p := range chosen {
		if _, err := exec.LookPath(p.Program); p.Program != "" && err != nil {
			r.Notes = append(r.Notes, fmt.Sprintf("%s is left out: there is no program %s here.", p.Name, p.Program))
			continue
		}
		t.peers = append(t.peers, p)
	}
	r.Versions = versionsOf(ctx, t.peers)
	if limit, err := openFiles(2*uint64(t.idle) + 20000); err != nil {
		return err
	} else if most := int(limit)/2 - 4000; t.idle > most { // Longshore keeps half for connections to backends
		r.Notes = append(r.Notes, fmt.Sprintf("%d idle connections instead of %d, because of the limit of open files.", most, t.idle))
		t.idle = most
	}

	for _, w := range works {
		w = w.scaled(&t)
		res, err := t.do(ctx, w)
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", w.Key, err)
		}
		r.Results = append(r.Results, res)
		fmt.Fprintf(os.Stderr, "%s done\n", w.Key)
	}
	r.Took = time.Since(r.Began)
	fmt.Print(r.markdown())
	if *page != "" {
		if err := r.writePage(*page); err != nil {
			return err
		}
	}
	return r.verdict()
}

func throughputUsage(fs *flag.FlagSet) {
	w := fs.Output()
	fmt.Fprint(w, `usage: go run ./bench throughput [flags]

Measures what a request costs the proxy: the time that all its processes were on a processor, from /proc, by the
requests that were answered. nginx and wrk are needed, other peers are left out where they are missing. A
round with an answer other than 2xx or with a broken connection is repeated once, and counts for nothing.

works:
`)
	for _, x := range works {
		what := x.What
		if x.Connections > 0 {
			what = x.Title()
		}
		fmt.Fprintf(w, "  %-10s %s\n", x.Key, what)
	}
	fmt.Fprint(w, "\npeers:\n")
	for _, p := range peers {
		fmt.Fprintf(w, "  %-14s %s\n", p.Key, p.Name)
	}
	fmt.Fprintf(w, `
Each line of the file of -extra is one more peer: a name without spaces, the address where it listens, and the
command that starts it, which stays in the foreground, ends on SIGTERM, and proxies HTTP/1.1 with kept
connections to %s and %s. Words are split at spaces, # begins a comment.
It does all works but realistic and idle:

  envoy 127.0.0.1:10000 envoy -c /etc/envoy/bench.yaml --concurrency 1

flags:
`, origins[0], origins[1])
	fs.PrintDefaults()
}

// A trial is what was asked for.
type trial struct {
	dir, longshore, self         string
	peers                        []peer // nginx first
	rounds, seconds, connections int
	idle                         int
	fraction                     float64
}

// prepare writes what is served and sent. All may read the folder: nginx's workers have another user than root.
func (t *trial) prepare() (err error) {
	if t.self, err = os.Executable(); err != nil {
		return err
	}
	if err := os.Chmod(t.dir, 0o755); err != nil {
		return err
	}
	for name, size := range map[string]int{"16k": 16 << 10, "1m": 1 << 20} {
		if err := os.WriteFile(filepath.Join(t.dir, name), []byte(strings.Repeat("longshore bench\n", size/16)), 0o644); err != nil {
			return err
		}
	}
	const post = `wrk.method = "POST"; wrk.body = string.rep("x", 16384); wrk.headers["Content-Type"] = "application/octet-stream"` + "\n"
	return os.WriteFile(filepath.Join(t.dir, "post.lua"), []byte(post), 0o644)
}

// do does a work, with origins behind all peers.
func (t *trial) do(ctx context.Context, w work) (*result, error) {
	stop, err := t.serve(ctx, w.Setup)
	if err != nil {
		return nil, err
	}
	defer stop()
	return w.play(ctx, t, w)
}

// closed is a work that wrk does, with as many connections as are always busy.
func closed(ctx context.Context, t *trial, w work) (*result, error) {
	return t.contest(ctx, w, func(in *instance) (*sample, error) { return t.wrk(ctx, w, in) })
}

// halved asks everyone for the same rate, a share of the highest that nginx reaches now.
func halved(ctx context.Context, t *trial, w work) (*result, error) {
	top, err := t.topRate(ctx, w)
	if err != nil {
		return nil, err
	}
	rate := int(t.fraction * top)
	w.What = fmt.Sprintf("GET, small body, one core, requests due at fixed times, %d per second, which is %g of nginx's highest rate", rate, t.fraction)
	return t.contest(ctx, w, func(in *instance) (*sample, error) { return t.pace(ctx, w, in, rate) })
}

func (t *trial) topRate(ctx context.Context, w work) (float64, error) {
	nginx, err := t.launch(ctx, t.peers[0], w.Setup)
	if err != nil {
		return 0, err
	}
	defer nginx.stop()
	var rates []float64
	for range 3 {
		s, err := t.wrk(ctx, w, nginx)
		if err != nil {
			return 0, err
		}
		rates = append(rates, s.Rate)
	}
	return median(rates), nil
}

// contest measures all peers of a work in interleaved rounds.
func (t *trial) contest(ctx context.Context, w work, measure func(*instance) (*sample, error)) (*result, error) {
	res := &result{work: w}
	var running []*instance
	for _, p := range t.peers {
		if !w.isFor(p) {
			continue
		}
		row := &row{Key: p.Key, Name: p.Name}
		in, err := t.launch(ctx, p, w.Setup)
		if err == nil {
			defer in.stop()
		} else {
			if p.Key == "nginx" || ctx.Err() != nil {
				return nil, fmt.Errorf("%s: %w", p.Name, err)
			}
			row.fail(err)
		}
		res.Rows, running = append(res.Rows, row), append(running, in)
	}
	return res, t.interleave(ctx, res, running, measure)
}

// breath is left after each round for what clients that have gone leave behind, so that it is not in the
// next proxy's round.
const breath = 100 * time.Millisecond

// interleave measures the instances of a result's rows, round by round, so that the machine's changing speed
// meets all of them.
func (t *trial) interleave(ctx context.Context, res *result, running []*instance, measure func(*instance) (*sample, error)) error {
	for round := range t.rounds {
		for i := range running {
			if round%2 == 1 { // or who comes behind whom would count
				i = len(running) - 1 - i
			}
			in, row := running[i], res.Rows[i]
			if in == nil { // it did not start
				row.Samples = append(row.Samples, nil)
				continue
			}
			live("%s: round %d of %d, %s", res.Key, round+1, t.rounds, row.Name)
			s, err := measure(in)
			if err != nil && ctx.Err() == nil {
				s, err = measure(in)
			}
			sleep(ctx, breath)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				row.fail(fmt.Errorf("round %d: %w", round+1, err))
			}
			row.Samples = append(row.Samples, s)
		}
	}
	live("")
	return nil
}

// crowded compares each peer with itself while many more clients are connected.
func crowded(ctx context.Context, t *trial, w work) (*result, error) {
	res := &result{work: w}
	for _, p := range t.peers {
		if !w.isFor(p) {
			continue
		}
		if err := t.crowdedPeer(ctx, p, res); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// crowdedPeer runs a peer twice, and adds a row for each.
func (t *trial) crowdedPeer(ctx context.Context, p peer, res *result) error {
	base := len(res.Rows)
	empty := &row{Key: p.Key, Name: p.Name, Base: base}
	full := &row{Key: p.Key, Name: fmt.Sprintf("%s, %d idle connections", p.Name, t.idle), Base: base}
	res.Rows = append(res.Rows, empty, full)
	var running []*instance
	for _, host := range []string{loopback, otherLoopback} {
		s := res.Setup
		s.Host = host
		in, err := t.launch(ctx, p, s)
		if err != nil {
			full.fail(err)
			return ctx.Err()
		}
		defer in.stop()
		running = append(running, in)
	}
	c, err := gather(ctx, running[1].addr, t.idle)
	if err != nil {
		full.fail(err)
		return ctx.Err()
	}
	defer c.leave()
	part := &result{work: res.work, Rows: []*row{empty, full}}
	if err := t.interleave(ctx, part, running, func(in *instance) (*sample, error) { return t.wrk(ctx, res.work, in) }); err != nil {
		return err
	}
	if err := c.stays(); err != nil {
		full.fail(err)
		full.Samples = nil
	}
	return nil
}

// remember measures memory: at rest, and with idle connections.
func remember(ctx context.Context, t *trial, w work) (*result, error) {
	res := &result{work: w}
	for _, p := range t.peers {
		live("%s: %s", w.Key, p.Name)
		row := &row{Key: p.Key, Name: p.Name}
		f, err := t.footprint(ctx, p, w.Setup)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			row.fail(err)
		}
		row.Memory = f
		res.Rows = append(res.Rows, row)
	}
	live("")
	return res, nil
}

// settling is how long memory is given to settle, and later when it is read again: nobody asks a garbage
// collector to hurry.
const (
	settling = 2 * time.Second
	later    = 6 * time.Second
)

func (t *trial) footprint(ctx context.Context, p peer, s setup) (*footprint, error) {
	f := &footprint{Idle: t.idle}
	read := func(in *instance, after time.Duration) (int64, error) {
		sleep(ctx, after)
		return memoryOf(in.cmd.Process.Pid)
	}
	rest := s
	rest.Idle = 0
	in, err := t.launch(ctx, p, rest)
	if err != nil {
		return nil, err
	}
	f.Rest, err = read(in, time.Second)
	in.stop()
	if err != nil {
		return nil, err
	}
	if in, err = t.launch(ctx, p, s); err != nil {
		return nil, err
	}
	defer in.stop()
	before, err := read(in, time.Second)
	if err != nil {
		return nil, err
	}
	c, err := gather(ctx, in.addr, t.idle)
	if err != nil {
		return nil, err
	}
	defer c.leave()
	settled, err := read(in, settling)
	if err != nil {
		return nil, err
	}
	end, err := read(in, later-settling)
	if err != nil {
		return nil, err
	}
	f.Each, f.Later = float64(settled-before)/float64(t.idle), float64(end-before)/float64(t.idle)
	return f, c.stays()
}
