package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
)

// systemDocker is the daemon that `make e2e` has seen to.
const systemDocker = "unix:///var/run/docker.sock"

// docker runs the Docker client against a daemon; more flags may follow the host.
func docker(t *testing.T, host []string, stdin []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command(part(t, "docker"), append(append([]string{"-H"}, host...), args...)...)
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
	host     []string
	registry string
	depot    *rig.Process // the registry
	binary   []byte       // a tar of the service
}

type yardSetting struct {
	tags, docker, policy string   // docker: more inside `docker: {…}`
	host                 []string // of the daemon, with flags for the docker client; empty: the system's
	tls                  string   // more inside canaryd.yml's `docker: {…}`
	users                string   // an htpasswd file: who may pull
}

func newYard(t *testing.T, set yardSetting) *yard {
	t.Helper()
	if set.host == nil {
		set.host = []string{systemDocker}
	}
	s := &scene{t: t, front: rig.FreeAddress(), versions: map[string]*rig.Service{}}
	y := &yard{scene: s, host: set.host, registry: rig.FreeAddress(), binary: serviceTar(t, 0)}
	text := fmt.Sprintf("service: %s\nroute: {listener: %q}\ndocker: {image: %q, port: 8080, start_within: 5s, tags: %q%s}\n%s", y.service(), s.front, y.registry+"/shop", set.tags, set.docker, set.policy)
	var err error
	s.Stage, err = rig.NewStage(t.TempDir(), part(t, "canaryd"), fmt.Sprintf("docker: {host: %q, hook_token: s3cret%s}\n", set.host[0], set.tls), map[string]string{"shop.yml": text})
	if err != nil {
		t.Fatal(err)
	}
	y.depot = startRegistry(t, y.registry, "http://"+s.Web+"/api/v1/hooks/registry", set.users)
	s.Envoy = part(t, "envoy-newest")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("canaryd's log ends:\n%s", s.Daemon().Tail())
		}
		s.Close()
		if set.host[0] != systemDocker {
			return // it goes with all that is in it
		}
		for _, id := range strings.Fields(y.docker("ps", "-aq", "--filter", "label=canaryd.service="+y.service())) {
			y.docker("rm", "-f", id)
		}
		images := strings.Fields(y.docker("images", "-q", y.registry+"/shop"))
		slices.Sort(images)
		for _, image := range slices.Compact(images) {
			y.docker("rmi", "-f", image)
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

func (y *yard) docker(args ...string) string { y.t.Helper(); return docker(y.t, y.host, nil, args...) }

// push makes an image of the service with some settings (as in a Dockerfile), and leaves it in the registry only.
func (y *yard) push(t *testing.T, tag string, changes ...string) {
	t.Helper()
	ref := y.registry + "/shop:" + tag
	args := []string{"import", "--change", "ENTRYPOINT [\"/service\"]", "--change", "ENV VERSION=" + tag}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	here := []string{systemDocker}
	docker(t, here, y.binary, append(args, "-", ref)...)
	docker(t, here, nil, "push", "-q", ref)
	docker(t, here, nil, "rmi", "-f", ref) // by force: the hook may be quicker
}

// first pushes v1 and makes it the stable version.
func (y *yard) first(t *testing.T) {
	t.Helper()
	y.push(t, "v1")
	y.run(0, "deploy", "yard", "--image", "v1", "--wait", "--timeout", "60s")
	y.until(10*time.Second, "v1 to answer", func() bool { return rig.Answers("http://" + y.front + "/") })
}

// running are a version's containers that run, all those that there are.
func (y *yard) running(version string) []string {
	y.t.Helper()
	return strings.Fields(y.docker("ps", "-q", "--filter", "label=canaryd.service="+y.service(), "--filter", "label=canaryd.version="+version))
}

func (y *yard) all(version string) []string {
	y.t.Helper()
	return strings.Fields(y.docker("ps", "-aq", "--filter", "label=canaryd.service="+y.service(), "--filter", "label=canaryd.version="+version))
}

// startRegistry runs a real registry that tells of every push; with users only they may pull.
func startRegistry(t *testing.T, addr, hook, users string) *rig.Process {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n"+
		"notifications: {endpoints: [{name: canaryd, url: %q, headers: {Authorization: [Bearer s3cret]}, timeout: 2s, threshold: 3, backoff: 1s}]}\n", dir, addr, hook)
	if users != "" {
		text += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}\n", users)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := rig.Start(dir, "registry", part(t, "docker-registry"), "serve", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if err := rig.WaitFor(t.Context(), 10*time.Second, "the registry", func() bool { return rig.Answers("http://" + addr + "/") }); err != nil {
		t.Fatal(err)
	}
	return p
}

// serviceTar is a file system with the service in it and as much that no compression makes smaller.
func serviceTar(t *testing.T, more int) []byte {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", filepath.Join(dir, "service"), "./service")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ballast := make([]byte, more)
	_, _ = rand.Read(ballast) // never fails
	if err := os.WriteFile(filepath.Join(dir, "ballast"), ballast, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tar", "-C", dir, "-c", "service", "ballast").Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}
