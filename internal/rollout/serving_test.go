package rollout

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

const rampOfServing = "ramp: {steps: [1%, 10%, 50%, 100%], hold: 2s}\njudge: {clump: 1, budget: 100000}\n"

// refuse lets an Envoy refuse what is given, and the others accept what they get then.
func (r *run) refuse(node string) {
	r.t.Helper()
	r.fleet = false
	r.step(Rejected{At: r.at, Generation: r.s.Generation, Node: node, Message: "no"})
	r.fleet = true
	r.step(Tick{At: r.at})
}

// refused is a canary that was raised from 1 to 10 %, which an Envoy refuses: 1 % is served.
func refused(t *testing.T, text string) *run {
	r := newRun(t, text+rampOfServing)
	r.announce("v2", "10.0.0.2:80")
	r.fleet = false
	r.observe(4, counts("v1", 990, 0, "v2", 10, 0))
	if r.s.Weight("v2") != 1000 {
		t.Fatalf("v2 has %d, and is to have been raised to 1000", r.s.Weight("v2"))
	}
	r.refuse("edge-1")
	r.held("after the refusal")
	return r
}

// held checks that 10 % is decided and 1 % is served, and that everybody knows.
func (r *run) held(when string) {
	r.t.Helper()
	if w, given := r.s.Weight("v2"), slotsOf(r.s.Table().Slots, "v2"); w != 1000 || given != 100 || r.s.InForceAt("v2") {
		r.t.Errorf("%s %d of v2 is decided and %d given; in force: %v", when, w, given, r.s.InForceAt("v2"))
	}
	if n := r.s.Nack(); n == nil || n.Node != "edge-1" {
		r.t.Errorf("%s the refusal is %+v", when, n)
	}
}

// Neither a reload nor a restart forgets a refusal; no evidence about 1 % raises 10 %.
func TestAReloadAndARestartKeepARefusal(t *testing.T) {
	r := refused(t, seedV1)
	generation := r.s.Generation
	r.policy(seedV1 + rampOfServing)
	r.held("after a reload")
	r.restart(r.at.Add(time.Second))
	r.held("after a restart")
	r.policy(seedV1 + rampOfServing)
	r.held("after the reload of a restart")
	r.step(Applied{At: r.at, Generation: r.s.Generation, Subscribers: 2})
	r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 2})
	r.observe(20, counts("v1", 990, 0, "v2", 10, 0))
	r.held("20 s later")
	if v := r.s.Version("v2"); v.Verdict.Code != analysis.Nack {
		t.Errorf("the verdict is %s: %s", v.Verdict.Code, v.Verdict.Reason)
	}
	if r.s.Generation != generation {
		t.Errorf("generation %d became %d though the Envoys are given the same", generation, r.s.Generation)
	}
}

