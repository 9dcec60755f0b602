package docker

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	api "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	networktypes "github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/storage"
	"github.com/docker/go-connections/nat"

	"longshore/discovery"
	"longshore/internal/config"
)

// A model is a small Docker engine: what is done to it changes its containers and makes events, and
// it answers list and inspect at any moment.
type model struct {
	now    time.Time
	clock  func() time.Time // nil: a millisecond passes with everything that happens
	boxes  map[string]*box  // by name
	events []events.Message
	lastIP int
	lastID int
}

// A box is a container of the model.
type box struct {
	id, name    string
	labels      map[string]string
	created     time.Time
	started     time.Time
	status      string
	code        int
	health      string
	mode        string
	nets        map[string]string // IP by name of the network; the network's ID is net-NAME
	aliases     []string
	gateways    map[string]string // by name of the network; otherwise 172.18.0.1
	links       []string
	hosts       []string
	expose      []int
	publish     map[int]string // host:port by port
	env         []string
	signal      string
	timeout     *int
	startPeriod time.Duration
}

func newModel() *model {
	return &model{now: time.Date(2025, 11, 23, 12, 0, 0, 0, time.UTC), boxes: make(map[string]*box)}
}

// service makes a created container of a compose service in demo_default, "web-2", with labels.
func (m *model) service(name string, labels ...string) *box {
	service, number, _ := strings.Cut(name, "-")
	all := append([]string{projectLabel + "=demo", serviceLabel + "=" + service, numberLabel + "=" + number}, labels...)
	return m.create("demo-"+name, all...).on("demo_default")
}

func (m *model) create(name string, labels ...string) *box {
	m.tick()
	m.lastID++
	b := &box{
		id: fmt.Sprintf("%064x", 0xabc000+m.lastID), name: name, created: m.now, status: "created",
		labels: make(map[string]string), nets: make(map[string]string), expose: []int{80},
	}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		b.labels[k] = v
	}
	m.boxes[name] = b
	m.say(b, "create")
	return b
}

func (b *box) on(nets ...string) *box {
	for _, n := range nets {
		b.nets[n] = ""
	}
	return b
}

func (b *box) running() bool { return b.status == "running" || b.status == "paused" }

func (m *model) tick() {
	m.now = m.now.Add(time.Millisecond)
	if m.clock != nil {
		m.now = m.clock()
	}
}

// say makes an event of a container; more are attributes.
func (m *model) say(b *box, action string, more ...string) {
	m.tick()
	a := maps.Clone(b.labels)
	a["name"], a["image"] = b.name, "demo"
	for _, kv := range more {
		k, v, _ := strings.Cut(kv, "=")
		a[k] = v
	}
	m.events = append(m.events, events.Message{
		Type: events.ContainerEventType, Action: events.Action(action), Actor: events.Actor{ID: b.id, Attributes: a},
		Time: m.now.Unix(), TimeNano: m.now.UnixNano(),
	})
}

func (m *model) sayNet(b *box, action, net string) {
	m.tick()
	m.events = append(m.events, events.Message{
		Type: events.NetworkEventType, Action: events.Action(action),
		Actor: events.Actor{ID: "net-" + net, Attributes: map[string]string{"container": b.id, "name": net, "type": "bridge"}},
		Time:  m.now.Unix(), TimeNano: m.now.UnixNano(),
	})
}

