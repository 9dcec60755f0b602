package main

import (
	"fmt"
	"syscall"

	"longshore/internal/config"
)

// spareFiles is how many descriptors are left for what is not a client and its backend: listeners, the admin
// listener's clients, Docker, health checks, pipes.
const spareFiles = 64

// maxClients is how many connections clients may have: each may need one to a backend as well. warning says that
// the user wants more than there can be.
func maxClients(cfg config.Config, files int) (n int, warning string) {
	n = max((files-spareFiles)/2, files/4, 1)
	switch want := cfg.MaxClients; {
	case want > n:
		warning = fmt.Sprintf("LONGSHORE_MAX_CLIENTS=%d: the process may open %d files (ulimit -n), which is enough for %d", want, files, n)
	case want > 0:
		n = want
	}
	return n, warning
}

// maxFiles is how many files the process may open. The Go runtime has raised that to the hard limit at the start.
func maxFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(uint64(limit.Cur), 1<<30))
}
