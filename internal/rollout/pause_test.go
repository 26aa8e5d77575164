package rollout

import (
	"testing"
	"time"
)

// pass lets time go by, a minute at a step.
func (r *run) pass(d time.Duration) {
	r.t.Helper()
	for end := r.at.Add(d); r.at.Before(end); {
		r.at = r.at.Add(time.Minute)
		r.step(Tick{At: r.at})
	}
}

// lives is how long the version is under test from now on.
func (r *run) lives(version string, most time.Duration) time.Duration {
	r.t.Helper()
	from := r.at
	for r.s.Version(version).Phase.Waiting() && r.at.Sub(from) < most {
		r.pass(time.Minute)
	}
	return r.at.Sub(from)
}

// The deadline begins with the first weight in force: what was paused before does not count, neither for
// nor against it, and what is paused later does not either.
func TestPausesAndTheDeadline(t *testing.T) {
	const text = seedV1 + "ramp: {steps: [10%, 100%], hold: 100h}\njudge: {deadline: {after: 1h, then: rollback}, no_evidence: {for: 100h}}\n"
	resumed := func(r *run) { r.step(Commanded{At: r.at, Verb: "resume", Version: "v2", By: "ann"}) }
	paused := func(r *run) { r.step(Commanded{At: r.at, Verb: "pause", Version: "v2", By: "ann"}) }
	for name, c := range map[string]struct {
		before func(r *run)
		left   time.Duration
	}{
		"never paused": {func(r *run) { r.announce("v2", "10.0.0.2:80") }, time.Hour},
		"before the first weight": {func(r *run) {
			r.step(Announced{At: r.at, Version: "v2", Endpoints: []string{"10.0.0.2:80"}, Paused: true, By: "ci"})
			r.step(Probed{At: r.at, Version: "v2", Up: true})
			r.pass(5 * time.Hour)
			resumed(r)
		}, time.Hour},
		"after it": {func(r *run) {
			r.announce("v2", "10.0.0.2:80")
			r.pass(20 * time.Minute)
			paused(r)
			r.pass(5 * time.Hour)
			resumed(r)
		}, 40 * time.Minute},
		"while it is on its way": {func(r *run) {
			r.fleet = false
			r.announce("v2", "10.0.0.2:80")
			paused(r)
			r.pass(5 * time.Hour)
			r.fleet = true
			r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 1})
			r.pass(5 * time.Hour)
			resumed(r)
		}, time.Hour},
	} {
		r := newRun(t, text)
		c.before(r)
		if got := r.lives("v2", 20*time.Hour); got < c.left || got > c.left+2*time.Minute {
			t.Errorf("paused %s: cut after %s, want %s", name, got, c.left)
		}
	}
}

// A pause is no silence, and no credit for silence to come either, whether requests came meanwhile or not.
func TestPausesAndSilence(t *testing.T) {
	for _, requests := range []bool{false, true} {
		r := newRun(t, seedV1+"ramp: {steps: [10%, 100%], hold: 100h}\njudge: {clump: 1, no_evidence: {for: 10m, then: rollback}, deadline: {after: 100h}}\n")
		r.announce("v2", "10.0.0.2:80")
		r.pass(4 * time.Minute)
		r.step(Commanded{At: r.at, Verb: "pause", Version: "v2", By: "ann"})
		r.pass(5 * time.Hour)
		left := 6 * time.Minute
		if requests {
			r.observe(10, counts("v1", 900, 0, "v2", 100, 0))
			left = 10 * time.Minute
		}
		r.step(Commanded{At: r.at, Verb: "resume", Version: "v2", By: "ann"})
		if got := r.lives("v2", 20*time.Hour); got < left || got > left+2*time.Minute {
			t.Errorf("requests while it was paused: %v; it is cut after %s of silence, want %s", requests, got, left)
		}
	}
}

// Where the phase does not say that a version is paused, or that no Envoy takes it, what it is held for does.
func TestWhatAVersionIsHeldFor(t *testing.T) {
	held := func(r *run, want string) {
		t.Helper()
		if v := r.s.Version("v2"); string(r.s.HeldBy(v)) != want {
			t.Errorf("v2 is %s: held for %q, want %q", v.Phase, r.s.HeldBy(v), want)
		}
	}
	r := newRun(t, seedV1+"ramp: {steps: [10%, 100%], hold: 100h}\n")
	r.announce("v2", "10.0.0.2:80")
	r.step(Commanded{At: r.at, Verb: "pause", Version: "v2", By: "ann"})
	held(r, "")
	r.step(Probed{At: r.at, Version: "v2"})
	held(r, "paused")
	r.step(Probed{At: r.at, Version: "v2", Up: true})
	held(r, "")
	r.fleet = false
	r.step(Commanded{At: r.at, Verb: "resume", Version: "v2", By: "ann"})
	r.step(Rejected{At: r.at, Generation: r.s.Generation, Node: "edge-1", Message: "no"})
	held(r, "")
	r.pass(refusedFor)
	r.step(Applied{At: r.at, Generation: r.s.Generation, Subscribers: 1, Refusing: []string{"edge-1"}})
	r.pass(2 * takenWithin)
	held(r, "nack")
}

// Who refuses after the ten minutes holds nothing up: the table is in force at the others at once.
func TestARefusalThatIsBorneHoldsNothingUp(t *testing.T) {
	r := refused(t, seedV1)
	r.fleet = false
	r.pass(refusedFor)
	r.step(Rejected{At: r.at, Generation: r.s.Generation, Node: "edge-1", Message: "no"})
	r.step(Rejected{At: r.at, Generation: r.s.Generation, Node: "edge-2", Message: "no"})
	r.step(Applied{At: r.at, Generation: r.s.Generation, Subscribers: 3, Otherwise: true, Refusing: []string{"edge-1", "edge-2"}})
	if r.s.Nack() != nil || !r.s.InForceAt("v2") || r.s.Weight("v2") != 1000 {
		t.Errorf("edge-1 has refused for ten minutes, edge-2 does as well, edge-3 accepts: %+v, in force %v at %d", r.s.Nack(), r.s.InForceAt("v2"), r.s.Weight("v2"))
	}
}
