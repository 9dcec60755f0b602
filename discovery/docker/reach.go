package docker

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A way is how the proxy gets at a container: by host, or through its published ports. The zero way
// is none. When the way changes, what was known of the container's ports no longer holds.
type way struct {
	host      string
	published bool
}

// way finds how to get at a container; without one, why says what to change. A container that does
// not run has none.
func (w world) way(c *container) (_ way, why string) {
	if !c.known || !c.running {
		return way{}, "does not run"
	}
	onHost := w.onHost()
	owner := w.networked(c)
	if owner == nil || !owner.known || !owner.running {
		return way{}, fmt.Sprintf("it uses the network of container %.12s, which does not run", c.sharesWith())
	}
	if owner.mode == "host" {
		return w.wayToHost(onHost)
	}
	if owner == w.home() {
		return way{host: "127.0.0.1"}, "" // one network namespace: also what listens on the loopback alone is reached
	}
	own := w.ownNetworks()
	var near []network
	for _, n := range owner.nets {
		if n.ip != "" && (onHost && w.isLocal(n.ip) || !onHost && slices.ContainsFunc(own, func(o network) bool { return o.id == n.id })) {
			near = append(near, n)
		}
	}
	publishes := onHost && slices.ContainsFunc(owner.ports, func(p published) bool { return p.at(w.elsewhere()) != "" })
	if onHost && c.said.Network == "" && w.network == "" { // else the user knows
		bridged := slices.DeleteFunc(slices.Clone(near), func(n network) bool { return !w.isBridged(n) })
		if len(bridged) > 0 || publishes {
			near = bridged
		}
	}
	n, why := w.choose(c, near)
	switch {
	case n.ip != "":
		return way{host: n.ip}, ""
	case why == "" && !onHost:
		return way{}, fmt.Sprintf("no network shared with the proxy: it is on %s; the proxy is on %s", list(owner.nets), list(own))
	case publishes:
		return way{published: true}, ""
	case why == "":
		return way{}, fmt.Sprintf("no address that the host can reach: it is on %s and publishes no port", list(owner.nets))
	}
	return way{}, why
}

// usable reports whether a container can get new requests, as far as the engine knows.
func (w world) usable(id string) bool {
	c := w.containers[id]
	if c == nil || c.paused || !c.stopping.IsZero() {
		return false
	}
	v, _ := w.way(c)
	return v != way{}
}

// address is where the proxy reaches one port of a container. relay: docker-proxy answers there.
func (w world) address(c *container, port uint16) (addr string, relay bool, why string) {
	v, why := w.way(c)
	if v.host != "" {
		return net.JoinHostPort(v.host, strconv.Itoa(int(port))), false, ""
	}
	if v.published {
		for _, p := range w.networked(c).ports {
			if at := p.at(w.elsewhere()); p.port == port && at != "" {
				return at, true, ""
			}
		}
		why = fmt.Sprintf("the host cannot reach its address, and port %d is not published", port)
	}
	return "", false, why
}

// wayToHost leads to a container in the host's network.
func (w world) wayToHost(onHost bool) (way, string) {
	if onHost && w.elsewhere() != "" {
		return way{host: w.elsewhere()}, ""
	}
	if onHost {
		return way{host: "127.0.0.1"}, ""
	}
	for _, n := range w.ownNetworks() {
		if n.gateway != "" {
			return way{host: n.gateway}, ""
		}
	}
	return way{}, "it uses the host's network, and no network of the proxy has a gateway to that"
}

// choose picks among the networks that the proxy can reach a container through. A name that the user
// gave must be among them: to take another one silently would hide the mistake.
func (w world) choose(c *container, near []network) (_ network, why string) {
	named := func(name string, projects ...string) (network, bool) {
		full := []string{name}
		for _, p := range projects {
			full = append(full, p+"_"+name)
		}
		for _, full := range full {
			if i := slices.IndexFunc(near, func(n network) bool { return n.name == full }); i >= 0 {
				return near[i], true
			}
		}
		return network{}, false
	}
	for _, asked := range []struct{ name, by string }{{c.said.Network, "label longshore.network"}, {w.network, "LONGSHORE_NETWORK"}} {
		if asked.name == "" {
			continue
		}
		if n, ok := named(asked.name, c.project, w.ownProject()); ok {
			return n, ""
		}
		return network{}, fmt.Sprintf("%s=%q: the proxy can reach it only through %s", asked.by, asked.name, list(near))
	}
	if n, ok := named("default", c.project); ok && c.project != "" {
		return n, ""
	}
	if len(near) > 0 {
		return near[0], "" // sorted by name
	}
	return network{}, ""
}

// onHost reports whether the proxy has the network of a host, this one's or another.
func (w world) onHost() bool {
	c := w.home()
	return c == nil || c.mode == "host"
}

// elsewhere is the engine's host if that is another machine than the proxy's. Where the engine knows the
// own container it is this one, whatever leads to it: often a container that filters its API.
func (w world) elsewhere() string {
	if w.self.id != "" {
		return ""
	}
	return w.engine
}

// ownNetworks are those of the own container that work, sorted by name.
func (w world) ownNetworks() []network {
	c := w.home()
	if c == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(c.nets), func(n network) bool { return n.name == "none" })
}

// gateways are the addresses of the engine's host in the own networks, sorted.
func (w world) gateways() (as []netip.Addr) {
	for _, n := range w.ownNetworks() {
		for _, text := range []string{n.gateway, n.gateway6} {
			if a, err := netip.ParseAddr(text); err == nil {
				as = append(as, a.Unmap())
			}
		}
	}
	slices.SortFunc(as, netip.Addr.Compare)
	return slices.Compact(as)
}

func (w world) isLocal(ip string) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && w.elsewhere() == "" && slices.ContainsFunc(w.local, func(p netip.Prefix) bool { return p.Contains(a) })
}

// isBridged reports whether a network that seems near is one that the host is in. The host has the address of a
// bridge, which is the gateway. Networks of macvlan and ipvlan have the addresses, and the gateway, of the network
// that the host is in too, and yet it cannot reach their containers.
func (w world) isBridged(n network) bool {
	for _, text := range []string{n.gateway, n.gateway6} {
		gateway, err := netip.ParseAddr(text)
		if err == nil && slices.ContainsFunc(w.local, func(p netip.Prefix) bool { return p.Addr() == gateway }) {
			return true
		}
	}
	return n.gateway == "" && n.gateway6 == ""
}

// strange lists addresses of containers that no local interface is known to lead to, although a proxy on
// the engine's host has one for each network.
func (w world) strange(ids []string) (ips []string) {
	if !w.onHost() || w.elsewhere() != "" {
		return nil
	}
	for _, id := range ids {
		if c := w.containers[id]; c != nil && c.running {
			for _, n := range c.nets {
				if n.ip != "" && !w.isLocal(n.ip) {
					ips = append(ips, n.ip)
				}
			}
		}
	}
	return ips
}

// at is the address of a published port, empty if it cannot be reached: what is bound to the
// loopback of an engine elsewhere.
func (p published) at(engine string) string {
	host := p.hostIP
	ip, err := netip.ParseAddr(host)
	switch {
	case engine != "" && err == nil && ip.IsLoopback():
		return ""
	case engine != "":
		host = engine
	case host == "" || host == "0.0.0.0":
		host = "127.0.0.1"
	case host == "::":
		host = "::1"
	}
	return net.JoinHostPort(host, strconv.Itoa(int(p.hostPort)))
}

// list names networks for people.
func list(nets []network) string {
	names := make(map[string]bool)
	for _, n := range nets {
		names[n.name] = true
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), ", ")
}
