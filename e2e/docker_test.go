package e2e

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

const yardRamp = "ramp: {steps: [10%, 100%], hold: 2s}\njudge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 2%}}\nafter_promotion: {watch: 1s}\nsessions: {cookie: sess, ttl: 3s}\n"

// Only here a bad image is cut under load and its mended tag deployed again: from a tag in a registry to 100 %, and the old
// container is gone; then a bad tag is cut, its container stopped, and its last words stand in the history. No user sees an
// error of canaryd's making.
func TestFromATagToProduction(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{policy: yardRamp})
	y.push(t, "v2")
	y.push(t, "v3", "ENV FAIL=1")
	y.first(t)
	l := y.load(300)
	began := time.Now()
	y.run(0, "deploy", y.service, "--image", y.registry+"/shop:v2", "--wait", "--timeout", "5m")
	t.Logf("from the tag to 100 %% in %s", time.Since(began).Round(100*time.Millisecond))
	y.until(30*time.Second, "the old container to be gone", func() bool { return len(y.running("v1")) == 0 })
	sent := l.Stop()
	t.Log(sent)
	if sent.Failed > 0 {
		t.Errorf("users saw %d errors", sent.Failed)
	}
	if n := len(y.running("v2")); n != 1 {
		t.Errorf("%d containers of v2", n)
	}
	y.load(300)
	y.run(10, "deploy", y.service, "--image", "v3", "--wait", "--timeout", "5m")
	y.until(30*time.Second, "the failed container to be gone", func() bool { return len(y.running("v3")) == 0 })
	y.tells(y.service, "launched", "runs at", "rolled_back", "stopped", "service v3 begins")
	if code, body := get(t, "http://"+y.front+"/"); code != http.StatusOK || strings.TrimSpace(body) != "v2" {
		t.Errorf("after all that the service answers %d %q", code, body)
	}
	y.push(t, "v3") // mended, under the same tag
	y.run(0, "deploy", y.service, "--image", "v3", "--again", "--wait", "--timeout", "5m")
}

// Only here nobody gives a command: the founding story, with nobody there. A tag lands in the registry, its hook deploys it,
// steps [10%, 100%] by users, it is promoted, the old container drains, retires and is stopped; then a bad tag is cut and
// stopped, and deployed again when it is pushed mended. Users of stable who hold its cookies see no error.
func TestTheFoundingStoryUnattended(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{tags: `^v\d+$`, policy: "ramp: {steps: [10%, 100%], hold: 2s, per: user}\njudge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 2%}}\nafter_promotion: {watch: 1s}\nsessions: {cookie: sess, ttl: 3s}\n"})
	y.push(t, "v1")
	y.until(30*time.Second, "v1 to be deployed by its push", func() bool { return rig.Answers("http://" + y.front + "/") })
	y.push(t, "latest") // docker.tags does not want it
	holders := newCrowd(y.scene, 200, "holder")
	holders.visit(t, nil)
	l := y.load(300)
	began := time.Now()
	y.push(t, "v2")
	y.until(60*time.Second, "v2 to be promoted", func() bool { return y.Version(y.service, "v2").Phase == rollout.Stable })
	t.Logf("from the push to 100 %% in %s", time.Since(began).Round(100*time.Millisecond))
	holders.visit(t, nil)
	y.until(30*time.Second, "v1 to be retired and its container gone", func() bool {
		return y.Version(y.service, "v1").Phase == rollout.Retired && len(y.running("v1")) == 0
	})
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors: %s", sent.Failed, sent)
	}
	for i := range holders.users {
		holders.users[i].cookies = map[string]string{"canaryd-user": holders.users[i].cookies["canaryd-user"]} // the sessions of v1 are over
	}
	holders.visit(t, nil) // and have begun anew on v2
	y.load(300)
	y.push(t, "v3", "ENV FAIL=1")
	y.until(60*time.Second, "v3 to be cut and its container gone", func() bool {
		return y.Version(y.service, "v3").Phase == rollout.Failed && len(y.running("v3")) == 0
	})
	holders.visit(t, func(i int, _, now string) {
		if now != "v2" {
			t.Errorf("user %d is on %s", i, now)
		}
	})
	y.push(t, "v3") // mended, under the same tag: its digest says so
	mended := func() bool {
		v := y.Version(y.service, "v3")
		return v.Phase == rollout.Stable && v.Attempt == 2
	}
	if err := rig.WaitFor(t.Context(), patience*time.Minute, "the mended v3 to be promoted", mended); err != nil {
		t.Fatalf("%v: %+v\n%s", err, y.Version(y.service, "v3"), y.run(0, "history", y.service))
	}
	if v := y.Version(y.service, "latest"); v.Version != "" {
		t.Errorf("latest was deployed: %+v", v)
	}
	y.tells(y.service, "registry "+y.registry)
}

