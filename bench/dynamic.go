package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// dynamic plays each scenario in front of each contender.
func dynamic(ctx context.Context, fs *flag.FlagSet, args []string) error {
	d := dynamicRun{}
	fs.IntVar(&d.rate, "rate", 300, "requests per second")
	scenarioNames := fs.String("scenarios", "all", "comma-separated, or all")
	contenderNames := fs.String("peers", "", "comma-separated, or all (default all; with -quick longshore, and the others in scale-down only)")
	fs.BoolVar(&d.quick, "quick", false, "shorter scenarios")
	fs.IntVar(&d.runs, "runs", 1, "how often each is played")
	out := fs.String("out", "", "directory for report.md, report.json and report.html (default a new one under the temporary directory)")
	compose := fs.String("compose", "v2", "compose command: v1 (docker-compose) or v2 (docker compose)")
	fs.Usage = func() { dynamicUsage(fs) }
	fs.Parse(args)

	var err error
	if d.scenarios, err = pick("scenario", scenarios, func(s scenario) string { return s.Name }, *scenarioNames); err != nil {
		return err
	}
	if d.contenders, err = pick("peer", contenders, func(c contender) string { return c.Name }, *contenderNames); err != nil {
		return err
	}
	if *compose != "v1" && *compose != "v2" {
		return usageError(fmt.Sprintf("-compose %q: v1 or v2", *compose))
	}
	if d.rate < 1 || d.rate > 2000 || d.runs < 1 {
		return usageError("-rate is from 1 to 2000, -runs at least 1")
	}
	d.few = d.quick && *contenderNames == ""
	if *out == "" {
		if *out, err = os.MkdirTemp("", "bench-dynamic-"); err != nil {
			return err
		}
	} else if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	if d.troupe, err = assemble(*compose); err != nil {
		return err
	}
	defer d.dismiss()
	r, err := d.play(ctx)
	if r != nil && len(r.Outcomes) > 0 {
		if err := r.write(*out); err != nil {
			return err
		}
		fmt.Println()
		for _, name := range []string{"report.md", "report.json", "report.html"} {
			fmt.Println(filepath.Join(*out, name))
		}
	}
	if err != nil {
		return err
	}
	return r.verdict()
}

// A usageError is a wrong flag: the bench ends with status 2.
type usageError string

func (e usageError) Error() string { return string(e) }

