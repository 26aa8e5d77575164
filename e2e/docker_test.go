package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

// docker runs the Docker client against the daemon that `make e2e` has seen to.
func docker(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command(part(t, "docker"), args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// yard is a registry with images of the test service, and a canaryd that may start them behind an Envoy.
type yard struct {
	*scene
	registry string
	binary   []byte // a tar of the service
}

func newYard(t *testing.T, tags, policy string) *yard {
	t.Helper()
	y := &yard{binary: serviceTar(t)}
	y.registry = rig.FreeAddress()
	s := &scene{t: t, front: rig.FreeAddress(), versions: map[string]*rig.Service{}}
	y.scene = s
	// One name per test: what an earlier run left behind must not be found.
	text := fmt.Sprintf("service: %s\nroute: {listener: %q}\ndocker: {image: %q, port: 8080, start_within: 5s, tags: %q}\n%s", y.service(), s.front, y.registry+"/shop", tags, policy)
	var err error
	s.Stage, err = rig.NewStage(t.TempDir(), part(t, "canaryd"), "docker: {host: \"unix:///var/run/docker.sock\", hook_token: s3cret}\n", map[string]string{"shop.yml": text})
	if err != nil {
		t.Fatal(err)
	}
	startRegistry(t, y.registry, "http://"+s.Web+"/api/v1/hooks/registry")
	s.Envoy = part(t, "envoy-newest")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("canaryd's log ends:\n%s", s.Daemon().Tail())
		}
		s.Close()
		for _, id := range strings.Fields(docker(t, nil, "ps", "-aq", "--filter", "label=canaryd.service="+y.service())) {
			docker(t, nil, "rm", "-f", id)
		}
	})
	if err := s.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, s.admin, err = s.StartEnvoy(t.Context(), "edge-1", "edge", nil); err != nil {
		t.Fatal(err)
	}
	return y
}

func (y *yard) service() string { return "yard" }

// push makes an image of the service with an environment, and leaves it in the registry only.
func (y *yard) push(t *testing.T, tag string, env ...string) {
	t.Helper()
	ref := y.registry + "/shop:" + tag
	args := []string{"import", "--change", "ENTRYPOINT [\"/service\"]", "--change", "ENV VERSION=" + tag}
	for _, e := range env {
		args = append(args, "--change", "ENV "+e)
	}
	docker(t, y.binary, append(args, "-", ref)...)
	docker(t, nil, "push", "-q", ref)
	docker(t, nil, "rmi", "-f", ref) // by force: the hook may be quicker
}

func (y *yard) running(t *testing.T, version string) []string {
	t.Helper()
	return strings.Fields(docker(t, nil, "ps", "-q", "--filter", "label=canaryd.service="+y.service(), "--filter", "label=canaryd.version="+version))
}

// startRegistry runs a real registry that tells of every push.
func startRegistry(t *testing.T, addr, hook string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n"+
		"notifications: {endpoints: [{name: canaryd, url: %q, headers: {Authorization: [Bearer s3cret]}, timeout: 2s, threshold: 3, backoff: 1s}]}\n", dir, addr, hook)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := rig.Start(dir, "registry", part(t, "docker-registry"), "serve", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if err := rig.WaitFor(t.Context(), 10*time.Second, "the registry", func() bool { return rig.Answers("http://" + addr + "/v2/") }); err != nil {
		t.Fatal(err)
	}
}

// serviceTar is a file system with the service in it and nothing else.
func serviceTar(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", filepath.Join(dir, "service"), "./service")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command("tar", "-C", dir, "-c", "service").Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const yardRamp = "ramp: {steps: [10%, 100%], hold: 2s}\njudge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 2%}}\nafter_promotion: {watch: 1s}\nsessions: {cookie: sess, ttl: 3s}\n"

