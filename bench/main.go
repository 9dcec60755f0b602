// Bench measures Longshore as a user runs it: the built binary, over HTTP, beside its peers.
//
// It needs Go and what a scenario names: nginx and wrk for throughput (other peers if they are there), nginx for balance, a Docker engine for dynamic, soak
// and events, compose for the first two. It talks to nothing but loopback and containers of its own,
// and removes what it made.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const usage = `usage: go run ./bench dynamic|soak|balance|throughput|events|start [flags]

  dynamic     what is lost while containers change: scenarios under load, in front of Longshore and peers
  soak        a replica restarted every 5 s for half an hour, and what the proxy holds meanwhile
  balance     every policy, and nginx's, in front of replicas of which one is slow, stalls, fails or joins late
  throughput  CPU per request, latency and memory of Longshore and its peers, interleaved: several sizes, connections and cores
  events      from a container's event to the routing table that follows it
  start       from the start of the process to its first answer, and resident memory

go run ./bench COMMAND -h explains its flags.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	commands := map[string]func(context.Context, *flag.FlagSet, []string) error{
		"throughput": throughput, "events": eventLatency, "start": start, "dynamic": dynamic, "soak": soak, "balance": balance,
		"reverseproxy": reverseProxy, "reloader": reloader, "pacer": pacer, // run by the others
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	name := os.Args[1]
	if err := commands[name](ctx, flag.NewFlagSet(name, flag.ExitOnError), os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		if _, wrong := err.(usageError); wrong {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// workshop makes a folder for a scenario, which the caller removes, and builds Longshore into it.
func workshop(ctx context.Context) (dir, longshore string, err error) {
	if dir, err = os.MkdirTemp("", "bench"); err != nil {
		return "", "", err
	}
	if longshore, err = build(ctx, dir, "longshore/cmd/longshore"); err != nil {
		os.RemoveAll(dir)
	}
	return dir, longshore, err
}

// build compiles a main package of this module statically into dir.
func build(ctx context.Context, dir, pkg string) (string, error) {
	out := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, msg)
	}
	return out, nil
}

// quantile returns the value below which a share q of the sorted values lies.
func quantile[T any](sorted []T, q float64) T {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func median(xs []float64) float64 {
	xs = slices.Clone(xs)
	slices.Sort(xs)
	return quantile(xs, .5)
}

// environ is this process's environment without LONGSHORE_*, plus what is given.
func environ(kv ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "LONGSHORE_") })
	return append(env, kv...)
}
