package rollout

import (
	"strings"
	"testing"
	"time"
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
	r.announce("v3", "10.0.0.3:80") // sent back while its first weight is on its way
	r.policy(strings.Replace(text, "canaries: 2", "canaries: 1", 1))
	r.at = r.at.Add(5 * time.Hour)
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

// The time in line, and that in which nobody answered, is no silence of the version's.
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
