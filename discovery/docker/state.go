package docker

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"longshore/discovery"
	"longshore/internal/config"
)

// A note is what a state makes worth telling the user once.
type note struct {
	level     slog.Level
	container string
	text      string
}

// A pool is a service in the making.
type pool struct {
	name    string
	routes  []discovery.Route     // given by the user; else the newest member says
	ports   map[string][]uint16   // given by the user, by ID of the member; 0: its own
	part    func(*container) part // what a member says; nil: whole
	virtual bool                  // if no member can be used there is no such service
	members []*container          // sorted by age
	fixed   []discovery.Endpoint
	since   time.Time // how old it is, zero: its routes are the user's
}

// state is what the proxy is to know of the world, and what its user is.
func (w world) state() (discovery.State, []note) {
	b := builder{world: w, skipped: make(map[discovery.Skip]slog.Level)}
	var pools []pool
	switch {
	case len(w.upstream) > 0:
		pools = b.byName(w.upstream)
		b.noteIdle(pools, "LONGSHORE_UPSTREAM")
	case w.label.Key != "":
		pools = b.byLabel(w.label)
		b.noteIdle(pools, "LONGSHORE_LABEL")
	default:
		pools = append(b.byThemselves(), b.byVirtualHost()...)
		for i := range pools {
			pools[i].since = w.age(pools[i].members)
		}
	}
	st := discovery.State{Gateways: w.gateways()}
	slices.SortStableFunc(pools, byAge) // the oldest keeps its name
	names := make(map[string]bool)
	for _, p := range pools {
		p.name = config.Clip(p.name) // a path may be long
		for names[p.name] {          // a label can say anything, also another service's "project/name"
			p.name += "'"
		}
		names[p.name] = true
		if s := b.service(p); !p.virtual || len(s.Endpoints) > 0 || s.Expected {
			st.Services = append(st.Services, s)
		}
	}
	b.strangers(st.Services)
	slices.SortFunc(st.Services, func(a, b discovery.Service) int { return cmp.Compare(a.Name, b.Name) })
	st.Skipped = slices.SortedFunc(maps.Keys(b.skipped), func(a, b discovery.Skip) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Why, b.Why))
	})
	return st, b.notes
}

// A builder collects who is left out while a state is made.
type builder struct {
	world
	skipped map[discovery.Skip]slog.Level
	notes   []note
}

func (b *builder) skip(level slog.Level, id, name, why string) {
	name, why = config.Clip(name), config.Clip(why)
	s := discovery.Skip{ID: id, Name: name, Why: why}
	if _, ok := b.skipped[s]; !ok {
		b.skipped[s] = level
		b.note(level, name, why)
	}
}

func (b *builder) note(level slog.Level, name, text string) {
	b.notes = append(b.notes, note{level, config.Clip(name), config.Clip(text)})
}

// byName makes the services of LONGSHORE_UPSTREAM: one of the targets that a route has, which other routes may have
// too.
func (b *builder) byName(upstream config.Upstream) (ps []pool) {
	var routes []discovery.Route
	targets := make(map[discovery.Route]config.Upstream)
	for _, d := range upstream {
		if targets[d.Route] == nil {
			routes = append(routes, d.Route)
		}
		targets[d.Route] = append(targets[d.Route], d)
	}
	index := make(map[string]int) // by what the targets are
	names := make(map[string]bool)
	for _, r := range routes {
		var words, full []string
		for _, d := range targets[r] {
			words, full = append(words, d.Name), append(full, fmt.Sprintf("%s:%d", d.Name, d.Port))
		}
		slices.Sort(full)
		key := strings.Join(full, "|")
		if i, ok := index[key]; ok {
			ps[i].routes = append(ps[i].routes, r)
			continue
		}
		index[key] = len(ps)
		p := pool{name: strings.Join(words, "|"), routes: []discovery.Route{r}, ports: make(map[string][]uint16)}
		if names[p.name] {
			if p.name += r.String(); targets[r][0].Port != 0 {
				p.name = key
			}
		}
		names[p.name] = true
		for _, d := range targets[r] {
			b.join(&p, d)
		}
		slices.SortFunc(p.members, older)
		ps = append(ps, p)
	}
	return ps
}

