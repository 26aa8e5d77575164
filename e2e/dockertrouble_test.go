package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

const slowRamp = "ramp: {steps: [10%, 20%, 30%, 100%], hold: 5s}\njudge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 2%}}\nafter_promotion: {watch: 1s}\n"

// Only here Docker restarts under live containers (three steps of 5 s, so that it falls into a ramp). With live-restore
// nothing that runs is touched: the ramp goes on and no user sees an error.
func TestDockerdRestartsMidRamp(t *testing.T) {
	t.Parallel()
	d := newDockerd(t, "--live-restore")
	d.start()
	y := newYard(t, yardSetting{host: []string{d.host}, policy: slowRamp})
	y.push(t, "v2")
	y.first(t)
	l := y.load(300)
	y.run(0, "deploy", y.service, "--image", "v2")
	y.until(20*time.Second, "v2 to be ramped", func() bool { v := y.Version(y.service, "v2"); return v.Phase == rollout.Canary && v.InForce })
	d.stop()
	time.Sleep(3 * time.Second)
	if v := y.Version(y.service, "v2"); v.Phase == rollout.Failed || v.Phase == rollout.Aborted {
		t.Errorf("without the daemon v2 is %s: %+v", v.Phase, v.Verdict)
	}
	d.start()
	y.run(0, "wait", y.service, "v2", "--timeout", "5m")
	y.until(30*time.Second, "v1's container to be gone", func() bool { return len(y.all("v1")) == 0 })
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors: %s", sent.Failed, sent)
	}
	if n := len(y.running("v2")); n != 1 {
		t.Errorf("%d containers of v2", n)
	}
}

// Only here containers come back at other addresses, after their release was without evidence for a while. Without
// live-restore the daemon takes every container down and up again, perhaps at other addresses. Users see that; the release
// is not blamed for it.
func TestDockerdTakesAllContainersDown(t *testing.T) {
	t.Parallel()
	d := newDockerd(t)
	d.start()
	y := newYard(t, yardSetting{host: []string{d.host}, policy: slowRamp})
	y.push(t, "v2")
	y.first(t)
	l := y.load(300)
	y.run(0, "deploy", y.service, "--image", "v2")
	y.until(20*time.Second, "v2 to be ramped", func() bool { v := y.Version(y.service, "v2"); return v.Phase == rollout.Canary && v.InForce })
	before := y.docker("inspect", "-f", "{{.Name}} {{.NetworkSettings.IPAddress}}", y.running("v1")[0], y.running("v2")[0])
	d.stop()
	time.Sleep(3 * time.Second)
	d.start()
	y.until(20*time.Second, "both to run again", func() bool { return len(y.running("v1")) == 1 && len(y.running("v2")) == 1 })
	t.Logf("before:\n%s\nafter:\n%s", before, y.docker("inspect", "-f", "{{.Name}} {{.NetworkSettings.IPAddress}} {{.RestartCount}}", y.running("v1")[0], y.running("v2")[0]))
	y.until(10*time.Second, "the canary's traffic again", func() bool {
		v := y.Version(y.service, "v2")
		return v.Phase == rollout.Canary && v.Weight > 0 && v.InForce
	})
	y.until(10*time.Second, "Envoy to know the new addresses", func() bool {
		n := y.load(100)
		time.Sleep(time.Second)
		return n.Stop().Failed == 0
	})
	y.until(120*time.Second, "the ramp to go on", func() bool { return y.Version(y.service, "v2").Weight > 0.1 })
	t.Log(l.Stop())
	if h := y.run(0, "history", y.service); strings.Contains(h, "rolled_back") {
		t.Errorf("the release was blamed:\n%s", h)
	}
}

