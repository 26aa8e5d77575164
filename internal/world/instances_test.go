package world

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// twoMoments is a busy release as good as stable; all instances fail for 0.3 s an hour, and two of the canary's four do so within a second and a half.
func twoMoments(batch time.Duration) Question {
	p := policy.Default()
	p.Service, p.Route.Probe = "shop", policy.ProbeOff
	p.Ramp.Steps, p.Ramp.Hold = policy.Steps{0.05, 0.25, 1}, policy.Duration(time.Minute)
	p.Judge.Tolerate, p.Judge.PromoteWithin, p.Judge.Budget = policy.Bound{Ratio: 1}, policy.Within{Ratio: 1, Margin: 1e-9}, 1e9
	moments := Moments{PerHour: 1, Shortest: 300 * time.Millisecond, Longest: 300 * time.Millisecond, Fails: 1}
	q := Question{Policy: p, PerSecond: 10_000, Stable: 0.01, Canary: 0.01, Instances: Instances{Stable: 20, Canary: 4, Moments: moments}, Batch: batch, Past: time.Hour, Seed: 5}
	q.pasts = make([]past, 2)
	return q
}

// cutByTwo takes a release through both moments; second is when that one comes.
func (q Question) cutByTwo(i int) bool {
	r := rand.New(rand.NewPCG(q.Seed, uint64(i)))
	before := q.pastOf(r, i)
	s, t := before.state, tick{from: before.at, batch: q.Batch, old: before.stable.clone(), release: before.canary.clone()}
	s.Take(t.from, rollout.Announced{At: t.from, Version: "release", Endpoints: t.release.names(), By: "simulation"})
	first := t.from.Add(20*time.Second + time.Duration(r.Int64N(int64(70*time.Second))))
	second := first.Add(time.Duration(r.Int64N(int64(1500 * time.Millisecond))))
	for t.from.Before(second.Add(5 * time.Second)) {
		for k, begin := range []time.Time{first, second} {
			if end := begin.Add(300 * time.Millisecond); overlap(t.from, t.from.Add(q.Batch), begin, end) > 0 {
				t.release[k].moment = moment{begin, end}
			}
		}
		e := q.seen(r, &s.State, &t)
		t.from = e.At
		s.Take(e.At, e)
		if s.Version("release").Phase == rollout.Failed {
			return true
		}
	}
	return false
}

// Through the whole state machine: that stable's instances have moments is learnt, and two of the canary's cut nobody.
func TestTwoInstancesMayHaveAMomentEach(t *testing.T) {
	for _, batch := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, time.Second} {
		q := twoMoments(batch)
		var cuts atomic.Int64
		Runs(20, func(i int) {
			if q.cutByTwo(i) {
				cuts.Add(1)
			}
		})
		if cuts.Load() > 0 {
			t.Errorf("batches of %s: %d of 20 releases as good as stable are cut", batch, cuts.Load())
		}
	}
}
