package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

// cutWithin is how long a version that fails wholly may be served; it is short on a machine that is not busy.
const cutWithin = 30 * time.Second

const stayAtTen = "ramp: {steps: [10%, 100%], hold: 1h}\njudge: {clump: 1}\n"

// Only here canaryd's disk is frozen, for up to a minute, as by a snapshot or a storage that hangs, and full. Each story has
// a world of its own; they spend their time waiting, so they run beside one another.
func TestCanarydOnAnIcyDisk(t *testing.T) {
	t.Parallel()
	for name, story := range map[string]func(*testing.T){
		"no raise goes out, and the ramp goes on after the thaw": noRaiseWhileFrozen,
		"a cut and an abort go out, and are told after the thaw": cutWhileFrozen,
		"a cut stays when the thawed disk is full":               fullAfterTheThaw,
		"canaryd ends and starts on a frozen disk":               endAndStartWhileFrozen,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			story(t)
		})
	}
}

// For a minute a raise is due and the disk is frozen.
func noRaiseWhileFrozen(t *testing.T) {
	w := newWinter(t, setting{ramp: "ramp: {steps: [10%, 50%, 100%], hold: 10s}\njudge: {promote_within: {ratio: 2, margin: 0.5%}, clump: 1, budget: 1000000}\n" +
		"---\nservice: pay\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\nramp: {steps: [10%, 100%], hold: 1h}\n"}, 200, false)
	w.run(0, "deploy", "pay", "v2", "--endpoint", "127.0.0.1:2")
	w.run(0, "deploy", "pay", "v3", "--endpoint", "127.0.0.1:3")
	w.canary("v2")
	w.disk.freeze()
	frozen, before := time.Now(), w.routes()
	w.promoteIsRefused(t)
	for time.Since(frozen) < time.Minute {
		if now := w.routes(); now != before {
			t.Fatalf("an Envoy was told something after %s: it had\n%s\nand has\n%s", time.Since(frozen), before, now)
		}
		time.Sleep(time.Second)
	}
	w.saysForHowLong(t, time.Since(frozen))
	v := w.Version("shop", "v2")
	if v.InForce {
		t.Errorf("nothing was held up: v2 is decided at %g, and has it", v.Weight)
	}
	t.Logf("at the end of the frost v2 is decided at %g; %s", v.Weight, v.Verdict.Reason)
	w.disk.thaw()
	thawed := time.Now()
	w.phase("v2", time.Minute, rollout.Stable)
	t.Logf("v2 was stable %.1f s after the thaw", time.Since(thawed).Seconds())
	w.until(10*time.Second, "the warning to go", func() bool { return !w.warned("disk") })
	if v := w.Version("pay", "v3"); v.Phase != rollout.Stable {
		t.Errorf("the promotion that was asked for is not carried out: v3 of pay is %s", v.Phase)
	}
	w.usersSawOnly()
}

func (w *winter) promoteIsRefused(t *testing.T) {
	t.Helper()
	if out := w.run(1, "promote", "pay", "v2"); !strings.Contains(out, "not stored yet") || !strings.Contains(out, "`abort`") {
		t.Errorf("promote says: %s", out)
	}
	url := "http://" + w.Web + "/api/v1/services/pay/versions/v3/promote"
	if code, body := post(t, url); code != http.StatusServiceUnavailable || !strings.Contains(body, "`abort`") {
		t.Errorf("promote is answered %d: %s", code, body)
	}
	if code, body := post(t, url); code != http.StatusConflict || !strings.Contains(body, "not stored yet") {
		t.Errorf("promote for the second time is answered %d: %s", code, body)
	}
}

// saysForHowLong checks that status tells for how long the disk has not answered; the first write after the freeze began some time later.
func (w *winter) saysForHowLong(t *testing.T, frozen time.Duration) {
	t.Helper()
	out := w.run(0, "status", "shop")
	_, rest, found := strings.Cut(out, "the disk has not answered for ")
	text, _, _ := strings.Cut(rest, "\n")
	d, err := time.ParseDuration(text)
	if !found || err != nil || d > frozen+time.Second || d < frozen-30*time.Second {
		t.Errorf("frozen for %s, status says\n%s", frozen, out)
	}
	t.Logf("frozen for %.0f s, status says: the disk has not answered for %s", frozen.Seconds(), text)
}

