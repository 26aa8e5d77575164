// Package rig puts the real parts together on one machine: canaryd, Envoy, Prometheus, a small
// service in several versions and a steady load. The demo, the end-to-end tests and the benchmarks
// are built from it. Everything listens on loopback.
package rig

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is a running child with its output in a file.
type Process struct {
	Name string
	Log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// Start runs a program; its output goes to <dir>/<name>.log.
func Start(dir, name, bin string, args ...string) (*Process, error) {
	return startWith(nil, dir, name, bin, args...)
}

// startWith is Start with more in the environment.
func startWith(env []string, dir, name, bin string, args ...string) (*Process, error) {
	log := filepath.Join(dir, name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	cmd := exec.Command(bin, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = dir, f, f, append(os.Environ(), env...)
	cmd.SysProcAttr = diesWithParent() // none outlives the test
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, Log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended shows in its log
		_ = f.Close()
		close(p.done)
	}()
	return p, nil
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed when the process is gone.
func (p *Process) Ended() <-chan struct{} { return p.done }

// Kill ends the process at once.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Stop asks it to end, and kills it after five seconds.
func (p *Process) Stop() { p.end(syscall.SIGTERM) }

func (p *Process) end(s os.Signal) {
	if p == nil {
		return
	}
	_ = p.Signal(s) // it may be gone already
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.Signal(syscall.SIGKILL)
		<-p.done
	}
}

// Tail is the end of the log, for error messages.
func (p *Process) Tail() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// The ports that FreeAddress gives out lie below those that the kernel gives to connections and to
// listeners on port 0: nobody takes one by chance before its program listens there.
const firstPort, ports = 20000, 10000

var given struct {
	sync.Mutex
	next  int
	marks []net.Listener
}

// FreeAddress returns a free loopback address that no other call gets, here or in another process, as
// long as this process lives: its mark is a socket in the kernel's abstract name space, which ends with it.
func FreeAddress() string {
	given.Lock()
	defer given.Unlock()
	if given.next == 0 {
		given.next = rand.IntN(ports)
	}
	for range ports {
		given.next++
		port := firstPort + given.next%ports
		mark, err := net.Listen("unix", fmt.Sprintf("@canaryd-rig-%d", port))
		if err != nil {
			continue // given already
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			_ = mark.Close() // a stranger's port is his own matter
			continue
		}
		_ = l.Close() // nothing was accepted
		given.marks = append(given.marks, mark)
		return l.Addr().String()
	}
	panic("no loopback port is free") // such a machine cannot run anything here
}

// WaitFor polls until f is true.
func WaitFor(ctx context.Context, most time.Duration, what string, f func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		if f() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("timed out after %s waiting for %s", most, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Answers reports whether a GET of the URL gives 200.
func Answers(url string) bool {
	c := http.Client{Timeout: 5 * time.Second}
	resp, err := c.Get(url)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusOK
}
