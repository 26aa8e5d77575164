package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

const paced = seedV1 + `ramp: {steps: [10%, 50%, 100%], hold: 50s}
judge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 5%}, slow: {edges: [100ms, 500ms]}}
`

// quick are answers of which some took 200 ms, and some a second.
type quick struct{ fast, slow, slowest float64 }

// durations lets seconds pass in which versions answer as fast as they do, each at one endpoint.
func (r *run) durations(n int, by map[string]quick) {
	r.t.Helper()
	for range n {
		from := r.at
		r.at = r.at.Add(time.Second)
		c := Cell{Slice: "a", From: from, To: r.at, Counts: map[string]analysis.Counts{}, Times: map[string][]analysis.Times{}}
		for version, q := range by {
			c.Counts[version] = analysis.Counts{Requests: q.fast + q.slow + q.slowest}
			c.Times[version] = []analysis.Times{{Name: version + ":80", UpTo: []float64{0.05, 0.1, 0.5}, N: []float64{q.fast, 0, q.slow, q.slowest}}}
		}
		r.step(Observed{At: r.at, Batch: time.Second, Cells: []Cell{c}})
	}
}

var (
	swift   = quick{990, 9, 1}
	canary  = quick{99, 1, 0}
	slowish = quick{85, 15, 0}
)

// beginsPaced is a canary beside a stable version whose durations are known.
func beginsPaced(t *testing.T, text string) *run {
	r := newRun(t, text)
	r.durations(120, map[string]quick{"v1": swift})
	r.announce("v2", "10.0.0.2:80")
	return r
}

func TestASlowerCanaryIsHeldAndTheHoldEnds(t *testing.T) {
	r := beginsPaced(t, paced)
	r.durations(59, map[string]quick{"v1": swift, "v2": slowish})
	v := r.s.Version("v2")
	if v.Judge.Slow.At != 0 || v.Verdict.Unpaced == "" {
		t.Errorf("its first minute counts: %+v", v.Judge.Slow)
	}
	r.durations(60, map[string]quick{"v1": swift, "v2": slowish})
	v = r.s.Version("v2")
	if v.Phase != Canary || v.Verdict.Code != analysis.Slower || !strings.Contains(v.Verdict.Reason, "15% of its answers took longer than 100ms, 1% of stable's") {
		t.Fatalf("v2 is %s, %s: %s", v.Phase, v.Verdict.Code, v.Verdict.Reason)
	}
	if len(v.Verdict.Slow) != 2 || v.Verdict.Slow[0].Edge != 0.1 || v.Verdict.Slow[0].Slow == 0 || v.Verdict.Unpaced != "" {
		t.Errorf("%+v", v.Verdict.Slow)
	}
	held := slices.IndexFunc(r.log, func(x Record) bool { return x.Kind == KindHeld })
	if held < 0 || r.log[held].Verdict.Code != analysis.Slower {
		t.Error("the history does not say it")
	}
	weight := r.s.Weight("v2")
	r.durations(60, map[string]quick{"v1": swift, "v2": slowish})
	if r.s.Weight("v2") != weight {
		t.Error("it rose while it was held")
	}
	r.durations(1800, map[string]quick{"v1": swift, "v2": canary})
	if r.s.Stable != "v2" {
		t.Errorf("the hold did not end: %s", r.s.Version("v2").Verdict.Reason)
	}
}

func TestASlowerCanaryIsCutWhereThePolicySaysSo(t *testing.T) {
	r := beginsPaced(t, strings.Replace(paced, "slow: {", "slow: {then: rollback, ", 1))
	r.durations(400, map[string]quick{"v1": swift, "v2": slowish})
	v := r.s.Version("v2")
	if v.Phase != Failed || v.Verdict.Code != analysis.Slower || v.Verdict.Outcome != analysis.Fail || !strings.Contains(v.Verdict.Reason, "took longer than") {
		t.Fatalf("v2 is %s, %s: %s", v.Phase, v.Verdict.Code, v.Verdict.Reason)
	}
}

