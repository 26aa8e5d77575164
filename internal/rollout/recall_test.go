package rollout

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/canaryd/canaryd/internal/analysis"
)

const rampOfRecall = "ramp: {steps: [10%, 100%], hold: 1h, canaries: 1}\njudge: {clump: 1}\n"

// What an Envoy remembers fails an attempt that is under test, and nothing else.
func TestWhatARecallFails(t *testing.T) {
	do := func(verb string) func(r *run) {
		return func(r *run) { r.step(Commanded{At: r.at, Verb: verb, Version: "v2", Reachable: true, By: "ann"}) }
	}
	for _, c := range []struct {
		what  string
		story func(r *run)
		fails bool
	}{
		{"a canary", func(*run) {}, true},
		{"paused", do("pause"), true},
		{"without an endpoint that answers", func(r *run) { r.step(Probed{At: r.at, Version: "v2"}) }, true},
		{"promoted since", do("promote"), false},
		{"promoted and replaced since", func(r *run) {
			do("promote")(r)
			r.step(Commanded{At: r.at, Verb: "promote", Version: "v1", Reachable: true, By: "ann"})
		}, false},
		{"cut already", do("abort"), false},
		{"a later attempt", func(r *run) {
			do("abort")(r)
			r.step(Announced{At: r.at, Version: "v2", Again: true, By: "ci"})
			r.step(Probed{At: r.at, Version: "v2", Up: true})
		}, false},
	} {
		r := newRun(t, seedV1+rampOfRecall)
		r.announce("v2", "10.0.0.2:80")
		first := r.s.Version("v2").Identity()
		c.story(r)
		was, told := r.s.Version("v2").Phase, len(r.log)
		r.step(Recalled{At: r.at, Version: "v2", Attempt: 1, ID: "00000000"}) // one of the same number, that was lost in a crash
		if p := r.s.Version("v2").Phase; p != was {
			t.Errorf("%s: it was %s, and is %s by what another attempt did", c.what, was, p)
		}
		r.step(Recalled{At: r.at, Version: "v2", Attempt: 1, ID: first.ID})
		v := r.s.Version("v2")
		if !c.fails {
			if v.Phase != was || len(r.log) != told {
				t.Errorf("%s: it was %s and is %s: %+v", c.what, was, v.Phase, r.log[told:])
			}
			continue
		}
		last := r.log[len(r.log)-1]
		if v.Phase != Failed || r.s.Weight("v2") != 0 || v.Verdict.Outcome != analysis.Fail || v.Verdict.Code != analysis.Recalled {
			t.Errorf("%s: it is %s with %d, %+v", c.what, v.Phase, r.s.Weight("v2"), v.Verdict)
		}
		if last.Kind != KindRolledBack || last.Attempt != v.Identity() || last.After["v2"] != 0 || !strings.Contains(last.Reason, "before it could store that") {
			t.Errorf("%s: %+v", c.what, last)
		}
	}
}

// One that waits in line has no weight, and would get one when its turn comes.
func TestARecallFailsWhatWaitsInLine(t *testing.T) {
	r := newRun(t, seedV1+rampOfRecall)
	r.announce("v2", "10.0.0.2:80")
	r.announce("v3", "10.0.0.3:80")
	if p := r.s.Version("v3").Phase; p != Queued {
		t.Fatalf("v3 is %s", p)
	}
	r.step(Recalled{At: r.at, Version: "v3", Attempt: 1})
	r.step(Recalled{At: r.at, Version: "v4", Attempt: 1}) // nobody knows it
	if v2, v3 := r.s.Version("v2").Phase, r.s.Version("v3").Phase; v2 != Canary || v3 != Failed {
		t.Errorf("v2 is %s, v3 %s", v2, v3)
	}
}

// A person wants v2 at 100 % as soon as its containers answer: what was cut before counts for less.
func TestWhatAPersonWantsIsNotRecalled(t *testing.T) {
	r := newRun(t, seedV1+rampOfRecall+"docker: {image: r/shop, port: 80}\n")
	r.step(Announced{At: r.at, Version: "v2", Image: "r/shop:v2", By: "ci"})
	r.step(Commanded{At: r.at, Verb: "promote", Version: "v2", By: "ann"})
	if v := r.s.Version("v2"); v.Phase != Warming || v.Wanted == "" || v.Attempt != 1 {
		t.Fatalf("%+v", v)
	}
	r.step(Recalled{At: r.at, Version: "v2", Attempt: 1})
	if p := r.s.Version("v2").Phase; p != Warming {
		t.Errorf("it is %s", p)
	}
}

