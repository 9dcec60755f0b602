// Longshore is a reverse proxy and load balancer that follows Docker containers through the event
// stream. It is configured by environment variables and container labels; see docs/reference.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // TZ holds in an image from scratch too

	"longshore/internal/config"
	"longshore/internal/version"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // a runtime error
	exitConfig = 2 // a wrong configuration or command line
)

const usage = `usage: longshore [command]

  (none)        serve; see LONGSHORE_* variables in docs/reference.md
  state         show services, replicas, their states and why, of the longshore that runs in this container
  healthcheck   ask a running longshore whether it lives (for HEALTHCHECK)
  demo          serve three backends of its own, one of which comes and goes; no Docker needed
  version       print what was built
`

func main() {
	os.Exit(run(untilSignal(context.Background()), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the program: it returns the exit code.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch command {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage)
		return exitOK
	case "version", "-v", "-V", "-version", "--version":
		v, _ := version.Read()
		if commit := version.Commit(); commit != "" && commit != v {
			v += " commit " + commit
		}
		fmt.Fprintf(stdout, "longshore %s %s %s/%s\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return exitOK
	case "", "state", "healthcheck", "demo":
		if len(args) > 1 {
			fmt.Fprintf(stderr, "longshore %s takes no arguments, got %q\n%s", command, args[1], usage)
			return exitConfig
		}
	default:
		fmt.Fprintf(stderr, "unknown command %q\n%s", command, usage)
		return exitConfig
	}

	if command == "demo" {
		environ = demoEnviron(environ)
	}
	cfg, warnings, err := config.Load(environ)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitConfig
	}
	switch command {
	case "healthcheck":
		return healthcheck(ctx, cfg, stderr)
	case "state":
		return showState(ctx, cfg, stdout, stderr)
	}
	p := newProgram(cfg, stdout, stderr)
	defer func() { p.lines.end(p.timeLeft()) }()
	defer context.AfterFunc(ctx, func() { p.endBy() })()
	slog.SetDefault(p.log) // for libraries: what they print would wait for the reader of stderr
	if w := zoneWarning(environ); w != "" {
		warnings = append(warnings, w)
	}
	for _, w := range warnings {
		p.log.Warn(w)
	}
	if command == "demo" {
		err = p.demo(ctx)
	} else {
		var forget func()
		p.signals, forget = nginxSignals()
		defer forget()
		err = p.serve(ctx)
	}
	switch {
	case errors.As(err, new(wrongConfig)):
		fmt.Fprintln(p.lines, err)
		return exitConfig
	case err != nil:
		p.lines.spare()
		p.log.Error("stopped", "err", err)
		return exitFailed
	}
	return exitOK
}

// zoneWarning says that TZ names no zone; empty: all is well. The standard library then takes UTC without a word.
func zoneWarning(environ []string) string {
	for _, kv := range environ {
		zone, ok := strings.CutPrefix(kv, "TZ=")
		if !ok {
			continue
		}
		zone = strings.TrimPrefix(zone, ":")
		if _, err := time.LoadLocation(zone); err != nil && !strings.HasPrefix(zone, "/") { // which is a file
			return fmt.Sprintf("TZ=%q: unknown time zone, the access log is in UTC; want a name such as Europe/Berlin", zone)
		}
	}
	return ""
}

// A program is a run of longshore that serves.
type program struct {
	cfg     config.Config
	log     *slog.Logger
	lines   *logQueue // of log
	stdout  io.Writer
	signals <-chan os.Signal // other than those that end it; nil: none
	endBy   func() time.Time // SHUTDOWN_TIMEOUT after its first call
}

func newProgram(cfg config.Config, stdout, stderr io.Writer) *program {
	p := &program{cfg: cfg, stdout: stdout}
	p.log, p.lines = newLog(cfg, stderr)
	p.endBy = sync.OnceValue(func() time.Time { return time.Now().Add(cfg.ShutdownTimeout) })
	return p
}

// timeLeft returns how long a log may take for its last lines.
func (p *program) timeLeft() time.Duration { return max(time.Until(p.endBy()), lastFlush) }
