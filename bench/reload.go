package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
)

// upstreamFile is what nginx includes in its upstream block.
const upstreamFile = "/tmp/upstream.conf"

// reloader is the script that people write when they find that nginx does not follow containers: it
// subscribes to the events of the engine, lists, rewrites the upstream block and reloads. It starts
// nginx and is its parent in the container.
//
// It is written as well as such a script can be: it takes a container out with the signal that stops
// it, not when it is dead, takes paused ones out, subscribes before it lists, connects again when the
// stream ends, and reloads only for a change.
func reloader(ctx context.Context, fs *flag.FlagSet, args []string) error {
	service := fs.String("service", "web", "compose service whose containers are the upstream")
	port := fs.String("port", "5090", "their port")
	fs.Parse(args)
	docker, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	self, err := docker.ContainerInspect(ctx, must(os.Hostname()))
	if err != nil {
		return err
	}
	script := &script{docker: docker, port: *port, stopping: make(map[string]bool),
		label: []filters.KeyValuePair{
			filters.Arg("label", "com.docker.compose.project="+self.Config.Labels["com.docker.compose.project"]),
			filters.Arg("label", "com.docker.compose.service="+*service),
		}}
	for len(script.servers) == 0 { // nginx does not start with an upstream block that is empty
		if _, err := script.update(ctx); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	nginx := exec.CommandContext(ctx, "nginx", "-c", "/etc/proxy.conf")
	nginx.Stdout, nginx.Stderr = os.Stdout, os.Stderr
	if err := nginx.Start(); err != nil {
		return err
	}
	script.reload = func() error { return nginx.Process.Signal(syscall.SIGHUP) }
	go func() {
		for ctx.Err() == nil {
			err := script.follow(ctx)
			fmt.Fprintln(os.Stderr, "the event stream ended:", err)
			time.Sleep(100 * time.Millisecond)
		}
	}()
	return nginx.Wait()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A script keeps the upstream block. One goroutine has it.
type script struct {
	docker   *client.Client
	port     string
	label    []filters.KeyValuePair
	reload   func() error
	stopping map[string]bool // containers that were told to stop, or have died, and were not started since
	servers  []string        // as written last
}

// follow subscribes, looks at what is there, and updates at each event until the stream ends.
func (s *script) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := filters.NewArgs(append([]filters.KeyValuePair{filters.Arg("type", "container")}, s.label...)...)
	for _, e := range []string{"start", "kill", "die", "pause", "unpause"} {
		args.Add("event", e)
	}
	messages, errs := s.docker.Events(ctx, events.ListOptions{Filters: args})
	if err := s.apply(ctx, time.Now(), "list"); err != nil {
		return err
	}
	for {
		select {
		case m := <-messages:
			switch m.Action {
			case events.ActionKill:
				if sig := m.Actor.Attributes["signal"]; sig != "15" && sig != "9" {
					continue
				}
				s.stopping[m.Actor.ID] = true
			case events.ActionDie: // the engine may still list it as running
				s.stopping[m.Actor.ID] = true
			case events.ActionStart:
				delete(s.stopping, m.Actor.ID)
			}
			change := "remove"
			if m.Action == events.ActionStart || m.Action == events.ActionUnPause {
				change = "add"
			}
			if err := s.apply(ctx, time.Unix(0, m.TimeNano), change); err != nil {
				return err
			}
		case err := <-errs:
			return err
		}
	}
}

// apply updates, and tells how long after the event nginx was told.
func (s *script) apply(ctx context.Context, event time.Time, change string) error {
	changed, err := s.update(ctx)
	if err != nil || !changed {
		return err
	}
	if err := s.reload(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stderr).Encode(applied{Msg: "applied", Change: change, Event: time.Since(event)})
}

// update lists, and writes the block if it is another one now. An empty one it leaves alone.
func (s *script) update(ctx context.Context) (changed bool, err error) {
	running, err := s.docker.ContainerList(ctx, container.ListOptions{Filters: filters.NewArgs(append(slices.Clone(s.label), filters.Arg("status", "running"))...)})
	if err != nil {
		return false, err
	}
	var servers []string
	for _, c := range running {
		for _, n := range c.NetworkSettings.Networks {
			if n.IPAddress != "" && !s.stopping[c.ID] {
				// What fails is the script's business: else nginx would take all out for 10 s that do not listen yet.
				servers = append(servers, "server "+n.IPAddress+":"+s.port+" max_fails=0;")
				break
			}
		}
	}
	slices.Sort(servers)
	if len(servers) == 0 || slices.Equal(servers, s.servers) {
		return false, nil
	}
	var block bytes.Buffer
	fmt.Fprintln(&block, strings.Join(servers, "\n"))
	if err := os.WriteFile(upstreamFile+".new", block.Bytes(), 0o644); err != nil {
		return false, err
	}
	s.servers = servers
	return true, os.Rename(upstreamFile+".new", upstreamFile)
}
