package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"longshore/discovery"
	"longshore/health"
)

// Upstream is LONGSHORE_UPSTREAM: where proxy_pass went to.
type Upstream []Destination

// A Destination is one route and the name of what serves it. Those with the same route are one pool, as the servers
// of an nginx upstream block are.
type Destination struct {
	Route discovery.Route
	Name  string // compose service, container name, network alias or external host
	Port  uint16 // 0: found out per container
}

// UnmarshalText parses a list of [ROUTE=]TARGET[|TARGET…], separated by commas or newlines: "web:5090, /api=api:8000".
// See [ParseRoute].
func (u *Upstream) UnmarshalText(b []byte) error {
	var all Upstream
	for part := range splitRoutes(string(b)) {
		route, targets, hasRoute := cutTarget(part)
		if !hasRoute {
			route = "/"
		}
		r, err := ParseRoute(strings.TrimSpace(route))
		for target := range strings.SplitSeq(targets, "|") {
			if err == nil {
				err = all.add(r, strings.TrimSpace(target))
			}
		}
		if err != nil {
			return fmt.Errorf("%q: %w", part, err)
		}
	}
	if len(all) == 0 {
		return errors.New("want name:port, such as flaskapp:5090")
	}
	*u = all
	return nil
}

// add adds a target to a route, which may be there already.
func (u *Upstream) add(r discovery.Route, target string) error {
	name, port, dest, err := parseTarget(target)
	if err != nil {
		return err
	}
	d := Destination{ranked(to(r, dest), len(*u)), name, port}
	for _, o := range *u {
		if o.Route.Match() != r.Match() {
			continue
		}
		if d.Route.Rank = o.Route.Rank; o == d {
			return fmt.Errorf("route %s leads to %q twice", r, target)
		}
		if o.Route != d.Route {
			return fmt.Errorf("route %s is there before, as %s: want it written the same, with the same path behind each target", r, o.Route)
		}
	}
	*u = append(*u, d)
	return nil
}

// parseTarget parses NAME, NAME:PORT, http://NAME:PORT, and each of them with a path behind it.
func parseTarget(s string) (name string, port uint16, dest string, err error) {
	scheme, rest, hasScheme := strings.Cut(s, "://")
	if !hasScheme {
		rest = s
	} else if scheme != "http" {
		return "", 0, "", fmt.Errorf("scheme %q is not built yet: want http", scheme)
	}
	hostport := rest
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		hostport = rest[:i]
		if dest, err = parseDest(rest[i:]); err != nil {
			return "", 0, "", err
		}
	}
	name = hostport
	if strings.Contains(hostport, ":") && !strings.HasSuffix(hostport, "]") {
		var digits string
		if name, digits, err = net.SplitHostPort(hostport); err != nil {
			return "", 0, "", fmt.Errorf("target %q: want name:port", s)
		}
		if port, err = parsePort(digits); err != nil {
			return "", 0, "", err
		}
	}
	name = strings.Trim(name, "[]")
	if name == "" || strings.ContainsAny(name, " \t?#@") {
		return "", 0, "", fmt.Errorf("target %q: want name:port", s)
	}
	return name, port, dest, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: want a number from 1 to 65535", s)
	}
	return uint16(n), nil
}

// A Selector is LONGSHORE_LABEL: a label's key, and its value if one was given.
type Selector struct {
	Key, Value string
	AnyValue   bool // only the key was given
}

// UnmarshalText parses key or key=value.
func (s *Selector) UnmarshalText(b []byte) error {
	key, value, hasValue := strings.Cut(string(b), "=")
	if key == "" || strings.ContainsAny(key, " ,") {
		return errors.New("want one label, key or key=value")
	}
	*s = Selector{Key: key, Value: value, AnyValue: !hasValue}
	return nil
}

// String gives the form it was parsed from.
func (s Selector) String() string {
	if s.AnyValue || s.Key == "" {
		return s.Key
	}
	return s.Key + "=" + s.Value
}

