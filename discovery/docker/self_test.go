package docker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
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
		if got := slices.Compact(tracesIn(test.mountinfo, test.cgroup, test.hostname).ids()); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func FuzzSelf(f *testing.F) {
	f.Add("131 103 254:0 /var/lib/docker/containers/"+idA+"/hostname /etc/hostname rw\n", "0::/docker/"+idB, "web")
	f.Add("1 2 3 4", "::", idC[:12])
	f.Fuzz(func(t *testing.T, mountinfo, cgroup, hostname string) {
		for _, id := range tracesIn(mountinfo, cgroup, hostname).ids() {
			if len(id) < 12 || len(id) > 64 || strings.Trim(id, "0123456789abcdef") != "" {
				t.Errorf("%q is no ID", id)
			}
			if !strings.Contains(mountinfo+cgroup+hostname, id) {
				t.Errorf("%q was invented", id)
			}
		}
	})
}

// Whose network is whose decides which of several candidates is the own container.
func TestFindSelf(t *testing.T) {
	id := func(n int) string { return fmt.Sprintf("%064x", 0xabc000+n) } // of the nth container that was made
	const web, proxy = 1, 2
	tests := []struct {
		name   string
		traces traces
		change func(m *model)
		want   string // container, then why
	}{
		{"own network", traces{mounts: []string{id(web)}}, func(m *model) { m.boxes["other-proxy-1"].mode = "" },
			"demo-web-1 found by mounts of /etc/hostname and its like"},
		{"cgroup", traces{mounts: []string{id(web)}, cgroup: []string{id(proxy)}, hostname: id(web)}, nil,
			"other-proxy-1 found by cgroup; it uses the network of container demo-web-1, and so has its hostname and files in /etc"},
		{"cgroup, nothing mounted", traces{cgroup: []string{id(proxy)}, hostname: id(web)}, nil,
			"other-proxy-1 found by cgroup; it uses the network of container demo-web-1, and so has its hostname and files in /etc"},
		{"cgroup of who lends the network", traces{mounts: []string{id(web)}, cgroup: []string{id(web)}, command: []string{"/proxy"}}, nil,
			"demo-web-1 found by cgroup, mounts of /etc/hostname and its like"},
		{"layer", traces{mounts: []string{id(web)}, layer: "/var/lib/docker/overlay2/other-proxy-1/diff"}, nil,
			"other-proxy-1 its root has that container's layer; it uses the network of container demo-web-1, and so has its hostname and files in /etc"},
		{"relative layer", traces{hostname: id(web), layer: "other-proxy-1/diff"}, nil,
			"other-proxy-1 its root has that container's layer; it uses the network of container demo-web-1, and so has its hostname and files in /etc"},
		{"layer of who lends the network", traces{mounts: []string{id(web)}, layer: "demo-web-1/diff"}, nil,
			"demo-web-1 its root has that container's layer"},
		{"command", traces{mounts: []string{id(web)}, command: []string{"/other-proxy-1", "serve"}}, nil,
			"other-proxy-1 of those in one network it alone has the proxy's command; it uses the network of container demo-web-1, and so has its hostname and files in /etc"},
		{"command of several", traces{mounts: []string{id(web)}, command: []string{"/other-proxy-1", "serve"}}, func(m *model) { m.boxes["demo-web-1"].name = "other-proxy-1" },
			"other-proxy-1 found by mounts of /etc/hostname and its like; it may as well be one that uses its network"},
		{"nothing", traces{mounts: []string{id(web)}}, nil,
			"demo-web-1 found by mounts of /etc/hostname and its like; it may as well be one that uses its network"},
		{"one that does not run", traces{mounts: []string{id(web)}}, func(m *model) { m.do("exit other-proxy-1 0") },
			"demo-web-1 found by mounts of /etc/hostname and its like"},
		{"another engine's", traces{mounts: []string{idA}, cgroup: []string{idB}, hostname: "deadbeef0123"}, nil, ""},
	}
	for _, test := range tests {
		m := newModel()
		m.service("web-1")
		m.create("other-proxy-1", projectLabel+"=other", serviceLabel+"=proxy").mode = "container:" + id(web)
		m.service("db-1")
		for _, name := range []string{"demo-web-1", "other-proxy-1", "demo-db-1"} {
			m.do("start " + name)
		}
		if test.change != nil {
			test.change(m)
		}
		v := upstream(t, "web")
		v.traces = test.traces
		d := drive(t, m, world{view: v})
		got := ""
		c := d.w.containers[d.w.self.id]
		if c != nil {
			got = c.name + " " + d.w.self.why
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
		if lends := d.w.self.id == id(web); c != nil && lends == strings.Contains(test.want, "; it uses") {
			t.Errorf("%s: own container %s", test.name, d.w.self.id)
		}
		if test.want != "" && !d.w.self.sure {
			t.Errorf("%s: not sure, although all have answered", test.name)
		}
	}
}

// Podman's list does not say whose network a container uses: who is what is known when all have answered.
func TestFindSelfPodman(t *testing.T) {
	m := newModel()
	owner := m.service("web-1")
	m.create("other-proxy-1", projectLabel+"=other", serviceLabel+"=proxy").mode = "container:" + owner.id
	m.do("start demo-web-1")
	m.do("start other-proxy-1")
	v := upstream(t, "web")
	v.traces = traces{mounts: []string{owner.id}, command: []string{"/other-proxy-1", "serve"}}
	d := &driver{model: m, t: t, w: world{view: v}, due: make(todo)}
	all := m.list()
	for i := range all {
		all[i].HostConfig.NetworkMode = ""
	}
	m.take()
	d.hear(func(w world) (world, todo) { return w.list(listing{asked: m.now, all: all}) })
	if d.w.self.sure || d.w.complete() {
		t.Errorf("after the list: sure %v, complete %v", d.w.self.sure, d.w.complete())
	}
	d.answer()
	if got := d.w.containers[d.w.self.id].name; got != "other-proxy-1" || !d.w.self.sure || !d.w.complete() {
		t.Errorf("after the answers: own container %s, sure %v, complete %v", got, d.w.self.sure, d.w.complete())
	}
}

// A proxy in the network of a container of another project looks at its own project, and reaches what is in its
// own network by the loopback.
func TestNetworkOfAnother(t *testing.T) {
	m := newModel()
	vpn := m.create("vpn", projectLabel+"=lan", serviceLabel+"=vpn").on("demo_default")
	proxy := m.service("proxy-1")
	proxy.mode, proxy.nets = "container:"+vpn.id, map[string]string{}
	m.service("web-1")
	side := m.service("web-2")
	side.mode, side.nets = proxy.mode, map[string]string{}
	for _, name := range []string{"vpn", "demo-proxy-1", "demo-web-1", "demo-web-2"} {
		m.do("start " + name)
	}
	v := upstream(t, "web")
	v.traces = traces{mounts: []string{vpn.id}, command: []string{"/demo-proxy-1", "serve"}}
	d := drive(t, m, world{view: v})
	const want = "web /\n  web-1 172.18.0.4:80 #1\n  web-2 127.0.0.1:80 #1\n"
	if got := see(d.w); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	d.play("destroy demo-web-1", "exit demo-web-2 0", "start demo-web-2")
	d.relist(time.Hour)
	d.answer()
	if got := d.w.containers[d.w.self.id].name; got != "demo-proxy-1" {
		t.Errorf("own container after another list: %s", got)
	}
}
