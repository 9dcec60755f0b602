package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cpuTime adds up what a process and its descendants that live (nginx's workers) have spent on a processor.
// It is what /proc/PID/stat has as utime and stime, which come in ticks of 10 ms, to the nanosecond.
func cpuTime(pid int) (sum time.Duration, err error) {
	for _, p := range family(pid) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p))
		if err != nil {
			return 0, err
		}
		if len(threads) == 0 { // it has just ended, or the kernel keeps no such file
			ticks, err := ticksOf(p)
			if err != nil {
				return 0, err
			}
			sum += ticks
		}
		for _, file := range threads {
			stat, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // the thread has ended
			}
			if err != nil {
				return 0, err
			}
			ran, _, _ := strings.Cut(string(stat), " ")
			ns, err := strconv.ParseInt(ran, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", file, err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum, nil
}

func ticksOf(pid int) (sum time.Duration, err error) {
	stat, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	for _, f := range stat[11:13] { // utime, stime
		ticks, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on Linux
	}
	return sum, nil
}

// memoryOf adds up the resident memory of a process and its descendants, in bytes. What they share counts
// for each.
func memoryOf(pid int) (sum int64, err error) {
	for _, p := range family(pid) {
		n, err := residentOf(p)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func residentOf(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no memory", pid)
}

// statOf returns the fields of /proc/PID/stat behind the name, which may hold anything: the first is
// field 3, the state.
func statOf(pid int) ([]string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:])), nil
}

// family returns a process and all its descendants.
func family(pid int) []int {
	children := make(map[int][]int)
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if stat, err := statOf(child); err == nil {
			parent, _ := strconv.Atoi(stat[1])
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// openFiles raises the limit of open files of this process, and of those it starts, to n if it may, and
// returns what it is then.
func openFiles(n uint64) (uint64, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	if l.Max < n {
		if more := (syscall.Rlimit{Cur: n, Max: n}); syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil {
			return n, nil
		}
	}
	l.Cur = min(max(l.Cur, n), l.Max)
	return l.Cur, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}
