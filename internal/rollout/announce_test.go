package rollout

import (
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Which announcement begins a new attempt of a version that is known, by the phase in which it meets it.
func TestWhatAnAnnouncementBegins(t *testing.T) {
	person, again, found := Announced{}, Announced{Again: true}, Announced{Origin: "file_sd"}
	pushed := func(digest string) Announced { return Announced{Once: true, Digest: digest} }
	for phase, begins := range map[Phase][6]bool{ // a person, with --again, what finds versions, a registry without a digest, with the same, with another
		Queued: {}, Warming: {}, Canary: {}, Paused: {}, Stable: {},
		Warm: {0: true, 1: true, 5: true}, Draining: {0: true, 1: true, 5: true}, Retired: {0: true, 1: true, 5: true}, Superseded: {0: true, 1: true, 5: true},
		Failed: {1: true, 5: true}, Aborted: {1: true, 5: true},
	} {
		for i, e := range []Announced{person, again, found, pushed(""), pushed("sha256:a"), pushed("sha256:b")} {
			r := newRun(t, seedV1+"sessions: {cookie: s, ttl: 30m}\nramp: {steps: [50%, 100%]}\n")
			r.announce("v2", "10.0.0.2:80")
			if phase == Stable || phase.is(reborn) && phase != Superseded {
				r.step(Commanded{At: r.at, Verb: "promote", Version: "v2", Reachable: true, By: "ann"})
				r.announce("v3", "10.0.0.3:80")
				r.step(Commanded{At: r.at, Verb: "promote", Version: "v3", Reachable: true, By: "ann"})
			}
			v := r.s.Version("v2")
			v.Phase, v.Digests, v.ImageAt = phase, []string{"sha256:a"}, r.at
			if phase == Stable {
				r.s.Version("v3").Phase, r.s.Stable = Warm, "v2"
			}
			if !phase.is(weighted) {
				v.Slots = nil
			}
			e.At, e.Version, e.Endpoints, e.By = r.at, "v2", []string{"10.0.0.9:80"}, "ci"
			next, _, err := Step(r.s, e)
			if e.Origin != "" && phase.Live() || e.Digest == "sha256:b" && !begins[i] {
				if err == nil {
					t.Errorf("%s, at another place or another image: %+v is no contradiction", phase, e)
				}
				continue
			}
			if n := next.Version("v2").Attempt; err != nil || (n == 2) != begins[i] {
				t.Errorf("%s, announced with %+v: attempt %d, %v", phase, e, n, err)
			}
		}
	}
}

// A new attempt without a place of its own is where the earlier one was; what it knows begins anew.
func TestANewAttemptBeginsAnew(t *testing.T) {
	r := promoted(t, "after_promotion: {watch: 10m, control: 5%}\n")
	watch := *r.s.Watch
	r.step(Announced{At: r.at, Version: "v1", By: "ci"})
	v := r.s.Version("v1")
	if v.Attempt != 2 || v.Endpoints[0] != "10.0.0.1:80" || v.Trusted || v.Counts.Requests > 0 || !v.TookOver.IsZero() || r.s.Weight("v1") != 0 {
		t.Errorf("%+v", v)
	}
	if r.s.Watch == nil || *r.s.Watch != watch {
		t.Errorf("the watch of v2 was %v and is %v", watch, r.s.Watch)
	}
	if _, _, err := Step(r.s, Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"}); err == nil {
		t.Error("v1, which is under test, is the way back")
	}
	r.at = r.at.Add(11 * time.Minute)
	r.step(Tick{At: r.at})
	if r.s.Watch != nil || !r.s.Version("v2").Trusted {
		t.Errorf("the watch of v2 does not end: %v", r.s.Watch)
	}
}

// What an Envoy with an older table counts under a version's name is about an earlier attempt.
func TestAnEarlierAttemptSaysNothing(t *testing.T) {
	r := promoted(t, "after_promotion: {watch: 10m}\n")
	r.at = r.at.Add(time.Minute)
	r.announce("v1", "10.0.0.1:80")
	for range 10 {
		r.at = r.at.Add(time.Second)
		r.step(Observed{At: r.at, Batch: time.Second, Cells: []Cell{{Slice: "late", From: r.at.Add(-time.Second), To: r.at,
			Has: []Run{{"v1", 5000}, {"v2", 5000}}, HasSince: r.at.Add(-time.Hour), Counts: counts("v1", 500, 500, "v2", 500, 0)}}})
	}
	if v := r.s.Version("v1"); v.Phase != Canary {
		t.Errorf("v1 is %s: %s", v.Phase, v.Verdict.Reason)
	}
}

// When a promotion is in force is kept: whoever waits for it may come late.
func TestWhenAVersionTookOver(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [50%, 100%]}\nafter_promotion: {watch: 10m}\n")
	r.announce("v2", "10.0.0.2:80")
	r.fleet = false
	r.step(Commanded{At: r.at, Verb: "promote", Version: "v2", Reachable: true, By: "ann"})
	if at := r.s.Version("v2").TookOver; !at.IsZero() {
		t.Errorf("nobody has accepted it, and v2 took over at %s", at)
	}
	r.at = r.at.Add(time.Second)
	r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 1})
	if at := r.s.Version("v2").TookOver; !at.Equal(r.at) {
		t.Errorf("v2 took over at %s", at)
	}
	r.step(Announced{At: r.at, Version: "v3", Endpoints: []string{"10.0.0.3:80"}})
	r.step(Commanded{At: r.at, Verb: "promote", Version: "v3", Reachable: true, By: "ann"})
	if v := r.s.Version("v2"); v.Phase != Warm || v.TookOver.IsZero() {
		t.Errorf("v2 is %s and took over at %s", v.Phase, v.TookOver)
	}
}

