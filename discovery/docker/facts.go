package docker

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	api "github.com/docker/docker/api/types/container"

	"longshore/health"
	"longshore/internal/config"
)

// facts are what inspect says.
type facts struct {
	created     time.Time
	started     time.Time
	running     bool // paused or not
	paused      bool
	status      string // "created", "running", "paused", "restarting", "removing", "exited", "dead"
	exitCode    int
	health      health.Docker
	mode        string    // of its network: "host", "container:<id>" …
	nets        []network // sorted by name
	ports       []published
	stopSignal  int
	stopTimeout time.Duration
	virtualPort string        // of its environment; nothing else of that is kept, except:
	virtual     virtual       //
	exposed     []uint16      // TCP ports, sorted
	links       []link        // to containers, by names that only it knows (links)
	hosts       []string      // names in its own /etc/hosts (extra_hosts)
	starts      time.Duration // start period of its HEALTHCHECK
}

// A link is a container's own name for another one.
type link struct{ container, alias string }

// A network is a container's place in one.
type network struct {
	name, id string
	ip       string // IPv4 if it has one; empty while it does not run
	gateway  string
	gateway6 string
	aliases  []string
}

// published is a port of the host that leads to a port of a container.
type published struct {
	port     uint16
	hostIP   string
	hostPort uint16
}

// agrees reports whether a list says of a container what is known of it. What it cannot say, such as
// the health of a paused container, is not compared.
func (c *container) agrees(s api.Summary) bool {
	if nameIn(s) != c.name || s.State != c.status {
		return false
	}
	note := noteIn(s.Status)
	switch s.State {
	case "exited", "restarting":
		return note == strconv.Itoa(c.exitCode)
	case "running":
		return readHealth(note) == c.health && reflect.DeepEqual(addresses(c.nets), addresses(readNetworks(s.NetworkSettings)))
	}
	return true
}

func addresses(nets []network) (ips []string) {
	for _, n := range nets {
		ips = append(ips, n.id+" "+n.ip)
	}
	return ips
}

// nameIn takes the container's name from a list, which names links too: "/other/alias".
func nameIn(s api.Summary) string {
	for _, n := range s.Names {
		if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
			return n
		}
	}
	return ""
}

// noteIn takes what is in parentheses from the words of a list: "Exited (137) 2 hours ago",
// "Up 5 minutes (healthy)".
func noteIn(status string) string {
	_, rest, _ := strings.Cut(status, "(")
	note, _, _ := strings.Cut(rest, ")")
	return note
}

// ranFor reads from the words of a list how long a container has been running at least: "Up 5 seconds",
// "Up About a minute", "Up 3 hours (healthy)". Zero: it may have been restarted just now.
func ranFor(status string) time.Duration {
	if !strings.HasPrefix(status, "Up ") || strings.Contains(status, "second") {
		return 0
	}
	return time.Minute
}

func readFacts(r api.InspectResponse) facts {
	f := facts{stopSignal: sigTerm, stopTimeout: 10 * time.Second}
	if r.ContainerJSONBase != nil {
		f.created, _ = time.Parse(time.RFC3339Nano, r.Created)
		if r.HostConfig != nil {
			f.mode = string(r.HostConfig.NetworkMode)
			for _, l := range r.HostConfig.Links { // in the old default network: "/web_1:/proxy_1/alias"
				if to, as, ok := strings.Cut(l, ":"); ok {
					f.links = append(f.links, link{strings.TrimPrefix(to, "/"), as[strings.LastIndex(as, "/")+1:]})
				}
			}
			for _, h := range r.HostConfig.ExtraHosts { // "name:address", with = since Docker 26
				if i := strings.IndexAny(h, ":="); i > 0 {
					f.hosts = append(f.hosts, h[:i])
				}
			}
		}
		if st := r.State; st != nil {
			f.started, _ = time.Parse(time.RFC3339Nano, st.StartedAt)
			f.running = st.Running && !st.Restarting // a container that waits for its restart says both
			f.paused = f.running && st.Paused
			f.status, f.exitCode = st.Status, st.ExitCode
			if st.Health != nil {
				f.health = readHealth(st.Health.Status)
			}
		}
	}
	if c := r.Config; c != nil {
		if n := signalNumber(c.StopSignal); n != 0 {
			f.stopSignal = n
		}
		if c.StopTimeout != nil {
			f.stopTimeout = time.Duration(*c.StopTimeout) * time.Second
			if *c.StopTimeout < 0 {
				f.stopTimeout = 24 * time.Hour // for ever
			}
		}
		if c.Healthcheck != nil {
			f.starts = c.Healthcheck.StartPeriod
		}
		for _, v := range c.Env {
			if port, ok := strings.CutPrefix(v, "VIRTUAL_PORT="); ok {
				f.virtualPort = port
			}
		}
		f.virtual.Virtual, f.virtual.wrong = config.ParseVirtual(c.Env)
		for p := range c.ExposedPorts {
			if p.Proto() == "tcp" && p.Int() > 0 {
				f.exposed = append(f.exposed, uint16(p.Int()))
			}
		}
		slices.Sort(f.exposed)
		f.exposed = slices.Compact(f.exposed) // compose's expose: "80" stands beside the image's 80/tcp
	}
	if n := r.NetworkSettings; n != nil {
		f.nets = readNetworks(&api.NetworkSettingsSummary{Networks: n.Networks})
		for _, name := range slices.Sorted(maps.Keys(n.Networks)) {
			if e := n.Networks[name]; e != nil {
				for _, l := range e.Links { // "web_1:alias"
					if to, as, ok := strings.Cut(l, ":"); ok {
						f.links = append(f.links, link{to, as})
					}
				}
			}
		}
		for p, bindings := range n.Ports {
			for _, b := range bindings {
				hostPort, err := strconv.ParseUint(b.HostPort, 10, 16)
				if p.Proto() == "tcp" && err == nil && hostPort > 0 {
					f.ports = append(f.ports, published{uint16(p.Int()), b.HostIP, uint16(hostPort)})
				}
			}
		}
		slices.SortFunc(f.ports, func(a, b published) int {
			return strings.Compare(a.key(), b.key())
		})
	}
	return f
}

// key sorts ports, and IPv4 before IPv6.
func (p published) key() string {
	family := "4"
	if strings.Contains(p.hostIP, ":") {
		family = "6"
	}
	return strconv.Itoa(int(p.port)) + " " + family + " " + p.hostIP + " " + strconv.Itoa(int(p.hostPort))
}

func readNetworks(s *api.NetworkSettingsSummary) (nets []network) {
	if s == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.Networks)) {
		e := s.Networks[name]
		if e == nil {
			continue
		}
		n := network{name: name, id: e.NetworkID, ip: e.IPAddress, gateway: e.Gateway, gateway6: e.IPv6Gateway, aliases: e.Aliases}
		if n.ip == "" {
			n.ip = e.GlobalIPv6Address
		}
		nets = append(nets, n)
	}
	return nets
}