// Durations that nobody tells hold nothing, and the promotion says so; the same where they are told no longer.
func TestDurationsThatAreNotToldHoldNothing(t *testing.T) {
	for name, text := range map[string]string{"hold": paced, "proof": strings.Replace(paced, "margin: 5%", "margin: 5%, slow: {}", 1), "rollback": strings.Replace(paced, "slow: {", "slow: {then: rollback, ", 1)} {
		r := newRun(t, text)
		r.announce("v2", "10.0.0.2:80")
		r.observe(300, counts("v1", 900, 0, "v2", 100, 0))
		if r.s.Stable != "v2" || !strings.Contains(r.s.Version("v2").Verdict.Reason, "slow answers were not judged") {
			t.Errorf("%s: %s", name, r.s.Version("v2").Verdict.Reason)
		}
	}
	r := beginsPaced(t, paced)
	r.durations(120, map[string]quick{"v1": swift, "v2": slowish})
	if r.s.Version("v2").Verdict.Code != analysis.Slower {
		t.Fatal("it is not held")
	}
	r.observe(600, counts("v1", 900, 0, "v2", 100, 0))
	if r.s.Stable != "v2" {
		t.Errorf("it is held by what nobody tells any more: %s", r.s.Version("v2").Verdict.Reason)
	}
}

// What is judged after the promotion are errors: the verdict does not say of them that slow answers were not judged.
func TestAfterItsPromotionNothingIsSaidOfSlowAnswers(t *testing.T) {
	r := beginsPaced(t, strings.Replace(paced, "budget: 100000", "budget: 100000, max_error_rate: 30%", 1))
	r.durations(300, map[string]quick{"v1": swift, "v2": canary})
	if r.s.Stable != "v2" {
		t.Fatal(r.s.Version("v2").Verdict.Reason)
	}
	r.observe(60, counts("v2", 1000, 900))
	if v := r.s.Version("v2"); v.Phase != Failed || v.Verdict.Unpaced != "" {
		t.Errorf("%s, %s: %q", v.Phase, v.Verdict.Reason, v.Verdict.Unpaced)
	}
}

// Two steps and a short hold: proven before its instances are warm, it is not promoted before they have been seen.
func TestPromotionWaitsForTheWarmUp(t *testing.T) {
	short := strings.Replace(paced, "steps: [10%, 50%, 100%], hold: 50s", "steps: [50%, 100%], hold: 20s", 1)
	r := beginsPaced(t, short)
	r.durations(70, map[string]quick{"v1": swift, "v2": slowish})
	if v := r.s.Version("v2"); v.Phase != Canary || v.Verdict.Code != analysis.Slower {
		t.Errorf("%s: %s", v.Verdict.Code, v.Verdict.Reason)
	}
	r = beginsPaced(t, short)
	r.durations(50, map[string]quick{"v1": swift, "v2": canary})
	if v := r.s.Version("v2"); v.Verdict.Code != analysis.Dwell || !strings.Contains(v.Verdict.Reason, "judged for 0s of 20s (judge.slow.warm_up, ramp.hold)") {
		t.Errorf("%s: %s", v.Verdict.Code, v.Verdict.Reason)
	}
	r.durations(35, map[string]quick{"v1": swift, "v2": canary})
	if v := r.s.Version("v2"); r.s.Stable != "v2" || strings.Contains(v.Verdict.Reason, "not judged") {
		t.Errorf("%s: %s", v.Verdict.Code, v.Verdict.Reason)
	}
	r = beginsPaced(t, short) // nobody tells
	r.observe(30, counts("v1", 900, 0, "v2", 900, 0))
	if r.s.Stable != "v2" {
		t.Errorf("what nobody tells holds: %s", r.s.Version("v2").Verdict.Reason)
	}
}

func TestPromotionWaitsForTheProofThatItIsSwift(t *testing.T) {
	r := beginsPaced(t, strings.Replace(paced, "margin: 5%", "margin: 5%, slow: {ratio: 1.25, margin: 0.5%}", 1))
	r.durations(130, map[string]quick{"v1": {40, 1, 0}, "v2": {15, 0, 0}})
	if v := r.s.Version("v2"); v.Verdict.Code != analysis.Slower || !strings.Contains(v.Verdict.Reason, "gathering proof") || r.s.HeldBy(v) != "" {
		t.Fatalf("%s: %s", v.Verdict.Code, v.Verdict.Reason)
	}
	r.durations(600, map[string]quick{"v1": swift, "v2": canary})
	if r.s.Stable != "v2" {
		t.Errorf("%s", r.s.Version("v2").Verdict.Reason)
	}
}

