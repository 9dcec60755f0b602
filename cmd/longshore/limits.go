package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// spareFiles is how many descriptors are left for what is not a client and its backend: listeners, the admin
// listener's clients, Docker, health checks, pipes.
const spareFiles = 64

// clientMemory is what a client is taken to need at most, besides what is buffered for it.
const clientMemory = 40 << 10

// A machine is what the process may use.
type machine struct {
	files   int   // descriptors
	memory  int64 // bytes
	limited bool  // the memory is that of a container, not all there is
}

// maxClients is how many connections clients may have: each may need one to a backend as well. warning says that
// the user wants more than there can be.
func (m machine) maxClients(want int) (n int, warning string) {
	n = max((m.files-spareFiles)/2, m.files/4, 1)
	switch {
	case want > n:
		warning = fmt.Sprintf("LONGSHORE_MAX_CLIENTS=%d: the process may open %d files (ulimit -n), which is enough for %d", want, m.files, n)
	case want > 0:
		n = want
	case m.limited:
		n = min(n, int(m.memory/clientMemory))
	}
	return n, warning
}

// bufferMemory is how much may be buffered.
func (m machine) bufferMemory(want int64) int64 { return cmp.Or(want, m.memory/4) }

// limitHeap has the runtime collect more often rather than let the container be killed. What is left is for the
// kernel's buffers of sockets, which count there too.
func (m machine) limitHeap() {
	if m.limited && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(m.memory / 4 * 3)
	}
}

// thisMachine finds out what it may use.
func thisMachine() machine {
	m := machine{files: maxFiles()}
	m.memory, m.limited = memoryLimit(os.DirFS("/"))
	return m
}

// memoryLimit reads how much memory the process may use: of its control groups, of either version, and theirs, or
// what there is. Within a container the group's path is that of the host, and only its root is to be seen.
func memoryLimit(root fs.FS) (least int64, limited bool) {
	read := func(name string) string {
		b, _ := fs.ReadFile(root, name)
		return strings.TrimSpace(string(b))
	}
	least = 1 << 30 // where nobody knows
	for line := range strings.Lines(read("proc/meminfo")) {
		var kB int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kB); n == 1 {
			least = kB << 10
		}
	}
	for line := range strings.Lines(read("proc/self/cgroup")) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		if part[1] != "" {
			if !slices.Contains(strings.Split(part[1], ","), "memory") {
				continue
			}
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		for group := path.Clean("/" + part[2]); ; group = path.Dir(group) {
			if n, err := strconv.ParseInt(read(path.Join(mount, group, file)), 10, 64); err == nil && n > 0 && n < least {
				least, limited = n, true
			}
			if group == "/" {
				break
			}
		}
	}
	return least, limited
}

// maxFiles is how many files the process may open. The Go runtime has raised that to the hard limit at the start.
func maxFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(uint64(limit.Cur), 1<<30))
}
