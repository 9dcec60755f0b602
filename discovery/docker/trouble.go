package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"longshore/discovery"
)

// staleAfter is how long nobody may listen at a socket that is there until it counts as an engine's that
// will not come back: one that restarts is there again sooner.
const staleAfter = 30 * time.Second

// diagnose tells what kind of trouble an error of the engine is, and what a user can do about it, empty
// if that is to wait. host is as in DOCKER_HOST; long: there has been no engine for staleAfter.
func diagnose(err error, host string, long bool) (kind discovery.Trouble, cure string) {
	switch {
	case errdefs.IsPermissionDenied(err) || errdefs.IsUnauthorized(err):
		return discovery.Forbidden, "let the socket proxy allow GET of /events, /containers/json and /containers/<id>/json (often CONTAINERS=1 and EVENTS=1)"
	case errors.Is(err, context.DeadlineExceeded):
		return discovery.Silent, "the engine holds its socket open and does not answer: see whether its process is stopped or overloaded"
	}
	path, local := strings.CutPrefix(host, "unix://")
	if !local {
		return discovery.Away, ""
	}
	file, statErr := os.Stat(path)
	switch {
	case errors.Is(statErr, os.ErrNotExist):
		return discovery.Missing, fmt.Sprintf("mount the engine's socket (-v /var/run/docker.sock:%s:ro) or set DOCKER_HOST", path)
	case statErr == nil && file.IsDir(): // which the engine makes where there is nothing to mount
		return discovery.Missing, fmt.Sprintf("%s is a directory, as when there was no socket to mount: see where the engine's is, and create this container anew", path)
	case errors.Is(err, os.ErrPermission) || errors.Is(statErr, os.ErrPermission):
		cure = "run as root, or as a member of the socket's group"
		if file != nil {
			if st, ok := file.Sys().(*syscall.Stat_t); ok {
				cure = fmt.Sprintf(`run as root, or add the socket's group (group_add: ["%d"])`, st.Gid)
			}
		}
		return discovery.Denied, cure
	case statErr == nil && long:
		return discovery.Stale, "nobody listens at this socket: if the engine was restarted, the mounted file is that of the old one. Restart this container, " +
			"or mount the directory (-v /run:/run/host:ro) and set DOCKER_HOST=unix:///run/host/docker.sock"
	}
	return discovery.Away, ""
}

// lost notes that there is no engine, and says so: at once, and then again, later and later.
func (s *Source) lost(err error, wait time.Duration, again *reminder) {
	now, host := time.Now(), s.Client.DaemonHost()
	l := s.Link()
	never := l.Since.IsZero()
	if never || l.Connected {
		l = discovery.Link{Since: now}
	}
	away, first := now.Sub(l.Since), or(s.pace.remind, staleAfter)
	l.Err = err
	l.Trouble, l.Cure = diagnose(err, host, away >= first)
	due := again.due(away, first)
	args := []any{"err", err, "host", host, "retry_in", wait}
	if l.Cure != "" {
		args = append(args, "cure", l.Cure)
	}
	switch {
	case never:
		s.log().Warn("no docker engine answers, waiting for it", args...)
	case l.Since.Equal(now):
		s.log().Warn("lost the docker daemon, keeping the last state", args...)
	case due:
		s.log().Warn("the docker daemon is still away", append(args, "since", l.Since.Format(time.RFC3339))...)
	default:
		s.log().Debug("the docker daemon is still away", args...)
	}
	s.link.Store(&l)
}

// A reminder says when to repeat what was said at the beginning: after a while, twice as long after it, and
// so on, at least once an hour. The zero value has said it.
type reminder struct {
	next, wait time.Duration // since the beginning
}

// due reports whether to say it again, so long after the beginning.
func (r *reminder) due(after, first time.Duration) bool {
	if r.wait == 0 {
		r.wait, r.next = first, first
	}
	if after < r.next {
		return false
	}
	r.wait = min(2*r.wait, time.Hour)
	r.next = after + r.wait
	return true
}

// ping notices an engine that holds its socket open and does not answer: stopped, frozen, swapped out. The
// stream of events looks then as if nothing happened. Any answer will do: what denies pings is there.
func (s *Source) ping(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, or(s.pace.pong, 3*time.Second))
	defer cancel()
	_, err := s.Client.Ping(limited)
	if ctx.Err() != nil {
		return
	}
	silent := err != nil && limited.Err() != nil
	switch l := s.Link(); {
	case silent && l.Connected:
		kind, cure := diagnose(context.DeadlineExceeded, "", false)
		s.log().Warn("the docker engine does not answer, keeping the last state", "host", s.Client.DaemonHost(), "cure", cure)
		s.link.Store(&discovery.Link{Since: time.Now(), Err: fmt.Errorf("docker: ping: %w", context.DeadlineExceeded), Trouble: kind, Cure: cure})
	case !silent && !l.Connected:
		s.log().Debug("the docker engine answers again")
		s.link.Store(&discovery.Link{Connected: true, Since: time.Now()})
	}
}
