package docker

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	api "github.com/docker/docker/api/types/container"

	"longshore/discovery"
	"longshore/internal/config"
)

// A world is what is known of the engine's containers at one moment. It is a value: what is heard
// makes another one, and nothing that it points to changes.
//
// Two clocks meet here. Whether an answer is older than an event is decided by our clock: an event
// that was read before the question was asked is part of the answer. Whether an event belongs to
// the present run of a container is decided by the engine's: it stamps events and starts.
type world struct {
	view
	containers map[string]*container
	self       self
	local      []netip.Prefix // of the local interfaces, to know what a proxy on the host can reach
	listed     bool           // there has been a list

	// ages are those of families, whether or not their oldest container is still there. So a service keeps its
	// age, and its routes, when its containers are recreated. A family that has nobody left is remembered for
	// a time.
	ages map[string]age

	// What follows saves looking at every container at every event.
	touched []string  // who changed since settle
	sharing bool      // a container uses the network of another
	due     time.Time // tick has nothing to do before; zero: never
}

// A view is what the user asked for, and where from.
type view struct {
	upstream    config.Upstream
	label       config.Selector
	project     string // empty: the own one
	defaultHost string // whose routes are those of unknown hosts too
	network     string
	settings    discovery.Settings
	traces      traces
	engine      string // host of an engine on another machine; empty: it is on this one
}

// A container is what is known of one container. It is never changed once it is part of a world.
type container struct {
	id   string
	name string
	badge

	known bool // inspected, so that facts are valid
	facts
	likeness likeness  // to the own container
	gone     bool      // destroyed; remembered until the next list, so that late answers do not revive it
	failed   error     // of the last inspect, nil if it was answered
	retry    time.Time // when to ask again after it failed

	coming   time.Time     // was created, and is expected to start until then; zero: is not
	run      int           // how many were seen
	stopping time.Time     // was asked to stop, and should have ended by then; zero: was not
	overdue  bool          // and has not
	killed   time.Time     // when, by the engine's clock
	early    *event        // a kill that was heard before its run was known, nil: none
	lost     string        // network that it was disconnected from in this run
	apart    bool          // and it runs without: the disconnect was not the beginning of its end
	end      discovery.End // of its last run

	asked time.Time // when facts were asked for
	heard time.Time // when the last event was read; answers to older questions do not count
}

// A listing is an answer of the engine to "which containers are there".
type listing struct {
	asked time.Time
	gap   time.Duration // in which events may have been missed: since the list before it; zero: the same connection
	all   []api.Summary
}

// An answer is the engine's to an inspect.
type answer struct {
	id    string
	asked time.Time
	found api.InspectResponse
	gone  bool  // there is no such container
	err   error // any other
	came  time.Time
}

// todo are the IDs of containers to inspect.
type todo map[string]bool

func (t todo) add(id string) todo {
	if t == nil {
		t = make(todo)
	}
	t[id] = true
	return t
}

// on is the world after an event.
func (w world) on(e event) (world, todo) {
	c := w.containers[e.id]
	if c == nil {
		c = &container{id: e.id}
	}
	next := *c
	if !c.known && !c.gone && e.labels != nil {
		next.name, next.badge = cmp.Or(e.name, c.name), w.read(e.labels, c.badge)
	}
	if e.received.After(next.heard) {
		next.heard = e.received
	}
	ask := next.apply(e)
	w = w.with(&next)
	unheard := next.name == "" // an event of a network does not tell whose container it is
	if ask && !next.gone && (unheard || w.concerns(&next)) {
		return w, todo{}.add(e.id)
	}
	return w, nil
}

