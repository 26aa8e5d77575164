package e2e

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
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
// Several yards may stand at one daemon: each has a service, a registry and a network of its own.
type yard struct {
	*scene
	service  string
	host     []string
	registry string
	subnet   string       // the first three numbers of its network's addresses
	depot    *rig.Process // the registry
	login    string       // where `docker login` leaves what it takes to push; empty: nothing
	binary   []byte       // a tar of the service
}

type yardSetting struct {
	tags, docker, policy string   // docker: more inside `docker: {…}`
	host                 []string // of the daemon, with flags for the docker client; empty: the system's
	tls                  string   // more inside canaryd.yml's `docker: {…}`
	users                string   // an htpasswd file: who may push and pull
	login                string   // DOCKER_CONFIG of canaryd and of who pushes
	within               string   // start_within; empty: long enough for a busy machine
	apart                bool     // canaryd and each Envoy stand on the yard's network like machines of their own; the test starts the Envoys
}

func newYard(t *testing.T, set yardSetting) *yard {
	t.Helper()
	if set.host == nil {
		set.host = []string{systemDocker}
	}
	n, subnet := plot()
	s := &scene{t: t, front: rig.FreeAddress(), versions: map[string]*rig.Service{}}
	y := &yard{scene: s, service: fmt.Sprintf("yard-%d", n), host: set.host, registry: rig.FreeAddress(), subnet: subnet, login: set.login, binary: serviceTar(t, 0)}
	if set.host[0] == systemDocker { // an address that one test's container gave back is not another's
		y.docker("network", "create", "--subnet", subnet+".0/24", y.service)
		set.docker += ", network: " + y.service
	}
	listen := s.front
	if set.apart {
		listen = "0.0.0.0:8080"
	}
	text := fmt.Sprintf("service: %s\nroute: {listener: %q}\ndocker: {image: %q, port: 8080, start_within: %s, tags: %q%s}\n%s",
		y.service, listen, y.registry+"/shop", cmp.Or(set.within, "1m"), set.tags, set.docker, set.policy)
	var err error
	extra := fmt.Sprintf("docker: {host: %q, hook_token: s3cret%s}\n", set.host[0], set.tls)
	s.Stage, err = rig.NewStage(t.TempDir(), part(t, "canaryd"), extra, map[string]string{"shop.yml": text})
	if err != nil {
		t.Fatal(err)
	}
	if set.apart {
		y.moveXDS(extra)
	}
	if set.login != "" {
		s.Env = []string{"DOCKER_CONFIG=" + set.login}
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
		for _, id := range strings.Fields(y.docker("ps", "-aq", "--filter", "label=canaryd.service="+y.service)) {
			y.docker("rm", "-f", id)
		}
		images := strings.Fields(y.docker("images", "-q", y.registry+"/shop"))
		slices.Sort(images)
		for _, image := range slices.Compact(images) {
			y.docker("rmi", "-f", image)
		}
		y.docker("network", "rm", y.service)
	})
	if err := s.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if set.apart {
		return y
	}
	if _, s.admin, err = s.StartEnvoy(t.Context(), "edge-1", "edge", nil); err != nil {
		t.Fatal(err)
	}
	return y
}

// moveXDS has canaryd serve the Envoys on the yard's network, where all of its machines reach it.
func (y *yard) moveXDS(extra string) {
	y.t.Helper()
	_, port, err := net.SplitHostPort(y.XDS)
	if err != nil {
		y.t.Fatal(err)
	}
	y.XDS = y.subnet + ".1:" + port
	if err := y.WriteConfig(fmt.Sprintf("xds: {listen: %q, insecure: true}\nweb: {listen: %q}\n%s", y.XDS, y.Web, extra)); err != nil {
		y.t.Fatal(err)
	}
}

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
	if y.login != "" {
		here = append(here, "--config", y.login)
	}
	docker(t, here, y.binary, append(args, "-", ref)...)
	docker(t, here, nil, "push", "-q", ref)
	docker(t, here, nil, "rmi", "-f", ref) // by force: the hook may be quicker
}

// first pushes v1 and makes it the stable version.
func (y *yard) first(t *testing.T) {
	t.Helper()
	y.push(t, "v1")
	y.run(0, "deploy", y.service, "--image", "v1", "--wait", "--timeout", "5m")
	y.until(10*time.Second, "v1 to answer", func() bool { return rig.Answers("http://" + y.front + "/") })
}

// running are a version's containers that run, all those that there are.
func (y *yard) running(version string) []string {
	y.t.Helper()
	return strings.Fields(y.docker("ps", "-q", "--filter", "label=canaryd.service="+y.service, "--filter", "label=canaryd.version="+version))
}

func (y *yard) all(version string) []string {
	y.t.Helper()
	return strings.Fields(y.docker("ps", "-aq", "--filter", "label=canaryd.service="+y.service, "--filter", "label=canaryd.version="+version))
}

// shownNotifications are those that docs/docker.md has people write into a registry's configuration, for another address.
func shownNotifications(t *testing.T, hook string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/docker.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml registry\n(.*?)```").FindSubmatch(text)
	if m == nil || strings.Count(string(m[1]), "http://canaryd:8080/api/v1/hooks/registry") != 1 {
		t.Fatal("docs/docker.md does not show how a registry notifies canaryd")
	}
	return strings.Replace(string(m[1]), "http://canaryd:8080/api/v1/hooks/registry", hook, 1)
}

// startRegistry runs a real registry that tells of every push; with users only they may pull.
func startRegistry(t *testing.T, addr, hook, users string) *rig.Process {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", dir, addr) + shownNotifications(t, hook)
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
	if err := rig.WaitFor(t.Context(), patience*10*time.Second, "the registry", func() bool { return rig.Answers("http://" + addr + "/") }); err != nil {
		t.Fatal(err)
	}
	return p
}

// buildService builds the service of the containers, once for all tests.
var buildService = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "service")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", dir+"/service", "./service")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(dir + "/service")
})

// plot is a number that no other test on this machine has, and the begin of the addresses that go with it.
func plot() (n int, subnet string) {
	n = int(netip.MustParseAddrPort(rig.FreeAddress()).Port())
	return n, fmt.Sprintf("10.%d.%d", 200+n%10000/250, n%250)
}

// serviceTar is a file system with the service in it and as much that no compression makes smaller.
func serviceTar(t *testing.T, more int) []byte {
	t.Helper()
	binary, err := buildService()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "service"), binary, 0o755); err != nil {
		t.Fatal(err)
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
