// Package health decides which backends are well.
//
// A [Checker] probes every [Target] it is given, hears from the data path how requests went, and is
// the one authority on up or down. What it decides with is a pure state machine, one per target.
package health

import (
	"cmp"
	"errors"
	"fmt"
	"net"
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

	CheckAddr string // host:port where Check.OtherPort is; empty: on the host of Addr
}

// checkAddr is where the check goes to.
func (t Target) checkAddr() string {
	if t.Check.OtherPort == 0 {
		return t.Addr
	}
	host, _, err := net.SplitHostPort(t.Addr)
	if err != nil {
		return t.Addr // what is wrong with it, the dial says
	}
	return cmp.Or(t.CheckAddr, net.JoinHostPort(host, strconv.Itoa(int(t.Check.OtherPort))))
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
// every 2 s, and takes every result at its word; an empty Accept passes no HTTP check without a Match on
// the status.
type Check struct {
	Type       Type      `env:"HEALTH_TYPE" allowed:"http, tcp or grpc" help:"http, tcp (connect) or grpc (grpc.health.v1.Health over cleartext HTTP/2). Default: http if there is a path or a match, else tcp"`
	Path       string    `env:"HEALTH_PATH" alias:"HEALTH_URI" form:"path" allowed:"a path that begins with /" help:"what an HTTP check asks for; with type http or a match: / by default"`
	OtherPort  uint16    `env:"HEALTH_PORT" min:"1" allowed:"a port from 1 to 65535" help:"port that is checked, after a connect to the backend's own. Default: the backend's own"`
	HostHeader string    `env:"HEALTH_HOST" form:"host" allowed:"a host, perhaps with a port" help:"Host of a check (HTTP, gRPC). Default: the address"`
	Accept     StatusSet `env:"HEALTH_STATUS" envDefault:"200-399" help:"status codes that pass an HTTP check, unless its match has a status"`
	Match      Match     `env:"HEALTH_MATCH" help:"what an HTTP answer must be like, in the words of nginx's match block: status 200-399; header Content-Type ~ json; header ! X-Maintenance; body ~ \"ok|ready\""`

	GRPCService string `env:"HEALTH_GRPC_SERVICE" help:"the service that a gRPC check asks about. Default: the server as a whole"`
	GRPCStatus  int    `env:"HEALTH_GRPC_STATUS" envDefault:"0" min:"0" max:"16" help:"gRPC status code that passes a gRPC check as SERVING does: 12 (UNIMPLEMENTED) for a server without the health service"`

	Interval time.Duration `env:"HEALTH_INTERVAL" envDefault:"2s" min:"10ms" help:"time between two checks of a backend"`
	Jitter   time.Duration `env:"HEALTH_JITTER" envDefault:"0s" min:"0s" help:"longest random delay of a check; 0s: the interval varies by a tenth, so that backends are not checked all at once"`
	Timeout  time.Duration `env:"HEALTH_TIMEOUT" envDefault:"1s" min:"1ms" help:"a check that takes longer has failed"`
	Rise     int           `env:"HEALTH_RISE" alias:"HEALTH_PASSES" envDefault:"1" min:"1" help:"passed checks in a row until an unhealthy backend is used again"`
	Fall     int           `env:"HEALTH_FALL" alias:"HEALTH_FAILS" envDefault:"2" min:"1" help:"failed checks in a row until a backend is unhealthy"`

	Mandatory    bool `env:"HEALTH_MANDATORY" allowed:"true or false" help:"true: no request before the first success, which includes that of a HEALTHCHECK; false: while no other is ready, a backend need not wait for its HEALTHCHECK"`
	DisableOn404 bool `env:"HEALTH_DISABLE_ON_404" allowed:"true or false" help:"true: a backend whose HTTP check is answered 404 asks to be drained, as one does that answers 503 with X-Drain: 1"`

	MaxFails    int           `env:"MAX_FAILS" envDefault:"3" min:"0" help:"failed requests in a row until a backend is left out for FAIL_TIMEOUT (nginx max_fails); 0: never"`
	FailTimeout time.Duration `env:"FAIL_TIMEOUT" envDefault:"10s" min:"1ms" help:"how long it is left out; doubles with each repetition up to 60 s"`
}

// kind is the Type, found out if it is not given.
func (c Check) kind() Type {
	switch {
	case c.Type != Auto:
		return c.Type
	case c.Path != "" || c.Match != Match{}:
		return HTTP
	}
	return TCP
}

// Type is the kind of a check.
type Type uint8

const (
	Auto Type = iota // HTTP if there is a Path or a Match, else TCP
	HTTP
	TCP  // connect
	GRPC // grpc.health.v1.Health
)

func (t Type) String() string { return [...]string{"auto", "http", "tcp", "grpc"}[t] }

// UnmarshalText parses a type.
func (t *Type) UnmarshalText(b []byte) error {
	for _, known := range []Type{HTTP, TCP, GRPC} {
		if known.String() == string(b) {
			*t = known
			return nil
		}
	}
	return errors.New("want http, tcp or grpc")
}

// A StatusSet is a set of HTTP status codes, written "200-399" or "200,204,300-399".
// The empty set holds nothing.
type StatusSet struct {
	text string
	list [8]codes // an array, so that settings can be compared with ==
	n    int
}

// Contains reports whether code is in the set.
func (s StatusSet) Contains(code int) bool {
	return slices.ContainsFunc(s.list[:s.n], func(r codes) bool { return r.contain(code) })
}

func (s StatusSet) String() string { return s.text }

// UnmarshalText parses a set; nil error means at least one and at most eight ranges.
func (s *StatusSet) UnmarshalText(b []byte) error {
	set := StatusSet{text: string(b)}
	for part := range strings.SplitSeq(set.text, ",") {
		r, ok := parseCodes(strings.TrimSpace(part))
		if !ok {
			return fmt.Errorf("%q: want status codes such as 200-399 or 200,204", part)
		}
		if set.n == len(set.list) {
			return fmt.Errorf("more than %d ranges of status codes", len(set.list))
		}
		set.list[set.n] = r
		set.n++
	}
	*s = set
	return nil
}

// codes is a range of status codes, both ends included.
type codes struct{ lo, hi uint16 }

// parseCodes parses "200" or "200-399".
func parseCodes(s string) (r codes, ok bool) {
	lo, hi, isRange := strings.Cut(s, "-")
	if !isRange {
		hi = lo
	}
	l, err1 := strconv.ParseUint(lo, 10, 16)
	h, err2 := strconv.ParseUint(hi, 10, 16)
	return codes{uint16(l), uint16(h)}, err1 == nil && err2 == nil && l >= 100 && h <= 599 && l <= h
}

func (r codes) contain(code int) bool { return int(r.lo) <= code && code <= int(r.hi) }

func (r codes) String() string {
	if r.lo == r.hi {
		return strconv.Itoa(int(r.lo))
	}
	return fmt.Sprintf("%d-%d", r.lo, r.hi)
}

// State is what health knows of a backend. Paused, stopping and down are Docker's to say.
type State uint8

const (
	Probing State = iota // not used before its first success, or, when Reachable, before its HEALTHCHECK's
	Up
	Failing  // unhealthy: failed its checks or too many requests, or its HEALTHCHECK says so
	Draining // asked, by the answer to a check, for no new requests while others are ready
)

func (s State) String() string { return [...]string{"probing", "up", "unhealthy", "draining"}[s] }

// A Status is a decision about one backend.
type Status struct {
	State State
	Since time.Time
	Why   string // in words, empty when up: "connection refused", "HEALTHCHECK says unhealthy"
	// Trial: it has not answered a request since it came up. At most one is sent to it at a time, while others are ready.
	Trial bool
	// Late: since when it has been waited for, once that is longer than most take to start. Zero: it has passed a check,
	// or may soon.
	Late time.Time
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