// What ends a refusal: other content, a person, and the Envoy itself.
func TestWhatEndsARefusal(t *testing.T) {
	for name, end := range map[string]func(r *run){
		"resume":          func(r *run) { r.step(Commanded{At: r.at, Verb: "resume", Version: "v2", By: "ann"}) },
		"promote":         func(r *run) { r.step(Commanded{At: r.at, Verb: "promote", Version: "v2", Reachable: true, By: "ann"}) },
		"other endpoints": func(r *run) { r.step(Announced{At: r.at, Version: "v2", Endpoints: []string{"10.0.0.9:80"}, By: "ci"}) },
		"another policy":  func(r *run) { r.policy(seedV1 + rampOfServing + "route: {timeout: 3s}\n") },
		"another version": func(r *run) { r.announce("v3", "10.0.0.3:80") },
		"abort":           func(r *run) { r.step(Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"}) },
	} {
		r := refused(t, seedV1)
		end(r)
		if r.s.Nack() != nil || slotsOf(r.s.Table().Slots, "v2") != r.s.Weight("v2") || !r.s.InForceAt("v2") {
			t.Errorf("%s: %+v, %d of v2 is decided and %v given", name, r.s.Nack(), r.s.Weight("v2"), r.s.Table().Slots)
		}
	}
	// A first table that is refused: there is nothing to go back to until the Envoy is repaired.
	r := &run{t: t, at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	r.policy(seedV1)
	r.step(Rejected{At: r.at, Generation: r.s.Generation, Node: "edge-1", Type: "listener", Resource: "0.0.0.0:80", Message: "port taken"})
	generation := r.s.Generation
	r.step(Applied{At: r.at, Generation: generation, Subscribers: 2, Accepted: []string{"edge-2"}})
	if r.s.Nack() == nil || r.s.Nack().Type != "listener" {
		t.Errorf("the refusal is %+v", r.s.Nack())
	}
	r.step(Applied{At: r.at, Generation: generation, Subscribers: 3, Accepted: []string{"edge-1", "edge-2"}})
	if r.s.Nack() != nil || r.s.Generation != generation {
		t.Errorf("edge-1 accepted it: %+v", r.s.Nack())
	}
}

// A refusal never holds back a fall: not even of a table that is refused again.
func TestNothingFallsLessUnderARefusal(t *testing.T) {
	text := seedV1 + "ramp: {steps: [10%, 50%, 100%], hold: 2s}\njudge: {clump: 1, budget: 100000}\n"
	for name, fall := range map[string]func(r *run){
		"no endpoint answers": func(r *run) { r.step(Probed{At: r.at, Version: "v3", Up: false}) },
		"back in line":        func(r *run) { r.policy(strings.Replace(text, "hold: 2s", "hold: 2s, canaries: 1", 1)) },
		"cut":                 func(r *run) { r.observe(3, counts("v1", 800, 0, "v2", 100, 0, "v3", 100, 100)) },
	} {
		r := newRun(t, text)
		r.announce("v2", "10.0.0.2:80")
		r.announce("v3", "10.0.0.3:80")
		r.fleet = false
		r.observe(3, counts("v1", 800, 0, "v2", 100, 0, "v3", 100, 0))
		r.refuse("edge-1")
		r.fleet = false
		fall(r)
		r.refuse("edge-1")
		if w, given := r.s.Weight("v3"), slotsOf(r.s.Table().Slots, "v3"); w != 0 || given != 0 {
			t.Errorf("%s: %d of v3 is decided and %d given", name, w, given)
		}
		if given := slotsOf(r.s.Table().Slots, "v2"); given != 1000 {
			t.Errorf("%s: %d of v2 is given, which had 1000 before its raise was refused", name, given)
		}
	}
}

// A refused promotion leaves both versions what they had, a person's does not.
func TestARefusedPromotion(t *testing.T) {
	text := seedV1 + "ramp: {steps: [50%, 100%], hold: 2s}\njudge: {clump: 1, promote_within: {ratio: 2, margin: 5%}, max_error_rate: 5%}\n"
	promoted := func() *run {
		r := newRun(t, text)
		r.announce("v2", "10.0.0.2:80")
		r.fleet = false
		r.observe(10, counts("v1", 500, 0, "v2", 500, 0))
		if r.s.Stable != "v2" {
			t.Fatal("v2 is not promoted")
		}
		r.refuse("edge-1")
		return r
	}
	r := promoted()
	if given := r.s.Table().Slots; slotsOf(given, "v1") != 5000 || slotsOf(given, "v2") != 5000 || r.s.InForceAt("v2") {
		t.Errorf("canaryd's own promotion is refused, and %v is given", given)
	}
	r.observe(10, counts("v1", 500, 0, "v2", 500, 250))
	if given := r.s.Table().Slots; r.s.Stable != "v1" || slotsOf(given, "v1") != 10000 {
		t.Errorf("v2 fails, stable is %s, and %v is given", r.s.Stable, given)
	}

	r = newRun(t, text)
	r.announce("v2", "10.0.0.2:80")
	r.step(Commanded{At: r.at, Verb: "promote", Version: "v2", Reachable: true, By: "ann"})
	r.refuse("edge-1")
	if given := r.s.Table().Slots; slotsOf(given, "v2") != 10000 {
		t.Errorf("what a person promoted is refused by one Envoy, and %v is given to all", given)
	}
	r = promoted() // after a while the others get what is decided; before that is in force the watch does not begin
	r.at = r.at.Add(time.Hour)
	r.step(Tick{At: r.at})
	if given := r.s.Table().Slots; slotsOf(given, "v2") != 10000 || r.s.Version("v1").Phase != Warm {
		t.Errorf("v1 is %s, and %v is given", r.s.Version("v1").Phase, given)
	}
}

// A person promotes a version whose containers are stopped, while a refusal holds the ramp.
func TestAVersionThatIsRevivedUnderARefusal(t *testing.T) {
	r := newRun(t, "docker: {image: r/x, port: 80}\nroute: {probe: \"off\"}\n"+seedV1+rampOfServing)
	r.step(Announced{At: r.at, Version: "v0", Image: "r/x:v0", By: "ci"})
	r.step(Launched{At: r.at, Version: "v0", Attempt: 1, Endpoints: []string{"172.17.0.2:80"}, Image: true})
	r.step(Commanded{At: r.at, Verb: "abort", Version: "v0", By: "ann"})
	r.announce("v2", "10.0.0.2:80")
	r.fleet = false
	r.observe(4, counts("v1", 990, 0, "v2", 10, 0))
	r.refuse("edge-1")
	r.held("before")
	r.at = r.at.Add(2 * time.Hour)
	r.step(Tick{At: r.at})
	r.step(Launched{At: r.at, Version: "v0", Attempt: 1, Done: Stop, Containers: 1})
	r.step(Commanded{At: r.at, Verb: "promote", Version: "v0", Knowing: true, By: "ann"})
	r.step(Launched{At: r.at, Version: "v0", Attempt: r.s.Version("v0").Attempt, Endpoints: []string{"172.17.0.3:80"}, Image: true})
	if given := r.s.Table().Slots; r.s.Stable != "v0" || slotsOf(given, "v0") != r.s.Weight("v0") || !r.s.InForceAt("v0") {
		t.Errorf("stable is %s, and %v is given", r.s.Stable, given)
	}
}

// While 10 % is refused, 1 % is served and seen: that is evidence, though none to raise anything.
func TestARefusalIsNoLackOfEvidence(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [1%, 10%, 50%, 100%], hold: 2s}\njudge: {clump: 1, budget: 100000, no_evidence: {for: 1m, then: rollback}}\n")
	r.announce("v2", "10.0.0.2:80")
	r.fleet = false
	r.observe(4, counts("v1", 990, 0, "v2", 10, 0))
	r.refuse("edge-1")
	r.observe(300, counts("v1", 990, 0, "v2", 10, 0))
	r.held("after five minutes of clean requests")
	if v := r.s.Version("v2"); v.Phase != Canary {
		t.Errorf("v2 is %s: %s", v.Phase, v.Verdict.Reason)
	}
}

// An Envoy that was away comes back with an older table: nothing is in force until it has the present one.
func TestAnEnvoyThatComesBack(t *testing.T) {
	r := newRun(t, seedV1+rampOfServing)
	r.announce("v2", "10.0.0.2:80")
	since := r.s.Version("v2").WeightSince
	r.fleet = false
	r.at = r.at.Add(time.Second)
	r.step(Applied{At: r.at, Generation: r.s.Generation, Subscribers: 2})
	if r.s.InForceAt("v2") {
		t.Error("1% is said to be in force, and an Envoy is not up to date")
	}
	r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 2})
	if !r.s.InForceAt("v2") || !r.s.Version("v2").WeightSince.Equal(since) {
		t.Errorf("in force %v, since %s, not since %s", r.s.InForceAt("v2"), r.s.Version("v2").WeightSince, since)
	}
}