// do plays "start demo-web-1", "signal demo-web-1 15", "exit demo-web-1 0" … What does not fit the
// container's state does nothing, as the engine refuses it.
func (m *model) do(op string) {
	w := strings.Fields(op)
	b := m.boxes[w[1]]
	if b == nil {
		return
	}
	arg := ""
	if len(w) > 2 {
		arg = w[2]
	}
	m.tick()
	switch w[0] {
	case "start":
		if b.running() {
			return
		}
		for _, n := range slices.Sorted(maps.Keys(b.nets)) {
			b.nets[n] = m.ip()
			m.sayNet(b, "connect", n)
		}
		m.tick()
		b.started, b.status = m.now, "running"
		if b.health != "" {
			b.health = "starting"
		}
		m.say(b, "start")
	case "signal":
		if b.running() {
			m.say(b, "kill", "signal="+arg)
		}
	case "exit", "die-last", "crash-loop":
		if !b.running() {
			return
		}
		if b.status == "paused" { // the engine thaws who must end
			b.status = "running"
			m.say(b, "unpause")
		}
		b.code, _ = strconv.Atoi(arg)
		b.status = "exited"
		if w[0] == "crash-loop" {
			b.status = "restarting"
		}
		die := func() { m.say(b, "die", "exitCode="+arg) }
		if w[0] != "die-last" {
			die()
		}
		for _, n := range slices.Sorted(maps.Keys(b.nets)) {
			b.nets[n] = ""
			m.sayNet(b, "disconnect", n)
		}
		if w[0] == "die-last" {
			die()
		}
	case "pause":
		if b.status == "running" {
			b.status = "paused"
			m.say(b, "pause")
		}
	case "unpause":
		if b.status == "paused" {
			b.status = "running"
			m.say(b, "unpause")
		}
	case "health":
		if b.status == "running" && b.health != "" {
			b.health = arg
			m.say(b, "health_status: "+arg)
		}
	case "oom", "update":
		m.say(b, w[0])
	case "connect":
		if _, on := b.nets[arg]; on {
			return
		}
		b.nets[arg] = ""
		if b.running() {
			b.nets[arg] = m.ip()
		}
		m.sayNet(b, "connect", arg)
	case "disconnect":
		if _, on := b.nets[arg]; on {
			delete(b.nets, arg)
			m.sayNet(b, "disconnect", arg)
			m.sayNet(b, "disconnect", arg) // twice, as measured
		}
	case "rename":
		if m.boxes[arg] == nil {
			delete(m.boxes, b.name)
			b.name = arg
			m.boxes[arg] = b
			m.say(b, "rename", "oldName=/"+w[1])
		}
	case "destroy":
		if !b.running() {
			delete(m.boxes, b.name)
			m.say(b, "destroy")
		}
	default:
		panic("unknown: " + op)
	}
}

// ip gives a free address. There are few more than containers, so that they are used again.
func (m *model) ip() string {
	for {
		m.lastIP++
		n := 2 + m.lastIP%(20+2*len(m.boxes))
		ip := fmt.Sprintf("172.18.%d.%d", n/250, n%250)
		used := false
		for _, b := range m.boxes {
			for _, other := range b.nets {
				used = used || other == ip
			}
		}
		if !used {
			return ip
		}
	}
}

func (m *model) take() []events.Message {
	es := m.events
	m.events = nil
	return es
}

func (m *model) list() (all []api.Summary) {
	for _, name := range slices.Sorted(maps.Keys(m.boxes)) {
		b := m.boxes[name]
		s := api.Summary{ID: b.id, Names: []string{"/" + b.name}, Labels: b.labels, State: b.status, Created: b.created.Unix()}
		switch b.status {
		case "running":
			s.Status = "Up " + m.upFor(b)
			if b.health == "starting" {
				s.Status += " (health: starting)"
			} else if b.health != "" {
				s.Status += " (" + b.health + ")"
			}
		case "paused":
			s.Status = "Up " + m.upFor(b) + " (Paused)"
		case "exited":
			s.Status = fmt.Sprintf("Exited (%d) 5 seconds ago", b.code)
		case "restarting":
			s.Status = fmt.Sprintf("Restarting (%d) 5 seconds ago", b.code)
		}
		s.HostConfig.NetworkMode = cmp.Or(b.mode, "default")
		s.NetworkSettings = &api.NetworkSettingsSummary{Networks: b.endpoints()}
		all = append(all, s)
	}
	return all
}

// upFor is how long a box has run, in the engine's words.
func (m *model) upFor(b *box) string {
	if d := m.now.Sub(b.started); d >= time.Minute {
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	}
	return "5 seconds"
}

