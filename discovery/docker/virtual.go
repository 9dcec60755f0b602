package docker

import (
	"cmp"
	"fmt"
	"log/slog"

	"longshore/balancer"
	"longshore/discovery"
	"longshore/internal/config"
)

// balanceLabel is where nginx-proxy's users say how a virtual host is balanced: "least_conn;".
const balanceLabel = "com.github.nginx-proxy.nginx-proxy.loadbalance"

// virtual is what a container's environment says in nginx-proxy's words.
type virtual struct {
	config.Virtual
	wrong error // about it
}

// A part is what a container says of one service that it is of.
type part struct {
	labels   config.Labels
	routes   []discovery.Route
	internal bool
}

// whole is what the labels without a name say.
func whole(c *container) part { return part{labels: c.said, routes: c.said.Routes()} }

// named is what the labels of one name say.
func named(name string) func(*container) part {
	return func(c *container) part {
		l := c.said.Named[name]
		return part{labels: l, routes: l.Routes()}
	}
}

// site is what the environment says of a virtual host and path. Labels win.
func site(match discovery.Route) func(*container) part {
	return func(c *container) part {
		p := part{labels: c.said, internal: c.virtual.Internal}
		for _, s := range c.virtual.Sites {
			if s.Route.Match() != match {
				continue
			}
			p.routes = []discovery.Route{s.Route}
			p.labels.Port = cmp.Or(p.labels.Port, s.Port)
			if p.labels.Port == 0 && len(c.exposed) != 1 {
				p.labels.Port = 80
			}
			break
		}
		if policy, err := c.balance(); err == nil && c.labels[config.LabelPrefix+"balancer"] == "" {
			p.labels.Settings.Balancer = cmp.Or(policy, p.labels.Settings.Balancer)
		}
		return p
	}
}

// balance reads the label for it. The zero Policy: there is none.
func (c *container) balance() (p balancer.Policy, err error) {
	if text := c.labels[balanceLabel]; text != "" {
		err = p.UnmarshalText([]byte(text))
	}
	return p, err
}

// isVirtual reports whether a container chooses itself by its environment. Labels that say which requests
// are for it count more.
func (w world) isVirtual(c *container) bool {
	return w.choosesItself() && c.known && !c.said.HasRoutes() && (len(c.virtual.Sites) > 0 || c.virtual.wrong != nil)
}

// choosesItself reports whether containers are used because they say so.
func (w world) choosesItself() bool { return len(w.upstream) == 0 && w.label.Key == "" }

// everywhere reports whether the containers of every project are looked at for VIRTUAL_HOST, as nginx-proxy
// does: its users have a project of its own for it.
func (w world) everywhere() bool { return w.choosesItself() && w.project == "" }

// byVirtualHost makes a service of each virtual host and path, named after it, of all containers that have
// it, whatever their compose service or project.
func (b *builder) byVirtualHost() (ps []pool) {
	index := make(map[discovery.Route]int)
	for _, c := range b.candidates(func(c *container) bool { return b.isVirtual(c) && (b.everywhere() || b.inScope(c)) }) {
		if c.virtual.wrong != nil && c.said.Enable != config.Off {
			b.skip(slog.LevelWarn, c.id, c.name, c.virtual.wrong.Error())
			continue
		}
		if len(b.usable([]*container{c})) == 0 {
			continue
		}
		if _, err := c.balance(); err != nil {
			b.note(slog.LevelWarn, c.name, fmt.Sprintf("label %s=%q, ignored: %v", balanceLabel, c.labels[balanceLabel], err))
		}
		for _, s := range c.virtual.Sites {
			match := s.Route.Match()
			i, ok := index[match]
			if !ok {
				i = len(ps)
				index[match] = i
				name := match.String()
				if match.Path == "/" {
					name = match.Host
				}
				ps = append(ps, pool{name: name, part: site(match), virtual: true})
			}
			ps[i].members = append(ps[i].members, c)
		}
	}
	return ps
}
