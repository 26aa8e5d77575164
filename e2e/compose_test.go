package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
)

// world is docker-compose.e2e.yml on the machine's Docker daemon.
type world struct {
	t   *testing.T
	env []string
}

// try runs docker-compose and returns its exit code.
func (w *world) try(args ...string) (string, int) {
	w.t.Helper()
	cmd := exec.Command(part(w.t, "docker-compose"), append([]string{"-p", "canaryd-world", "-f", "docker-compose.e2e.yml", "--profile", "later"}, args...)...)
	cmd.Dir, cmd.Env = "..", w.env
	out, err := cmd.CombinedOutput()
	if _, ended := err.(*exec.ExitError); err != nil && !ended {
		w.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (w *world) run(want int, args ...string) string {
	w.t.Helper()
	out, code := w.try(args...)
	if code != want {
		w.t.Fatalf("docker-compose %s: exit %d, want %d\n%s", strings.Join(args, " "), code, want, out)
	}
	return out
}

// canaryd runs a client verb in canaryd's own container.
func (w *world) canaryd(want int, args ...string) string {
	w.t.Helper()
	return w.run(want, append([]string{"exec", "-T", "canaryd", "/canaryd"}, args...)...)
}

func (w *world) down() {
	here := []string{systemDocker}
	w.run(0, "stop", "-t", "5", "canaryd") // while it lives, its containers live
	if ids := docker(w.t, here, nil, "ps", "-aq", "--filter", "label=canaryd.managed=true", "--filter", "label=canaryd.service=shop"); ids != "" {
		docker(w.t, here, nil, append([]string{"rm", "-f"}, strings.Fields(ids)...)...)
	}
	w.run(0, "down", "-v", "-t", "2")
}

// Only here canaryd runs in a container itself, beside Envoy and Prometheus in theirs: the whole world on real Docker, as a
// user runs it: a version by name, one found by its labels, one that fails, one that canaryd starts; evidence from
// Prometheus; every request of a steady load accounted for.
func TestComposeWorld(t *testing.T) {
	t.Parallel()
	build := exec.Command("../e2e/images.sh")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	bootstrap, err := exec.Command(part(t, "canaryd"), "bootstrap", "--xds", "canaryd:18000", "--admin", "0.0.0.0:9901", "--node-id", "envoy-1").Output()
	if file, readErr := os.ReadFile("compose/envoy.yaml"); err != nil || readErr != nil || string(file) != string(bootstrap) {
		t.Errorf("e2e/compose/envoy.yaml is not what `canaryd bootstrap` prints: %v %v", err, readErr)
	}
	port := func() string { _, p, _ := net.SplitHostPort(rig.FreeAddress()); return p }
	front := port()
	info, err := os.Stat("/var/run/docker.sock")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, env: append(os.Environ(), "FRONT_PORT="+front, "CANARYD_PORT="+port(), "PROMETHEUS_PORT="+port(), "DOCKER_GID="+strconv.Itoa(groupOf(info)))}
	w.down() // what a killed test left
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := w.try("logs", "--no-color", "--tail", "30", "canaryd", "envoy", "load")
			t.Log(out)
		}
		w.down()
	})
	began := time.Now()
	w.run(0, "up", "-d", "canaryd", "envoy", "prometheus", "v1", "load")
	if err := rig.WaitFor(t.Context(), patience*60*time.Second, "v1 to answer", func() bool { return rig.Answers("http://127.0.0.1:" + front + "/") }); err != nil {
		t.Fatal(err)
	}
	t.Logf("the world answers after %s", time.Since(began).Round(100*time.Millisecond))
	w.unprivileged()

	began = time.Now()
	w.run(0, "up", "-d", "v2")
	w.appears("v2")
	w.canaryd(0, "wait", "shop", "v2", "--timeout", "5m")
	t.Logf("v2, found by its labels, at 100 %% after %s", time.Since(began).Round(100*time.Millisecond))
	w.run(0, "up", "-d", "v3")
	w.appears("v3")
	out := w.canaryd(10, "wait", "shop", "v3", "--timeout", "5m")
	t.Log(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:])
	out = w.canaryd(0, "deploy", "shop", "--image", "v4", "--wait", "--timeout", "5m")
	t.Log(out)
	w.run(0, "stop", "-t", "5", "load")
	sent := w.run(0, "logs", "--no-color", "load")
	t.Log(sent)
	// 500 is v3's own answer; 503 would be Envoy's, and a broken connection anybody's.
	m := regexp.MustCompile(`(\d+) requests, (\d+) failed, codes map\[200:\d+ 500:(\d+)\], broken 0 `).FindStringSubmatch(sent)
	if m == nil || m[2] != m[3] {
		t.Fatalf("requests failed that v3 did not fail: %q", sent)
	}
	if failed, _ := strconv.Atoi(m[2]); failed > 1000 { // of 10 a second or so
		t.Errorf("v3 failed %d requests before it was cut", failed)
	}
	if code, body := get(t, "http://127.0.0.1:"+front+"/"); code != 200 || strings.TrimSpace(body) != "v4" {
		t.Errorf("after all that the service answers %d %q", code, body)
	}
}

func (w *world) appears(version string) {
	w.t.Helper()
	if err := rig.WaitFor(w.t.Context(), patience*30*time.Second, version+" to be found", func() bool {
		return strings.Contains(w.canaryd(0, "status", "shop"), version)
	}); err != nil {
		w.t.Fatal(err)
	}
}

// unprivileged checks that canaryd runs as nobody, on a file system that it cannot write.
func (w *world) unprivileged() {
	w.t.Helper()
	id := strings.TrimSpace(w.run(0, "ps", "-q", "canaryd"))
	got := docker(w.t, []string{systemDocker}, nil, "inspect", "-f", "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}", id)
	if got != "65532:65532 true [ALL]" {
		w.t.Errorf("canaryd runs as %s", got)
	}
	pid := docker(w.t, []string{systemDocker}, nil, "inspect", "-f", "{{.State.Pid}}", id)
	status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil || !strings.Contains(string(status), "Uid:\t65532") {
		w.t.Errorf("%v: %s", err, status)
	}
}

func groupOf(info os.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Gid)
	}
	return 0
}