// v2 fails while the disk is frozen. Nothing is told before it is stored, and all of it afterwards.
func cutWhileFrozen(t *testing.T) {
	hook, url := webhook(t)
	w := newWinter(t, setting{ramp: stayAtTen, extra: fmt.Sprintf("notify: [{url: %q, events: [started, rolled_back]}]\n", url)}, 100, false)
	events := w.listen("")
	v2 := w.canary("v2")
	started := func(e *ear) func() bool { return func() bool { _, ok := e.of("v2", rollout.KindStarted); return ok } }
	w.until(20*time.Second, "the start to be told", func() bool { return started(events)() && started(hook)() })
	known := events.all()
	w.disk.freeze()
	frozen := time.Now()
	cut := w.fail(v2, cutWithin)
	t.Logf("FIGURE cut on a frozen disk: %.2f s from the first error to the last request, %d requests failed", cut.Last.Sub(cut.Onset).Seconds(), cut.Failed)
	w.until(10*time.Second, "status to say so", func() bool { return w.warned("the disk has not answered for ") })
	time.Sleep(time.Until(frozen.Add(12 * time.Second))) // two checkpoints
	if n, h := events.all(), hook.all(); len(n) != len(known) || len(h) != 1 || w.recorded("v2", rollout.KindRolledBack) {
		t.Errorf("told and not stored: %v %v", n[len(known):], h)
	}
	w.stillCut(v2, cut, "frozen")
	w.disk.thaw()
	rolledBack := func(e *ear) func() bool {
		return func() bool { _, ok := e.of("v2", rollout.KindRolledBack); return ok }
	}
	w.until(20*time.Second, "the cut to be told", func() bool { return rolledBack(events)() && rolledBack(hook)() })
	w.stillCut(v2, cut, "thawed")
	if !w.recorded("v2", rollout.KindRolledBack) {
		t.Error("the cut was told and is not in the history")
	}
	w.Daemon().Kill()
	w.restart()
	w.resumes(t, known[len(known)-1])
	time.Sleep(2 * time.Second)
	w.stillCut(v2, cut, "after kill -9")
	abortWhileFrozen(t, w)
	w.stillCut(v2, cut, "at the end")
	w.usersSawOnly(v2)
}

// resumes checks that a listener gets exactly what followed the last event that it has.
func (w *winter) resumes(t *testing.T, last told) {
	t.Helper()
	if last.ID == "" {
		t.Fatalf("an event without an id: %+v", last)
	}
	same := func(a, b told) bool { return a.At.Equal(b.At) && a.Version == b.Version && a.Kind == b.Kind }
	rest := w.history()
	for len(rest) > 0 && !same(rest[0], last) {
		rest = rest[1:]
	}
	if len(rest) < 2 {
		t.Fatalf("nothing follows %+v in the history", last)
	}
	events := w.listen(last.ID)
	w.until(20*time.Second, "what followed", func() bool { return len(events.all()) >= len(rest)-1 })
	got := events.all()
	for i := range got {
		if i+1 >= len(rest) || !same(got[i], rest[i+1]) {
			t.Fatalf("after %+v the history has\n%+v\nand the events are\n%+v", last, rest, got)
		}
	}
	t.Logf("after event %s followed %d", last.ID, len(got))
}

// What a person takes away is gone before the answer comes, and the answer says that it is not stored.
func abortWhileFrozen(t *testing.T, w *winter) {
	v3 := w.canary("v3")
	w.disk.freeze()
	begin := time.Now()
	code, body := post(t, "http://"+w.Web+"/api/v1/services/shop/versions/v3/abort")
	answered := time.Now()
	if code != http.StatusAccepted || !strings.Contains(body, `"stored":false`) {
		t.Errorf("the abort is answered %d: %s", code, body)
	}
	w.goneBefore(v3, begin, answered)
	w.disk.thaw()
	w.until(20*time.Second, "the abort to be stored", func() bool { return w.recorded("v3", rollout.KindAborted) })
	v4 := w.version("v4")
	w.run(0, w.deploy(v4)...)
	w.run(0, "promote", "shop", "v4")
	w.until(20*time.Second, "v4 to have everything", func() bool { v := w.Version("shop", "v4"); return v.InForce && v.Weight == 1 })
	w.disk.freeze()
	begin = time.Now()
	out := w.run(0, "abort", "shop", "v4")
	w.goneBefore(v4, begin, time.Now())
	if !strings.Contains(out, "not stored") {
		t.Errorf("abort does not say that it is not stored: %s", out)
	}
	if svc, err := w.Service("shop"); err != nil || svc.Stable == nil || *svc.Stable != "v1" {
		t.Errorf("the way back leads to %v (%v)", svc.Stable, err)
	}
	w.disk.thaw()
	w.until(20*time.Second, "the way back to be stored", func() bool { return w.recorded("v4", rollout.KindAborted) && !w.warned("disk") })
}