// Matches reports whether a container with these labels is selected. The empty Selector selects none.
func (s Selector) Matches(labels map[string]string) bool {
	v, ok := labels[s.Key]
	return ok && s.Key != "" && (s.AnyValue || v == s.Value)
}

// Backends is LONGSHORE_BACKENDS: a fixed list, in the words of nginx's server directive.
type Backends []Backend

// A Backend is one address and its parameters.
type Backend struct {
	discovery.Endpoint // without Check
	params             map[string]string
}

// Endpoints completes the list with the settings that a backend's own do not override.
func (bs Backends) Endpoints(s discovery.Settings) (es []discovery.Endpoint) {
	for _, b := range bs {
		e := b.Endpoint
		e.Check = s.Health
		if err := overlay(&e.Check, "", b.params); err != nil {
			panic(err) // it was parsed before
		}
		es = append(es, e)
	}
	return es
}

// serverParams are what may stand behind an address, as flags or as name=value.
var serverParams = []string{"weight", "max_conns", "max_fails", "fail_timeout", "slow_start", "backup", "down", "drain", "route"}

// UnmarshalText parses a comma list of ADDR[:PORT] [weight=N] [max_conns=N] [backup] [down] ….
func (bs *Backends) UnmarshalText(b []byte) error {
	var all Backends
	seen := make(map[string]bool)
	for part := range splitList(string(b)) {
		words := strings.Fields(part)
		addr, port, err := backendAddr(words[0])
		if err != nil {
			return fmt.Errorf("%q: %w", part, err)
		}
		if seen[addr] {
			return fmt.Errorf("%q: the address is there twice", part)
		}
		seen[addr] = true
		be := Backend{params: make(map[string]string), Endpoint: discovery.Endpoint{
			Key: discovery.Key{ID: addr, Run: 1, Port: port}, Name: addr, Addr: addr, Server: DefaultLabels(discovery.Settings{}).Server,
		}}
		for _, w := range words[1:] {
			name, value, hasValue := strings.Cut(w, "=")
			flag := name == "backup" || name == "down" || name == "drain"
			switch {
			case name == "resolve" || name == "service":
				return fmt.Errorf("%q: %s is not built: use LONGSHORE_UPSTREAM, which follows containers by name", part, name)
			case !slices.Contains(serverParams, name):
				return fmt.Errorf("%q: unknown parameter %q; allowed are %s", part, name, strings.Join(serverParams, ", "))
			case flag && !hasValue:
				value = "true"
			case flag || value == "":
				return fmt.Errorf("%q: want %s", part, map[bool]string{true: name + " without a value", false: name + "=VALUE"}[flag])
			}
			be.params[strings.ToUpper(name)] = value
		}
		if err := errors.Join(overlay(&be.Server, "", be.params), overlay(new(health.Check), "", be.params)); err != nil {
			line, _, _ := strings.Cut(err.Error(), "\n")
			name, why, _ := strings.Cut(line, "=")
			return fmt.Errorf("%q: %s=%s", part, strings.ToLower(name), why)
		}
		if be.Retired {
			be.Down = "marked down"
		}
		all = append(all, be)
	}
	if len(all) == 0 {
		return errors.New("want addresses, such as 127.0.0.1:9001, 127.0.0.1:9002 backup")
	}
	*bs = all
	return nil
}

// backendAddr completes an address with nginx's default port, 80.
func backendAddr(s string) (addr string, port uint16, err error) {
	name, port, dest, err := parseTarget(s)
	switch {
	case err != nil:
		return "", 0, err
	case dest != "" && dest != "/":
		return "", 0, fmt.Errorf("address %q: want host:port without a path", s)
	}
	if port == 0 {
		port = 80
	}
	return net.JoinHostPort(name, strconv.Itoa(int(port))), port, nil
}