// From a tag in a registry to 100 %, and the old container is gone; then a bad tag is cut, its container
// stopped, and its last words stand in the history. No user sees an error of canaryd's making.
func TestFromATagToProduction(t *testing.T) {
	y := newYard(t, "", yardRamp)
	y.push(t, "v1")
	y.push(t, "v2")
	y.push(t, "v3", "FAIL=1")
	y.run(0, "deploy", "yard", "--image", "v1", "--wait", "--timeout", "60s")
	y.until(10*time.Second, "v1 to answer", func() bool { return rig.Answers("http://" + y.front + "/") })
	l := y.load(300)
	began := time.Now()
	y.run(0, "deploy", "yard", "--image", y.registry+"/shop:v2", "--wait", "--timeout", "90s")
	t.Logf("from the tag to 100 %% in %s", time.Since(began).Round(100*time.Millisecond))
	y.until(30*time.Second, "the old container to be gone", func() bool { return len(y.running(t, "v1")) == 0 })
	sent := l.Stop()
	t.Log(sent)
	if sent.Failed > 0 {
		t.Errorf("users saw %d errors", sent.Failed)
	}
	if n := len(y.running(t, "v2")); n != 1 {
		t.Errorf("%d containers of v2", n)
	}
	y.load(300)
	y.run(10, "deploy", "yard", "--image", "v3", "--wait", "--timeout", "60s")
	y.until(30*time.Second, "the failed container to be gone", func() bool { return len(y.running(t, "v3")) == 0 })
	h := y.run(0, "history", "yard")
	for _, want := range []string{"launched", "runs at", "rolled_back", "stopped", "service v3 begins"} {
		if !strings.Contains(h, want) {
			t.Errorf("the history lacks %q:\n%s", want, h)
		}
	}
	if code, body := get(t, "http://"+y.front+"/"); code != http.StatusOK || strings.TrimSpace(body) != "v2" {
		t.Errorf("after all that the service answers %d %q", code, body)
	}
}

// The founding story, with nobody there: a tag lands in the registry, its hook deploys it, steps [10%, 100%] by users, it
// is promoted, the old container drains, retires and is stopped; then a bad tag is cut and stopped. Users of
// stable who hold its cookies see no error.
func TestTheFoundingStoryUnattended(t *testing.T) {
	y := newYard(t, `^v\d+$`, "ramp: {steps: [10%, 100%], hold: 2s, per: user}\njudge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 2%}}\nafter_promotion: {watch: 1s}\nsessions: {cookie: sess, ttl: 3s}\n")
	y.push(t, "v1")
	y.until(30*time.Second, "v1 to be deployed by its push", func() bool { return rig.Answers("http://" + y.front + "/") })
	y.push(t, "latest") // docker.tags does not want it
	holders := newCrowd(y.scene, 200, "holder")
	holders.visit(t, nil)
	l := y.load(300)
	began := time.Now()
	y.push(t, "v2")
	y.until(60*time.Second, "v2 to be promoted", func() bool { return y.Version("yard", "v2").Phase == rollout.Stable })
	t.Logf("from the push to 100 %% in %s", time.Since(began).Round(100*time.Millisecond))
	holders.visit(t, nil)
	y.until(30*time.Second, "v1 to be retired and its container gone", func() bool {
		return y.Version("yard", "v1").Phase == rollout.Retired && len(y.running(t, "v1")) == 0
	})
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors: %s", sent.Failed, sent)
	}
	for i := range holders.users {
		holders.users[i].cookies = map[string]string{"canaryd-user": holders.users[i].cookies["canaryd-user"]} // the sessions of v1 are over
	}
	holders.visit(t, nil) // and have begun anew on v2
	y.load(300)
	y.push(t, "v3", "FAIL=1")
	y.until(60*time.Second, "v3 to be cut and its container gone", func() bool {
		return y.Version("yard", "v3").Phase == rollout.Failed && len(y.running(t, "v3")) == 0
	})
	holders.visit(t, func(i int, _, now string) {
		if now != "v2" {
			t.Errorf("user %d is on %s", i, now)
		}
	})
	if v := y.Version("yard", "latest"); v.Version != "" {
		t.Errorf("latest was deployed: %+v", v)
	}
	h := y.run(0, "history", "yard")
	if !strings.Contains(h, "registry "+y.registry) {
		t.Errorf("the history does not name the registry:\n%s", h)
	}
}