// goneBefore checks that nothing reached a version after its abort was answered.
func (w *winter) goneBefore(v *rig.Service, begin, answered time.Time) {
	w.t.Helper()
	time.Sleep(time.Second)
	last := v.Count().Last
	w.t.Logf("FIGURE abort of %s on a frozen disk: the last request came %.0f ms after it was asked for, the answer after %.1f s", v.Version, ms(last.Sub(begin)), answered.Sub(begin).Seconds())
	if last.After(answered) {
		w.t.Errorf("a request reached %s %s after the answer", v.Version, last.Sub(answered))
	}
}

// The disk fills up, freezes, and is still full when it thaws: the cut that was made meanwhile cannot be stored.
func fullAfterTheThaw(t *testing.T) {
	w := newWinter(t, setting{ramp: stayAtTen}, 100, true)
	v2 := w.canary("v2")
	w.fillUp(t)
	w.disk.freeze()
	cut := w.fail(v2, cutWithin)
	t.Logf("FIGURE cut on a disk that is full and frozen: %.2f s from the first error to the last request, %d requests failed", cut.Last.Sub(cut.Onset).Seconds(), cut.Failed)
	w.disk.thaw()
	w.until(20*time.Second, "status to say that the disk is full", func() bool { return w.warned("no space left on device") })
	time.Sleep(3 * time.Second)
	w.stillCut(v2, cut, "full after the thaw")
	if w.recorded("v2", rollout.KindRolledBack) {
		t.Error("the disk is not full: this test shows nothing")
	}
	w.abortOfWhatWasNeverStored(t)
	w.Daemon().Kill()
	w.startsOnWhatIsStored(t, "sidecar-2")
	w.tooLong(t, "pay.yml", "service: pay\nroute: {probe: \"off\"}\n# again\n")
	again := v2.Count()
	t.Logf("the cut could not be stored before kill -9: afterwards v2 is %s, %d requests reached it", w.Version("shop", "v2").Phase, again.Requests-cut.Requests)
	w.Daemon().Kill()
	if err := w.WritePolicy("shop.yml", "service: shop\nramp: nonsense\n"); err != nil {
		t.Fatal(err)
	}
	w.startsOnWhatIsStored(t, "sidecar-3")
	if !w.warned("the policies were not reloaded") {
		t.Error("status does not say that the policies are broken")
	}
	if _, m := get(t, "http://"+w.Web+"/metrics"); !strings.Contains(m, "canaryd_config_last_reload_successful 0") {
		t.Error("the metric does not say that the policies are broken")
	}
	if err := os.Remove(filepath.Join(w.disk.dir, "filler")); err != nil {
		t.Fatal(err)
	}
	w.phase("v2", cutWithin, rollout.Failed)
	w.until(20*time.Second, "the cut to be stored", func() bool { return w.recorded("v2", rollout.KindRolledBack) && !w.warned("no space") })
	w.usersSawOnly(v2)
}

// fillUp leaves no room on the disk, nor for what v2 is told next in the pages that the database still has.
func (w *winter) fillUp(t *testing.T) {
	t.Helper()
	fill(t, w.disk.dir)
	text, err := os.ReadFile(filepath.Join(w.Dir, "policies", "shop.yml"))
	if err != nil {
		t.Fatal(err)
	}
	w.tooLong(t, "shop.yml", string(text)+"drain: {at_most: 23h}\n")
}

// tooLong writes a policy whose text finds no room on a full disk, whatever pages the database still has of its own.
func (w *winter) tooLong(t *testing.T, name, text string) {
	t.Helper()
	if err := w.WritePolicy(name, text+"\n# "+strings.Repeat("long", 100_000)+"\n"); err != nil {
		t.Fatal(err)
	}
	if code, body := post(t, "http://"+w.Web+"/-/reload"); code != http.StatusServiceUnavailable {
		t.Fatalf("reload on a full disk is answered %d: %s", code, body)
	}
	w.until(20*time.Second, "status to say that the disk is full", func() bool { return w.warned("no space left on device") })
}