func (b *box) endpoints() map[string]*networktypes.EndpointSettings {
	es := make(map[string]*networktypes.EndpointSettings)
	for n, ip := range b.nets {
		e := &networktypes.EndpointSettings{NetworkID: "net-" + n, IPAddress: ip, Aliases: b.aliases, Links: b.links}
		if ip != "" {
			e.Gateway = cmp.Or(b.gateways[n], "172.18.0.1")
		}
		if b.status == "created" {
			e.NetworkID = "" // until it starts
		}
		if strings.Contains(ip, ":") {
			e.IPAddress, e.GlobalIPv6Address = "", ip
			e.Gateway, e.IPv6Gateway = "", "fd00::1"
		}
		es[n] = e
	}
	return es
}

// inspect answers for an ID.
func (m *model) inspect(id string) (r api.InspectResponse, ok bool) {
	for _, b := range m.boxes {
		if b.id != id {
			continue
		}
		r.ContainerJSONBase = &api.ContainerJSONBase{
			ID: b.id, Name: "/" + b.name, Created: b.created.Format(time.RFC3339Nano),
			State: &api.State{
				Status: b.status, Running: b.running() || b.status == "restarting", Paused: b.status == "paused",
				Restarting: b.status == "restarting", StartedAt: b.started.Format(time.RFC3339Nano),
			},
			HostConfig:  &api.HostConfig{NetworkMode: api.NetworkMode(b.mode), ExtraHosts: b.hosts},
			GraphDriver: storage.DriverData{Data: map[string]string{"UpperDir": "/var/lib/docker/overlay2/" + b.name + "/diff"}},
			Path:        "/" + b.name, Args: []string{"serve"},
		}
		if !b.running() {
			r.State.ExitCode = b.code
		}
		if b.health != "" {
			r.State.Health = &api.Health{Status: b.health}
		}
		r.Config = &api.Config{Labels: b.labels, Env: b.env, StopSignal: b.signal, StopTimeout: b.timeout, ExposedPorts: nat.PortSet{"53/udp": {}}}
		if b.startPeriod > 0 {
			r.Config.Healthcheck = &api.HealthConfig{StartPeriod: b.startPeriod}
		}
		for _, p := range b.expose {
			r.Config.ExposedPorts[nat.Port(fmt.Sprint(p, "/tcp"))] = struct{}{}
		}
		r.NetworkSettings = &api.NetworkSettings{Networks: b.endpoints()}
		r.NetworkSettings.Ports = make(nat.PortMap)
		for p, at := range b.publish {
			if b.running() {
				i := strings.LastIndex(at, ":")
				r.NetworkSettings.Ports[nat.Port(fmt.Sprint(p, "/tcp"))] = []nat.PortBinding{{HostIP: at[:i], HostPort: at[i+1:]}}
			}
		}
		return r, true
	}
	return r, false
}

// A driver leads a world through what happens in a model. Events are delivered at once; inspects are
// answered when it is told to.
type driver struct {
	*model
	t   testing.TB
	w   world
	due todo
}

// drive begins with a first list and its inspects.
func drive(t testing.TB, m *model, w world) *driver {
	t.Helper()
	d := &driver{model: m, t: t, w: w, due: make(todo)}
	m.take()
	d.relist(time.Hour)
	d.answer()
	if !d.w.complete() {
		t.Fatal("not complete after the first list and its inspects")
	}
	return d
}

func (d *driver) hear(f func(world) (world, todo)) {
	before := d.w
	w, ask := f(d.w)
	d.w = w.settle(before)
	maps.Copy(d.due, ask)
}

func (d *driver) relist(missed time.Duration) {
	d.tick()
	l := listing{asked: d.now, gap: missed, all: d.list()}
	d.hear(func(w world) (world, todo) { return w.list(l) })
}

func (d *driver) deliver() {
	for _, m := range d.take() {
		d.tick()
		if e, ok := readEvent(m, d.now); ok {
			d.hear(func(w world) (world, todo) { return w.on(e) })
		}
	}
}

func (d *driver) answer() {
	for range 100 {
		if len(d.due) == 0 {
			return
		}
		for id := range d.due {
			delete(d.due, id)
			d.tick()
			a := answer{id: id, asked: d.now}
			var ok bool
			a.found, ok = d.inspect(id)
			a.gone = !ok
			d.hear(func(w world) (world, todo) { return w.learn(a) })
		}
	}
	d.t.Fatal("the world asks for ever")
}

