package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"
)

// eventLatency starts and stops containers beside idle neighbours, and reads from Longshore's debug log how
// long each change took to reach the routing table.
func eventLatency(ctx context.Context, fs *flag.FlagSet, args []string) error {
	neighbours := fs.Int("neighbours", 50, "idle containers around")
	samples := fs.Int("samples", 200, "additions and removals, of each")
	together := fs.Int("together", 4, "containers that start at the same time")
	pause := fs.Bool("pause", false, "pause and unpause one container instead: the engine then leaves the processors free")
	fs.Parse(args)

	docker, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	dir, longshore, err := workshop(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	image := fmt.Sprintf("longshore-bench-%d", os.Getpid())
	if err := buildImage(ctx, dir, image); err != nil {
		return err
	}
	mark := fmt.Sprintf("longshore.bench.%d", os.Getpid())
	defer removeAll(docker, mark, image)

	create := func(labels map[string]string) (string, error) {
		labels[mark] = "yes"
		res, err := docker.ContainerCreate(ctx, &container.Config{Image: image, Labels: labels}, nil, nil, nil, "")
		return res.ID, err
	}
	for range *neighbours {
		id, err := create(map[string]string{})
		if err != nil {
			return err
		}
		if err := docker.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
			return err
		}
	}

	cmd := exec.CommandContext(ctx, longshore)
	cmd.Env = environ("LONGSHORE_LISTEN=127.0.0.1:19020", "LONGSHORE_ADMIN=127.0.0.1:19021", "LONGSHORE_PROJECT=*",
		"LONGSHORE_LABEL="+mark+".replica", "LONGSHORE_LOG_FORMAT=json", "LONGSHORE_LOG_LEVEL=debug", "LONGSHORE_ACCESS_LOG=off")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}()
	var log appliedLog
	go log.read(bufio.NewScanner(stderr))
	if err := waitReady(ctx, "http://127.0.0.1:19021/readyz"); err != nil {
		return err
	}

	if *pause {
		*together = 1
		id, err := create(map[string]string{mark + ".replica": "yes"})
		if err != nil {
			return err
		}
		if err := docker.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
			return err
		}
		log.wait("add", 1)
		for done := range *samples {
			if err := docker.ContainerPause(ctx, id); err != nil {
				return err
			}
			log.wait("remove", done+1)
			time.Sleep(15 * time.Millisecond) // Engine 20.10 can hang in an unpause that comes too soon
			if err := docker.ContainerUnpause(ctx, id); err != nil {
				return err
			}
			log.wait("add", done+2)
		}
	}
	for done := 0; !*pause && done < *samples; done += *together {
		var ids []string
		for range *together {
			id, err := create(map[string]string{mark + ".replica": "yes"})
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		each := func(do func(id string) error) error {
			var g errgroup.Group
			for _, id := range ids {
				g.Go(func() error { return do(id) })
			}
			return g.Wait()
		}
		if err := each(func(id string) error { return docker.ContainerStart(ctx, id, container.StartOptions{}) }); err != nil {
			return err
		}
		log.wait("add", done+*together)
		if err := each(func(id string) error {
			return docker.ContainerRemove(ctx, id, container.RemoveOptions{Force: true})
		}); err != nil {
			return err
		}
		log.wait("remove", done+*together)
		fmt.Fprintf(os.Stderr, "\r%d of %d", done+*together, *samples)
	}
	fmt.Fprintln(os.Stderr)

	what := fmt.Sprintf("%d containers started and removed together", *together)
	if *pause {
		what = "one container paused and unpaused"
	}
	fmt.Printf("%d neighbours, %s\n\n", *neighbours, what)
	fmt.Print("| change | from | samples | p50 ms | p90 ms | p99 ms | max ms |\n|---|---|---|---|---|---|---|\n")
	for _, row := range []struct{ change, from string }{
		{"remove", "received"}, {"remove", "event"}, {"add", "inspected"}, {"add", "received"}, {"add", "event"},
	} {
		ms := log.values(row.change, row.from)
		slices.Sort(ms)
		fmt.Printf("| %s | %s | %d | %.2f | %.2f | %.2f | %.2f |\n", row.change, row.from, len(ms),
			quantile(ms, .5), quantile(ms, .9), quantile(ms, .99), ms[len(ms)-1])
	}
	fmt.Print("\nFrom: the event's own time; when Longshore had read it; when the engine had told the address (additions).\n")
	return nil
}

// An applied is one debug line of Longshore: durations until the table was swapped, in nanoseconds.
type applied struct {
	Msg       string        `json:"msg"`
	Change    string        `json:"change"`
	Event     time.Duration `json:"event"`
	Received  time.Duration `json:"received"`
	Inspected time.Duration `json:"inspected"`
}

// An appliedLog collects such lines.
type appliedLog struct {
	mu  sync.Mutex // guards all
	all []applied
}

func (l *appliedLog) read(lines *bufio.Scanner) {
	for lines.Scan() {
		var a applied
		if json.Unmarshal(lines.Bytes(), &a) == nil && a.Msg == "applied" {
			l.mu.Lock()
			l.all = append(l.all, a)
			l.mu.Unlock()
		}
	}
}

// wait returns when there are n changes of a kind, or no more came for a while.
func (l *appliedLog) wait(change string, n int) {
	for deadline := time.Now().Add(5 * time.Second); len(l.values(change, "event")) < n && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
}

// values returns one column, in milliseconds.
func (l *appliedLog) values(change, from string) (ms []float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.all {
		if a.Change != change {
			continue
		}
		d := map[string]time.Duration{"event": a.Event, "received": a.Received, "inspected": a.Inspected}[from]
		ms = append(ms, float64(d)/1e6)
	}
	return ms
}

// buildImage makes an image of the example's web service.
func buildImage(ctx context.Context, dir, tag string) error {
	if _, err := build(ctx, dir, "longshore/internal/example/flaskapp"); err != nil {
		return err
	}
	dockerfile := "FROM scratch\nCOPY flaskapp /flaskapp\nEXPOSE 5090\nENTRYPOINT [\"/flaskapp\"]\n"
	return dockerBuild(ctx, dir, tag, dockerfile)
}

func removeAll(docker *client.Client, label, image string) {
	out, _ := exec.Command("docker", "ps", "-aq", "--filter", "label="+label).Output()
	for _, id := range strings.Fields(string(out)) {
		docker.ContainerRemove(context.Background(), id, container.RemoveOptions{Force: true})
	}
	exec.Command("docker", "rmi", "-f", image).Run()
}

func waitReady(ctx context.Context, url string) error {
	for ctx.Err() == nil {
		res, err := http.Get(url)
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return ctx.Err()
}