// Only here containers come and go by other hands (canaryd waits 30 s before it takes one for gone): they are found by their
// labels, ramped when they run, and lose their traffic when they stop; canaryd never touches them.
func TestContainersOfOthersAreFound(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{docker: ", discover: labels", policy: "ramp: {steps: [20%, 100%], hold: 1h}\n"})
	y.push(t, "v2")
	y.first(t)
	l := y.load(100)
	y.docker("pull", "-q", y.registry+"/shop:v2")
	id := y.docker("run", "-d", "--network", y.service, "--label", "canaryd.service="+y.service, "--label", "canaryd.version=v2", "--label", "canaryd.port=8080", y.registry+"/shop:v2")
	y.until(20*time.Second, "v2 to be ramped", func() bool { v := y.Version(y.service, "v2"); return v.InForce && v.Weight == 0.2 })
	y.run(0, "abort", y.service, "v2")
	y.until(10*time.Second, "the cut in force", func() bool { return y.Version(y.service, "v1").InForce })
	time.Sleep(3 * time.Second)
	if out := y.docker("inspect", "-f", "{{.State.Status}}", id); out != "running" {
		t.Errorf("a container that is not canaryd's is %s after its version was aborted", out)
	}
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors", sent.Failed)
	}
	id = y.docker("run", "-d", "--network", y.service, "--label", "canaryd.service="+y.service, "--label", "canaryd.version=v3", "--label", "canaryd.port=8080", y.registry+"/shop:v2")
	y.until(20*time.Second, "v3 to be ramped", func() bool { return y.Version(y.service, "v3").Phase == rollout.Canary })
	y.docker("rm", "-f", id)
	y.until(20*time.Second, "v3 to get nothing", func() bool { return y.Version(y.service, "v3").Weight == 0 })
	y.until(60*time.Second, "v3 to leave", func() bool { return y.Version(y.service, "v3").Phase == rollout.Aborted })
	y.tells(y.service, "(by docker labels", "its containers are gone")
}

// Only here a tag means another image by the time that its version is wanted again: what was judged is what comes back.
func TestTheWayBackLeadsToWhatWasJudged(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{docker: ", keep: 0", policy: "ramp: {steps: [20%, 100%], hold: 1h}\nafter_promotion: {watch: 0s}\n"})
	y.push(t, "v1")
	y.push(t, "v2")
	y.run(0, "deploy", y.service, "--image", "v1", "--wait", "--timeout", "5m")
	judged := y.Version(y.service, "v1").Digests
	y.run(0, "deploy", y.service, "--image", "v2")
	y.until(60*time.Second, "v2 to be ramped", func() bool { return y.Version(y.service, "v2").Phase == rollout.Canary })
	y.run(0, "promote", y.service, "v2", "--wait", "--timeout", "1m")
	y.until(60*time.Second, "v1 to be pruned", func() bool { return len(y.all("v1")) == 0 && y.docker("images", "-q", y.registry+"/shop:v1") == "" })
	y.push(t, "v1", "ENV OTHER=1")
	y.run(0, "promote", y.service, "v1", "--wait", "--timeout", "2m")
	v := y.Version(y.service, "v1")
	if len(judged) != 1 || !slices.Equal(v.Digests, judged) || !strings.Contains(y.run(0, "explain", y.service, "v1"), judged[0]) {
		t.Errorf("judged was %v, what came back is %v", judged, v.Digests)
	}
	if env := y.docker("inspect", "-f", "{{.Config.Env}}", y.all("v1")[0]); strings.Contains(env, "OTHER") {
		t.Errorf("the container runs with %s", env)
	}
}