func TestCommonSlots(t *testing.T) {
	for _, c := range []struct{ a, b, base, want string }{
		{"v1:10000", "v1:10000", "v1", "v1:10000"},
		{"v1:9000 v2:1000", "v1:5000 v2:5000", "v1", "v1:9000 v2:1000"},
		{"v1:5000 v2:5000", "v1:9000 v2:1000", "v1", "v1:9000 v2:1000"},
		{"v1:5000 v2:5000", "v2:10000", "v1", "v1:5000 v2:5000"},
		{"v1:5000 v2:5000", "v2:10000", "v2", "v2:10000"},
		{"v1:4000 v3:1000 v2:5000", "v1:5000 v2:5000", "v1", "v1:5000 v2:5000"},
	} {
		if got := slotLine(common(runsOf(c.a), runsOf(c.b), c.base)); got != c.want {
			t.Errorf("%s and %s have %s in common, not %s", c.a, c.b, got, c.want)
		}
	}
}

func runsOf(line string) []Run {
	var rs []Run
	for _, f := range strings.Fields(line) {
		version, n, _ := strings.Cut(f, ":")
		count := 0
		for _, d := range n {
			count = 10*count + int(d-'0')
		}
		rs = append(rs, Run{version, count})
	}
	return slices.Clip(rs)
}

