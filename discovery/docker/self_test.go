package docker

import (
	"slices"
	"strings"
	"testing"
)

var (
	idA = strings.Repeat("a1", 32)
	idB = strings.Repeat("b2", 32)
	idC = strings.Repeat("c3", 32)
)

func TestOwnIDs(t *testing.T) {
	// As seen on Docker Engine 20.10 with --network host --hostname custom.
	mounts := "103 49 0:39 / / rw,nodev,noatime master:2 - fuse.fuse-overlayfs fuse-overlayfs rw,lowerdir=/var/lib/docker/overlay2/" + idC + "/diff\n" +
		"117 108 0:37 /docker/" + idA + " /sys/fs/cgroup/systemd ro,nosuid - cgroup cgroup rw,name=systemd\n" +
		"130 103 254:0 /var/lib/docker/containers/" + idA + "/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda rw\n" +
		"131 103 254:0 /var/lib/docker/containers/" + idA + "/hostname /etc/hostname rw,relatime - ext4 /dev/vda rw\n"
	tests := []struct {
		name, mountinfo, cgroup, hostname string
		want                              []string
	}{
		{"container", mounts, "1:cpu:/docker/" + idA + "\n0::/docker/" + idA + "\n", "custom", []string{idA}},
		{"private cgroup namespace", mounts, "0::/\n", idA[:12], []string{idA, idA[:12]}},
		{"docker's folder is a disk of its own", "1 2 8:1 /containers/" + idA + "/hosts /etc/hosts rw - ext4 /dev/sdb rw", "", "custom", []string{idA}},
		{"podman", "1 2 0:27 /containers/overlay-containers/" + idA + "/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw", "", "custom", []string{idA}},
		{"host sees the mounts of its containers", "1 2 0:50 / /var/lib/docker/containers/" + idA + "/mounts/shm rw - tmpfs shm rw", "0::/init.scope\n", "vm", nil},
		{"docker's folder is mounted", "1 2 8:1 /var/lib/docker/containers/" + idB + "/x.log /logs/x.log ro - ext4 /dev/sda rw\n" + mounts, "", "c", []string{idA}},
		{"systemd", "", "0::/system.slice/docker-" + idA + ".scope\n", "custom", []string{idA}},
		{"docker in docker", "", "1:cpu:/docker/" + idB + "/docker/" + idA + "\n", "custom", []string{idA}},
		{"hostname", "", "0::/\n", idA[:12], []string{idA[:12]}},
		{"host", "22 27 0:21 / /proc rw - proc proc rw\n", "0::/\n", "deadbeef", nil},
	}
	for _, test := range tests {
		if got := idsIn(test.mountinfo, test.cgroup, test.hostname); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func FuzzSelf(f *testing.F) {
	f.Add("131 103 254:0 /var/lib/docker/containers/"+idA+"/hostname /etc/hostname rw\n", "0::/docker/"+idB, "web")
	f.Add("1 2 3 4", "::", idC[:12])
	f.Fuzz(func(t *testing.T, mountinfo, cgroup, hostname string) {
		for _, id := range idsIn(mountinfo, cgroup, hostname) {
			if len(id) < 12 || len(id) > 64 || strings.Trim(id, "0123456789abcdef") != "" {
				t.Errorf("%q is no ID", id)
			}
			if !strings.Contains(mountinfo+cgroup+hostname, id) {
				t.Errorf("%q was invented", id)
			}
		}
	})
}
