package rollout

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// recorded is a story as events, with the state after each.
type recorded struct {
	*run
	events []Event
}

func record(t *testing.T, text string, tell func(r *recorded)) *recorded {
	r := &recorded{run: &run{t: t, at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}}
	r.policy(text)
	p := PolicyChanged{At: r.at, Policy: r.s.Policy, Hash: r.s.PolicyHash, By: "reload"}
	r.s, r.log = State{}, nil
	r.tell(p)
	tell(r)
	return r
}

// tell takes an event in, and what the Envoys and the versions answer.
func (r *recorded) tell(e Event) {
	r.t.Helper()
	for ; e != nil; e = answer(&r.s, r.at) {
		r.events = append(r.events, e)
		r.step(e)
		r.at = r.at.Add(time.Millisecond)
	}
}

// answer is what an Envoy says next, or a version that is asked; nil when all is said.
func answer(s *State, at time.Time) Event {
	if !s.InForce {
		return Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 1}
	}
	for _, v := range s.Versions {
		if v.Probed() && !v.Reachable {
			return Probed{At: at, Version: v.Name, Up: true}
		}
	}
	return nil
}

// serve lets time pass in which the users get what the table says, and each version fails as it does.
func (r *recorded) serve(seconds int, fails map[string]float64) {
	r.t.Helper()
	for range seconds {
		from := r.at
		r.at = r.at.Add(time.Second)
		c := map[string]analysis.Counts{}
		for v, w := range r.s.Weights() {
			n := float64(w) / 10
			c[v] = analysis.Counts{Requests: n, Errors: float64(int(n * fails[v]))}
		}
		r.tell(Observed{At: r.at, Batch: time.Second, Cells: []Cell{{Slice: "edge", From: from, To: r.at, Counts: c}}})
		r.tell(Tick{At: r.at})
	}
}

func (r *recorded) deploy(version string) {
	r.t.Helper()
	r.tell(Announced{At: r.at, Version: version, Endpoints: []string{"10.0.0." + version[1:] + ":80"}, Secret: "s", By: "ci"})
}

func cleanRelease(t *testing.T) *recorded {
	return record(t, seedV1+"ramp: {steps: [5%, 50%, 100%], hold: 3s}\njudge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 5%}}\nafter_promotion: {watch: 10s}\n", func(r *recorded) {
		r.deploy("v2")
		r.serve(40, nil)
	})
}

func failingRelease(t *testing.T) *recorded {
	return record(t, seedV1+"ramp: {steps: [1%, 5%, 50%, 100%], hold: 3s}\njudge: {clump: 1, budget: 100000}\nsessions: {cookie: s, ttl: 30m}\n", func(r *recorded) {
		r.deploy("v2")
		r.serve(9, nil)
		r.serve(15, map[string]float64{"v2": 0.6})
	})
}

func severalCanaries(t *testing.T) *recorded {
	return record(t, seedV1+"ramp: {steps: [5%, 50%, 100%], hold: 3s, canaries: 2}\njudge: {clump: 1, budget: 100000, max_error_rate: 5%, promote_within: {ratio: 2, margin: 5%}}\nafter_promotion: {watch: 1m}\n", func(r *recorded) {
		r.deploy("v2")
		r.deploy("v3")
		r.deploy("v4")
		r.serve(5, nil)
		r.tell(Commanded{At: r.at, Verb: "abort", Version: "v3", By: "ann"})
		r.serve(30, nil)
		r.serve(15, map[string]float64{"v4": 0.5}) // which is stable by now: everything goes back
	})
}