// A person has promoted v2, whose containers are being started: it gets everything when it answers, without a test. Who may
// touch versions under test only neither says where it is, nor takes it back.
func TestWhatAPersonWantsIsNotUnderTest(t *testing.T) {
	r := newRun(t, seedV1+rampOfRecall+"docker: {image: r/shop, port: 80}\n")
	r.step(Announced{At: r.at, Version: "v2", Image: "r/shop:v2", By: "ci"})
	ci := []Event{Announced{At: r.at, Version: "v2", Endpoints: []string{"10.0.0.66:80"}, Tested: true, By: "ci"},
		Commanded{At: r.at, Verb: "abort", Version: "v2", Tested: true, By: "ci"}, Commanded{At: r.at, Verb: "pause", Version: "v2", Tested: true, By: "ci"}}
	for _, e := range ci {
		if _, _, err := Step(r.s, e); err != nil {
			t.Errorf("under test, %+v: %v", e, err)
		}
	}
	r.step(Commanded{At: r.at, Verb: "promote", Version: "v2", By: "ann"})
	for _, e := range ci {
		var refusal *Refusal
		if _, _, err := Step(r.s, e); !errors.As(err, &refusal) || !refusal.Tested || !strings.Contains(err.Error(), "version v2 is to get everything when it answers") {
			t.Errorf("promoted, %+v: %v", e, err)
		}
	}
}

// The table without what Envoys remember is what it would be after the cut; what it does not have under test stays.
func TestATableWithoutWhatIsRecalled(t *testing.T) {
	r := newRun(t, seedV1+strings.Replace(rampOfRecall, "canaries: 1", "canaries: 2", 1))
	r.announce("v2", "10.0.0.2:80")
	r.announce("v3", "10.0.0.3:80")
	whole := r.s.Table()
	v2 := r.s.Version("v2").Identity()
	another, second := v2, v2
	another.ID, second.Number = "00000000", 2
	for _, none := range [][]Attempt{nil, {second}, {another}, {r.s.Version("v1").Identity()}, {{"v9", 1, v2.ID}}} {
		if got, changed := whole.Recall(none); changed || got.Generation != whole.Generation || slotsOf(got.Slots, "v2") != 1000 {
			t.Errorf("%v: %+v", none, got)
		}
	}
	got, changed := whole.Recall([]Attempt{r.s.Version("v1").Identity(), v2, {"v3", 7, v2.ID}})
	if !changed || got.Generation != 0 || !slices.Equal(got.Unstored, []Attempt{v2}) || !slices.Contains(got.Cut, "v2") {
		t.Errorf("%v %+v", changed, got)
	}
	if len(whole.Unstored) > 0 || !whole.Knows("v2") {
		t.Error("the table itself has changed")
	}
	r.step(Recalled{At: r.at, Version: "v2", Attempt: 1})
	after := r.s.Table()
	if !slices.Equal(after.Slots, got.Slots) || len(after.Clusters) != len(got.Clusters) || after.Knows("v2") {
		t.Errorf("after the cut %+v, before %+v", after, got)
	}
}

// A table that is served says the same whatever becomes of the state that it was made of.
func TestATableKeepsItsPolicy(t *testing.T) {
	r := newRun(t, seedV1)
	table := r.s.Table()
	r.policy(seedV1 + "route: {timeout: 3s}\n")
	if table.Policy.Route.Timeout == r.s.Policy.Route.Timeout {
		t.Errorf("its timeout is %s now", table.Policy.Route.Timeout)
	}
}

// Only what ends an attempt is to be remembered.
func TestWhatEndsAnAttempt(t *testing.T) {
	for _, k := range Kinds() {
		if final := k == KindRolledBack || k == KindReturned || k == KindAborted; k.Final() != final || k.Final() && !k.Cut() {
			t.Errorf("%s: final %v, a cut %v", k, k.Final(), k.Cut())
		}
	}
}