func TestStepsAsTheyAreShown(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [1%, 5%, 25%, 100%]}\n")
	r.announce("v2", "10.0.0.2:80")
	for _, c := range []struct{ weight, step, next int }{{0, 0, 100}, {100, 1, 500}, {300, 1, 500}, {2500, 3, 10000}, {4000, 3, 10000}} {
		v := r.s.Version("v2")
		r.s.setWeight(v, c.weight)
		if step, next := r.s.StepAt(v), r.s.NextStep(v); step != c.step || next != c.next {
			t.Errorf("at %d: step %d, next %d", c.weight, step, next)
		}
	}
	v := r.s.Version("v2")
	v.Held = true
	if held := r.s.HeldBy(v); held != analysis.NoTraffic {
		t.Errorf("held by %s", held)
	}
	if v.Late = true; r.s.HeldBy(v) != analysis.DeadlinePassed {
		t.Errorf("held by %s", r.s.HeldBy(v))
	}
	if st := r.s.Version("v1"); r.s.StepAt(st) != 4 || r.s.NextStep(st) != 0 || r.s.HeldBy(st) != "" {
		t.Errorf("stable: step %d, next %d", r.s.StepAt(st), r.s.NextStep(st))
	}
}

// Where the Envoys still have the earlier attempt, the new one waits until they do not: else it would get what that got.
func TestANewAttemptWaitsForTheEndOfTheLast(t *testing.T) {
	for name, begin := range map[string]func(r *run) string{
		"warm":    func(r *run) string { return "v1" },
		"aborted": func(r *run) string { r.step(Commanded{At: r.at, Verb: "abort", Version: "v1", By: "ann"}); return "v1" },
	} {
		r := promoted(t, "sessions: {cookie: s, ttl: 1h}\nafter_promotion: {watch: 10m}\n")
		r.fleet = false
		version := begin(r)
		r.step(Announced{At: r.at, Version: version, Endpoints: []string{"10.0.0.9:80"}, Again: true, By: "ci"})
		known, _ := r.cluster(version)
		if v := r.s.Version(version); v.Attempt != 2 || v.Phase != Queued || known || !strings.Contains(v.Verdict.Reason, "the Envoys still have its attempt 1") {
			t.Errorf("%s: attempt %d is %s, the Envoys are told where it is: %v", name, v.Attempt, v.Phase, known)
		}
		r.step(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 1})
		if v := r.s.Version(version); v.Phase != Warming {
			t.Errorf("%s: nobody has the last attempt, and it is %s", name, v.Phase)
		}
	}
}