// join adds to a pool who a target is.
func (b *builder) join(p *pool, d config.Destination) {
	found := b.named(d.Name)
	for _, c := range b.usable(found) {
		if p.ports[c.id] == nil {
			p.members = append(p.members, c)
		}
		p.ports[c.id] = append(p.ports[c.id], d.Port)
	}
	if len(found) == 0 && b.isHost(d.Name) {
		port := cmp.Or(d.Port, 80)
		addr := net.JoinHostPort(d.Name, strconv.Itoa(int(port)))
		name := d.Name
		if slices.ContainsFunc(p.fixed, func(e discovery.Endpoint) bool { return e.Name == name }) {
			name = addr
		}
		p.fixed = append(p.fixed, discovery.Endpoint{
			Key: discovery.Key{ID: d.Name, Run: 1, Port: port}, Name: name, Server: discovery.Server{Weight: 1}, Check: b.settings.Health, Addr: addr,
		})
	} else if len(found) == 0 {
		b.skip(slog.LevelWarn, "", d.Name, b.nobody())
	}
}

// nobody says that a name in LONGSHORE_UPSTREAM is no container's, or not yet.
func (b *builder) nobody() string {
	why := "no compose service, container or network alias has this name"
	if p := b.scope(); p != "*" {
		why += fmt.Sprintf(" in project %q", p)
	}
	return why
}