// Only here a queue of images is worked off, by three whole ramps: three deploys within a second, and one canary at a time:
// each waits its turn, each is judged, in order of announcement.
func TestThreeDeploysWithinASecond(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{policy: strings.Replace(yardRamp, "hold: 2s", "hold: 2s, canaries: 1", 1)})
	y.push(t, "v2")
	y.push(t, "v3", "ENV FAIL=1")
	y.push(t, "v4")
	y.first(t)
	l := y.load(300)
	began := time.Now()
	for _, v := range []string{"v2", "v3", "v4"} {
		y.run(0, "deploy", y.service, "--image", v)
	}
	t.Logf("three deploys in %s", time.Since(began).Round(time.Millisecond))
	for _, v := range []string{"v3", "v4"} {
		phase, containers := y.Version(y.service, v).Phase, len(y.all(v))
		if y.Version(y.service, "v2").Phase != rollout.Stable && (phase != rollout.Queued || containers > 0) {
			t.Errorf("%s is %s with %d containers, and should wait its turn", v, phase, containers)
		}
	}
	y.run(0, "wait", y.service, "v2", "--timeout", "5m")
	y.run(10, "wait", y.service, "v3", "--timeout", "5m")
	y.run(0, "wait", y.service, "v4", "--timeout", "5m")
	t.Logf("all decided after %s; %s", time.Since(began).Round(100*time.Millisecond), l.Stop())
	var story []string
	h := y.run(0, "history", y.service)
	for line := range strings.Lines(h) {
		if f := strings.Fields(line); len(f) > 3 && slices.Contains([]string{"started", "promoted", "rolled_back"}, f[3]) {
			story = append(story, f[2]+" "+f[3])
		}
	}
	if want := []string{"v2 started", "v2 promoted", "v3 started", "v3 rolled_back", "v4 started", "v4 promoted"}; !slices.Equal(story, want) {
		t.Errorf("it went %v:\n%s", story, h)
	}
}

// Only here Docker's own refusals are read (a health check that fails, three tries of a pull): images that Docker itself
// finds fault with, and a registry that is away: each is a failed version with its reason, and the traffic is untouched. A
// tag may look as it likes.
func TestImagesThatDockerRefuses(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{docker: `, healthcheck: {test: [CMD, /service, check], interval: 500ms, timeout: 1m, retries: 2}`, policy: yardRamp})
	const odd = "V2.0_rc-1..x"
	y.push(t, odd)
	y.push(t, "sick", "ENV SICK=1")
	y.push(t, "hollow", `ENTRYPOINT ["/no/such/program"]`)
	y.first(t)
	l := y.load(200)
	refused := func(image, version, want string) {
		t.Helper()
		began := time.Now()
		y.run(10, "deploy", y.service, version, "--image", image, "--wait", "--timeout", "5m")
		v := y.Version(y.service, version)
		if v.Phase != rollout.Failed || !strings.Contains(v.Verdict.Reason, want) {
			t.Errorf("%s is %s, want %q: %+v", version, v.Phase, want, v.Verdict)
		}
		t.Logf("%s after %s: %s", version, time.Since(began).Round(100*time.Millisecond), v.Verdict.Reason)
	}
	refused("sick", "sick", "is unhealthy by its health check (exit code 1: 500")
	refused("hollow", "hollow", "no such file or directory")
	if out := y.run(1, "deploy", y.service, "capitals", "--image", "Registry/Shop:1"); !strings.Contains(out, "must be lowercase") { // nothing was announced
		t.Errorf("what is no image: %s", out)
	}
	y.run(0, "deploy", y.service, "--image", odd, "--wait", "--timeout", "5m")
	y.binary = serviceTar(t, 100<<20)
	y.push(t, "big")
	y.run(0, "deploy", y.service, "--image", "big")
	y.until(5*time.Second, "the pull", func() bool { return strings.HasPrefix(y.Version(y.service, "big").Launching, "pulling") })
	y.run(0, "abort", y.service, "big") // while it is pulled: nothing is started
	for range 20 {
		time.Sleep(100 * time.Millisecond)
		if n := len(y.all("big")); n > 0 {
			t.Fatalf("%d containers of a version that was aborted before it ran", n)
		}
	}
	y.depot.Kill()
	refused("v9", "v9", "connection refused")
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors: %s", sent.Failed, sent)
	}
	if code, body := get(t, "http://"+y.front+"/"); code != 200 || strings.TrimSpace(body) != odd {
		t.Errorf("after all that the service answers %d %q", code, body)
	}
}