// apply changes c as an event says, and reports whether the engine is to be asked for more. An event
// that does not fit what is known, or may be older than it, changes nothing: the answer will.
func (c *container) apply(e event) (ask bool) {
	stale := !c.known || e.at().Before(c.asked)
	switch e.action {
	case "create":
		// Compose v2 creates the next container before it stops the one to be replaced, so this is said
		// before the answer is there. An old event may be of a container that has run since.
		if c.unborn() && !c.gone {
			c.coming = e.received.Add(comingFor)
			if !c.known {
				c.created = e.time // its age in its service
			}
		}
		return true
	case "kill":
		// However old it is: inspect does not tell that a container was asked to stop.
		if !c.hits(e) {
			c.early = &e // perhaps of a run that is not known yet
			return true
		}
		if c.isStop(e.signal) && !e.time.Equal(c.killed) {
			c.killed = e.time
			c.stopping, c.overdue = e.received.Add(c.stopTimeout+stopMargin), false
		}
		return false
	case "die":
		c.coming = time.Time{}
		if c.hits(e) {
			c.ended("exited", e.exitCode)
		}
		return true // there may be a restart policy
	case "pause":
		if !stale && c.running {
			c.paused, c.status = true, "paused"
		}
		return true
	case "health_status":
		if stale || !c.running {
			return true
		}
		c.health = e.health // no question: podman tells at every probe
		return false
	case "disconnect":
		i := slices.IndexFunc(c.nets, func(n network) bool { return n.id == e.network })
		if !stale && c.running && i >= 0 {
			c.lost, c.apart = c.nets[i].name, false
			c.nets = slices.Delete(slices.Clone(c.nets), i, i+1)
		}
		return true
	case "rename":
		if !stale && e.name != "" {
			c.name = e.name
		}
		return true
	case "destroy":
		*c = container{id: c.id, gone: true, heard: c.heard}
		return false
	}
	return true // start, connect, unpause, oom, update: only an inspect can tell
}

// comingFor is how long a container that was created may take to start and still be waited for.
const comingFor = time.Minute

// unborn reports whether a container has never run, as far as is known.
func (c *container) unborn() bool { return c.status == "" || c.status == "created" }

// expected reports whether a container that does not run will be there soon. From its start on it is so
// until the answer to that is there: in between nobody could say what has become of it.
func (c *container) expected() bool {
	return !c.coming.IsZero() || c.known && c.status == "restarting"
}

// stopMargin is how long after its stop timeout a container should have been killed and reported.
const stopMargin = 2 * time.Second

// hits reports whether an event is about the run that is known.
func (c *container) hits(e event) bool {
	return c.known && c.running && !e.time.Before(c.started)
}

// isStop reports whether a signal asks this container to end.
func (c *container) isStop(signal string) bool {
	n := signalNumber(signal)
	return n == c.stopSignal || n == sigTerm || n == sigKill
}

func (c *container) ended(status string, code int) {
	c.finish()
	c.running, c.paused, c.status, c.exitCode = false, false, status, code
}

// finish ends what is known of a run. Only a signal that was heard before says that somebody ended it. Not so
// the loss of a network, which newer engines tell before the end of every container; and a container that has
// outlived its stop timeout by far has ended for another reason.
func (c *container) finish() {
	c.end = discovery.EndCrash
	if !c.stopping.IsZero() && !c.overdue {
		c.end = discovery.EndOrdered
	}
	c.begin()
}

// begin forgets what was heard of the run before.
func (c *container) begin() {
	c.stopping, c.overdue, c.lost, c.apart = time.Time{}, false, "", false
}

// learn is the world after an answer to an inspect.
func (w world) learn(a answer) (world, todo) {
	c := w.containers[a.id]
	if c == nil {
		return w, nil // a list has told since that it is gone
	}
	next := *c
	switch {
	case c.gone && a.asked.Before(c.heard):
		return w, nil
	case a.gone:
		// Also if events were read since: who is gone does not come back.
		next = container{id: c.id, gone: true, heard: c.heard}
		if a.asked.After(next.heard) {
			next.heard = a.asked
		}
		return w.with(&next), nil
	case a.err != nil:
		next.failed, next.retry = a.err, a.asked.Add(retryAfter)
		return w.with(&next), nil
	case a.asked.Before(c.heard):
		return w, todo{}.add(a.id) // it may not know of the last event
	}
	next.name = cmp.Or(strings.TrimPrefix(a.found.Name, "/"), c.name)
	next.badge = w.read(a.found.Config.Labels, c.badge)
	next.facts, next.likeness = readFacts(a.found), w.traces.compare(a.found)
	next.known, next.failed, next.retry, next.asked = true, nil, time.Time{}, a.asked
	if !next.unborn() {
		next.coming = time.Time{}
	}
	switch {
	case c.running && !next.running:
		next.finish()
	case !next.running || !next.started.Equal(c.started):
		next.begin()
	default:
		next.apart = next.lost != ""
	}
	if e := next.early; e != nil {
		next.early = nil
		next.apply(*e)
	}
	w = w.with(&next)
	var ask todo
	if id := next.sharesWith(); id != "" {
		w.sharing = true
		owner := w.containers[id]
		if owner == nil {
			owner = &container{id: id}
			w = w.with(owner)
		}
		if !owner.gone && !(owner.known && w.inScope(owner)) { // others are not kept up to date
			ask = ask.add(id)
		}
	}
	was := w.self.id
	if w.self = w.findSelf(); w.self.id != was { // so there may be another project to look at
		for id, c := range w.containers {
			if !c.known && !c.gone && w.concerns(c) {
				ask = ask.add(id)
			}
		}
	}
	return w, ask
}

