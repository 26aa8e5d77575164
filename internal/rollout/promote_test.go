package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
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
			r.step(Commanded{At: r.at, Verb: "abort", Version: "v0", By: "ann"})
		},
	} {
		r := newRun(t, seedV1+"ramp: {steps: [10%, 80%, 100%], hold: 30s}\njudge: {clump: 1, budget: 1000}\n")
		stable := "v1"
		if name == "way back" {
			stable = "v0"
			r.announce("v0", "10.0.0.9:80")
			r.step(Commanded{At: r.at, Verb: "promote", Version: "v0", Reachable: true, By: "ann"})
		}
		r.announce("v2", "10.0.0.2:80")
		r.announce("v3", "10.0.0.3:80")
		r.observe(25, counts(stable, 80, 0, "v2", 10, 0, "v3", 10, 0))
		r.fleet = false
		promote(r)
		if v := r.s.Version("v3"); r.s.Weight("v3") != 1000 || !v.WeightSince.IsZero() {
			t.Errorf("%s: v3 has %d, in force since %s, before the Envoys have it", name, r.s.Weight("v3"), v.WeightSince)
		}
		r.observe(10, counts(r.s.Stable, 80, 0, "v2", 10, 0, "v3", 10, 0))
		r.fleet = true
		r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 1})
		inForce := r.at
		stable = r.s.Stable
		for r.s.Weight("v3") == 1000 && r.at.Sub(inForce) < 10*time.Minute {
			r.observe(1, counts(stable, 90, 0, "v3", 10, 0))
		}
		if d := r.at.Sub(inForce); d < 30*time.Second || d > 40*time.Second {
			t.Errorf("%s: v3 rises %s after it is in force; hold is 30s", name, d)
		}
	}
}

// CI stops the old hosts when its deploy is through: whoever goes back must not go to nobody.
func TestNobodyGoesBackToTheDead(t *testing.T) {
	down := func(r *run) { r.step(Probed{At: r.at, Version: "v1", Up: false}) }
	for name, text := range map[string]string{
		"late failure":   "after_promotion: {watch: 1h, control: 10%}\n",
		"max_error_rate": "after_promotion: {watch: 1h}\n",
	} {
		ceiling := ""
		if name == "max_error_rate" {
			ceiling = ", max_error_rate: 5%"
		}
		r := newRun(t, seedV1+"ramp: {steps: [50%, 100%], hold: 2s}\njudge: {clump: 1, promote_within: {ratio: 2, margin: 5%}"+ceiling+"}\n"+text)
		r.announce("v2", "10.0.0.2:80")
		r.observe(10, counts("v1", 500, 0, "v2", 500, 0))
		down(r)
		if w := r.s.Weight("v1"); w != 0 {
			t.Errorf("%s: the dead v1 keeps %d", name, w)
		}
		_, _, err := Step(r.s, Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"})
		if err == nil || !strings.Contains(err.Error(), "start one and `canaryd promote shop v1` (warm, 10.0.0.1:80)") {
			t.Errorf("%s: %v", name, err)
		}
		r.observe(120, counts("v2", 1000, 200))
		if r.s.Stable != "v2" || !r.s.Version("v2").Alarmed {
			t.Errorf("%s: stable is %s, alarm %v", name, r.s.Stable, r.s.Version("v2").Alarmed)
		}
		r.step(Probed{At: r.at, Version: "v1", Up: true})
		r.observe(5, counts("v2", 1000, 200))
		if name == "max_error_rate" && r.s.Stable != "v1" {
			t.Errorf("v1 is back, and stable is %s", r.s.Stable)
		}
	}
}

// Who promotes an older version flees from the present one: nobody stays there, and nothing leads back to it.
func TestAnEmergencyReturnLeavesNobodyBehind(t *testing.T) {
	r := promoted(t, "sessions: {cookie: s, ttl: 30m}\nafter_promotion: {watch: 30m, control: 10%}\n")
	r.step(Commanded{At: r.at, Verb: "promote", Version: "v1", Reachable: true, By: "ann"})
	v := r.s.Version("v2")
	if known, pinned := r.cluster("v2"); v.Phase != Aborted || known || pinned || r.s.Weight("v1") != 10000 || v.Verdict.Code != analysis.Aborted {
		t.Errorf("v2 is %s (%s), known to the Envoys %v, v1 has %d", v.Phase, v.Verdict.Reason, known, r.s.Weight("v1"))
	}
	if _, _, err := Step(r.s, Commanded{At: r.at, Verb: "abort", Version: "v1", By: "ann"}); err == nil {
		t.Error("abort leads back to v2")
	}
	if _, _, err := Step(r.s, Commanded{At: r.at, Verb: "promote", Version: "v2", Reachable: true, By: "ann"}); err == nil || !strings.Contains(err.Error(), "--even-failed") {
		t.Errorf("%v", err)
	}
}

// By hand, one is promoted over another: the newer one is what a person wants, the older one the way back.
func TestAbortOfWhatWasPromotedByHand(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [10%, 100%], hold: 1h}\n")
	r.announce("v2", "10.0.0.2:80")
	r.announce("v3", "10.0.0.3:80")
	hand := func(verb, version string) {
		r.step(Commanded{At: r.at, Verb: verb, Version: version, Reachable: true, By: "ann"})
	}
	hand("promote", "v2")
	hand("promote", "v3") // v2 was left, and never trusted: v1, which drains or is retired, would be the way back
	_, _, err := Step(r.s, Commanded{At: r.at, Verb: "abort", Version: "v3", By: "ann"})
	if err == nil {
		t.Error("abort leads back to a version that a person left")
	}

	r = newRun(t, seedV1+"ramp: {steps: [10%, 100%], hold: 1h}\n")
	r.announce("v2", "10.0.0.2:80")
	hand("promote", "v2")
	hand("abort", "v2")
	if v := r.s.Version("v2"); r.s.Stable != "v1" || v.Phase != Aborted || !strings.Contains(v.Verdict.Reason, "everything goes back to v1") {
		t.Errorf("stable is %s, v2 %s: %s", r.s.Stable, v.Phase, v.Verdict.Reason)
	}
}

