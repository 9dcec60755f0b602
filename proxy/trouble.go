package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// startTime is how long a backend that has passed no check since its start is waited for, unless its HEALTHCHECK has a
// longer start period: twice what a slow application takes. After that requests wait for it no more, though it is
// used when it does become ready.
const startTime = 2 * time.Minute

// late is why a backend has not become ready in the time that most take, empty if it is not so.
func (m member) late() string {
	if state, why := m.state(); state == "probing" && !m.status.Late.IsZero() {
		return why
	}
	return ""
}

// isHopeless reports whether it makes no sense to wait for it any more: it runs, and has passed no check for longer than
// a start may take.
func (m member) isHopeless(now time.Time) bool {
	since := m.status.Late
	return !since.IsZero() && !m.endpoint.Paused && now.Sub(since) > max(startTime, m.endpoint.Starts)
}

// hint says what to look at when it does not become ready, empty if nothing is known.
func (m member) hint() string {
	why := m.status.Why
	switch {
	case strings.Contains(why, "health check"):
		return "it runs, but does not pass its check: labels longshore.health.*, or LONGSHORE_HEALTH_*"
	case m.endpoint.Hint != "":
		return m.endpoint.Hint
	case why == syscall.ECONNREFUSED.Error():
		return "nothing listens on this port: the application may need longer to start, listen on another port (label longshore.port), or on 127.0.0.1 alone"
	}
	return ""
}

// explain notes why the request is answered so by us, for the access log. Where a backend is to blame, the log says so
// too, now and then for each backend and reason.
func (d *dispatch) explain(status int, err error) {
	b, reason := d.failed, d.failure
	if d.backend != nil { // it has answered, but what cannot be passed on
		b, reason = d.backend, Malformed
	}
	switch {
	case err == errNoBackend:
		d.why = d.vain()
	case status == http.StatusGatewayTimeout:
		d.why = fmt.Sprintf("no response within %v (LONGSHORE_READ_TIMEOUT)", d.svc.spec.Settings.ReadTimeout)
	default:
		d.why = shorten(err.Error())
	}
	if b == nil || status != http.StatusBadGateway && status != http.StatusGatewayTimeout {
		return
	}
	unsaid, ok := b.blamed[reason].allow(time.Now(), 1)
	if !ok {
		return
	}
	args := []any{"service", d.svc.spec.Name, "backend", b.endpoint.Name, "addr", b.endpoint.Addr, "reason", reason.String(), "why", d.why}
	d.say(fmt.Sprintf("answered %d for a backend", status), unsaid, args...)
}

// say writes a line about the request to the log.
func (d *dispatch) say(text string, unsaid int, args ...any) {
	path, _, _ := strings.Cut(d.carrier.target(), "?")
	args = append(args, "method", strings.Clone(d.carrier.method()), "path", shorten(strings.Clone(path)))
	if unsaid > 0 {
		args = append(args, "unsaid", unsaid)
	}
	d.svc.router.log.Warn(text, args...)
}

// vain says why the request has no backend.
func (d *dispatch) vain() string {
	now, settings, why := time.Now(), d.svc.spec.Settings, "no backend is ready"
	switch {
	case !d.until.IsZero() && !now.Before(d.until):
		why = fmt.Sprintf("no backend became ready within %v", settings.QueueTimeout)
	case !d.svc.hope(now):
		why += ", and none is expected"
	case settings.Queue > 0:
		why += ", and no more requests may wait"
	}
	if svc := d.svc.newest(); svc != nil {
		for _, m := range svc.members {
			if state, reason := m.state(); state != "up" && reason != "" {
				return why + ": " + m.endpoint.Name + ": " + shorten(reason)
			}
		}
	}
	return why
}
