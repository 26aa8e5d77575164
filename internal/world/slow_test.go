package world

import (
	"reflect"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

func paced(t *testing.T, judge string) Question {
	t.Helper()
	docs, fs := policy.Parse("test", []byte("service: shop\nramp: {steps: [50%, 100%], hold: 1h}\njudge: "+judge+"\n"))
	if len(fs.Errors()) > 0 {
		t.Fatal(fs)
	}
	return Question{Policy: docs[0].Policy, PerSecond: 100, Stable: 0.001, Canary: 0.001, Slow: Slow{Edges: []float64{0.2}, Stable: 0.01, Canary: 0.01}, Instances: Instances{Stable: 4, Canary: 3},
		Past: time.Hour, Horizon: 10 * time.Minute, Batch: time.Second, Runs: 1}
}

// What slow answers and requests that never end come to, of the same dice each time.
func TestSlowAndHangingReleases(t *testing.T) {
	const swift = "{slow: {edges: [200ms], warm_up: 10s}}"
	for name, c := range map[string]struct {
		judge string
		set   func(*Question)
		phase rollout.Phase
		right func(Fate) bool
	}{
		"as swift": {swift, func(*Question) {}, rollout.Canary, func(f Fate) bool { return f.Slower == 0 && f.Open == 0 }},
		"slower": {swift, func(q *Question) { q.Slow.Canary = 0.3 }, rollout.Canary, func(f Fate) bool {
			return f.Slower > 10*time.Second && len(f.Spells) > 0 && f.Slower+f.Spells[0] <= 10*time.Minute+time.Second
		}},
		"slow from the fifth minute on": {swift, func(q *Question) { q.Slow.Canary, q.Onset = 0.3, 5*time.Minute }, rollout.Canary, func(f Fate) bool { return f.Slower > 5*time.Minute }},
		"slow starts":                   {swift, func(q *Question) { q.Slow.Cold = 0.9 }, rollout.Canary, func(f Fate) bool { return f.Slower > 10*time.Second && f.Slower < time.Minute }},
		"both get slower":               {swift, func(q *Question) { q.Slow.Shared = func(at time.Duration) float64 { return 0.2 } }, rollout.Canary, func(f Fate) bool { return f.Slower == 0 }},
		"its instances pause": {swift, func(q *Question) {
			q.Slow.Moments = Moments{PerHour: 60, Shortest: 5 * time.Second, Longest: 10 * time.Second, Fails: 1}
		}, rollout.Canary, func(f Fate) bool { return f.Slower == 0 }},
		"hangs": {"{hang: 5s}", func(q *Question) { q.Stall = Stall{2 * time.Minute, 15 * time.Second} }, rollout.Failed, func(f Fate) bool { // each of its 50 requests/s is open until the cut
			took := f.After - f.Stalls
			return took > 5*time.Second && took < 15*time.Second && f.Open > 40*(took-time.Second).Seconds() && f.Open < 60*(took+time.Second).Seconds()
		}},
		"hangs, and that is off": {"{hang: off}", func(q *Question) { q.Stall = Stall{2 * time.Minute, 15 * time.Second} }, rollout.Failed, func(f Fate) bool { return f.After-f.Stalls > 15*time.Second }},
	} {
		q := paced(t, c.judge)
		c.set(&q)
		f := q.Fates()[0]
		if f.Phase != c.phase || !c.right(f) {
			t.Errorf("%s: %+v", name, f)
		}
		if again := q.Fates()[0]; !reflect.DeepEqual(again, f) {
			t.Errorf("%s: %+v, and with the same dice %+v", name, f, again)
		}
	}
}

// What nobody tells the instances of is told all the same.
func TestInstancesThatAreNotTold(t *testing.T) {
	q := paced(t, "{slow: {edges: [200ms], warm_up: 10s}}")
	q.Slow.Untold, q.Slow.Canary = true, 0.3
	q.Seen = func(_ time.Duration, v *rollout.Version) {
		if len(v.Starts.Each) > 0 {
			t.Error("instances are known") // on another goroutine than the test's
		}
	}
	if f := q.Fates()[0]; f.Slower == 0 {
		t.Errorf("%+v", f)
	}
}

func TestInstancesThatDifferForGood(t *testing.T) {
	q := paced(t, "{slow: {edges: [200ms], warm_up: 10s}}")
	q.Slow.Differ, q.Slow.Stable, q.Slow.Canary, q.Runs = 2, 0.05, 0.05, 10
	if a := q.Ask(); a.Slower == 0 || a.Slower == q.Runs {
		t.Errorf("%d of %d are slower by chance", a.Slower, q.Runs)
	}
}