// Only here others try: another image, a container of another image under a version's labels, a copy of a container of canaryd's,
// and one that somebody gave canaryd's labels and name.
func TestWhatOthersRunIsNotCanarydsOwn(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{docker: ", discover: labels", policy: "ramp: {steps: [20%, 100%], hold: 1h}\nafter_promotion: {watch: 0s}\n"})
	y.push(t, "v1")
	y.push(t, "v2")
	y.push(t, "other", "ENV OTHER=1")
	y.run(0, "deploy", y.service, "--image", "v1", "--wait", "--timeout", "5m")
	own := y.all("v1")[0]
	if got := y.docker("inspect", "-f", "{{.HostConfig.SecurityOpt}} {{.HostConfig.CapDrop}} {{.HostConfig.Privileged}}", own); got != "[no-new-privileges:true] [ALL] false" {
		t.Errorf("the container runs with %s", got)
	}
	out := y.run(1, "deploy", y.service, "v9", "--image", "evil.example/miner:v2")
	if !strings.Contains(out, "image evil.example/miner:v2 may not run here, only "+y.registry+"/shop may") {
		t.Errorf("a foreign image: %s", out)
	}
	image := y.docker("commit", own)
	copied := y.docker("run", "-d", "--network", y.service, image)
	t.Cleanup(func() { y.docker("rm", "-f", copied); y.docker("rmi", "-f", image) })
	y.docker("pull", "-q", y.registry+"/shop:v2")
	y.docker("pull", "-q", y.registry+"/shop:other")
	labels := []string{"run", "-d", "--network", y.service, "--label", "canaryd.service=" + y.service, "--label", "canaryd.port=8080", "--label", "canaryd.version=v2"}
	y.docker(append(labels, y.registry+"/shop:v2")...)
	y.until(20*time.Second, "v2 to be ramped", func() bool { return y.Version(y.service, "v2").Phase == rollout.Canary })
	other := y.docker(append(labels, y.registry+"/shop:other")...)
	named := "canaryd-" + y.service + ".v3-1-0"
	forged := y.docker("run", "-d", "--network", y.service, "--name", named, "--label", "canaryd.managed=true", "--label", "canaryd.service="+y.service, "--label", "canaryd.version=v3", "--label", "canaryd.attempt=1",
		"--label", "canaryd.image="+y.registry+"/shop:v3", y.registry+"/shop:other")
	y.docker("tag", y.registry+"/shop:v2", y.registry+"/shop:v3")
	time.Sleep(5 * time.Second) // two looks
	for _, v := range []string{"v1", "v2"} {
		if es := y.Version(y.service, v).Endpoints; len(es) != 1 {
			t.Errorf("%s is at %v", v, es)
		}
	}
	y.run(0, "abort", y.service, "v2")
	y.run(0, "deploy", y.service, "--image", "v3")
	y.until(30*time.Second, "v3 to fail", func() bool { return y.Version(y.service, "v3").Phase == rollout.Failed })
	y.tells(y.service, named+" exists already and is not canaryd's")
	y.run(0, "promote", y.service, "v2", "--even-failed", "--wait", "--timeout", "1m")
	y.until(60*time.Second, "v1's own container to go", func() bool { return y.docker("ps", "-aq", "--filter", "id="+own) == "" })
	for who, id := range map[string]string{"a copy": copied, "another image": other, "a forged one": forged} {
		if got := y.docker("inspect", "-f", "{{.State.Status}}", id); got != "running" {
			t.Errorf("%s is %s", who, got)
		}
	}
}

// Only here a container is replaced, while canaryd is away, by a copy of its name, its labels and its seal: it has another id,
// so it gets no request and is not stopped; and one that canaryd did make is known after the restart.
func TestACopyOfAContainerIsAStranger(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{policy: "ramp: {steps: [20%, 100%], hold: 1h}\n"})
	y.push(t, "v2")
	y.first(t)
	own := y.all("v1")[0]
	y.run(0, "deploy", y.service, "--image", "v2")
	y.until(60*time.Second, "v2 to be ramped", func() bool { return y.Version(y.service, "v2").Weight > 0 })
	before := y.all("v2")[0]
	name := strings.TrimPrefix(y.docker("inspect", "-f", "{{.Name}}", before), "/")
	image := y.docker("commit", before)
	t.Cleanup(func() { y.docker("rmi", "-f", image) })
	if err := y.Daemon().Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-y.Daemon().Ended()
	y.docker("rm", "-f", before)
	copied := y.docker("run", "-d", "--network", y.service, "--name", name, image)
	t.Cleanup(func() { y.docker("rm", "-f", copied) })
	if err := y.StartDaemon(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	y.until(60*time.Second, "the copy to be refused", func() bool {
		return strings.Contains(y.run(0, "status", y.service, "-o", "json"), name+" exists already and is not canaryd's")
	})
	y.run(0, "abort", y.service, "v2")
	time.Sleep(5 * time.Second) // two looks, and more
	if got := y.docker("inspect", "-f", "{{.State.Status}}", copied); got != "running" {
		t.Errorf("the copy is %s", got)
	}
	if got := y.all("v1"); len(got) != 1 || got[0] != own {
		t.Errorf("v1 runs in %v, not in %s", got, own)
	}
}

