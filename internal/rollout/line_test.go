package rollout

import (
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// requeued is v3 with 10 % beside v2, and then sent back into the line.
func requeued(t *testing.T, text string) *run {
	text = seedV1 + "judge: {clump: 1}\n" + text
	r := newRun(t, text+"ramp: {steps: [10%, 50%, 100%], hold: 1h, canaries: 2}\n")
	r.announce("v2", "10.0.0.2:80")
	r.announce("v3", "10.0.0.3:80")
	r.observe(5, counts("v1", 800, 0, "v2", 100, 0, "v3", 100, 0))
	r.policy(text + "ramp: {steps: [10%, 50%, 100%], hold: 1h, canaries: 1}\n")
	if v := r.s.Version("v3"); v.Phase != Queued || r.s.Weight("v3") > 0 {
		t.Fatalf("v3 is %s at %d", v.Phase, r.s.Weight("v3"))
	}
	return r
}

// cluster is what Envoy is told of a version.
func (r *run) cluster(version string) (known, pinned bool) {
	for _, c := range r.s.Table().Clusters {
		if c.Version == version {
			return true, c.Pinned
		}
	}
	return false, false
}

// What was known of a version before it went back into the line is not known when its turn comes.
func TestAVersionIsAskedAnewWhenItsTurnComes(t *testing.T) {
	for _, sessions := range []string{"", "sessions: {cookie: s, ttl: 30m}\n"} {
		r := requeued(t, sessions)
		r.at = r.at.Add(5 * time.Hour)
		r.step(Probed{At: r.at, Version: "v3", Up: true}) // was on its way for long
		r.step(Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"})
		if v := r.s.Version("v3"); v.Phase != Warming || !v.Probed() || v.Reachable {
			t.Errorf("%q v3 is %s at %d, asked %v", sessions, v.Phase, r.s.Weight("v3"), v.Probed())
		}
		r.step(Probed{At: r.at, Version: "v3", Up: true})
		if r.s.Weight("v3") != 1000 {
			t.Errorf("%q v3 answers and has %d", sessions, r.s.Weight("v3"))
		}
	}
	text := seedV1 + "sessions: {cookie: s, ttl: 30m}\nramp: {steps: [10%, 100%], canaries: 2}\n"
	r := newRun(t, text)
	r.announce("v2", "10.0.0.2:80")
	r.fleet = false
	r.announce("v3", "10.0.0.3:80") // sent back while its first weight is on its way: an Envoy may have it, so it is asked
	r.policy(strings.Replace(text, "canaries: 2", "canaries: 1", 1))
	r.at = r.at.Add(5 * time.Hour)
	r.step(Probed{At: r.at, Version: "v3", Up: false})
	r.step(Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"})
	if v := r.s.Version("v3"); v.Phase != Warming || v.Reachable {
		t.Errorf("v3, which never had a weight, is %s at %d", v.Phase, r.s.Weight("v3"))
	}
	r = requeued(t, "route: {probe: \"off\"}\n")
	r.step(Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"})
	if r.s.Weight("v3") != 1000 {
		t.Errorf("canaryd is not to ask, and v3 has %d", r.s.Weight("v3"))
	}
}

// Users who are pinned to a version in line do not suffer from it for the rest of their sessions.
func TestSessionsInLineAreJudged(t *testing.T) {
	r := requeued(t, "sessions: {cookie: s, ttl: 30m}\n")
	v := r.s.Version("v3")
	if known, pinned := r.cluster("v3"); !known || !pinned || !v.Probed() || !v.Reported() {
		t.Errorf("v3 is known %v, sessions %v, asked %v, counted %v", known, pinned, v.Probed(), v.Reported())
	}
	r.restart(r.at.Add(time.Second))
	r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 1})
	n := 0
	for ; n < 60 && r.s.Version("v3").Phase == Queued; n++ {
		r.observe(1, counts("v1", 800, 0, "v2", 100, 0, "v3", 100, 100))
	}
	if v := r.s.Version("v3"); v.Phase != Failed || n > 5 {
		t.Errorf("after %d s of nothing but failures v3 is %s", n, v.Phase)
	}
	if known, _ := r.cluster("v3"); known {
		t.Error("it is cut and Envoy knows it")
	}
}

// Sessions end with their time, with the policy's word, or when nobody answers; then Envoy forgets the
// version, and so does everybody else.
func TestSessionsInLineEnd(t *testing.T) {
	const sessions = "sessions: {cookie: s, ttl: 30m}\n"
	for name, end := range map[string]func(r *run){
		"time": func(r *run) {
			r.pass(29 * time.Minute)
			if _, pinned := r.cluster("v3"); !pinned {
				t.Error("the sessions end early")
			}
			r.pass(time.Minute)
		},
		"policy": func(r *run) {
			r.policy(seedV1 + "judge: {clump: 1}\nramp: {steps: [10%, 50%, 100%], hold: 1h, canaries: 1}\n")
		},
		"probe": func(r *run) { r.step(Probed{At: r.at, Version: "v3", Up: false}) },
	} {
		r := requeued(t, sessions)
		end(r)
		v := r.s.Version("v3")
		if known, _ := r.cluster("v3"); known || v.Probed() || v.Reported() || v.is(judged) || v.Reachable || v.Phase != Queued {
			t.Errorf("%s: v3 is %s: known %v, asked %v, counted %v, reachable %v", name, v.Phase, known, v.Probed(), v.Reported(), v.Reachable)
		}
	}
	r := requeued(t, "") // there are none
	if known, _ := r.cluster("v3"); known || r.s.Version("v3").Probed() {
		t.Error("nobody can reach v3, and it is known or asked")
	}
}

// A version whose turn comes while sessions on it live keeps them, whatever it waits for.
func TestSessionsLiveOnUntilTheFirstWeight(t *testing.T) {
	r := requeued(t, "sessions: {cookie: s, ttl: 30m}\n")
	r.policy(seedV1 + "sessions: {cookie: s, ttl: 30m}\nramp: {steps: [60%, 100%], hold: 1h, canaries: 2}\n")
	r.step(Commanded{At: r.at, Verb: "pause", Version: "v2", By: "ann"})
	r.step(Commanded{At: r.at, Verb: "promote", Version: "v2", Reachable: true, By: "ann"})
	if v := r.s.Version("v3"); r.s.Weight("v3") != 6000 || !v.PinsUntil.IsZero() {
		t.Errorf("v3 is %s at %d, old sessions until %s", v.Phase, r.s.Weight("v3"), v.PinsUntil)
	}
	r.step(Probed{At: r.at, Version: "v3", Up: false})
	if _, pinned := r.cluster("v3"); pinned || !r.s.Version("v3").PinsUntil.IsZero() {
		t.Error("nobody answers, and sessions are honoured")
	}
}

// Containers that sessions are pinned to run, however long they are silent.
func TestContainersWithSessionsInLineRun(t *testing.T) {
	text := "docker: {image: r/x, port: 80, stop_idle_after: 1m}\nsessions: {cookie: s, ttl: 30m}\n" + seedV1
	r := newRun(t, text+"ramp: {steps: [10%, 100%], hold: 1h, canaries: 2}\n")
	for _, v := range []string{"v2", "v3"} {
		r.step(Announced{At: r.at, Version: v, Image: "r/x:" + v, By: "ci"})
		r.step(Launched{At: r.at, Version: v, Attempt: 1, Endpoints: []string{strings.Replace(v, "v", "172.17.0.", 1) + ":80"}, Image: true})
		r.step(Probed{At: r.at, Version: v, Up: true})
	}
	r.policy(text + "ramp: {steps: [10%, 100%], hold: 1h, canaries: 1}\n")
	r.pass(29 * time.Minute)
	if r.s.Version("v3").Idle {
		t.Error("v3 idles while sessions are pinned to it")
	}
	r.pass(3 * time.Minute)
	if !r.s.Version("v3").Idle {
		t.Error("v3 does not idle though its sessions have ended")
	}
}

// Before, sessions on a version in line had no end.
func TestSessionsInLineOfFormat1(t *testing.T) {
	r := requeued(t, "sessions: {cookie: s, ttl: 30m}\n")
	until := r.s.Version("v3").PinsUntil
	old := replaced(t, mustEncode(t, r.s), "format", "1")
	old = replaced(t, old, "versions.2.pins_until", "\"0001-01-01T00:00:00Z\"")
	s := mustDecode(t, old)
	if v := s.Version("v3"); v.PinsUntil.Before(until.Add(-10*time.Second)) || v.PinsUntil.After(until.Add(10*time.Second)) {
		t.Errorf("sessions on v3 end at %s, not at %s", v.PinsUntil, until)
	}
}

// The time in line, and that in which nobody answered, does not count as silence of the version.
func TestTimeWithoutAWeightIsNoSilence(t *testing.T) {
	const judge = "judge: {clump: 1, no_evidence: {for: 10m, then: rollback}, deadline: {after: 100h}}\n"
	for name, away := range map[string]func(r *run){
		"in line": func(r *run) {
			r.policy(seedV1 + judge + "ramp: {steps: [10%, 100%], hold: 1h, canaries: 1}\n")
			r.pass(5 * time.Minute)
			r.observe(1, counts("v1", 900, 0, "v2", 100, 0))
			r.pass(8 * time.Minute)
			r.step(Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"})
		},
		"unreachable": func(r *run) {
			r.step(Probed{At: r.at, Version: "v3", Up: false})
			r.pass(5 * time.Minute)
			r.observe(1, counts("v1", 900, 0, "v2", 100, 0))
			r.pass(8 * time.Minute)
		},
	} {
		r := newRun(t, seedV1+judge+"ramp: {steps: [10%, 100%], hold: 1h, canaries: 2}\n")
		r.announce("v2", "10.0.0.2:80")
		r.announce("v3", "10.0.0.3:80")
		r.observe(5, counts("v1", 800, 0, "v2", 100, 0, "v3", 100, 0))
		away(r)
		r.step(Probed{At: r.at, Version: "v3", Up: true})
		r.pass(9 * time.Minute)
		if v := r.s.Version("v3"); v.Phase != Canary || r.s.Weight("v3") != 1000 {
			t.Errorf("%s: v3 is %s at %d: %s", name, v.Phase, r.s.Weight("v3"), v.Verdict.Reason)
		}
		r.pass(2 * time.Minute)
		if v := r.s.Version("v3"); v.Phase != Failed {
			t.Errorf("%s: after 11 min without evidence v3 is %s", name, v.Phase)
		}
	}
}

// hours lets so many hours of clean requests go by, five minutes at a step.
func (r *run) hours(n int, counts map[string]analysis.Counts) {
	r.t.Helper()
	for range 12 * n {
		from := r.at
		r.at = r.at.Add(5 * time.Minute)
		r.step(Observed{At: r.at, Batch: time.Second, Cells: []Cell{{Slice: "edge", From: from, To: r.at, Counts: counts}}})
	}
}

// Nobody is sent back into the line for room that the lead does not get by it.
func TestRoomIsCountedBeforeAnybodyMoves(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [10%, 90%, 100%], hold: 1s}\njudge: {clump: 1, budget: 1000000, promote_within: {ratio: 2, margin: 5%}}\nafter_promotion: {watch: 30m, control: 5%}\n")
	r.announce("v2", "10.0.0.2:80")
	r.observe(60, counts("v1", 500, 0, "v2", 500, 0))
	if r.s.Stable != "v2" {
		t.Fatal("not promoted")
	}
	r.announce("v3", "10.0.0.3:80") // 90 % do not fit beside the control share
	r.announce("v4", "10.0.0.4:80")
	n, g := len(r.log), r.s.Generation
	r.observe(60, counts("v1", 50, 0, "v2", 750, 0, "v3", 100, 0, "v4", 100, 0))
	if records, tables := len(r.log)-n, r.s.Generation-g; records > 10 || tables > 10 {
		t.Errorf("%d records and %d tables in a minute", records, tables)
	}
	if v := r.s.Version("v4"); v.Phase != Canary || v.Counts.Requests < 5000 {
		t.Errorf("v4 is %s, %g requests were counted", v.Phase, v.Counts.Requests)
	}
}

// The first weight rests on the traffic of now, not on that of last night.
func TestTheFirstWeightNeedsARateOfNow(t *testing.T) {
	for name, look := range map[string]func(r *run){
		"canaryd was away":    func(r *run) { r.restart(r.at) },
		"nobody looked at it": func(r *run) {},
	} {
		r := newRun(t, seedV1)
		r.observe(20, counts("v1", 10, 0))
		r.at = r.at.Add(9 * time.Hour)
		look(r)
		r.step(Tick{At: r.at})
		r.announce("v2", "10.0.0.2:80")
		if w := r.s.Weight("v2"); w > 0 {
			t.Errorf("%s: v2 has %d at once", name, w)
		}
		r.observe(12, counts("v1", 10_000, 0))
		if w := r.s.Weight("v2"); w != r.s.Policy.Ramp.First() {
			t.Errorf("%s: v2 has %d at 10 000/s", name, w)
		}
	}
}

// Three canaries past their deadline: the next ones go on, the late ones are promoted when they are proven.
func TestLateCanariesDoNotBlockTheLine(t *testing.T) {
	r := newRun(t, seedV1+"judge: {clump: 1, deadline: {after: 10m, then: hold}}\n")
	r.observe(15, counts("v1", 5, 0))
	for _, v := range []string{"v2", "v3", "v4"} {
		r.announce(v, "10.0.0.2:80")
	}
	r.observe(700, counts("v1", 6, 0, "v2", 1, 0, "v3", 1, 0, "v4", 1, 0))
	for _, name := range []string{"v2", "v3", "v4"} {
		if v := r.s.Version(name); !v.Late || v.Phase != Canary {
			t.Fatalf("%s is %s, late %v", name, v.Phase, v.Late)
		}
	}
	r.announce("v5", "10.0.0.5:80")
	r.observe(2, counts("v1", 6, 0, "v2", 1, 0, "v3", 1, 0, "v4", 1, 0))
	if v := r.s.Version("v5"); v.Phase != Canary {
		t.Errorf("v5 is %s: %s", v.Phase, v.Verdict.Reason)
	}
	r.hours(2, counts("v1", 30000, 0, "v2", 3000, 0, "v3", 3000, 0, "v4", 3000, 0, "v5", 3000, 0))
	if r.s.Stable == "v1" {
		t.Errorf("after 2 hours of clean requests: %s", r.s.Version("v5").Verdict.Reason)
	}

	r = newRun(t, seedV1+"judge: {clump: 1, deadline: {after: 10m, then: hold}}\n")
	r.observe(15, counts("v1", 5, 0))
	r.announce("v2", "10.0.0.2:80")
	r.observe(700, counts("v1", 9, 0, "v2", 1, 0))
	if v := r.s.Version("v2"); !v.Late {
		t.Fatal("v2 is not late")
	}
	r.hours(2, counts("v1", 30000, 0, "v2", 3000, 0))
	if r.s.Stable != "v2" {
		t.Errorf("proven, and late: %s", r.s.Version("v2").Verdict.Reason)
	}
}

// So many late canaries that stable has nothing left to give: the oldest goes back into the line, and comes last.
func TestALateCanaryMakesRoom(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [10%, 90%, 100%], hold: 1h, canaries: 2}\njudge: {clump: 1, deadline: {after: 5m, then: hold}}\n")
	names := []string{"v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12"}
	for i, v := range names {
		r.announce(v, "10.0.0.2:80")
		r.pass(6 * time.Minute)
		if p := r.s.Version(v).Phase; p != Canary {
			t.Fatalf("%s is %s", v, p)
		}
		if n := len(r.s.Canaries()); n > min(i+1, 9) {
			t.Errorf("%d canaries, stable has %d", n, r.s.Weight("v1"))
		}
	}
	if v := r.s.Version("v2"); v.Phase != Queued || r.s.Weight("v1") < minStable {
		t.Errorf("v2 is %s, stable has %d", v.Phase, r.s.Weight("v1"))
	}
}

// Three versions at a wrong port keep nobody waiting, and say so.
func TestVersionsThatNeverAnswerLeaveTheLine(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [10%, 100%], hold: 100h, canaries: 2}\njudge: {no_evidence: {for: 10m}}\n")
	for _, v := range []string{"v2", "v3"} {
		r.step(Announced{At: r.at, Version: v, Endpoints: []string{"10.0.0.9:1"}, By: "ci"})
	}
	r.announce("v4", "10.0.0.4:80")
	r.step(Probed{At: r.at, Version: "v4", Up: true})
	r.pass(9 * time.Minute)
	if p := r.s.Version("v4").Phase; p != Queued {
		t.Fatalf("v4 is %s", p)
	}
	r.pass(3 * time.Minute)
	r.step(Probed{At: r.at, Version: "v4", Up: true})
	r.step(Tick{At: r.at})
	if p := r.s.Version("v4").Phase; p != Canary {
		t.Errorf("v4 is %s", p)
	}
	held := 0
	for _, x := range r.log {
		if x.Kind == KindHeld && strings.Contains(x.Reason, "none of its endpoints has answered for 10m") {
			held++
		}
	}
	if held != 2 || r.s.Version("v2").Verdict.Code != analysis.Unreachable {
		t.Errorf("told %d times; v2: %s", held, r.s.Version("v2").Verdict.Reason)
	}
	r.announce("v5", "10.0.0.5:80")
	r.step(Probed{At: r.at, Version: "v5", Up: true})
	r.step(Tick{At: r.at})
	r.step(Probed{At: r.at, Version: "v2", Up: true}) // both places are taken meanwhile
	r.step(Tick{At: r.at})
	if v2, v5 := r.s.Version("v2"), r.s.Version("v5"); v5.Phase != Canary || v2.Phase != Queued {
		t.Errorf("v2 is %s, v5 %s", v2.Phase, v5.Phase)
	}
}

