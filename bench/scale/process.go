package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// raiseFiles allows as many open files as the machine does.
func raiseFiles() uint64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 1024
	}
	l.Cur = l.Max
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l) // as it is, else
	return l.Cur
}

// resident is the memory of a process, in bytes.
func resident(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status says nothing of VmRSS", pid)
}

// worked is the time that a process has spent on the cores.
func worked(pid int) (time.Duration, error) { return workedBy(fmt.Sprintf("/proc/%d/stat", pid)) }

// workedBy is that of a process or a thread, by the file that says it.
func workedBy(stat string) (time.Duration, error) {
	b, err := os.ReadFile(stat)
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("%s is short", stat)
	}
	user, err := strconv.Atoi(f[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(f[12])
	return time.Duration(user+system) * time.Second / 100, err // USER_HZ is 100 on every Linux that Go runs on
}

// busyShare is the share of a core that a process takes over some time.
func busyShare(pid int, over time.Duration) (float64, error) {
	before, err := worked(pid)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	time.Sleep(over)
	after, err := worked(pid)
	return float64(after-before) / float64(time.Since(begin)), err
}

// memory is what this process needs, garbage apart: heap and stacks in use, and resident.
type memory struct{ used, resident float64 }

func memoryNow() memory {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	rss, _ := resident(os.Getpid()) // 0 where there is no /proc: shown as it is
	return memory{float64(m.HeapAlloc + m.StackInuse), rss}
}

func (m memory) since(o memory) memory { return memory{m.used - o.used, m.resident - o.resident} }

// load is how busy the machine is: processes that want a core, over the last minute.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	return strings.Fields(string(b))[0]
}
