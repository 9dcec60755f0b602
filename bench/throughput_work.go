package main

import (
	"context"
	"fmt"
	"slices"
)

// A work is what the proxies are made to do.
type work struct {
	Key, What   string
	Connections int    // zero: as many as -connections says
	Path        string // empty: /, which has a small body
	Post        bool   // with a body of 16 KiB
	Setup       setup
	Only        []string // keys of the peers that do it; nil: all
	Value       string   // what is compared; empty: CPU time per request
	Targets     map[string]float64
	play        func(context.Context, *trial, work) (*result, error)
}

// What is compared, where it is not CPU time per request.
const (
	byP99    = "p99"
	byMemory = "kB per idle connection"
)

// own are those whose configuration for logs and idle connections the bench knows.
var own = []string{"nginx", "longshore", "general"}

// works are all of them. The targets are ratios to nginx, but for idle, where it is that to the same proxy
// without idle connections, and memory, where it is kilobytes.
var works = []work{
	{Key: "small", What: "GET, small body, one core", play: closed, Targets: map[string]float64{"longshore": .95, "general": 2.6}},
	{Key: "single", What: "GET, small body, one core", Connections: 1, play: closed},
	{Key: "many", What: "GET, small body, one core", Connections: 1000, play: closed},
	{Key: "two-cores", What: "GET, small body, two cores for all", Setup: setup{Cores: 2}, play: closed, Targets: map[string]float64{"longshore": 1}},
	{Key: "16k", What: "GET, 16 KiB, one core", Path: "/16k", play: closed, Targets: map[string]float64{"longshore": .95}},
	{Key: "1m", What: "GET, 1 MiB, one core", Path: "/1m", play: closed, Targets: map[string]float64{"longshore": .6}},
	{Key: "post", What: "POST, 16 KiB, one core", Path: "/post", Post: true, play: closed, Targets: map[string]float64{"longshore": 1}},
	{Key: "realistic", What: "GET, small body, one core, access log, three weighted backends, health checks, metrics read each second",
		Setup: setup{Real: true}, Only: own, play: closed, Targets: map[string]float64{"longshore": 1}},
	{Key: "half", What: "GET, small body, one core, requests due at fixed times, at half of nginx's highest rate (-fraction)",
		Value: byP99, play: halved, Targets: map[string]float64{"longshore": 1.1}},
	{Key: "idle", What: "GET, small body, one core, beside idle connections", Setup: setup{Idle: 1}, Only: own, play: crowded,
		Targets: map[string]float64{"longshore": 1.05}},
	{Key: "memory", What: "Resident memory, and what an idle connection adds", Setup: setup{Idle: 1}, Value: byMemory, play: remember,
		Targets: map[string]float64{"longshore": 6}},
}

// scaled fills in what the flags say.
func (w work) scaled(t *trial) work {
	if w.Connections == 0 {
		w.Connections = t.connections
	}
	if w.Setup.Idle > 0 {
		w.Setup.Idle = t.idle
	}
	if w.Path == "" {
		w.Path = "/"
	}
	w.Setup.Host, w.Setup.Cores = loopback, max(w.Setup.Cores, 1)
	return w
}

func (w work) isFor(p peer) bool { return w.Only == nil || slices.Contains(w.Only, p.Key) }

// Title says what and with how many connections.
func (w work) Title() string {
	switch {
	case w.Value == byMemory:
		return w.What
	case w.Connections == 1:
		return w.What + ", 1 connection"
	}
	return fmt.Sprintf("%s, %d connections", w.What, w.Connections)
}

// value is what is compared of a sample.
func (w work) value(s *sample) float64 {
	if w.Value == byP99 {
		return s.P99
	}
	return s.CPU
}

// Compared says what value is.
func (w work) Compared() string {
	if w.Value == "" {
		return "CPU"
	}
	return w.Value
}
