package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

const slowRamp = "ramp: {steps: [10%, 20%, 30%, 100%], hold: 5s}\njudge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 2%}}\nafter_promotion: {watch: 1s}\n"

// The daemon is restarted in the middle of a ramp. With live-restore nothing that runs is touched: the ramp goes on and no
// user sees an error.
func TestDockerdRestartsMidRamp(t *testing.T) {
	d := newDockerd(t, "--live-restore")
	d.start()
	y := newYard(t, yardSetting{host: []string{d.host}, policy: slowRamp})
	y.push(t, "v2")
	y.first(t)
	l := y.load(300)
	y.run(0, "deploy", "yard", "--image", "v2")
	y.until(20*time.Second, "v2 to be ramped", func() bool { v := y.Version("yard", "v2"); return v.Phase == rollout.Canary && v.InForce })
	d.stop()
	time.Sleep(3 * time.Second)
	if v := y.Version("yard", "v2"); v.Phase != rollout.Canary {
		t.Errorf("without the daemon v2 is %s: %+v", v.Phase, v.Verdict)
	}
	d.start()
	y.run(0, "wait", "yard", "v2", "--timeout", "60s")
	y.until(30*time.Second, "v1's container to be gone", func() bool { return len(y.all("v1")) == 0 })
	if sent := l.Stop(); sent.Failed > 0 {
		t.Errorf("users saw %d errors: %s", sent.Failed, sent)
	}
	if n := len(y.running("v2")); n != 1 {
		t.Errorf("%d containers of v2", n)
	}
}

// Without live-restore the daemon takes every container down and up again, perhaps at other addresses. Users see that; the
// release is not blamed for it.
func TestDockerdTakesAllContainersDown(t *testing.T) {
	d := newDockerd(t)
	d.start()
	y := newYard(t, yardSetting{host: []string{d.host}, policy: slowRamp})
	y.push(t, "v2")
	y.first(t)
	l := y.load(300)
	y.run(0, "deploy", "yard", "--image", "v2")
	y.until(20*time.Second, "v2 to be ramped", func() bool { v := y.Version("yard", "v2"); return v.Phase == rollout.Canary && v.InForce })
	before := y.docker("inspect", "-f", "{{.Name}} {{.NetworkSettings.IPAddress}}", y.running("v1")[0], y.running("v2")[0])
	d.stop()
	time.Sleep(3 * time.Second)
	d.start()
	y.until(20*time.Second, "both to run again", func() bool { return len(y.running("v1")) == 1 && len(y.running("v2")) == 1 })
	t.Logf("before:\n%s\nafter:\n%s", before, y.docker("inspect", "-f", "{{.Name}} {{.NetworkSettings.IPAddress}} {{.RestartCount}}", y.running("v1")[0], y.running("v2")[0]))
	y.until(10*time.Second, "the canary's traffic again", func() bool {
		v := y.Version("yard", "v2")
		return v.Phase == rollout.Canary && v.Weight > 0 && v.InForce
	})
	y.until(10*time.Second, "Envoy to know the new addresses", func() bool {
		n := y.load(100)
		time.Sleep(time.Second)
		return n.Stop().Failed == 0
	})
	y.until(120*time.Second, "the ramp to go on", func() bool { return y.Version("yard", "v2").Weight > 0.1 })
	t.Log(l.Stop())
	if h := y.run(0, "history", "yard"); strings.Contains(h, "rolled_back") {
		t.Errorf("the release was blamed:\n%s", h)
	}
}

// Three deploys within a second, and one canary at a time: each waits its turn, each is judged, in order of announcement.
func TestThreeDeploysWithinASecond(t *testing.T) {
	y := newYard(t, yardSetting{policy: strings.Replace(yardRamp, "hold: 2s", "hold: 2s, canaries: 1", 1)})
	y.push(t, "v2")
	y.push(t, "v3", "ENV FAIL=1")
	y.push(t, "v4")
	y.first(t)
	l := y.load(300)
	began := time.Now()
	for _, v := range []string{"v2", "v3", "v4"} {
		y.run(0, "deploy", "yard", "--image", v)
	}
	t.Logf("three deploys in %s", time.Since(began).Round(time.Millisecond))
	for _, v := range []string{"v3", "v4"} {
		if p := y.Version("yard", v).Phase; p != rollout.Queued || len(y.all(v)) > 0 {
			t.Errorf("%s is %s with %d containers, and should wait its turn", v, p, len(y.all(v)))
		}
	}
	y.run(0, "wait", "yard", "v2", "--timeout", "90s")
	y.run(10, "wait", "yard", "v3", "--timeout", "90s")
	y.run(0, "wait", "yard", "v4", "--timeout", "90s")
	t.Logf("all decided after %s; %s", time.Since(began).Round(100*time.Millisecond), l.Stop())
	var story []string
	h := y.run(0, "history", "yard")
	for line := range strings.Lines(h) {
		if f := strings.Fields(line); len(f) > 3 && slices.Contains([]string{"started", "promoted", "rolled_back"}, f[3]) {
			story = append(story, f[2]+" "+f[3])
		}
	}
	if want := []string{"v2 started", "v2 promoted", "v3 started", "v3 rolled_back", "v4 started", "v4 promoted"}; !slices.Equal(story, want) {
		t.Errorf("it went %v:\n%s", story, h)
	}
}