// named finds who goes by a name: a compose service, else a container, else an alias in a network, else whom the
// proxy has a link to by that name, which is for all replicas: a link is made to those that are there when the proxy
// is.
func (b *builder) named(name string) []*container {
	service := func(c *container) bool { return c.service == name }
	itself := func(c *container) bool { return c.name == name || c.nameToBe() == name }
	alias := func(c *container) bool {
		own, onHost := b.ownNetworks(), b.onHost()
		return slices.ContainsFunc(c.nets, func(n network) bool {
			return slices.Contains(n.aliases, name) && (onHost || slices.ContainsFunc(own, func(o network) bool {
				return o.id == n.id || n.id == "" && o.name == n.name // it never ran
			}))
		})
	}
	linked := func(c *container) bool {
		proxy := b.containers[b.self.id]
		return proxy != nil && slices.ContainsFunc(proxy.links, func(l link) bool {
			if l.alias != name {
				return false
			}
			return c.name == l.container || c.nameToBe() == l.container || c.service != "" && slices.ContainsFunc(b.byContainerName(l.container),
				func(to *container) bool { return to.service == c.service && to.project == c.project })
		})
	}
	for _, match := range []func(*container) bool{service, itself, alias, linked} {
		var found []*container
		for _, c := range b.candidates(match) {
			if b.inScope(c) {
				found = append(found, c)
			} else {
				b.skipForeign(c)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// byContainerName finds the container of a name.
func (b *builder) byContainerName(name string) (cs []*container) {
	for _, c := range b.containers {
		if !c.gone && c.name == name {
			cs = append(cs, c)
		}
	}
	return cs
}

// isHost reports whether a name in LONGSHORE_UPSTREAM that no container has is that of another machine.
func (b *builder) isHost(name string) bool {
	proxy := b.containers[b.self.id]
	return discovery.IsExternal(name) || proxy != nil && slices.Contains(proxy.hosts, name)
}

// byLabel makes the one service of LONGSHORE_LABEL.
func (b *builder) byLabel(l config.Selector) []pool {
	var found []*container
	for _, c := range b.candidates(func(c *container) bool { return c.chosen }) {
		if b.inScope(c) {
			found = append(found, c)
		} else {
			b.skipForeign(c)
		}
	}
	name := l.Value
	if name == "" {
		name = l.Key[strings.LastIndexAny(l.Key, "./")+1:]
	}
	return []pool{{name: name, routes: []discovery.Route{{Path: "/"}}, members: b.usable(found)}}
}

// noteIdle notes labels that do nothing since the user has said in another way who is proxied, and for which
// requests.
func (b *builder) noteIdle(pools []pool, by string) {
	used := make(map[string]bool)
	for _, p := range pools {
		for _, c := range p.members {
			used[c.id] = true
		}
	}
	for _, c := range b.candidates(func(c *container) bool { return c.said.Any && c.wrong == nil && b.inScope(c) }) {
		switch {
		case !used[c.id]:
			b.note(slog.LevelWarn, c.name, "its longshore labels have no effect: "+by+" does not choose it")
		case len(c.said.Routing) > 0:
			b.note(slog.LevelWarn, c.name, "no effect beside "+by+": "+strings.Join(c.said.Routing, ", "))
		}
	}
}

// byThemselves makes the services that containers ask for by their labels: one of the replicas of a compose
// service, or of those that say to be of one, and one more for each name in their labels.
func (b *builder) byThemselves() (ps []pool) {
	type key struct{ project, service, name string }
	members := make(map[key][]*container)
	projects := make(map[string]map[string]bool) // by service
	labelled := func(c *container) bool { return c.said.Any || c.said.Enable == config.Off || len(c.warned) > 0 }
	for _, c := range b.candidates(labelled) {
		if b.isVirtual(c) && (b.everywhere() || b.inScope(c)) {
			continue // its labels say how that is done
		}
		if !c.said.Any && c.said.Enable != config.Off {
			if b.inScope(c) { // others' labels are nobody's business here
				b.warn(c) // of a label that is not known, and so chooses nothing
			}
			continue
		}
		if !b.inScope(c) {
			b.skipForeign(c)
			continue
		}
		for _, c := range b.usable([]*container{c}) {
			k := key{c.project, c.service, ""}
			if k.service == "" {
				k = key{service: c.name}
			}
			k.service = cmp.Or(string(c.said.Service), k.service)
			if projects[k.service] == nil {
				projects[k.service] = make(map[string]bool)
			}
			projects[k.service][k.project] = true
			if c.said.IsService() {
				members[k] = append(members[k], c)
			}
			for name, l := range c.said.Named {
				if k.name = name; l.Enable != config.Off {
					members[k] = append(members[k], c)
				}
			}
		}
	}
	for k, cs := range members {
		// The plain name is for the own project's service, or for the only one of that name.
		name := k.service
		if len(projects[k.service]) > 1 && k.project != b.ownProject() {
			name = cmp.Or(k.project, "container") + "/" + k.service
		}
		p := pool{name: name, members: cs}
		if k.name != "" { // compose lets no service and no container have a colon in its name
			p.name, p.part = name+":"+k.name, named(k.name)
		}
		ps = append(ps, p)
	}
	return ps
}

// candidates are the other containers that match, oldest first. Those outside the scope are among them, so
// that their users hear why they are not used, and those of which only the creation is known.
func (b *builder) candidates(match func(*container) bool) (cs []*container) {
	for _, c := range b.containers {
		if c.gone || c.id == b.self.id || !match(c) {
			continue
		}
		if c.oneoff {
			b.skip(slog.LevelDebug, c.id, c.name, "a one-off container, as docker compose run makes them")
			continue
		}
		if c.known || c.failed != nil || c.expected() || !b.inScope(c) {
			cs = append(cs, c)
		}
	}
	slices.SortFunc(cs, older)
	return cs
}

func older(a, b *container) int {
	return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.id, b.id))
}

// byAge sorts by age, then name.
func byAge(a, b pool) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.name, b.name)) }

