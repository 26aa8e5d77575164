package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Only here a stopped and a pruned version come back. A version that a person took out idles, is stopped, and comes back
// when it is promoted; nobody sees an error. Of what has ended, containers and images go but for the last one; an image that
// canaryd did not pull stays.
func TestIdleContainersStopAndComeBack(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{docker: ", stop_idle_after: 4s, keep: 1", policy: "ramp: {steps: [10%, 100%], hold: 1h}\nafter_promotion: {watch: 0s}\n"})
	for _, v := range []string{"v2", "v3", "v4"} {
		y.push(t, v)
	}
	y.first(t)
	l := y.load(200)
	y.run(0, "deploy", y.service, "--image", "v2")
	y.until(20*time.Second, "v2 to be ramped", func() bool { v := y.Version(y.service, "v2"); return v.Phase == rollout.Canary && v.InForce })
	aborted := time.Now()
	y.run(0, "abort", y.service, "v2")
	y.until(15*time.Second, "v2 to be stopped", func() bool { return len(y.running("v2")) == 0 })
	if idle := time.Since(aborted); idle < 4*time.Second {
		t.Errorf("v2 was stopped after %s, before it had been idle for 4 s", idle)
	}
	if n := len(y.all("v2")); n != 1 {
		t.Errorf("%d containers of v2 are kept for a look", n)
	}

	began := time.Now()
	y.run(0, "promote", y.service, "v2", "--even-failed")
	y.run(0, "wait", y.service, "v2", "--timeout", "5m")
	t.Logf("a stopped version was back at 100 %% in %s", time.Since(began).Round(100*time.Millisecond))
	y.until(10*time.Second, "v1 to be gone", func() bool { return len(y.all("v1")) == 0 })
	y.until(10*time.Second, "v2's old container to be gone", func() bool { return len(y.all("v2")) == 1 })

	docker(t, y.host, nil, "pull", "-q", y.registry+"/shop:v3") // not by canaryd: it stays
	for _, v := range []string{"v3", "v4"} {
		y.run(0, "deploy", y.service, "--image", v)
		y.until(20*time.Second, v+" to be ramped", func() bool { return y.Version(y.service, v).Phase == rollout.Canary })
		y.run(0, "promote", y.service, v)
		y.run(0, "wait", y.service, v, "--timeout", "5m")
	}
	y.until(20*time.Second, "the old containers to be gone", func() bool { return len(y.all("v1"))+len(y.all("v2"))+len(y.all("v3")) == 0 })
	images := func() string {
		return strings.Join(strings.Fields(y.docker("images", "--format", "{{.Tag}}", y.registry+"/shop")), " ")
	}
	y.until(20*time.Second, "the images of v1 and v2 to be gone", func() bool { return images() == "v4 v3" })
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors: %s", sent.Failed, sent)
	}

	began = time.Now()
	y.run(0, "promote", y.service, "v1") // its image is pulled again
	y.run(0, "wait", y.service, "v1", "--timeout", "5m")
	t.Logf("a pruned version was back at 100 %% in %s; images: %s", time.Since(began).Round(100*time.Millisecond), images())
	y.tells(y.service, "no request for 4s (docker.stop_idle_after)", "its containers are being started", "its image where canaryd pulled it")
}

// A container that was made and never started, as by a canaryd that was killed in between, is started; of a deleted
// service the containers go; and what carries canaryd's labels without being in service is told and left alone.
func TestLeftOvers(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{policy: yardRamp})
	y.push(t, "v1")
	ref := y.registry + "/shop:v1"
	y.docker("pull", "-q", ref)
	labels := func(version string) []string {
		var args []string
		for k, v := range map[string]string{"managed": "true", "service": y.service, "version": version, "attempt": "1", "image": ref} {
			args = append(args, "--label", fmt.Sprintf("canaryd.%s=%s", k, v))
		}
		return args
	}
	y.run(0, "deploy", y.service, "--image", "v1", "--wait", "--timeout", "5m")
	seal := y.docker("inspect", "-f", `{{index .Config.Labels "canaryd.seal"}}`, y.all("v1")[0])
	y.Daemon().Kill()
	y.docker("rm", "-f", y.all("v1")[0])
	made := y.docker(append(append([]string{"create", "--network", y.service, "--name", "canaryd-" + y.service + ".v1-1-0", "--label", "canaryd.seal=" + seal}, labels("v1")...), ref)...)
	if err := y.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	y.until(20*time.Second, "v1 to answer", func() bool { return rig.Answers("http://" + y.front + "/") })
	if now := y.all("v1"); len(now) != 1 || !strings.HasPrefix(made, now[0]) {
		t.Errorf("containers of v1: %v, made %s", now, made)
	}
	stray := y.docker(append(append([]string{"run", "-d", "--network", y.service}, labels("v7")...), ref)...)
	y.until(15*time.Second, "the stray container to be told", func() bool { return strings.Contains(y.Daemon().Tail(), stray[:12]) })

	y.docker("stop", "-t", "1", made) // by somebody's hand: it is wanted, so it runs again
	y.until(15*time.Second, "v1 to answer again", func() bool { return rig.Answers("http://" + y.front + "/") })

	if err := os.Remove(filepath.Join(y.Dir, "policies/shop.yml")); err != nil {
		t.Fatal(err)
	}
	y.until(15*time.Second, "the service to be orphaned", func() bool { s, err := y.Service(y.service); return err == nil && s.Orphaned })
	req, err := http.NewRequest(http.MethodDelete, "http://"+y.Web+"/api/v1/services/"+y.service, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("DELETE: %v %v", resp, err)
	}
	resp.Body.Close()
	y.until(30*time.Second, "its container to be gone", func() bool { return len(y.all("v1")) == 0 })
	if len(y.running("v7")) != 1 {
		t.Error("the stray container was touched")
	}
}

// More and fewer replicas of what serves, by policy: a new container gets requests when it answers, one that goes is stopped
// when no Envoy knows it any more.
func TestReplicasGrowAndShrink(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{docker: `, replicas: 1, command: [--fast], volumes: ["/tmp:/data:ro"], memory: 64MiB, cpus: 0.5`, policy: yardRamp, tls: ", volumes: [/tmp]"})
	y.push(t, "v1", "ENV SLOW=2s")
	y.run(0, "deploy", y.service, "--image", "v1", "--wait", "--timeout", "5m")
	y.until(10*time.Second, "v1 to answer", func() bool { return rig.Answers("http://" + y.front + "/") })
	if got := y.docker("inspect", "-f", "{{.Config.Cmd}} {{.HostConfig.Binds}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", y.all("v1")[0]); got != "[--fast] [/tmp:/data:ro] 67108864 500000000" {
		t.Errorf("the container runs with %s", got)
	}
	file := filepath.Join(y.Dir, "policies/shop.yml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	l := y.load(300)
	for _, n := range []int{3, 1} {
		if err := y.WritePolicy("shop.yml", strings.Replace(string(text), "replicas: 1", fmt.Sprintf("replicas: %d", n), 1)); err != nil {
			t.Fatal(err)
		}
		y.until(30*time.Second, fmt.Sprintf("%d replicas", n), func() bool { return len(y.all("v1")) == n && len(y.Version(y.service, "v1").Endpoints) == n })
		time.Sleep(time.Second)
	}
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors: %s", sent.Failed, sent)
	}
}