// A canary is sent back into the line while an Envoy is behind, and still gets requests there: it is judged by them.
func TestWhoLeavesIsJudgedUntilItHasLeft(t *testing.T) {
	text := seedV1 + "judge: {clump: 1}\nramp: {steps: [10%, 50%, 100%], hold: 1h, canaries: 2}\n"
	r := newRun(t, text)
	r.announce("v2", "10.0.0.2:80")
	r.announce("v3", "10.0.0.3:80")
	r.observe(5, counts("v1", 800, 0, "v2", 100, 0, "v3", 100, 0))
	served, since := r.s.Accepted, r.at.Add(-5*time.Second)
	r.fleet = false
	r.policy(seedV1 + "judge: {clump: 1}\nramp: {steps: [10%, 50%, 100%], hold: 1h, canaries: 1}\n")
	if v := r.s.Version("v3"); v.Phase != Queued || !v.Reported() || !v.Probed() {
		t.Fatalf("v3 is %s, reported %v", v.Phase, v.Reported())
	}
	for range 20 {
		from := r.at
		r.at = r.at.Add(time.Second)
		r.step(Observed{At: r.at, Batch: time.Second, Cells: []Cell{{Slice: "a", From: from, To: r.at, Counts: counts("v1", 800, 0, "v3", 100, 100), Has: served, HasSince: since}}})
	}
	if v := r.s.Version("v3"); v.Phase != Failed {
		t.Errorf("after 20 s of total failure at an Envoy that is behind v3 is %s", v.Phase)
	}
}