// canaryd dies after any event, and what was stored goes on: to the same end, without undoing a cut, and
// without a weight that rests on evidence from before.
func TestACrashAtAnyMomentChangesNoFate(t *testing.T) {
	for _, c := range []struct {
		name  string
		story func(*testing.T) *recorded
		fates string
	}{
		{"clean release", cleanRelease, "v1 retired, v2 stable"},
		{"failing release", failingRelease, "v1 stable, v2 failed"},
		{"several canaries", severalCanaries, "v1 retired, v2 stable, v3 aborted, v4 failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole := c.story(t)
			if got := fates(whole.s); got != c.fates {
				for _, x := range whole.log {
					t.Logf("%s %s %s: %s", x.At.Format(time.TimeOnly), x.Kind, x.Version, x.Reason)
				}
				t.Fatalf("the story ends with %s, not with %s", got, c.fates)
			}
			for i := range whole.events {
				if got := fates(crashAfter(t, whole.events, i)); got != c.fates {
					t.Errorf("a crash after event %d (%T): %s, not %s", i, whole.events[i], got, c.fates)
				}
			}
		})
	}
}

func fates(s State) string {
	var b bytes.Buffer
	for i, v := range s.Versions {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %s", v.Name, v.Phase)
	}
	return b.String()
}

// crashAfter takes the events in, and restarts after the one with index i. Answers are made
// anew; a later judgement may come a tick later than it did.
func crashAfter(t *testing.T, events []Event, i int) State {
	t.Helper()
	r := &survivor{run: &run{t: t}, cut: map[string]int{}}
	for k, e := range events {
		switch e.(type) {
		case Applied, Probed:
			continue
		}
		r.take(e)
		if k >= i && !r.died {
			r.died = true
			r.s = Resume(mustDecode(t, mustEncode(t, r.s)), e.when())
			r.judged = nil // nothing is known of the present weights until it was judged anew
		}
		for a := answer(&r.s, r.at); a != nil; a = answer(&r.s, r.at) {
			r.take(a)
		}
	}
	return r.s
}

// survivor checks, step by step, what a crash must not touch.
type survivor struct {
	*run
	died   bool
	cut    map[string]int  // attempts that were cut
	judged map[string]bool // judged under the present weight, since the restart
}

func (r *survivor) take(e Event) {
	r.t.Helper()
	old := r.s
	r.at = e.when()
	r.step(e)
	if r.judged == nil {
		r.judged = map[string]bool{}
	}
	for _, v := range r.s.Versions {
		o := old.Version(v.Name)
		was, is := old.Weight(v.Name), r.s.Weight(v.Name)
		if attempt, cut := r.cut[v.Name]; cut && attempt == v.Attempt && is > 0 {
			r.t.Fatalf("%s was cut and has %d after %T", v.Name, is, e)
		}
		if v.Phase == Failed || v.Phase == Aborted {
			r.cut[v.Name] = v.Attempt
		}
		if o == nil || o.Judge == nil || v.Judge == nil {
			continue
		}
		if _, seen := e.(Observed); seen && was > 0 && (v.Judge.Updates > o.Judge.Updates || v.Phase == Stable) { // a promotion begins a new judge
			r.judged[v.Name] = true
		}
		if is > was && was > 0 && !r.judged[v.Name] {
			r.t.Fatalf("%s rose from %d to %d after %T, and nothing was judged at %d since the restart", v.Name, was, is, e, was)
		}
		if is != was {
			r.judged[v.Name] = false
		}
	}
}

// What is written of every event gives the very same run.
func TestARunFromWrittenEventsIsTheSame(t *testing.T) {
	for _, story := range []func(*testing.T) *recorded{cleanRelease, failingRelease, severalCanaries} {
		whole := story(t)
		var s State
		var all []Record
		for _, e := range whole.events {
			raw, err := EncodeEvent(e)
			if err != nil {
				t.Fatal(err)
			}
			if e, err = DecodeEvent(raw); err != nil {
				t.Fatal(err)
			}
			next, records, err := Step(s, e)
			if err != nil {
				t.Fatal(err)
			}
			s, all = next, append(all, records...)
		}
		if a, b := mustEncode(t, whole.s), mustEncode(t, s); !bytes.Equal(a, b) {
			t.Errorf("from its written events the run ends otherwise: %s", difference(a, b))
		}
		if !slices.EqualFunc(all, whole.log, func(a, b Record) bool { return a.Kind == b.Kind && a.Reason == b.Reason && a.At.Equal(b.At) }) {
			t.Errorf("%d records, and %d from the written events", len(whole.log), len(all))
		}
	}
}