// Outcomes are kept by their end, and for an hour: somebody waits for them.
func TestOutcomesAreKept(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [10%, 100%], hold: 1h, canaries: 1}\n")
	for i := range 30 {
		r.announce(fmt.Sprint("v", i+2), "10.0.0.2:80")
	}
	r.step(Commanded{At: r.at, Verb: "promote", Version: "v31", Reachable: true, By: "ann"})
	for i := range 29 {
		if v := r.s.Version(fmt.Sprint("v", i+2)); v == nil || v.Phase != Superseded || v.Verdict.Code != analysis.Superseded {
			t.Fatalf("v%d: %+v", i+2, v)
		}
	}
	r.pass(2 * time.Hour)
	if r.s.Version("v2") != nil && len(r.s.Versions) > keepEnded+2 {
		t.Errorf("%d versions after two hours", len(r.s.Versions))
	}
	for i := range 300 {
		r.announce(fmt.Sprint("w", i), "10.0.0.2:80")
		r.step(Commanded{At: r.at, Verb: "abort", Version: fmt.Sprint("w", i), By: "ann"})
	}
	if n := len(r.s.Versions); n > mostEnded+5 {
		t.Errorf("%d versions", n)
	}
}

// A new attempt of an old version, promoted by hand, is a return as well.
func TestAnotherAttemptOfAnOldVersionIsNoNewRelease(t *testing.T) {
	r := promoted(t, "sessions: {cookie: s, ttl: 30m}\nafter_promotion: {watch: 30m, control: 10%}\n")
	r.step(Announced{At: r.at, Version: "v1", Endpoints: []string{"10.0.0.1:80"}, By: "ci"})
	if v := r.s.Version("v1"); v.Attempt != 2 {
		t.Fatalf("v1 is attempt %d, %s", v.Attempt, v.Phase)
	}
	r.step(Commanded{At: r.at, Verb: "promote", Version: "v1", Reachable: true, By: "ann"})
	if v := r.s.Version("v2"); v.Phase != Aborted {
		t.Errorf("v2, from which a person fled, is %s", v.Phase)
	}
}

// A promoted version fails at the Envoy that has it, and another one is behind: everything goes back all the same.
func TestALateFailureNeedsNotEveryEnvoy(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [50%, 100%], hold: 1h}\njudge: {clump: 1, max_error_rate: 5%}\nafter_promotion: {watch: 1h}\n")
	r.announce("v2", "10.0.0.2:80")
	r.fleet = false
	r.step(Commanded{At: r.at, Verb: "promote", Version: "v2", Reachable: true, By: "ann"})
	since := r.at
	for range 30 {
		from := r.at
		r.at = r.at.Add(time.Second)
		r.step(Observed{At: r.at, Batch: time.Second, Cells: []Cell{{Slice: "a", From: from, To: r.at, Counts: counts("v2", 100, 100), Has: r.s.Given, HasSince: since}}})
		if r.s.Stable == "v1" {
			return
		}
	}
	t.Errorf("after 30 s of total failure stable is %s", r.s.Stable)
}

// What a quiet service may cost is said in failed requests an hour, by the traffic that it usually has.
func TestTheProofOfAQuietServiceIsByCost(t *testing.T) {
	for name, test := range map[string]struct {
		text    string
		minutes int
		want    string
	}{
		"1 request/s":              {"", 15, "0.5549%"},
		"without a cost":           {"judge: {promote_within: {cost: 0}}\n", 15, "0.05%"},
		"traffic not known so far": {"", 5, "0.05%"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, seedV1+test.text)
			r.observe(60*test.minutes, counts("v1", 1, 0))
			r.announce("v2", "10.0.0.2:80")
			r.observe(40, counts("v1", 1, 0))
			v := r.s.Version("v2")
			if v.Phase != Canary || percent(v.Config.D1) != test.want {
				t.Errorf("%s, to be proven within %s, want %s", v.Phase, percent(v.Config.D1), test.want)
			}
			before := v.Config.D1
			r.observe(1200, counts("v1", 50, 0, "v2", 1, 0))
			if after := r.s.Version("v2").Config.D1; after != before {
				t.Errorf("the margin of a release that has begun became %s", percent(after))
			}
		})
	}
}
