package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
)

const (
	numberLabel  = "com.docker.compose.container-number"
	serviceLabel = "com.docker.compose.service"
	flapper      = "9" // the number of the replica that crashes all the time
)

// letters tell replicas with the same number apart.
const letters = "bcdefghijklmnopqrstuvwxyz"

// A watcher writes down what happens to the containers of a stage, as the engine tells it.
type watcher struct {
	docker *client.Client

	mu       sync.Mutex // guards the following
	events   []event
	replicas map[string]*replica // of the service, by hostname
}

// An event is one of the engine's about a container of the stage.
type event struct {
	Time   time.Time
	Action string
	Host   string // the container's hostname: the first 12 digits of its ID
	Signal string // of a kill
}

// A replica is one container of the service under load.
type replica struct {
	Host  string
	Name  string   // its number, and a letter if others had that number before: 1b
	Addrs []string // all that it had
}

// watch begins to write down. It returns when the engine streams, as far as that can be known, and
// goes on until ctx is done.
func watch(ctx context.Context, docker *client.Client, label string) *watcher {
	w := &watcher{docker: docker, replicas: make(map[string]*replica)}
	args := filters.NewArgs(filters.Arg("type", "container"), filters.Arg("label", label))
	for _, e := range []string{"start", "kill", "die", "pause", "unpause"} {
		args.Add("event", e)
	}
	messages, errs := docker.Events(ctx, events.ListOptions{Filters: args, Since: fmt.Sprint(time.Now().Unix())})
	go func() {
		for {
			select {
			case m := <-messages:
				w.note(ctx, m)
			case <-errs:
				return
			}
		}
	}()
	return w
}

func (w *watcher) note(ctx context.Context, m events.Message) {
	e := event{Time: time.Unix(0, m.TimeNano), Action: string(m.Action), Host: m.Actor.ID[:12], Signal: m.Actor.Attributes["signal"]}
	w.mu.Lock()
	w.events = append(w.events, e)
	ours := m.Actor.Attributes[serviceLabel] == "web"
	if r := w.replicas[e.Host]; ours && r == nil {
		number := m.Actor.Attributes[numberLabel]
		n := 0
		for _, r := range w.replicas {
			if strings.TrimRight(r.Name, letters) == number {
				n++
			}
		}
		if n > 0 {
			number += letters[min(n, len(letters))-1:][:1]
		}
		w.replicas[e.Host] = &replica{Host: e.Host, Name: number}
	}
	w.mu.Unlock()
	if ours && e.Action == "start" {
		go w.address(ctx, e.Host)
	}
}

// address asks where a replica is now.
func (w *watcher) address(ctx context.Context, host string) {
	c, err := w.docker.ContainerInspect(ctx, host)
	if err != nil {
		return // it is gone
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range c.NetworkSettings.Networks {
		w.replicas[host].Addrs = append(w.replicas[host].Addrs, n.IPAddress)
	}
}

// all returns what was seen: events in their order, replicas by their name.
func (w *watcher) all() ([]event, []*replica) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rs := slices.SortedFunc(maps.Values(w.replicas), func(a, b *replica) int {
		if len(a.Name) != len(b.Name) {
			return len(a.Name) - len(b.Name)
		}
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return slices.Clone(w.events), rs
}

// containers lists the containers of the service by their number, running or not.
func containers(ctx context.Context, docker *client.Client, label string) (map[string]container.Summary, error) {
	list, err := docker.ContainerList(ctx, container.ListOptions{All: true,
		Filters: filters.NewArgs(filters.Arg("label", label), filters.Arg("label", serviceLabel+"=web"))})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	byNumber := make(map[string]container.Summary)
	for _, c := range list {
		byNumber[c.Labels[numberLabel]] = c
	}
	return byNumber, nil
}
