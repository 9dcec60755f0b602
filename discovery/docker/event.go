package docker

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"

	"longshore/health"
)

// An event is what the engine said of one container.
type event struct {
	action   string
	id       string            // of the container, also for events of a network
	network  string            // ID: connect, disconnect; empty: not told
	signal   string            // kill
	exitCode int               // die
	health   health.Docker     // health_status
	name     string            // of the container; empty in events of a network
	labels   map[string]string // and other attributes; nil in events of a network
	time     time.Time         // by the engine's clock
	received time.Time         // by ours
}

// wanted filters on the engine's side. There is no label filter: it would drop all network events.
// exec_* must not come: a HEALTHCHECK makes three of them at each run.
func wanted() filters.Args {
	f := filters.NewArgs(filters.Arg("type", "container"), filters.Arg("type", "network"))
	for _, action := range actions {
		f.Add("event", action)
	}
	for theirs := range podmans {
		f.Add("event", theirs)
	}
	return f
}

// podmans are Podman's words for what Docker calls otherwise. Its older versions know no others in a filter,
// whatever they say in the events themselves.
var podmans = map[string]string{"died": "die", "remove": "destroy"}

// actions are the events that matter.
var actions = []string{
	"create", "start", "kill", "die", "oom", "pause", "unpause", "rename", "update", "destroy",
	"health_status", "connect", "disconnect",
}

// readEvent translates a message; false: it is about no container, or does not matter. Not everything that
// passes for an engine heeds filters.
func readEvent(m events.Message, received time.Time) (event, bool) {
	a := m.Actor.Attributes
	action, detail, _ := strings.Cut(string(m.Action), ":")
	action = cmp.Or(podmans[action], action)
	e := event{action: action, time: time.Unix(0, m.TimeNano), received: received}
	if m.TimeNano == 0 {
		e.time = received
	}
	switch m.Type {
	case events.ContainerEventType:
		e.id, e.name, e.labels = m.Actor.ID, strings.TrimPrefix(a["name"], "/"), a
	case events.NetworkEventType:
		e.id, e.network = a["container"], m.Actor.ID
		if e.id == "" && (action == "connect" || action == "disconnect") {
			e.id, e.network = m.Actor.ID, "" // podman names the container alone
		}
	}
	switch action {
	case "kill":
		e.signal = a["signal"]
	case "die":
		code := a["exitCode"]
		if code == "" {
			code = a["containerExitCode"] // podman
		}
		e.exitCode, _ = strconv.Atoi(code)
	case "health_status":
		if detail == "" {
			detail = a["health_status"] // podman
		}
		e.health = readHealth(strings.TrimSpace(detail))
	}
	return e, e.id != "" && slices.Contains(actions, e.action)
}

// at is when the event happened. An engine on another machine may have a clock ahead of ours.
func (e event) at() time.Time {
	if e.received.Before(e.time) {
		return e.received
	}
	return e.time
}

func readHealth(s string) health.Docker {
	switch s {
	case "starting", "health: starting":
		return health.Starting
	case "healthy":
		return health.Healthy
	case "unhealthy":
		return health.Unhealthy
	}
	return health.NoCheck
}

// The signals of Linux in the order of their numbers, which begin at 1.
const signalNames = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"

const (
	sigKill = 9
	sigTerm = 15
)

// signalNumber reads a signal as images and events write it: "QUIT", "SIGQUIT", "3", "SIGRTMIN+3".
// Zero is no signal.
func signalNumber(s string) int {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	s = strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for base, number := range map[string]int{"RTMIN": 34, "RTMAX": 64} { // as Docker counts
		if offset, ok := strings.CutPrefix(s, base); ok {
			n, _ := strconv.Atoi(offset) // Atoi takes the sign; no offset is zero
			return number + n
		}
	}
	n := 0
	for name := range strings.FieldsSeq(signalNames) {
		if n++; name == s {
			return n
		}
	}
	return 0
}
