package rollout

import (
	"testing"
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