// abortOfWhatWasNeverStored: a service of which nothing is stored, and that takes commands all the same.
func (w *winter) abortOfWhatWasNeverStored(t *testing.T) {
	t.Helper()
	w.tooLong(t, "pay.yml", "service: pay\nroute: {probe: \"off\"}\n")
	for _, v := range []string{"v1", "v2"} {
		if out := w.run(1, "deploy", "pay", v, "--endpoint", "127.0.0.1:1"); !strings.Contains(out, "not stored yet") {
			t.Errorf("deploy says: %s", out)
		}
	}
	w.run(0, "abort", "pay", "v2")
	time.Sleep(time.Second)
	if out := w.run(0, "status", "pay"); !strings.Contains(out, "aborted") {
		t.Errorf("status says\n%s", out)
	}
}

// startsOnWhatIsStored starts canaryd, and an Envoy that knows nothing yet.
func (w *winter) startsOnWhatIsStored(t *testing.T, envoy string) {
	t.Helper()
	begin := time.Now()
	if err := w.StartDaemon(t.Context()); err != nil { // it waits for /-/ready
		t.Fatal(err)
	}
	ready := time.Since(begin)
	own := w.sidecar(envoy)
	t.Logf("ready %.1f s after the start, an Envoy that knew nothing served %.1f s after it", ready.Seconds(), time.Since(begin).Seconds())
	stable := 0
	for range 20 {
		if _, body := get(t, "http://"+own+"/"); strings.HasPrefix(body, "v1") {
			stable++
		}
	}
	if stable < 10 {
		t.Errorf("v1 answers %d of 20 requests", stable)
	}
	if code, _ := get(t, "http://"+w.Web+"/-/ready"); code != http.StatusOK {
		t.Errorf("/-/ready is answered %d", code)
	}
}

// canaryd is told to end, is killed, and is started, each while the disk is frozen.
func endAndStartWhileFrozen(t *testing.T) {
	w := newWinter(t, setting{ramp: stayAtTen}, 100, true)
	v2 := w.canary("v2")
	w.disk.freeze()
	w.until(20*time.Second, "a checkpoint to hang", func() bool { return w.warned("the disk has not answered for ") })
	cut := w.fail(v2, cutWithin) // it waits behind the checkpoint
	endWhileFrozen(t, w)
	w.stillCut(v2, cut, "frozen, after SIGTERM")
	w.disk.thaw()
	w.ends(t, "SIGTERM")
	w.restart()
	if !w.recorded("v2", rollout.KindRolledBack) {
		t.Error("the cut was not stored when the disk thawed")
	}
	time.Sleep(2 * time.Second)
	w.stillCut(v2, cut, "after the restart")
	v3 := killWhileFrozen(t, w)
	if err := w.Daemon().Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-w.Daemon().Ended()
	w.disk.forget()
	w.disk.freeze()
	w.startsOnWhatIsStored(t, "sidecar-2")
	w.until(20*time.Second, "status to say so", func() bool { return w.warned("the disk has not answered for ") })
	w.waitsForTheDisk(t)
	w.until(20*time.Second, "the warning to go", func() bool { return !w.warned("disk") })
	w.stillCut(v2, cut, "at the end")
	w.usersSawOnly(v2, v3)
}

func endWhileFrozen(t *testing.T, w *winter) {
	t.Helper()
	asked := time.Now()
	if err := w.Daemon().Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.until(20*time.Second, "the API to be gone", func() bool { return !rig.Answers("http://" + w.Web + "/-/healthy") })
	closed := time.Since(asked)
	select {
	case <-w.Daemon().Ended():
		t.Logf("canaryd ended %.1f s after SIGTERM, on the frozen disk", time.Since(asked).Seconds())
	case <-time.After(15 * time.Second):
		t.Logf("15 s after SIGTERM canaryd has not ended (API gone after %.1f s): %s", closed.Seconds(), threads(w.Daemon()))
	}
}