// A canary with some evidence against it stops answering and comes back: it begins at the first step, where it is cleared
// or cut. Without a weight there would be no evidence for either, and its place would be taken for good.
func TestWhoIsSuspectComesBack(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [10%, 50%, 100%], hold: 1h, canaries: 1}\njudge: {clump: 1}\n")
	r.announce("v2", "10.0.0.2:80")
	v := func() *Version { return r.s.Version("v2") }
	for range 20 {
		if r.observe(1, counts("v1", 900, 0, "v2", 100, 1)); v().Judge.Suspicious(&v().Config) {
			break
		}
	}
	if !v().Judge.Suspicious(&v().Config) || v().Phase != Canary {
		t.Fatalf("v2 is %s, evidence %.3g", v().Phase, v().Judge.E(&v().Config))
	}
	r.step(Probed{At: r.at, Version: "v2"})
	r.step(Probed{At: r.at, Version: "v2", Up: true})
	if v().Phase != Canary || r.s.Weight("v2") != 1000 {
		t.Fatalf("v2 is %s at %d: %s", v().Phase, r.s.Weight("v2"), v().Verdict.Reason)
	}
	if r.observe(10, counts("v1", 900, 0, "v2", 100, 20)); v().Phase != Failed {
		t.Errorf("v2 fails, and is %s: %s", v().Phase, v().Verdict.Reason)
	}
}