// pick finds names in a list.
func pick[T any](what string, all []T, name func(T) string, names string) ([]T, error) {
	if names == "all" || names == "" {
		return all, nil
	}
	var picked []T
	for n := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(x T) bool { return name(x) == strings.TrimSpace(n) })
		if i < 0 {
			var known []string
			for _, x := range all {
				known = append(known, name(x))
			}
			return nil, usageError(fmt.Sprintf("there is no %s %q; there are %s, and all", what, n, strings.Join(known, ", ")))
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

func dynamicUsage(fs *flag.FlagSet) {
	w := fs.Output()
	fmt.Fprint(w, `usage: go run ./bench dynamic [flags]

Plays what happens to containers under a load that does not wait for answers, in front of Longshore
and, one after another, its peers. Each request has a connection of its own, is due at a time that is
fixed before, and is never repeated by the client. Reports are written as Markdown, JSON and HTML.
Ends with 1 if Longshore loses a request or leaves a replica that should serve without requests.

scenarios:
`)
	for _, s := range scenarios {
		fmt.Fprintf(w, "  %-15s %s\n", s.Name, s.What)
	}
	fmt.Fprint(w, "\npeers:\n")
	for _, c := range contenders {
		fmt.Fprintf(w, "  %-15s %s\n", c.Name, c.What)
	}
	fmt.Fprint(w, `
nginx and HAProxy are taken from their official images where a registry is reachable, else from the
packages of this machine.

flags:
`)
	fs.PrintDefaults()
}

// fewScenarios are those that peers have in quick runs.
var fewScenarios = []string{"scale-down"}

// A dynamicRun is what was asked for.
type dynamicRun struct {
	*troupe
	scenarios  []scenario
	contenders []contender
	rate, runs int
	quick, few bool
}

// play plays all, and returns what there is also when it is interrupted.
func (d *dynamicRun) play(ctx context.Context) (*report, error) {
	r := &report{Rate: d.rate, Quick: d.quick, Compose: strings.Join(d.compose, " "), Began: time.Now(), Versions: make(map[string]string)}
	if info, err := d.docker.ServerVersion(ctx); err != nil {
		return nil, fmt.Errorf("docker: %w", err)
	} else {
		r.Versions["docker"] = info.Version
	}
	var able []contender
	for _, c := range d.contenders {
		if c.Program != "longshore" {
			version, err := d.images.version(ctx, c.Program)
			if err != nil {
				return nil, err
			}
			r.Versions[c.Program] = version
			if why := c.missing(version); why != "" {
				r.Skipped = append(r.Skipped, c.Name+": "+why)
				fmt.Fprintf(os.Stderr, "%s is left out: %s\n", c.Name, why)
				continue
			}
		}
		able = append(able, c)
	}
	for _, sc := range d.scenarios {
		end := tail
		if d.quick {
			sc, end = sc.shorter(), time.Duration(float64(tail)*quickly)
		}
		for _, c := range able {
			if d.few && c.Name != "longshore" && !slices.Contains(fewScenarios, sc.Name) {
				continue
			}
			for run := range d.runs {
				o, err := d.one(ctx, sc, c, run+1, end)
				// Late or not, what was lost was lost: such a take is not played again until it fits.
				for again := 0; err == nil && o.Invalid != "" && o.Failed == 0 && again < 1 && !d.quick; again++ {
					o, err = d.one(ctx, sc, c, run+1, end)
				}
				if ctx.Err() != nil {
					return r, errors.New("interrupted")
				}
				if err != nil {
					fmt.Fprintf(os.Stderr, "%s in front of %s could not be played: %v\n", c.Name, sc.Name, err)
					r.Errors = append(r.Errors, fmt.Sprintf("%s, %s: %v", sc.Name, c.Name, err))
					continue
				}
				r.Outcomes = append(r.Outcomes, o)
			}
		}
	}
	r.Took = time.Since(r.Began)
	return r, nil
}

// one plays one scenario in front of one contender.
func (d *dynamicRun) one(ctx context.Context, sc scenario, c contender, run int, end time.Duration) (*outcome, error) {
	title := fmt.Sprintf("%-12s %-15s", sc.Name, c.Name)
	live("%s starting", title)
	st, err := d.raise(ctx, sc, c)
	if err != nil {
		return nil, err
	}
	defer st.close()
	tk, err := st.play(ctx, d.rate, end, func(l *load) {
		sent, failed, latest := l.sofar()
		live("%s %4.1f s  %5d answered, %d failed, %d replicas in the last second", title, time.Since(l.begin).Seconds(), sent, failed, len(latest))
	})
	if err != nil {
		return nil, err
	}
	tk.run = run
	o := judge(tk)
	live("")
	line := fmt.Sprintf("%s %5d requests, %d failed, p99.9 %.0f ms", title, o.Requests, o.Failed, o.P999)
	if o.Excused > 0 {
		line += fmt.Sprintf(", %d excused", o.Excused)
	}
	if len(o.Causes) > 0 {
		line += " (" + causesText(o.Causes) + ")"
	}
	for _, v := range o.Verdicts {
		if !v.Met && c.Name == "longshore" {
			line += fmt.Sprintf("\n    not met: %s: %s", v.Target, v.Got)
		}
	}
	if o.Invalid != "" {
		line += "\n    latencies are not valid: " + o.Invalid
	}
	fmt.Fprintln(os.Stderr, line)
	return o, nil
}

// live writes over the last line of a terminal.
func live(format string, a ...any) {
	if fi, err := os.Stderr.Stat(); err == nil && fi.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, "\r\033[K"+format, a...)
	}
}

// atLeast reads "nginx version: nginx/1.22.1".
func atLeast(version string, major, minor, patch int) bool {
	var a, b, c int
	_, number, _ := strings.Cut(version, "/")
	fmt.Sscanf(number, "%d.%d.%d", &a, &b, &c)
	return slices.Compare([]int{a, b, c}, []int{major, minor, patch}) >= 0
}
