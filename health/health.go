// Package health decides which backends are well.
//
// A [Checker] probes every [Target] it is given, hears from the data path how requests went, and is
// the one authority on up or down. What it decides with is a pure state machine, one per target.
package health

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Key identifies what is checked: one run of one port of one container. It is never an address:
// Docker gives a freed address to the next container at once.
type Key struct {
	ID   string // container ID, or the address of a backend that is no container
	Run  int    // raised at each start, unpause or change of address
	Port uint16
}

// A Target is a backend to check. It is a value; a Target that differs from the one with the same
// Key changes how that backend is checked, and keeps what is known of it.
type Target struct {
	Key    Key
	Name   string // for logs: "flaskapp-1"
	Addr   string // host:port
	Docker Docker // what the container's own HEALTHCHECK says
	Paused bool   // frozen: not probed, its state is kept until it has a new run
	Relay  bool   // Addr is docker-proxy, which accepts before the app listens: a TCP check must see the connection stay open
	Check  Check
}

// Docker is the state of a container's own HEALTHCHECK.
type Docker uint8

const (
	NoCheck   Docker = iota // the image has none
	Starting                // no result yet
	Healthy                 //
	Unhealthy               //
)

func (d Docker) String() string {
	return [...]string{"none", "starting", "healthy", "unhealthy"}[d]
}

// A Check says how a backend is checked and how many failures it is allowed. The zero Check connects
// every 2 s, and takes every result at its word; an empty Accept passes no HTTP check.
type Check struct {
	Path     string        `env:"HEALTH_PATH" form:"path" allowed:"a path that begins with /" help:"HTTP check; empty: TCP connect"`
	Interval time.Duration `env:"HEALTH_INTERVAL" envDefault:"2s" min:"10ms" help:"time between two checks of a backend"`
	Timeout  time.Duration `env:"HEALTH_TIMEOUT" envDefault:"1s" min:"1ms" help:"a check that takes longer has failed"`
	Rise     int           `env:"HEALTH_RISE" envDefault:"1" min:"1" help:"passed checks in a row until an unhealthy backend is used again"`
	Fall     int           `env:"HEALTH_FALL" envDefault:"2" min:"1" help:"failed checks in a row until a backend is unhealthy"`
	Accept   StatusSet     `env:"HEALTH_STATUS" envDefault:"200-399" help:"status codes that pass an HTTP check"`

	MaxFails    int           `env:"MAX_FAILS" envDefault:"3" min:"0" help:"failed requests in a row until a backend is left out for FAIL_TIMEOUT (nginx max_fails); 0: never"`
	FailTimeout time.Duration `env:"FAIL_TIMEOUT" envDefault:"10s" min:"1ms" help:"how long it is left out; doubles with each repetition up to 60 s"`
}

// A StatusSet is a set of HTTP status codes, written "200-399" or "200,204,300-399".
// The empty set holds nothing.
type StatusSet struct {
	text string
	list [8]struct{ lo, hi uint16 } // an array, so that settings can be compared with ==
	n    int
}

// Contains reports whether code is in the set.
func (s StatusSet) Contains(code int) bool {
	return slices.ContainsFunc(s.list[:s.n], func(r struct{ lo, hi uint16 }) bool {
		return int(r.lo) <= code && code <= int(r.hi)
	})
}

func (s StatusSet) String() string { return s.text }

// UnmarshalText parses a set; nil error means at least one and at most eight ranges.
func (s *StatusSet) UnmarshalText(b []byte) error {
	set := StatusSet{text: string(b)}
	for part := range strings.SplitSeq(set.text, ",") {
		lo, hi, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			hi = lo
		}
		l, err1 := strconv.ParseUint(lo, 10, 16)
		h, err2 := strconv.ParseUint(hi, 10, 16)
		if err := errors.Join(err1, err2); err != nil || l < 100 || h > 599 || l > h {
			return fmt.Errorf("%q: want status codes such as 200-399 or 200,204", part)
		}
		if set.n == len(set.list) {
			return fmt.Errorf("more than %d ranges of status codes", len(set.list))
		}
		set.list[set.n].lo, set.list[set.n].hi = uint16(l), uint16(h)
		set.n++
	}
	*s = set
	return nil
}

// State is what health knows of a backend. Draining, paused and down are Docker's to say.
type State uint8

const (
	Probing State = iota // not used before its first success, or, when Reachable, before its HEALTHCHECK's
	Up
	Failing // unhealthy: failed its checks or too many requests, or its HEALTHCHECK says so
)

func (s State) String() string { return [...]string{"probing", "up", "unhealthy"}[s] }

// A Status is a decision about one backend.
type Status struct {
	State State
	Since time.Time
	Why   string // in words, empty when up: "connection refused", "HEALTHCHECK says unhealthy"
	// Trial: it has not answered a request since it came up. At most one is sent to it at a time, while others are ready.
	Trial bool
	// Reachable: it accepts connections as far as is known, so it may be used when no other backend is ready.
	Reachable bool
}

// An Outcome is what the data path saw of one attempt.
type Outcome uint8

const (
	Answered   Outcome = iota // a response began
	Refused                   // connection refused or no route: nothing listens there now
	DialFailed                // the dial timed out or failed otherwise
	Failed                    // the connection broke, or timed out, before the response began
)