// Containers that somebody else started are found by their labels, ramped when they run, and lose their
// traffic when they stop; canaryd never touches them.
func TestContainersOfOthersAreFound(t *testing.T) {
	y := newYard(t, "", "ramp: {steps: [20%, 100%], hold: 1h}\n")
	y.push(t, "v1")
	y.push(t, "v2")
	y.run(0, "deploy", "yard", "--image", "v1", "--wait", "--timeout", "60s")
	y.until(10*time.Second, "v1 to answer", func() bool { return rig.Answers("http://" + y.front + "/") })
	l := y.load(100)
	docker(t, nil, "pull", "-q", y.registry+"/shop:v2")
	id := docker(t, nil, "run", "-d", "--label", "canaryd.service=yard", "--label", "canaryd.version=v2", "--label", "canaryd.port=8080", y.registry+"/shop:v2")
	y.until(20*time.Second, "v2 to be ramped", func() bool { v := y.Version("yard", "v2"); return v.InForce && v.Weight == 0.2 })
	y.run(0, "abort", "yard", "v2")
	y.until(10*time.Second, "the cut in force", func() bool { return y.Version("yard", "v1").InForce })
	time.Sleep(3 * time.Second)
	if out := docker(t, nil, "inspect", "-f", "{{.State.Status}}", id); out != "running" {
		t.Errorf("a container that is not canaryd's is %s after its version was aborted", out)
	}
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors", sent.Failed)
	}
	if h := y.run(0, "history", "yard"); !strings.Contains(h, "docker labels") {
		t.Errorf("the history does not say who found it:\n%s", h)
	}
}

// Images that cannot run are a failed version with a reason, and the traffic is untouched.
func TestImagesThatCannotRun(t *testing.T) {
	y := newYard(t, "", yardRamp)
	y.push(t, "v1")
	y.push(t, "exits", "EXIT=3")
	y.push(t, "deaf", "PORT=9999")
	y.push(t, "taken")
	y.run(0, "deploy", "yard", "--image", "v1", "--wait", "--timeout", "60s")
	y.until(10*time.Second, "v1 to answer", func() bool { return rig.Answers("http://" + y.front + "/") })
	l := y.load(200)
	docker(t, nil, "create", "--name", "canaryd-yard-taken-1-0", y.registry+"/shop:v1")
	t.Cleanup(func() { docker(t, nil, "rm", "-f", "canaryd-yard-taken-1-0") })
	for tag, want := range map[string]string{
		"nosuch": "cannot be pulled",
		"exits":  "database password missing",
		"deaf":   "nothing answers at",
		"taken":  "exists already and is not canaryd's",
	} {
		t.Run(tag, func(t *testing.T) {
			y.run(10, "deploy", "yard", "--image", tag, "--wait", "--timeout", "60s")
			if v := y.Version("yard", tag); v.Phase != rollout.Failed || v.Weight != 0 || !strings.Contains(v.Verdict.Reason, want) {
				t.Errorf("%s at %g: %+v, want %q", v.Phase, v.Weight, v.Verdict, want)
			}
			y.until(30*time.Second, "its container to be gone", func() bool { return len(y.running(t, tag)) == 0 })
		})
	}
	y.run(1, "deploy", "yard", "v1", "--image", "other") // v1 is another image
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors", sent.Failed)
	}
	if out := docker(t, nil, "inspect", "-f", "{{.State.Status}}", "canaryd-yard-taken-1-0"); out != "created" {
		t.Errorf("a container that is not canaryd's is %s now", out)
	}
}

// canaryd killed in every phase and started again: nothing is orphaned, nothing runs twice.
func TestKilledInEveryPhase(t *testing.T) {
	y := newYard(t, "", yardRamp)
	y.push(t, "v1")
	y.push(t, "v2")
	y.run(0, "deploy", "yard", "--image", "v1", "--wait", "--timeout", "60s")
	y.until(10*time.Second, "v1 to answer", func() bool { return rig.Answers("http://" + y.front + "/") })
	l := y.load(300)
	y.run(0, "deploy", "yard", "--image", "v2")
	for i := range 8 {
		time.Sleep(time.Duration(100+i*300) * time.Millisecond)
		if err := y.Daemon().Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-y.Daemon().Ended()
		if err := y.StartDaemon(context.WithoutCancel(t.Context())); err != nil {
			t.Fatal(err)
		}
		if n := len(y.running(t, "v1")) + len(y.running(t, "v2")); n > 2 {
			t.Errorf("kill %d: %d containers", i, n)
		}
	}
	y.run(0, "wait", "yard", "v2", "--timeout", "90s")
	y.until(30*time.Second, "v1's container to be gone", func() bool { return len(y.running(t, "v1")) == 0 })
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors: %s", sent.Failed, sent)
	}
	if n := len(y.running(t, "v2")); n != 1 {
		t.Errorf("%d containers of v2", n)
	}
}