// play does something, delivers its events and answers all questions.
func (d *driver) play(ops ...string) {
	for _, op := range ops {
		d.do(op)
		d.deliver()
		d.answer()
	}
}

// describe writes a state so that it can be read: one line per service, route, endpoint and skip.
func describe(st discovery.State) string {
	var b strings.Builder
	for _, s := range st.Services {
		fmt.Fprintf(&b, "%s", s.Name)
		for _, r := range s.Routes {
			fmt.Fprintf(&b, " %s", r)
			if r.Dest != "" {
				fmt.Fprintf(&b, "->%s", r.Dest)
			}
		}
		if s.Internal {
			b.WriteString(" internal")
		}
		if s.Expected {
			b.WriteString(" expected")
		}
		b.WriteString("\n")
		for _, e := range s.Endpoints {
			fmt.Fprintf(&b, "  %s\n", describeEndpoint(e))
		}
	}
	for _, s := range st.Skipped {
		fmt.Fprintf(&b, "skip %s: %s\n", s.Name, s.Why)
	}
	return b.String()
}

func describeEndpoint(e discovery.Endpoint) string {
	s := e.Name
	if e.Addr != "" {
		s += " " + e.Addr
	}
	s += fmt.Sprintf(" #%d", e.Key.Run)
	if e.Weight != 1 {
		s += fmt.Sprintf(" weight %d", e.Weight)
	}
	if e.Down != "" {
		s += " down: " + e.Down
	}
	for _, flag := range []struct {
		is   bool
		word string
	}{{e.Stopping, " stopping"}, {e.Overdue, " overdue"}, {e.Paused, " paused"}, {e.Relay, " relay"}} {
		if flag.is {
			s += flag.word
		}
	}
	if e.CheckAddr != "" {
		s += " checked at " + e.CheckAddr
	}
	if e.Docker != 0 {
		s += " " + e.Docker.String()
	}
	return s
}

func see(w world) string {
	st, _ := w.state()
	return describe(st)
}

// upstream is the view of a proxy, container 1 of the model, with LONGSHORE_UPSTREAM=s.
func upstream(t testing.TB, s string) view {
	t.Helper()
	v := view{settings: config.Defaults(), traces: traces{mounts: []string{fmt.Sprintf("%064x", 0xabc001)}}}
	if err := v.upstream.UnmarshalText([]byte(s)); err != nil {
		t.Fatal(err)
	}
	return v
}

// demo is a model with the proxy, which is container 1, and web-1 and web-2, all running.
func demo() *model {
	m := newModel()
	m.service("proxy-1")
	m.service("web-1")
	m.service("web-2")
	for _, name := range []string{"proxy-1", "web-1", "web-2"} {
		m.do("start demo-" + name)
	}
	return m
}

// random does something that may happen to some container.
func (m *model) random(r *rand.Rand) {
	names := slices.Sorted(maps.Keys(m.boxes))
	name := names[r.IntN(len(names))]
	self := name == "demo-proxy-1"
	ops := []string{
		"start", "start", "start", "signal 15", "signal 1", "exit 0", "die-last 137", "crash-loop 1", "pause", "unpause",
		"health healthy", "health unhealthy", "oom", "update", "destroy", "create",
		"connect other", "disconnect other", "disconnect demo_default", "connect demo_default", "rename",
	}
	op := ops[r.IntN(len(ops))]
	verb, arg, _ := strings.Cut(op, " ")
	if self && verb != "connect" && verb != "disconnect" {
		return // who is watching runs
	}
	switch verb {
	case "create":
		if len(m.boxes) < 7 {
			b := m.service(fmt.Sprintf("web-%d", m.lastID))
			if r.IntN(2) == 0 {
				b.health = "starting"
			}
			if r.IntN(4) == 0 {
				b.labels["longshore.weight"] = "x"
			}
			if r.IntN(3) == 0 {
				b.on("other")
			}
		}
	case "rename":
		m.do("rename " + name + " " + fmt.Sprintf("demo-renamed-%d", r.IntN(3)))
	default:
		m.do(verb + " " + name + " " + arg)
	}
}
