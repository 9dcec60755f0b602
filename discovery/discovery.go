// Package discovery says what exists: which services there are, and which endpoints each has.
//
// A [Source] watches somebody who knows, such as the Docker engine, and publishes a whole [State]
// whenever it changes. A State is a value and never a delta; who receives it compares.
package discovery

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"longshore/balancer"
	"longshore/health"
)

// A Source publishes what exists until ctx is done. It publishes a whole State at first and after
// every change; it may publish equal ones. What it published does not change afterwards.
// It returns when ctx is done, with nil, or when it can never go on, with an error.
type Source interface {
	Watch(ctx context.Context, publish func(State)) error
}

// A Link is how a Source stands with whom it watches.
type Link struct {
	Connected bool
	Since     time.Time // of the last change of Connected
	Err       error     // why it is not connected, nil while it is
	Trouble   Trouble   // of what kind Err is
	Cure      string    // what a user can do about it, empty: wait
}

// A Trouble is why a Link is not connected, by what is to be done about it.
type Trouble string

// The kinds of trouble; the zero Trouble is none.
const (
	Away      Trouble = "away"      // nobody answers, and nothing of the following
	Denied    Trouble = "denied"    // the socket may not be opened by this user
	Forbidden Trouble = "forbidden" // a request was refused, as socket proxies do
	Missing   Trouble = "missing"   // there is no socket
	Silent    Trouble = "silent"    // connections are accepted, and not answered
	Stale     Trouble = "stale"     // there is a socket, and for long nobody has listened at it
)

// Troubles are all kinds.
var Troubles = []Trouble{Away, Denied, Forbidden, Missing, Silent, Stale}

// Why is Err with its cure, for people.
func (l Link) Why() string {
	if l.Err == nil {
		return ""
	}
	if l.Cure == "" {
		return l.Err.Error()
	}
	return l.Err.Error() + "; " + l.Cure
}

// A Key identifies one run of one port of a container.
type Key = health.Key

// A State is everything that exists at one moment, sorted by name.
type State struct {
	Services []Service
	Skipped  []Skip
	// Gateways are the addresses of the engine's host in the proxy's own networks, sorted. A client with one of
	// them came through the engine's own forwarding of a published port (docker-proxy), from anywhere: who it is
	// cannot be known. Empty on the host, and while the own container is not known.
	Gateways []netip.Addr
}

// A Service is a set of interchangeable endpoints.
type Service struct {
	Name      string  // unique in a State
	Routes    []Route // that it wants; another one may want the same
	Settings  Settings
	Endpoints []Endpoint
	// Since: an older service has a route that several want, and its regular expressions are tried first; zero
	// is oldest.
	Since time.Time
	// Project is the compose project of its containers; empty: they have none, or several.
	Project string
	// Internal: only clients in private networks are let in; others get 403.
	Internal bool
	// Expected: another container of this service will be there soon, though none that runs may be now: one
	// was created a moment ago, as compose does before it stops the one to be replaced, or is being restarted.
	Expected bool
}

// An Endpoint is one address that a service can be reached at.
type Endpoint struct {
	Key    Key
	Name   string // for people, and stable over recreation: "flaskapp-1"
	Addr   string // host:port; empty when Down
	Server        // what its container's labels say of it alone

	Check     health.Check // how it is checked, and how many failures it is allowed
	CheckAddr string       // host:port of Check.OtherPort, where that is not on the host of Addr

	Down     string        // why it does not run ("exited", "restarting"), empty when it does
	End      End           // how it came to its end, while Down
	Stopping bool          // asked to stop, still running
	Overdue  bool          // Stopping, and its stop timeout is over: it may go on for long
	Paused   bool          // frozen
	Docker   health.Docker // its own HEALTHCHECK
	Starts   time.Duration // how long it says that it may take to start: the start period of its HEALTHCHECK
	Hint     string        // what to change if nothing listens at Addr, empty if there is nothing to see
	Relay    bool          // Addr is docker-proxy's, which accepts before the app listens
}

// An End is how the run of a container came to its end.
type End uint8

const (
	EndUnknown End = iota // nobody has said; a container that loses its network may be about to end, or may run on
	EndOrdered            // it was told to end, or somebody took its network away
	EndCrash              // nobody was heard to tell it so: it ended by itself, or ran out of memory
)

// Server is what can differ from container to container of a service: the parameters of nginx's server
// directive, which nginx has to take from one template for all addresses of a name.
type Server struct {
	Weight    int           `env:"WEIGHT" envDefault:"1" min:"1" max:"65535" help:"share of requests relative to the other replicas"`
	MaxConns  int           `env:"MAX_CONNS" envDefault:"0" min:"0" help:"most requests in flight; more wait (LONGSHORE_QUEUE); 0: no limit"`
	SlowStart time.Duration `env:"SLOW_START" envDefault:"0s" min:"0s" help:"how long its weight takes to grow to the whole after it came up; 0s: at once"`
	Backup    bool          `env:"BACKUP" allowed:"true or false" help:"true: used when no other is ready"`
	Retired   bool          `env:"DOWN" allowed:"true or false" help:"true: gets no requests at all (nginx: down)"`
	Drain     bool          `env:"DRAIN" allowed:"true or false" help:"true: gets only requests that a sticky session binds to it"`
	Route     string        `env:"ROUTE" help:"its name in sticky sessions; default: derived from service and number"`
}

