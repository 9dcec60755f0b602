package docker

import (
	"os"
	"regexp"
	"slices"
	"strings"
)

// ownIDs reads from /proc what may be the ID of the container that this process runs in, best first.
// They are candidates: the engine's list confirms one of them, or none when the process runs on a
// host or under another engine.
func ownIDs() []string {
	mountinfo, _ := os.ReadFile("/proc/self/mountinfo")
	cgroup, _ := os.ReadFile("/proc/self/cgroup")
	hostname, _ := os.Hostname()
	return idsIn(string(mountinfo), string(cgroup), hostname)
}

var (
	// Docker bind-mounts files of the container's own folder. Only behind "containers/": the hashes
	// of overlay2's layers are 64 hexadecimal digits too. Podman's folder is overlay-containers.
	inMountRoot = regexp.MustCompile(`containers/([0-9a-f]{64})/`)
	inCgroup    = regexp.MustCompile(`[/-]([0-9a-f]{64})(?:\.scope)?(?:/|$)`)
	asHostname  = regexp.MustCompile(`^[0-9a-f]{12,64}$`)
)

// idsIn finds IDs in the contents of /proc/self/mountinfo and /proc/self/cgroup, and in the hostname,
// in this order: mountinfo is right with a custom hostname, with host networking and in a private
// cgroup namespace.
func idsIn(mountinfo, cgroup, hostname string) []string {
	var ids []string
	add := func(id string) {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
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
		case "/etc/hostname", "/etc/hosts", "/etc/resolv.conf":
			if m := inMountRoot.FindStringSubmatch(root); m != nil {
				add(m[1])
			}
		}
	}
	for line := range strings.Lines(cgroup) {
		if all := inCgroup.FindAllStringSubmatch(strings.TrimSpace(line), -1); all != nil {
			add(all[len(all)-1][1]) // the innermost of nested engines
		}
	}
	if asHostname.MatchString(hostname) {
		add(hostname)
	}
	return ids
}
