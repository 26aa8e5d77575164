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
	log := filepath.Join(dir, name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	cmd := exec.Command(bin, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // none outlives the test
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

var given sync.Map // addresses that FreeAddress returned

// FreeAddress returns a loopback address that was free a moment ago, and none twice. It lies below the ports
// that systems give to clients and to whoever asks for any: those may be taken before its user listens.
func FreeAddress() string {
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000)))
		if err != nil {
			continue
		}
		addr := l.Addr().String()
		_ = l.Close()
		if _, again := given.LoadOrStore(addr, true); !again {
			return addr
		}
	}
	panic("no loopback port is free") // nothing can run here
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
			return fmt.Errorf("waited %s in vain for %s", most, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Answers reports whether a GET of the URL gives 200.
func Answers(url string) bool {
	c := http.Client{Timeout: time.Second}
	resp, err := c.Get(url)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusOK
}