// An edit applies to releases that are announced after it: their Envoys go on telling durations, by the bounds that they are judged by.
func TestAnEditDoesNotChangeHowAReleaseIsPaced(t *testing.T) {
	r := beginsPaced(t, paced)
	r.durations(70, map[string]quick{"v1": swift, "v2": canary})
	for _, text := range []string{strings.Replace(paced, ", slow: {edges: [100ms, 500ms]}", "", 1), strings.Replace(paced, "[100ms, 500ms]", "[70ms]", 1), strings.Replace(paced, "slow: {", "slow: {then: rollback, ", 1)} {
		r.policy(text)
		if p := r.s.Table().Policy; p.Judge.Slow == nil {
			t.Error("the Envoys tell no durations any more")
		}
		if e := r.s.SlowEdges(); !slices.Contains(e, 0.1) || !slices.Contains(e, 0.5) {
			t.Errorf("bounds are %v", e)
		}
	}
	r.policy(strings.Replace(paced, "[100ms, 500ms]", "[70ms]", 1))
	r.durations(60, map[string]quick{"v1": swift, "v2": slowish})
	if v := r.s.Version("v2"); v.Verdict.Code != analysis.Slower || v.Config.Slow.Cuts {
		t.Errorf("%s: %s", v.Verdict.Code, v.Verdict.Reason)
	}
	r.step(Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"})
	r.policy(seedV1)
	if r.s.Table().Policy.Judge.Slow != nil {
		t.Error("the Envoys still tell durations")
	}
}

// Switched on beside an older release under test, for which nobody asked: the younger one is judged, and its first minute does not count.
func TestSlowAnswersAreSwitchedOnWhileAnOlderReleaseIsUnderTest(t *testing.T) {
	without := strings.Replace(paced, ", slow: {edges: [100ms, 500ms]}", "", 1)
	r := newRun(t, strings.Replace(without, "hold: 50s", "hold: 1h", 1))
	r.announce("v2", "10.0.0.2:80")
	r.durations(60, map[string]quick{"v1": swift, "v2": canary})
	given := r.s.Generation
	r.policy(strings.Replace(paced, "hold: 50s", "hold: 1h", 1))
	if r.s.Generation == given || !r.s.Timed() || r.s.Table().Policy.Judge.Slow == nil || !slices.Equal(r.s.SlowEdges(), []float64{0.1, 0.5}) {
		t.Error("the Envoys are not told to tell durations")
	}
	r.durations(120, map[string]quick{"v1": swift, "v2": canary})
	r.announce("v3", "10.0.0.3:80")
	r.durations(55, map[string]quick{"v1": swift, "v2": canary, "v3": slowish})
	v := r.s.Version("v3")
	if r.s.Weight("v3") == 0 || v.Judge.Slow == nil || v.Judge.Slow.At != 0 {
		t.Fatalf("its first minute counts: %+v", v.Judge.Slow)
	}
	if m := r.s.Pace.Bound(0.1); m == new(analysis.Pace).Bound(0.1) {
		t.Errorf("nothing was learnt of stable: m is %g", m)
	}
	r.durations(60, map[string]quick{"v1": swift, "v2": canary, "v3": slowish})
	if v = r.s.Version("v3"); v.Verdict.Code != analysis.Slower {
		t.Errorf("%s: %s", v.Verdict.Code, v.Verdict.Reason)
	}
	if v = r.s.Version("v2"); v.Judge.Slow != nil || v.Verdict.Unpaced != "" {
		t.Errorf("what was announced before the edit is judged by it: %+v", v.Judge.Slow)
	}
	r.step(Commanded{At: r.at, Verb: "abort", Version: "v3", By: "ann"})
	r.policy(strings.Replace(without, "hold: 50s", "hold: 1h", 1))
	if r.s.Timed() || r.s.Table().Policy.Judge.Slow != nil {
		t.Error("the Envoys still tell durations")
	}
}

// An edge that is no bucket of the histograms is not guessed, and nothing is judged by the others alone: promote_within.slow would wait for it.
func TestAnEdgeThatIsNoBucketHoldsNothing(t *testing.T) {
	r := beginsPaced(t, strings.Replace(strings.Replace(paced, "[100ms, 500ms]", "[100ms, 300ms]", 1), "margin: 5%", "margin: 5%, slow: {}", 1))
	r.durations(400, map[string]quick{"v1": swift, "v2": slowish})
	if v := r.s.Version("v2"); r.s.Stable != "v2" || !strings.Contains(v.Verdict.Reason, "slow answers were not judged") {
		t.Errorf("%s: %s", v.Verdict.Code, v.Verdict.Reason)
	}
}

func TestPaceIsStoredAndShifted(t *testing.T) {
	r := beginsPaced(t, paced)
	r.durations(100, map[string]quick{"v1": swift, "v2": slowish})
	again := mustDecode(t, mustEncode(t, r.s))
	if string(mustEncode(t, again)) != string(mustEncode(t, r.s)) || len(again.Pace.Edges) != 2 || len(again.Version("v2").Starts.Each) != 1 {
		t.Error("it was not stored")
	}
	back := r.s.Moved(-time.Hour)
	if back.Pace.At != r.s.Pace.At-3600 || back.Version("v2").Starts.Each[0].First != r.s.Version("v2").Starts.Each[0].First-3600 {
		t.Error("a clock that was set leaves it behind")
	}
	old, before := r.s, string(mustEncode(t, r.s))
	r.durations(5, map[string]quick{"v1": swift, "v2": slowish})
	if string(mustEncode(t, old)) != before {
		t.Error("a step changed the state that it began with")
	}
}

const hanging = seedV1 + `ramp: {steps: [10%, 50%, 100%], hold: 30s}
judge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 5%}}
`

// opens lets a time pass, in batches, in which requests begin and end.
func (r *run) opens(n int, batch time.Duration, issued, ended map[string]analysis.Counts) {
	r.t.Helper()
	for range n {
		from := r.at
		r.at = r.at.Add(batch)
		c := Cell{Slice: "a", From: from, To: r.at, Counts: map[string]analysis.Counts{}, Issued: map[string]float64{}}
		for version := range issued {
			c.Counts[version], c.Issued[version] = ended[version], issued[version].Requests
		}
		r.step(Observed{At: r.at, Batch: batch, Cells: []Cell{c}})
	}
}

func TestACanaryWhoseRequestsNeverEndIsCut(t *testing.T) {
	for _, batch := range []time.Duration{100 * time.Millisecond, time.Second} {
		r := newRun(t, hanging)
		per := batch.Seconds()
		well := map[string]analysis.Counts{"v1": {Requests: 90 * per}, "v2": {Requests: 10 * per}}
		r.announce("v2", "10.0.0.2:80")
		r.opens(int(20*time.Second/batch), batch, well, well)
		from := r.at
		for r.s.Version("v2").Phase == Canary && r.at.Sub(from) < time.Minute {
			r.opens(1, batch, well, map[string]analysis.Counts{"v1": well["v1"]})
		}
		v := r.s.Version("v2")
		if took := r.at.Sub(from); v.Phase != Failed || v.Verdict.Code != analysis.Worse || took > 8*time.Second {
			t.Errorf("batches of %s: v2 is %s after %s: %s", batch, v.Phase, took, v.Verdict.Reason)
		}
		if !strings.Contains(v.Verdict.Reason, "have had no answer for 5s") {
			t.Errorf("the reason does not say how it fails: %s", v.Verdict.Reason)
		}
	}
}

// From the first request on, after a step, and where stable hangs as well.
func TestWhatHangsElsewhere(t *testing.T) {
	well := map[string]analysis.Counts{"v1": {Requests: 90}, "v2": {Requests: 10}}
	r := newRun(t, hanging)
	r.announce("v2", "10.0.0.2:80")
	r.opens(9, time.Second, well, map[string]analysis.Counts{"v1": well["v1"]})
	if r.s.Version("v2").Phase != Failed {
		t.Errorf("from the first request on: %s", r.s.Version("v2").Verdict.Reason)
	}
	r = newRun(t, hanging)
	r.opens(600, time.Second, map[string]analysis.Counts{"v1": {Requests: 100}}, map[string]analysis.Counts{"v1": {Requests: 98}})
	if !r.s.Hang.streams() {
		t.Error("two in a hundred requests of stable are streams, and nobody knows")
	}
	r.announce("v2", "10.0.0.2:80")
	r.opens(60, time.Second, well, map[string]analysis.Counts{"v1": {Requests: 88}, "v2": {Requests: 9}})
	if v := r.s.Version("v2"); v.Phase == Failed {
		t.Errorf("streams cut it: %s", v.Verdict.Reason)
	}
	r = newRun(t, strings.Replace(hanging, "clump: 1", "clump: 1, hang: off", 1))
	r.announce("v2", "10.0.0.2:80")
	r.opens(20, time.Second, well, map[string]analysis.Counts{"v1": {Requests: 90}, "v2": {Requests: 5}})
	if v := r.s.Version("v2"); v.Phase != Canary || len(r.s.Hang.Each) > 0 {
		t.Errorf("it is off, and cuts: %s", v.Verdict.Reason)
	}
}

// After a change of weights nothing is compared that began before it.
func TestAStepDoesNotMakeOpenRequestsOfTheOldWeight(t *testing.T) {
	r := newRun(t, hanging)
	r.announce("v2", "10.0.0.2:80")
	open := map[string]analysis.Counts{"v1": {Requests: 90 * 0.995}, "v2": {Requests: 10 * 0.995}}
	well := map[string]analysis.Counts{"v1": {Requests: 90}, "v2": {Requests: 10}}
	first := r.s.Since
	r.opens(38, time.Second, well, open)
	since := r.s.Since
	for after, want := range map[time.Duration]bool{0: false, 4900 * time.Millisecond: false, 5 * time.Second: true} {
		if m := (&machine{State: &r.s, at: r.at}); m.compares(&Cell{From: since.Add(after)}) != want {
			t.Errorf("%s after a step its requests are compared: %t", after, !want)
		}
	}
	if m := (&machine{State: &r.s, at: r.at}); m.compares(&Cell{From: since.Add(6 * time.Second), HasSince: since.Add(2 * time.Second)}) {
		t.Error("an Envoy that got the weight later is compared")
	}
	if v := r.s.Version("v2"); v.Phase != Canary || since.Equal(first) {
		t.Errorf("v2 is %s: %s", v.Phase, v.Verdict.Reason)
	}
	raw, err := json.Marshal(r.s.Hang)
	var again Hang
	if err != nil || json.Unmarshal(raw, &again) != nil || again.sound() != nil || len(again.Each) != 2 {
		t.Errorf("%v, %v: %s", err, again.sound(), raw)
	}
	again.Each = append(again.Each, again.Each[0])
	if again.sound() == nil {
		t.Error("two of the same are sound")
	}
}

// Of a large fleet the same Envoys are followed for all versions, whichever came first: what hangs elsewhere would count for one of them only.
func TestAllVersionsAreFollowedThroughTheSameEnvoys(t *testing.T) {
	r := newRun(t, hanging)
	report := func(version string, envoys ...int) {
		from := r.at
		r.at = r.at.Add(time.Second)
		var cells []Cell
		for i := range mostWaits + 200 {
			c := Cell{Slice: fmt.Sprintf("%04d", i), From: from, To: r.at, Counts: map[string]analysis.Counts{"v1": {Requests: 9}}, Issued: map[string]float64{"v1": 9}}
			if len(envoys) == 0 || slices.Contains(envoys, i) {
				c.Counts[version], c.Issued[version] = analysis.Counts{Requests: 1}, 1
			}
			cells = append(cells, c)
		}
		r.step(Observed{At: r.at, Batch: time.Second, Cells: cells})
	}
	report("v1")
	r.announce("v2", "10.0.0.2:80")
	report("v2", 1, 3, mostWaits+7)
	if stable, own := r.s.Hang.followed("v1"), r.s.Hang.followed("v2"); stable != mostWaits || own != 2 {
		t.Errorf("stable is followed through %d Envoys, the canary through %d", stable, own)
	}
	report("v2")
	if own := r.s.Hang.followed("v2"); own != mostWaits {
		t.Errorf("the canary is followed through %d Envoys, stable through %d", own, mostWaits)
	}
	again := mustDecode(t, mustEncode(t, r.s))
	if len(again.Hang.Each) != 2*mostWaits || again.Hang.sound() != nil {
		t.Errorf("%d are stored, %v", len(again.Hang.Each), again.Hang.sound())
	}
	again.Hang.Each = slices.Insert(again.Hang.Each, mostWaits, Waits{Version: "v1", Envoy: "9"})
	if again.Hang.sound() == nil {
		t.Error("more than there are is sound")
	}
}

// A policy that was written before there was judge.hang asks for nothing.
func TestOldPoliciesHangNothing(t *testing.T) {
	var p policy.Policy
	if c := JudgeConfig(&p); c.Hang != 0 || c.Slow != (analysis.SlowConfig{}) {
		t.Errorf("%+v", c)
	}
}