// A Skip is a container that is not used and why, in words that say what to change.
type Skip struct {
	ID, Name, Why string
}

// Settings are what can differ from service to service. Variables and labels fill the same struct:
// LONGSHORE_MAX_FAILS and the label longshore.max_fails.
type Settings struct {
	Balancer balancer.Policy `env:"BALANCER" envDefault:"least_conn" help:"how a backend is chosen; nginx spellings"`
	Sticky   Sticky          `env:"STICKY" envDefault:"" allowed:"cookie NAME [expires=1h] [domain=D] [path=P] [httponly] [secure] [samesite=lax], route $cookie_NAME …, learn create=$upstream_cookie_NAME lookup=$cookie_NAME …, or off" help:"how a client stays with a backend (nginx: sticky)"`
	Health   health.Check

	Queue        int           `env:"QUEUE" envDefault:"4096" min:"0" help:"requests of a service that may wait for a ready backend while there is none; 0: off"`
	QueueTimeout time.Duration `env:"QUEUE_TIMEOUT" envDefault:"10s" min:"1ms" help:"how long a request waits in all, then 503"`

	ConnectTimeout   time.Duration `env:"CONNECT_TIMEOUT" envDefault:"1s" min:"1ms" help:"dial"`
	ReadTimeout      time.Duration `env:"READ_TIMEOUT" envDefault:"60s" min:"1ms" help:"to the response header (then 504), and between two reads of the body (then the response is aborted); never for upgrades and event streams"`
	Keepalive        int           `env:"KEEPALIVE" envDefault:"256" min:"0" help:"idle connections kept per backend; 0: none. They are closed when a request has waited a second for its first byte over a new connection: the server may serve one connection at a time"`
	KeepaliveTimeout time.Duration `env:"KEEPALIVE_TIMEOUT" envDefault:"60s" min:"1ms" help:"how long they are kept"`
	MaxBody          Size          `env:"MAX_BODY" envDefault:"off" help:"largest request body, then 413; off: no limit"`
	BodyBuffer       Size          `env:"BODY_BUFFER" envDefault:"64k" help:"of a request's body that is read before the request takes a backend, so that a slow client holds none; one that is announced to be larger passes as it comes, as does what follows when so much has come; never for gRPC; off: all pass as they come"`
	ResponseBuffer   Size          `env:"RESPONSE_BUFFER" envDefault:"256k" help:"of a response, for a client that reads slowly: so much is taken from the backend at once, which is then free for others; never of event streams, gRPC and what says X-Accel-Buffering: no; off: nothing"`
}

// Equal reports whether two services say the same. It is much faster than reflect.DeepEqual, and does not
// compile when a field cannot be compared.
func (s *Service) Equal(o *Service) bool {
	return s.Name == o.Name && s.Since.Equal(o.Since) && s.Project == o.Project && s.Internal == o.Internal && s.Expected == o.Expected &&
		s.Settings == o.Settings && equal(s.Routes, o.Routes) && equal(s.Endpoints, o.Endpoints)
}

// equal looks at the values only if they are not the same ones.
func equal[T comparable](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// Share takes from an older State what is equal there, so that who compares the two need not look at it again,
// and reports whether that is all.
func (s *State) Share(old State) (all bool) {
	all = len(s.Services) == len(old.Services) && slices.Equal(s.Skipped, old.Skipped) && slices.Equal(s.Gateways, old.Gateways)
	for i, o := 0, 0; i < len(s.Services); i++ { // both are sorted by name
		for o < len(old.Services) && old.Services[o].Name < s.Services[i].Name {
			o++
		}
		if o < len(old.Services) && s.Services[i].Equal(&old.Services[o]) {
			s.Services[i] = old.Services[o]
		} else {
			all = false
		}
	}
	return all
}

// Targets lists what is to be checked: every endpoint that has an address.
func (s State) Targets() []health.Target {
	var ts []health.Target
	for _, svc := range s.Services {
		for _, e := range svc.Endpoints {
			if e.Addr == "" || e.Down != "" {
				continue
			}
			ts = append(ts, health.Target{
				Key: e.Key, Name: e.Name, Addr: e.Addr, Docker: e.Docker,
				Paused: e.Paused, Relay: e.Relay, Check: e.Check, CheckAddr: e.CheckAddr,
			})
		}
	}
	return ts
}

// Static is a Source that never changes.
type Static State

// Watch publishes the state once.
func (s Static) Watch(ctx context.Context, publish func(State)) error {
	publish(State(s))
	<-ctx.Done()
	return nil
}

// IsExternal reports whether a name in LONGSHORE_UPSTREAM that no container has is meant for DNS:
// it has a dot, is an IP address or localhost. A bare word is a compose service that is not there (yet).
func IsExternal(name string) bool {
	if name == "localhost" {
		return true
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	for _, c := range name {
		if c == '.' {
			return true
		}
	}
	return false
}