// waitsForTheDisk checks that who announces a release and waits for it is not sent away by a disk that is frozen for now.
func (w *winter) waitsForTheDisk(t *testing.T) {
	t.Helper()
	v4 := w.version("v4")
	var code int
	var said string
	done := make(chan struct{})
	go func() {
		defer close(done)
		code, _, said, _ = w.Run(t.Context(), w.deploy(v4, "--wait", "--timeout", "5m")...)
	}()
	time.Sleep(4 * time.Second) // it was answered 503 once, after two
	w.disk.thaw()
	w.until(20*time.Second, "v4 to be announced", func() bool { v := w.Version("shop", "v4"); return v.Version != "" && (v.Stored == nil || *v.Stored) })
	w.run(0, "abort", "shop", "v4")
	if <-done; code != 12 || !strings.Contains(said, "Announcing it again") {
		t.Errorf("deploy --wait on a frozen disk ends with %d, want 12: %s", code, said)
	}
}

// killWhileFrozen reports what becomes of a cut that is not stored when canaryd is killed.
func killWhileFrozen(t *testing.T, w *winter) *rig.Service {
	t.Helper()
	v3 := w.canary("v3")
	w.disk.freeze()
	cut := w.fail(v3, cutWithin)
	if err := w.Daemon().Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	c, err := net.DialTimeout("tcp", w.Web, time.Second)
	if err == nil {
		c.Close()
	}
	t.Logf("3 s after kill -9 on a frozen disk: %s; a connection to it: %v", threads(w.Daemon()), err)
	w.stillCut(v3, cut, "frozen, after kill -9")
	w.disk.thaw()
	w.ends(t, "kill -9")
	begin := time.Now()
	w.restart()
	w.phase("v3", time.Minute, rollout.Failed)
	w.until(20*time.Second, "no request to reach v3", func() bool { return time.Since(v3.Count().Last) > time.Second })
	now := v3.Count()
	t.Logf("killed before a cut was stored: after the restart %d requests reached v3, the last %.1f s after it", now.Requests-cut.Requests, max(0, now.Last.Sub(begin).Seconds()))
	return v3
}

// ends waits for canaryd's end, now that the disk is thawed.
func (w *winter) ends(t *testing.T, by string) {
	t.Helper()
	thawed := time.Now()
	select {
	case <-w.Daemon().Ended():
		t.Logf("%s: canaryd has ended %.2f s after the thaw", by, time.Since(thawed).Seconds())
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: canaryd has not ended 30 s after the thaw: %s", by, threads(w.Daemon()))
	}
}

// threads says what a process waits for.
func threads(p *rig.Process) string {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.PID()))
	stuck := 0
	for _, task := range tasks {
		if stat, err := os.ReadFile(filepath.Join(task, "stat")); err == nil && strings.Contains(string(stat), ") D ") {
			stuck++
		}
	}
	return fmt.Sprintf("%d threads, %d of them in uninterruptible sleep", len(tasks), stuck)
}

// The endpoints that somebody announced for a version are still its own after a reload, a restart, and an edit of
// something else in the policy.
func TestAnnouncedEndpointsStay(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{ramp: stayAtTen})
	first := s.versions["v1"]
	moved, err := rig.NewService("v1", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(moved.Close)
	s.load(100)
	v2 := s.version("v2")
	s.run(0, s.deploy(v2)...)
	s.run(0, s.deploy(moved)...)
	only := func(when string) {
		t.Helper()
		s.until(20*time.Second, "the announced endpoints to be served "+when, func() bool {
			v1 := s.Version("shop", "v1")
			return v1.InForce && len(v1.Endpoints) == 1 && v1.Endpoints[0] == moved.Address && slices.Equal(s.Version("shop", "v2").Endpoints, []string{v2.Address})
		})
		before := first.Count().Requests
		time.Sleep(time.Second)
		if n := first.Count().Requests - before; n > 0 {
			t.Errorf("%s: %d requests reached the endpoint that v1 had before", when, n)
		}
	}
	only("at once")
	if code, body := post(t, "http://"+s.Web+"/-/reload"); code != http.StatusOK {
		t.Fatalf("%d: %s", code, body)
	}
	only("after a reload")
	s.Daemon().Kill()
	if err := s.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	only("after a restart")
	if err := s.WritePolicy("shop.yml", policyText(s.front, first.Address, strings.Replace(stayAtTen, "1h", "2h", 1))); err != nil {
		t.Fatal(err)
	}
	if code, body := post(t, "http://"+s.Web+"/-/reload"); code != http.StatusOK {
		t.Fatalf("%d: %s", code, body)
	}
	only("after an edit of the policy")
}
