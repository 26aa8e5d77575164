package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
)

// dockerd is a Docker daemon of a test's own, which it may stop, starve and restart.
type dockerd struct {
	t    *testing.T
	dir  string
	host string
	args []string
	proc *rig.Process
}

// newDockerd prepares a daemon on a bridge of its own; start runs it. Its images are in dir/data.
func newDockerd(t *testing.T, args ...string) *dockerd {
	t.Helper()
	dir, err := os.MkdirTemp("", "dock") // short: the names of sockets may not be long
	if err != nil {
		t.Fatal(err)
	}
	d := &dockerd{t: t, dir: dir, host: "unix://" + dir + "/docker.sock"}
	n, subnet := plot()
	bridge := fmt.Sprintf("canary%d", n)
	ip(t, "link", "add", "name", bridge, "type", "bridge")
	ip(t, "addr", "add", subnet+".1/24", "dev", bridge)
	ip(t, "link", "set", bridge, "up")
	d.args = append([]string{"--host", d.host, "--data-root", dir + "/data", "--exec-root", dir + "/exec", "--pidfile", dir + "/pid",
		"--bridge", bridge, "--iptables=false", "--ip-masq=false"}, args...)
	t.Cleanup(func() {
		d.end()
		ip(t, "link", "del", bridge)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return d
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(part(t, "ip"), args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (d *dockerd) start() {
	d.t.Helper()
	var err error
	if d.proc, err = rig.Start(d.dir, "dockerd", part(d.t, "dockerd"), d.args...); err != nil {
		d.t.Fatal(err)
	}
	if err := rig.WaitFor(d.t.Context(), patience*30*time.Second, "dockerd", func() bool { return d.answers() }); err != nil {
		d.t.Fatalf("%v\n%s", err, d.proc.Tail())
	}
}

func (d *dockerd) answers() bool {
	c, err := net.Dial("unix", d.dir+"/docker.sock")
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// stop ends the daemon as its service manager would.
func (d *dockerd) stop() {
	d.t.Helper()
	if err := d.proc.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	select {
	case <-d.proc.Ended():
	case <-time.After(patience * 30 * time.Second):
		d.t.Fatal("dockerd does not end")
	}
}

// end kills the daemon and all that it started.
func (d *dockerd) end() {
	if d.proc == nil {
		return
	}
	d.proc.Kill()
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline") // a pattern that is well-formed
	for _, f := range dirs {
		line, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(line), d.dir) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(f, "/proc/%d/", &pid); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // containerd and its shims; containers end with these
		}
	}
	for range 50 { // what was mounted goes with them
		left, _ := os.ReadFile("/proc/self/mounts")
		for line := range strings.Lines(string(left)) {
			if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], d.dir) {
				_ = syscall.Unmount(f[1], syscall.MNT_DETACH)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}