// Only here containers end, are deaf or cannot be made; each waits for its verdict: images that cannot run are a failed
// version with a reason, and the traffic is untouched.
func TestImagesThatCannotRun(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{policy: yardRamp, within: "10s"})
	y.push(t, "exits", "ENV EXIT=3")
	y.push(t, "deaf", "ENV PORT=9999")
	y.push(t, "taken")
	y.first(t)
	l := y.load(200)
	y.docker("create", "--name", "canaryd-"+y.service+".taken-1-0", y.registry+"/shop:v1")
	t.Cleanup(func() { y.docker("rm", "-f", "canaryd-"+y.service+".taken-1-0") })
	for tag, want := range map[string]string{
		"nosuch": "cannot be pulled",
		"exits":  "database password missing",
		"deaf":   "nothing has answered at",
		"taken":  "exists already and is not canaryd's",
	} {
		t.Run(tag, func(t *testing.T) {
			y.run(10, "deploy", y.service, "--image", tag, "--wait", "--timeout", "5m")
			if v := y.Version(y.service, tag); v.Phase != rollout.Failed || v.Weight != 0 || !strings.Contains(v.Verdict.Reason, want) {
				t.Errorf("%s at %g: %+v, want %q", v.Phase, v.Weight, v.Verdict, want)
			}
			y.until(30*time.Second, "its container to be gone", func() bool { return len(y.running(tag)) == 0 })
		})
	}
	y.run(1, "deploy", y.service, "v1", "--image", "other") // v1 is another image
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors", sent.Failed)
	}
	if out := y.docker("inspect", "-f", "{{.State.Status}}", "canaryd-"+y.service+".taken-1-0"); out != "created" {
		t.Errorf("a container that is not canaryd's is %s now", out)
	}
}

// Only here canaryd dies with containers half made: killed in every phase and started again: nothing is orphaned, nothing
// runs twice.
func TestKilledInEveryPhase(t *testing.T) {
	t.Parallel()
	y := newYard(t, yardSetting{policy: yardRamp})
	y.push(t, "v2")
	y.first(t)
	l := y.load(300)
	y.run(0, "deploy", y.service, "--image", "v2")
	kill := func(moment string) {
		t.Helper()
		if err := y.Daemon().Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-y.Daemon().Ended()
		n := len(y.all("v1")) + len(y.all("v2"))
		if err := y.StartDaemon(context.WithoutCancel(t.Context())); err != nil {
			t.Fatal(err)
		}
		t.Logf("killed %s: %d containers; afterwards v1 is %s, v2 is %s", moment, n, y.Version(y.service, "v1").Phase, y.Version(y.service, "v2").Phase)
		if n := len(y.running("v1")) + len(y.running("v2")); n > 2 {
			t.Errorf("%s: %d containers", moment, n)
		}
	}
	kill("right after the announcement")
	for _, m := range []struct {
		moment string
		now    func() bool
	}{
		{"when a container is made", func() bool { return len(y.all("v2")) > 0 }},
		{"when its container runs", func() bool { return len(y.running("v2")) > 0 }},
		{"in the ramp", func() bool { return y.Version(y.service, "v2").Weight > 0 }},
		{"in the ramp, in force", func() bool { v := y.Version(y.service, "v2"); return v.Weight > 0 && v.InForce }},
		{"at the promotion", func() bool { return y.Version(y.service, "v2").Phase == rollout.Stable }},
		{"when the old one drains", func() bool {
			return slices.Contains([]rollout.Phase{rollout.Draining, rollout.Retired}, y.Version(y.service, "v1").Phase)
		}},
		{"when the old one is stopped", func() bool { return y.Version(y.service, "v1").Phase == rollout.Retired }},
	} {
		y.until(60*time.Second, m.moment, m.now)
		kill(m.moment)
	}
	y.run(0, "wait", y.service, "v2", "--timeout", "5m")
	y.until(30*time.Second, "v1's container to be gone", func() bool { return len(y.running("v1")) == 0 })
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors: %s", sent.Failed, sent)
	}
	if n := len(y.running("v2")); n != 1 {
		t.Errorf("%d containers of v2", n)
	}
}