// retryAfter is when a failed inspect is repeated.
const retryAfter = time.Second

// list is the world after a listing. What it says of a container is only compared: inspect tells.
func (w world) list(l listing) (world, todo) {
	ask := make(todo)
	containers := make(map[string]*container, len(l.all))
	for _, s := range l.all {
		next := container{id: s.ID}
		if c := w.containers[s.ID]; c != nil && (!c.gone || c.heard.After(l.asked)) {
			next = *c
		}
		if !next.known && !next.gone {
			next.name, next.badge = cmp.Or(nameIn(s), next.name), w.read(s.Labels, next.badge)
			next.status, next.mode = s.State, s.HostConfig.NetworkMode
		}
		containers[s.ID] = &next
	}
	old := w.containers
	w.containers, w.listed = containers, true
	w = w.forgetFamilies(l.asked)
	for id, c := range old {
		if containers[id] == nil && (c.asked.After(l.asked) || c.heard.After(l.asked)) {
			containers[id] = c // the list is older than what is known
			if !c.gone && w.concerns(c) {
				ask.add(id)
			}
		}
	}
	w.self = w.findSelf()
	w.touched = slices.Collect(maps.Keys(containers))
	for _, s := range l.all {
		c := containers[s.ID]
		switch {
		case c.gone, !w.concerns(c):
		case !c.known, !c.agrees(s), c.running && ranFor(s.Status) < l.gap:
			if c.heard.Before(l.asked) {
				c.heard = l.asked // an answer that is under way is too old: events may have been lost since
			}
			ask.add(s.ID)
		}
	}
	return w, ask
}

// tick is the world at a later time. What was asked to stop and still runs is overdue, in the same run: it
// may be in the middle of requests, since nobody is told of docker stop's --time. What was created and did
// not start is waited for no longer. What could not be inspected is asked again. next is when to call it
// again, zero for never.
func (w world) tick(now time.Time) (_ world, ask todo, next time.Time) {
	past := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	if !past(w.due) {
		return w, nil, w.due
	}
	w.due = time.Time{}
	for id, c := range w.containers {
		if !past(c.due()) {
			w.due = earliest(w.due, c.due())
			continue
		}
		change := *c
		if past(c.stopping) {
			change.overdue = true
		}
		if past(c.coming) {
			change.coming = time.Time{}
		}
		if past(c.retry) {
			change.retry = time.Time{}
			ask = ask.add(id)
		}
		w = w.with(&change)
	}
	return w, ask, w.due
}

// due is when something of a container ends, zero for never.
func (c *container) due() time.Time {
	if c.overdue {
		return earliest(c.coming, c.retry)
	}
	return earliest(c.stopping, c.coming, c.retry)
}