// A policy no longer has sessions, and an Envoy that is away may still pin users to what was aborted since: its containers
// stay until that Envoy is back.
func TestWhatAnAwayEnvoyMayPinIsNotStopped(t *testing.T) {
	text := "docker: {image: r/x, port: 80}\nroute: {probe: \"off\"}\n" + seedV1 + "ramp: {steps: [10%, 100%], hold: 1h}\n"
	r := newRun(t, text+"sessions: {cookie: s, ttl: 30m}\n")
	r.step(Announced{At: r.at, Version: "v2", Image: "r/x:v2", By: "ci"})
	r.step(Launched{At: r.at, Version: "v2", Attempt: 1, Endpoints: []string{"172.17.0.2:80"}, Image: true})
	r.step(Tick{At: r.at})
	if r.s.Weight("v2") != 1000 {
		t.Fatalf("v2 has %d", r.s.Weight("v2"))
	}
	applied := func(present bool) {
		r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 1, Crowds: []Crowd{
			{"new", r.s.Given, true, []string{"edge-1"}}, {"old", []Run{{"v1", 10000}}, present, []string{"edge-2"}}}})
	}
	r.fleet = false
	applied(false)
	r.policy(text)
	applied(false)
	r.step(Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"})
	stopped := func() bool {
		r.at = r.at.Add(3 * time.Hour) // idle for long
		r.step(Tick{At: r.at})
		for _, c := range r.s.Containers() {
			if c.Version == "v2" {
				return c.Goal >= Stop
			}
		}
		return false
	}
	if applied(false); stopped() {
		t.Error("v2 is stopped, and edge-2 may still pin users to it")
	}
	if applied(true); !stopped() {
		t.Error("edge-2 is back, and v2 runs on")
	}
}

// A refusal holds the ramp for ten minutes; then the others go on, and the same Envoy holds up only what comes later.
func TestARefusalIsBorneAfterAWhile(t *testing.T) {
	r := refused(t, seedV1)
	r.at = r.at.Add(refusedFor - time.Minute)
	r.step(Tick{At: r.at})
	r.held("after nine minutes")
	r.at = r.at.Add(2 * time.Minute)
	r.fleet = false
	r.step(Tick{At: r.at})
	if given := slotsOf(r.s.Table().Slots, "v2"); given != 1000 || r.s.Nack() != nil {
		t.Fatalf("after eleven minutes v2 is given %d, refused by %+v", given, r.s.Nack())
	}
	r.step(Rejected{At: r.at, Generation: r.s.Generation, Node: "edge-1", Message: "no"})
	if given := slotsOf(r.s.Table().Slots, "v2"); given != 1000 || r.s.Nack() != nil || r.s.InForce {
		t.Errorf("it refuses again, and v2 is given %d, refused by %+v", given, r.s.Nack())
	}
	r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 2, Lagging: []string{"edge-1"}})
	r.fleet = true
	r.observe(10, counts("v1", 900, 0, "v2", 100, 0))
	if w := r.s.Weight("v2"); w <= 1000 {
		t.Errorf("v2 has %d: %s", w, r.s.Version("v2").Verdict.Reason)
	}
	r.fleet = false
	r.announce("v3", "10.0.0.3:80")
	r.step(Tick{At: r.at})
	r.refuse("edge-1")
	if n := r.s.Nack(); n == nil || n.Node != "edge-1" {
		t.Errorf("a later release: %+v", n)
	}
}

// An Envoy that refused is replaced by a new process: nothing is held any longer.
func TestANewProcessRefusesNothing(t *testing.T) {
	r := refused(t, seedV1)
	r.fleet = false
	r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 2, Restarted: []string{"edge-7"}})
	r.held("after the restart of another one")
	r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 2, Restarted: []string{"edge-1"}})
	if given := slotsOf(r.s.Table().Slots, "v2"); given != 1000 || r.s.Nack() != nil {
		t.Errorf("v2 is given %d, refused by %+v", given, r.s.Nack())
	}
}
