package rollout

import "testing"

// A version comes back after its endpoints did not answer, and no Envoy takes its weight of then: it gives up its place,
// and a person who has it tried again gets it tried.
func TestWhoComesBackAndIsNotTakenStarts(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [10%, 50%, 100%], hold: 100h, canaries: 1}\n")
	r.announce("v2", "10.0.0.2:80")
	r.step(Probed{At: r.at, Version: "v2"})
	r.step(Tick{At: r.at})
	if w := r.s.Weight("v2"); w != 0 {
		t.Fatalf("v2 does not answer, and has %d", w)
	}
	r.fleet = false
	r.step(Probed{At: r.at, Version: "v2", Up: true})
	r.step(Rejected{At: r.at, Generation: r.s.Generation, Node: "edge-1", Message: "no"})
	r.announce("v3", "10.0.0.3:80")
	r.pass(refusedFor)
	r.step(Applied{At: r.at, Generation: r.s.Generation, Subscribers: 1, Refusing: []string{"edge-1"}})
	r.pass(takenWithin)
	r.fleet = true
	if v := r.s.Version("v2"); v.Refused == "" || v.Phase != Queued {
		t.Errorf("no Envoy takes v2: it is %s at %d: %s", v.Phase, r.s.Weight("v2"), v.Verdict.Reason)
	}
	r.step(Tick{At: r.at})
	r.step(Probed{At: r.at, Version: "v3", Up: true})
	if v := r.s.Version("v3"); r.s.Weight("v3") == 0 {
		t.Errorf("v3 is %s: %s", v.Phase, v.Verdict.Reason)
	}
	r.step(Commanded{At: r.at, Verb: "abort", Version: "v3", By: "ann"})
	r.step(Commanded{At: r.at, Verb: "resume", Version: "v2", By: "ann"})
	r.step(Probed{At: r.at, Version: "v2", Up: true})
	r.pass(refusedFor)
	if v := r.s.Version("v2"); r.s.Weight("v2") == 0 {
		t.Errorf("v2 is to be tried again, and is %s at %d: %s %s", v.Phase, r.s.Weight("v2"), v.Verdict.Code, v.Verdict.Reason)
	}
}