// earliest is the first of some times; those that are zero do not count.
func earliest(ts ...time.Time) (first time.Time) {
	for _, t := range ts {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

// settle is w with the runs counted that began since before. It stands apart from what changes
// containers because a change of one may move another: the own one, or one that lends its network.
func (w world) settle(before world) world {
	ids := w.touched
	if w.sharing || w.self.id != before.self.id || w.home() != before.home() || !slices.Equal(w.local, before.local) {
		ids = slices.Collect(maps.Keys(w.containers))
	}
	for _, id := range ids {
		c := w.containers[id]
		if c == nil {
			continue
		}
		now, _ := w.way(c)
		if now == (way{}) {
			continue
		}
		was := before.containers[id]
		if was == nil {
			was = &container{}
		}
		if then, _ := before.way(was); now != then || !c.started.Equal(was.started) || // also after it was down
			was.paused && !c.paused {
			next := *c
			next.run = was.run + 1
			w = w.with(&next)
		}
	}
	w = w.grow(ids)
	w.touched = nil
	return w
}

// family is what the containers of a service have in common that follow each other: their name, where they
// are of no compose project.
func (c *container) family() string {
	if c.service != "" {
		return c.project + "/" + c.service
	}
	return "/" + c.name
}

// An age is a family's.
type age struct {
	since time.Time // when its oldest container was made, by the engine's clock
	seen  time.Time // when it last had a container, by ours
}

// ageless is how long a family that has nobody left keeps its age.
const ageless = time.Hour

// grow notes the ages of families.
func (w world) grow(ids []string) world {
	cloned := false
	for _, id := range ids {
		c := w.containers[id]
		if c == nil || c.created.IsZero() || c.gone {
			continue
		}
		a, ok := w.ages[c.family()]
		if ok && !c.created.Before(a.since) {
			continue
		}
		if !cloned {
			if w.ages = maps.Clone(w.ages); w.ages == nil {
				w.ages = make(map[string]age)
			}
			cloned = true
		}
		a.since = c.created
		if a.seen = c.asked; c.heard.After(a.seen) {
			a.seen = c.heard
		}
		w.ages[c.family()] = a
	}
	return w
}

// forgetFamilies is the world at the time of a list, without the ages of families that have long had nobody.
func (w world) forgetFamilies(now time.Time) world {
	kept := make(map[string]age, len(w.ages))
	for f, a := range w.ages {
		if now.Sub(a.seen) < ageless {
			kept[f] = a
		}
	}
	for _, c := range w.containers {
		if a, ok := w.ages[c.family()]; ok && !c.gone {
			kept[c.family()] = age{a.since, now}
		}
	}
	w.ages = kept
	return w
}

// age is how old the oldest family is of some containers.
func (w world) age(cs []*container) (oldest time.Time) {
	for _, c := range cs {
		oldest = earliest(oldest, cmp.Or(w.ages[c.family()].since, c.created))
	}
	return oldest
}

// complete reports whether all that concerns us was asked for at least once.
func (w world) complete() bool {
	for _, c := range w.containers {
		if !c.known && !c.gone && c.failed == nil && w.concerns(c) {
			return false
		}
	}
	return w.listed
}

// with is w with one container replaced.
func (w world) with(c *container) world {
	w.containers = maps.Clone(w.containers)
	if w.containers == nil {
		w.containers = make(map[string]*container)
	}
	w.containers[c.id] = c
	w.touched = append(slices.Clip(w.touched), c.id)
	w.due = earliest(w.due, c.due())
	return w
}

// concerns reports whether a container has to be inspected. Those of other projects are judged by
// their labels alone, unless their environment may choose them.
func (w world) concerns(c *container) bool {
	if c.id == w.self.id || w.inScope(c) || w.everywhere() {
		return true
	}
	if home := w.home(); !w.self.sure && home != nil && (c.sharesWith() == home.id || c.mode == "" && !c.known) {
		return true // it may be the own one. Podman's list does not tell who uses whose network.
	}
	for _, other := range w.containers {
		if other.sharesWith() == c.id {
			return true
		}
	}
	return false
}

// inScope reports whether a container is of the project that is looked at.
func (w world) inScope(c *container) bool {
	p := w.scope()
	return p == "*" || c.project == p
}

// scope is the project that is looked at, "*" for all.
func (w world) scope() string {
	if w.project != "" {
		return w.project
	}
	if own := w.ownProject(); own != "" {
		return own
	}
	return "*"
}

func (w world) ownProject() string {
	if c := w.containers[w.self.id]; c != nil {
		return c.project
	}
	return ""
}

// networked is the container whose networks one has: most have their own. The other may not be known.
func (w world) networked(c *container) *container {
	if id := c.sharesWith(); id != "" {
		return w.containers[id]
	}
	return c
}

// home is the container whose networks the proxy has, nil on a host.
func (w world) home() *container {
	c := w.containers[w.self.id]
	if c == nil {
		return nil
	}
	return cmp.Or(w.networked(c), c)
}

// sharesWith is the ID of the container whose network this one uses.
func (c *container) sharesWith() string {
	id, _ := strings.CutPrefix(c.mode, "container:")
	if id == c.mode {
		return ""
	}
	return id
}