// Only here no daemon answers at first, and later its disk is full. One that is away is waited for; one whose disk is full
// fails the release, not the service.
func TestDaemonAwayAndDiskFull(t *testing.T) {
	t.Parallel()
	d := newDockerd(t)
	if err := os.Mkdir(d.dir+"/data", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", d.dir+"/data", "tmpfs", 0, "size=70m"); err != nil {
		t.Fatal(err)
	}
	y := newYard(t, yardSetting{host: []string{d.host}, policy: yardRamp})
	y.push(t, "v1")
	y.run(0, "deploy", y.service, "--image", "v1")
	y.until(10*time.Second, "the reason", func() bool {
		return strings.Contains(y.Version(y.service, "v1").Launching, "the Docker daemon does not answer")
	})
	y.run(11, "wait", y.service, "v1", "--timeout", "1s")
	d.start()
	y.run(0, "wait", y.service, "v1", "--timeout", "5m")
	y.until(10*time.Second, "v1 to answer", func() bool { return rig.Answers("http://" + y.front + "/") })
	l := y.load(200)
	y.binary = serviceTar(t, 80<<20)
	y.push(t, "big")
	y.run(10, "deploy", y.service, "--image", "big", "--wait", "--timeout", "5m")
	if v := y.Version(y.service, "big"); !strings.Contains(v.Verdict.Reason, "no space left on device") {
		t.Errorf("%+v", v.Verdict)
	}
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors: %s", sent.Failed, sent)
	}
}

// Only here Docker is reached over TCP, and a registry wants a login. A daemon on another host, over TLS: its containers are
// reached at ports that it publishes. The login is as `docker login` leaves it.
func TestRemoteDaemonAndPrivateRegistry(t *testing.T) {
	t.Parallel()
	certs := t.TempDir()
	writeCertificates(t, certs)
	addr := rig.FreeAddress()
	d := newDockerd(t, "--host", "tcp://"+addr, "--tlsverify", "--tlscacert", certs+"/ca.pem", "--tlscert", certs+"/server.pem", "--tlskey", certs+"/server.key")
	d.start()
	hash, err := bcrypt.GenerateFromPassword([]byte("pass"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := t.TempDir() + "/users"
	if err := os.WriteFile(users, fmt.Appendf(nil, "robot:%s\n", hash), 0o600); err != nil {
		t.Fatal(err)
	}
	login := t.TempDir()
	y := newYard(t, yardSetting{
		host:   []string{"tcp://" + addr, "--tlsverify", "--tlscacert", certs + "/ca.pem", "--tlscert", certs + "/client.pem", "--tlskey", certs + "/client.key"},
		tls:    fmt.Sprintf(", tls: {ca_file: %q, cert_file: %q, key_file: %q}", certs+"/ca.pem", certs+"/client.pem", certs+"/client.key"),
		docker: `, publish: 127.0.0.1, replicas: 2`, policy: yardRamp, users: users, login: login,
	})
	docker(t, []string{systemDocker, "--config", login}, []byte("pass"), "login", "-u", "robot", "--password-stdin", y.registry)
	y.push(t, "v2")
	y.first(t)
	for _, e := range y.Version(y.service, "v1").Endpoints {
		if !strings.HasPrefix(e, "127.0.0.1:") {
			t.Errorf("endpoint %s is not published", e)
		}
	}
	l := y.load(200)
	y.run(0, "deploy", y.service, "--image", "v2", "--wait", "--timeout", "5m")
	if n := len(y.running("v2")); n != 2 {
		t.Errorf("%d containers of v2", n)
	}
	y.until(30*time.Second, "v1's containers to be gone", func() bool { return len(y.all("v1")) == 0 })
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors: %s", sent.Failed, sent)
	}
	if err := os.WriteFile(login+"/config.json", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	y.run(10, "deploy", y.service, "v9", "--image", "v9", "--wait", "--timeout", "5m")
	if v := y.Version(y.service, "v9"); !strings.Contains(v.Verdict.Reason, "no basic auth credentials") {
		t.Errorf("%+v", v.Verdict)
	}
}