// strangers notes which services take a part of the requests of a host that an older service of another project
// answers to. It may be meant so. Who wants the very same route is the data plane's to say.
func (b *builder) strangers(byAge []discovery.Service) {
	first := make(map[string]discovery.Service) // by host
	wanted := make(map[discovery.Route]bool)
	for _, s := range byAge {
		for _, r := range s.Routes {
			o, ok := first[r.Host]
			if !ok && r.Host != "" {
				first[r.Host] = s
			}
			if ok && o.Name != s.Name && (o.Project == "" || o.Project != s.Project) && !wanted[r.Match()] {
				b.note(slog.LevelWarn, s.Name, fmt.Sprintf("route %s is of a host that another project's service %q answers to", r, o.Name))
			}
		}
		for _, r := range s.Routes {
			wanted[r.Match()] = true
		}
	}
}

func (b *builder) skipForeign(c *container) {
	why := fmt.Sprintf("in project %q", c.project)
	if c.project == "" {
		why = "in no compose project"
	}
	b.skip(slog.LevelDebug, c.id, c.name, fmt.Sprintf("%s: only %q is looked at (LONGSHORE_PROJECT)", why, b.scope()))
	b.note(slog.LevelInfo, "", fmt.Sprintf("containers of other projects than %q match too and are not used (LONGSHORE_PROJECT); /api/state lists them", b.scope()))
}

// warn passes on what is odd about a container's labels.
func (b *builder) warn(c *container) {
	for _, warning := range c.warned {
		b.note(slog.LevelWarn, c.name, warning)
	}
}

// usable leaves out who does not want to be used, and whose labels or facts cannot be read.
func (b *builder) usable(cs []*container) (ok []*container) {
	for _, c := range cs {
		b.warn(c)
		switch {
		case c.said.Enable == config.Off:
			b.skip(slog.LevelInfo, c.id, c.name, "label longshore.enable=false")
		case c.wrong != nil:
			b.skip(slog.LevelWarn, c.id, c.name, strings.ReplaceAll(c.wrong.Error(), "\n", "; "))
		case !c.known:
			if c.failed != nil {
				b.skip(slog.LevelWarn, c.id, c.name, c.failed.Error())
			}
			if c.expected() { // its labels are known
				ok = append(ok, c)
			}
		default:
			ok = append(ok, c)
		}
	}
	return ok
}

// service makes a service of a pool. Its settings are those of its newest container that runs: during a
// deploy the replicas may have different labels, and one that failed must not decide for the others.
func (b *builder) service(p pool) discovery.Service {
	s := discovery.Service{Name: p.name, Settings: b.settings, Endpoints: p.fixed, Since: p.since}
	if p.part == nil {
		p.part = whole
	}
	var newest *container
	projects := make(map[string]bool)
	for _, c := range p.members {
		if newest == nil || c.running || !newest.running {
			newest = c
		}
		projects[c.project] = true
	}
	for _, c := range p.members {
		s.Expected = s.Expected || c.expected()
		if !c.known {
			continue
		}
		said := p.part(c)
		ports := p.ports[c.id]
		if said.labels.Port != 0 || ports == nil {
			ports = []uint16{0}
		}
		for i, port := range ports {
			e, why := b.endpoint(c, said.labels, port)
			if why != "" {
				b.skip(slog.LevelWarn, c.id, c.name, why)
				continue
			}
			if e.Name = c.title(len(projects) > 1); i > 0 {
				e.Name += fmt.Sprintf(":%d", port)
			}
			s.Endpoints = append(s.Endpoints, e)
			s.Internal = s.Internal || said.internal // one that must not be seen from outside is enough
		}
	}
	slices.SortFunc(s.Endpoints, func(a, b discovery.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key.ID, b.Key.ID))
	})
	if p.virtual && len(s.Endpoints) == 0 && !s.Expected {
		return s // it takes no route
	}
	routes := p.routes
	if newest != nil {
		said := p.part(newest)
		s.Settings = said.labels.Settings
		if routes == nil {
			routes = b.withDefault(said.routes)
		}
	}
	for _, r := range routes {
		if !slices.ContainsFunc(s.Routes, func(o discovery.Route) bool { return o.Match() == r.Match() }) {
			s.Routes = append(s.Routes, r)
		}
	}
	if len(projects) == 1 && newest != nil {
		s.Project = newest.project
	}
	if p.virtual && len(projects) > 1 {
		names := strings.Join(slices.Sorted(maps.Keys(projects)), ", ")
		b.note(slog.LevelWarn, s.Name, "containers of several projects share this virtual host: "+strings.TrimPrefix(names, ", "))
	}
	slices.SortFunc(s.Routes, func(a, b discovery.Route) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Path, b.Path))
	})
	return s
}

