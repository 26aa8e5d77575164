package rollout

import (
	"testing"
	"time"
)

// promoted is a service whose v2 canaryd has promoted: v1 is warm.
func promoted(t *testing.T, text string) *run {
	r := newRun(t, seedV1+"ramp: {steps: [50%, 100%], hold: 2s}\njudge: {clump: 1, promote_within: {ratio: 2, margin: 5%}}\n"+text)
	r.announce("v2", "10.0.0.2:80")
	r.observe(10, counts("v1", 500, 0, "v2", 500, 0))
	if r.s.Stable != "v2" || r.s.Version("v1").Phase != Warm {
		t.Fatalf("stable is %q, v1 is %s", r.s.Stable, r.s.Version("v1").Phase)
	}
	return r
}

// The way back: the version that a person promotes is not taken out of service first.
func TestTheWarmVersionIsPromoted(t *testing.T) {
	for _, text := range []string{"", "sessions: {cookie: s, ttl: 30m}\n", "after_promotion: {watch: 1h, control: 5%}\n"} {
		r := promoted(t, text)
		n := len(r.log)
		r.step(Commanded{At: r.at, Verb: "promote", Version: "v1", Reachable: true, By: "ann"})
		for _, x := range r.log[n:] {
			if x.Version == "v1" && x.Kind != KindPromoted {
				t.Errorf("%q the history says %q of v1: %s", text, x.Kind, x.Reason)
			}
		}
		if v := r.s.Version("v1"); v.Phase != Stable || r.s.Weight("v1")+r.s.Weight("v2") != 10000 || len(v.Slots) > 0 {
			t.Errorf("%q v1 is %s at %d, v2 %s at %d", text, v.Phase, r.s.Weight("v1"), r.s.Version("v2").Phase, r.s.Weight("v2"))
		}
	}
}

// A promotion begins the newer canaries' dwell anew, when it is in force: they are compared with another
// version now.
func TestAPromotionBeginsTheDwellAnew(t *testing.T) {
	for name, promote := range map[string]func(r *run){
		"promotion": func(r *run) {
			r.step(Commanded{At: r.at, Verb: "promote", Version: "v2", Reachable: true, By: "ann"})
		},
		"way back": func(r *run) {
			r.step(Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"}) // which is the lead
			r.step(Commanded{At: r.at, Verb: "abort", Version: "v1", By: "ann"})
		},
	} {
		r := newRun(t, seedV1+"ramp: {steps: [10%, 80%, 100%], hold: 30s}\njudge: {clump: 1, budget: 1000}\n")
		if name == "way back" {
			r.announce("v0", "10.0.0.9:80")
			r.step(Commanded{At: r.at, Verb: "promote", Version: "v0", Reachable: true, By: "ann"})
			r.step(Commanded{At: r.at, Verb: "promote", Version: "v1", Reachable: true, By: "ann"})
		}
		r.announce("v2", "10.0.0.2:80")
		r.announce("v3", "10.0.0.3:80")
		r.observe(25, counts("v1", 80, 0, "v2", 10, 0, "v3", 10, 0))
		r.fleet = false
		promote(r)
		if v := r.s.Version("v3"); r.s.Weight("v3") != 1000 || !v.WeightSince.IsZero() {
			t.Errorf("%s: v3 has %d, in force since %s, before the Envoys have it", name, r.s.Weight("v3"), v.WeightSince)
		}
		r.observe(10, counts("v1", 80, 0, "v2", 10, 0, "v3", 10, 0))
		r.fleet = true
		r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 1})
		inForce, stable := r.at, r.s.Stable
		for r.s.Weight("v3") == 1000 && r.at.Sub(inForce) < 10*time.Minute {
			r.observe(1, counts(stable, 90, 0, "v3", 10, 0))
		}
		if d := r.at.Sub(inForce); d < 30*time.Second || d > 40*time.Second {
			t.Errorf("%s: v3 rises %s after it is in force; hold is 30s", name, d)
		}
	}
}
