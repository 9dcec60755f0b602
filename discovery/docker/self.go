package docker

import (
	"os"
	"regexp"
	"slices"
	"strings"

	api "github.com/docker/docker/api/types/container"
)

// Traces are what this process can see of the container that it runs in. The IDs are candidates: the
// engine's list confirms them, or none of them when the process runs on a host or under another engine.
//
// A container that uses the network of another one (network_mode: service:web) has the hostname of that one,
// and its files in /etc. Only the cgroup and the layer are a container's own, and each may be hidden: the
// cgroup in a namespace of its own, the layer by the storage driver.
type traces struct {
	mounts   []string // IDs in the paths that /etc/hostname and its like are mounted from
	cgroup   []string // IDs in the path of the cgroup
	hostname string   // where it looks like an ID, perhaps a short one; else empty
	layer    string   // the upper directory of the root's overlay; empty: unknown
	command  []string // and arguments
}

// readTraces reads /proc.
func readTraces() traces {
	mountinfo, _ := os.ReadFile("/proc/self/mountinfo")
	cgroup, _ := os.ReadFile("/proc/self/cgroup")
	hostname, _ := os.Hostname()
	t := tracesIn(string(mountinfo), string(cgroup), hostname)
	t.command = os.Args
	return t
}

var (
	// Docker bind-mounts files of the container's own folder. Only behind "containers/": the hashes
	// of overlay2's layers are 64 hexadecimal digits too. Podman's folder is overlay-containers.
	inMountRoot = regexp.MustCompile(`containers/([0-9a-f]{64})/`)
	inCgroup    = regexp.MustCompile(`[/-]([0-9a-f]{64})(?:\.scope)?(?:/|$)`)
	asHostname  = regexp.MustCompile(`^[0-9a-f]{12,64}$`)
	upperDir    = regexp.MustCompile(`[ ,]upperdir=([^, ]+)`)
)

// tracesIn finds traces in the contents of /proc/self/mountinfo and /proc/self/cgroup, and in the hostname.
func tracesIn(mountinfo, cgroup, hostname string) (t traces) {
	add := func(ids *[]string, id string) {
		if !slices.Contains(*ids, id) {
			*ids = append(*ids, id)
		}
	}
	for line := range strings.Lines(mountinfo) {
		// 36 35 98:0 /var/lib/docker/containers/<id>/hostname /etc/hostname rw,noatime …
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		// Not any field and not any mount: a host sees the mounts of all its containers, such as
		// /var/lib/docker/containers/<id>/mounts/shm, and so does who mounts /var/lib/docker.
		root, mountPoint := f[3], f[4]
		switch mountPoint {
		case "/":
			if m := upperDir.FindStringSubmatch(line); m != nil {
				t.layer = m[1]
			}
		case "/etc/hostname", "/etc/hosts", "/etc/resolv.conf":
			if m := inMountRoot.FindStringSubmatch(root); m != nil {
				add(&t.mounts, m[1])
			}
		}
	}
	for line := range strings.Lines(cgroup) {
		if all := inCgroup.FindAllStringSubmatch(strings.TrimSpace(line), -1); all != nil {
			add(&t.cgroup, all[len(all)-1][1]) // the innermost of nested engines
		}
	}
	if asHostname.MatchString(hostname) {
		t.hostname = hostname
	}
	return t
}

// ids are all candidates, best first: the mounts are right with a custom hostname, with host networking and
// in a cgroup namespace.
func (t traces) ids() []string {
	ids := slices.Concat(t.mounts, t.cgroup)
	if t.hostname != "" {
		ids = append(ids, t.hostname)
	}
	return ids
}

// A likeness is what a container has in common with this process, beside its ID. More counts more.
type likeness int

const (
	noLikeness likeness = iota
	sameCommand
	sameLayer
)

// compare says how like the own container an inspected one is.
func (t traces) compare(r api.InspectResponse) likeness {
	if upper := r.GraphDriver.Data["UpperDir"]; t.layer != "" && (upper == t.layer || strings.HasSuffix(upper, "/"+t.layer)) {
		return sameLayer // the path may be relative to the driver's folder
	}
	if len(t.command) > 0 && (slices.Equal(t.command, append([]string{r.Path}, r.Args...)) || slices.Equal(t.command, r.Args)) {
		return sameCommand // podman's Args begin with the Path
	}
	return noLikeness
}

// A self is which container is the proxy's own.
type self struct {
	id   string // empty: none, it runs on a host
	why  string // it is this one
	sure bool   // no answer that is still to come can show that it is another one
}

// findSelf finds the own container among those that are known. Once it is sure it stays: to lose the own
// container for a moment would move every address. Until then it is the one that the process has its network
// from, which is enough for addresses.
func (w world) findSelf() self {
	if w.self.sure && w.containers[w.self.id] != nil {
		return w.self
	}
	var found []*container
	for _, id := range w.traces.ids() {
		for _, c := range w.containers {
			if strings.HasPrefix(c.id, id) && c.mayBeSelf() && !slices.Contains(found, c) {
				found = append(found, c)
			}
		}
	}
	if len(found) == 0 {
		return self{}
	}
	is := func(c *container, sure bool, why string) self {
		if owner := w.containers[c.sharesWith()]; owner != nil {
			why += "; it uses the network of container " + owner.name + ", and so has its hostname and files in /etc"
		}
		return self{id: c.id, why: why, sure: sure}
	}
	for _, c := range found {
		if owner := w.containers[c.sharesWith()]; owner != nil && slices.Contains(found, owner) {
			return is(c, true, w.traces.leadTo(c))
		}
	}
	best, sure := found[0], true
	group := []*container{best} // who has the same network
	for _, c := range w.containers {
		if !c.mayBeSelf() {
			continue
		}
		if c.sharesWith() == best.id {
			group = append(group, c)
		}
		sure = sure && (c.known || c.mode != "")
	}
	if len(group) == 1 && sure || slices.Contains(w.traces.cgroup, best.id) {
		return is(best, true, w.traces.leadTo(best))
	}
	most, alike := noLikeness, group
	for _, c := range group {
		sure = sure && c.known
		if c.likeness > most {
			most, alike = c.likeness, nil
		}
		if c.likeness == most {
			alike = append(alike, c)
		}
	}
	if len(alike) == 1 && most == sameLayer {
		return is(alike[0], true, "its root has that container's layer")
	}
	if len(alike) == 1 && most == sameCommand {
		return is(alike[0], sure, "of those in one network it alone has the proxy's command")
	}
	why := w.traces.leadTo(best)
	if len(group) > 1 {
		why += "; it may as well be one that uses its network"
	}
	return is(best, sure, why)
}

// mayBeSelf: "created" is enough, since a process may be faster than the engine's note that it runs.
func (c *container) mayBeSelf() bool {
	return !c.gone && (c.status == "running" || c.status == "created")
}

// leadTo names what has a container's ID.
func (t traces) leadTo(c *container) string {
	var by []string
	for _, trace := range []struct {
		ids  []string
		name string
	}{{t.cgroup, "cgroup"}, {t.mounts, "mounts of /etc/hostname and its like"}} {
		if slices.Contains(trace.ids, c.id) {
			by = append(by, trace.name)
		}
	}
	if t.hostname != "" && strings.HasPrefix(c.id, t.hostname) {
		by = append(by, "hostname")
	}
	return "found by " + strings.Join(by, ", ")
}