// withDefault adds to the routes of DEFAULT_HOST those for requests whose host nobody has.
func (w world) withDefault(routes []discovery.Route) []discovery.Route {
	all := routes
	for _, r := range routes {
		if w.defaultHost != "" && r.Host == w.defaultHost {
			r.Host = ""
			all = append(slices.Clip(all), r)
		}
	}
	return all
}

// endpoint is a container's place in a service, or why it has none. One that does not run has a
// place whatever else is missing.
func (w world) endpoint(c *container, said config.Labels, port uint16) (_ discovery.Endpoint, why string) {
	port, whyNot := c.port(cmp.Or(said.Port, port))
	e := discovery.Endpoint{Key: discovery.Key{ID: c.id, Run: c.run, Port: port}, Server: said.Server, Check: said.Settings.Health, Down: c.down()}
	if e.Down == "" && e.Retired {
		e.Down = "label longshore.down=true"
	}
	if e.Down != "" {
		e.End = c.end
		return e, ""
	}
	if whyNot != "" {
		return e, whyNot
	}
	e.Addr, e.Relay, why = w.address(c, port)
	if e.Addr == "" {
		if c.lost == "" {
			return e, why
		}
		e.Down = "disconnected from network " + c.lost
		if c.apart {
			e.End = discovery.EndOrdered
		}
		return e, ""
	}
	if e.Relay && e.Check.OtherPort != 0 {
		if e.CheckAddr, _, why = w.address(c, e.Check.OtherPort); e.CheckAddr == "" {
			return e, "health check: " + why
		}
	}
	e.Starts = c.starts
	if len(c.exposed) > 0 && !slices.Contains(c.exposed, port) {
		e.Hint = fmt.Sprintf("its image exposes %s: set LONGSHORE_UPSTREAM or label longshore.port", listPorts(c.exposed))
	}
	e.Stopping, e.Overdue, e.Paused, e.Docker = !c.stopping.IsZero(), c.overdue, c.paused, c.health
	return e, ""
}

// down says why a container does not run, empty if it does.
func (c *container) down() string {
	switch {
	case c.running:
		return ""
	case c.status == "exited":
		return fmt.Sprintf("exited (%d)", c.exitCode)
	case c.status == "restarting":
		return fmt.Sprintf("restarting (exit code %d)", c.exitCode)
	}
	return cmp.Or(c.status, "not running")
}

// port is the container's port: the given one, else what can be found out.
func (c *container) port(given uint16) (_ uint16, why string) {
	if given != 0 {
		return given, ""
	}
	if c.virtualPort != "" {
		p, err := strconv.ParseUint(c.virtualPort, 10, 16)
		if err != nil || p == 0 {
			return 0, fmt.Sprintf("VIRTUAL_PORT=%q: want a port from 1 to 65535", c.virtualPort)
		}
		return uint16(p), ""
	}
	switch len(c.exposed) {
	case 0:
		return 0, "no port: set label longshore.port"
	case 1:
		return c.exposed[0], ""
	}
	return 0, fmt.Sprintf("no port: set label longshore.port (it exposes %s)", listPorts(c.exposed))
}

func listPorts(ports []uint16) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(ports)), ", "), "[]")
}
