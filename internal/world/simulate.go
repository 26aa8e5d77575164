package world

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Question is what an operator wants to know about a policy. Rates are fractions of 1.
type Question struct {
	Policy         policy.Policy
	PerSecond      float64 // requests
	Stable, Canary float64 // error rates
	Onset          time.Duration
	Horizon        time.Duration
	Batch          time.Duration // how often evidence comes
	Runs           int
	Seed           uint64
	Done           func() // called after each run, from several goroutines
}

// Answer is what became of the simulated releases.
type Answer struct {
	Runs       int       `json:"runs"`
	Cut        int       `json:"cut"`
	Promoted   int       `json:"promoted"`
	Undecided  int       `json:"undecided"`
	CutAfter   Quantiles `json:"cut_after_seconds"`      // from the onset
	Failed     Quantiles `json:"failed_before_cut"`      // expected requests beyond stable's rate
	PromotedAt Quantiles `json:"promoted_after_seconds"` // from the announcement
}

// Quantiles of a figure; null when there was none.
type Quantiles struct {
	Median *float64 `json:"median"`
	P90    *float64 `json:"p90"`
}

func quantiles(v []float64) Quantiles {
	if len(v) == 0 {
		return Quantiles{}
	}
	slices.Sort(v)
	return Quantiles{&v[len(v)/2], &v[len(v)*9/10]}
}

type fate struct {
	phase  rollout.Phase
	after  time.Duration
	failed float64
}

// Ask runs the releases through the very state machine and judge that run in production.
func (q Question) Ask() Answer {
	fates := make([]fate, q.Runs)
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < q.Runs; i += workers {
				fates[i] = q.run(rand.New(rand.NewPCG(q.Seed, uint64(i))))
				if q.Done != nil {
					q.Done()
				}
			}
		})
	}
	wg.Wait()
	a := Answer{Runs: q.Runs}
	var cut, failed, promoted []float64
	for _, f := range fates {
		switch f.phase {
		case rollout.Failed:
			a.Cut++
			cut, failed = append(cut, max(0, f.after-q.Onset).Seconds()), append(failed, f.failed)
		case rollout.Stable:
			a.Promoted++
			promoted = append(promoted, f.after.Seconds())
		default:
			a.Undecided++
		}
	}
	a.CutAfter, a.Failed, a.PromotedAt = quantiles(cut), quantiles(failed), quantiles(promoted)
	return a
}

// run is one release from its announcement to its fate.
func (q Question) run(r *rand.Rand) fate {
	begin := time.Unix(0, 0).UTC()
	at := begin
	p := q.Policy
	p.Route.Probe = policy.ProbeOff
	p.Versions = []policy.Seed{{Version: "stable", Endpoints: []string{"127.0.0.1:1"}, Stable: true}}
	var s rollout.State
	step := func(e rollout.Event) {
		if next, _, err := rollout.Step(s, e); err == nil {
			s = next
		}
		for !s.InForce {
			s, _, _ = rollout.Step(s, rollout.Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 1})
		}
	}
	step(rollout.PolicyChanged{At: at, Policy: p, By: "simulation"})
	step(rollout.Announced{At: at, Version: "release", Endpoints: []string{"127.0.0.1:2"}, By: "simulation"})
	var f fate
	for at.Sub(begin) < q.Horizon {
		weight := float64(s.Weight("release")) / policy.FullWeight
		rate := q.Stable
		if at.Sub(begin) >= q.Onset {
			rate = q.Canary
		}
		from, n := at, q.PerSecond*q.Batch.Seconds()
		at = at.Add(q.Batch)
		counts := map[string]analysis.Counts{"stable": count(r, n*(1-weight), q.Stable), "release": count(r, n*weight, rate)}
		f.failed += n * weight * math.Max(0, rate-q.Stable)
		step(rollout.Observed{At: at, Batch: q.Batch, Cells: []rollout.Cell{{Slice: "edge", From: from, To: at, Counts: counts}}})
		v := s.Version("release")
		if f.phase, f.after = v.Phase, at.Sub(begin); !v.Phase.Waiting() {
			return f
		}
	}
	return f
}

func count(r *rand.Rand, mean, rate float64) analysis.Counts {
	n := poisson(r, mean)
	return analysis.Counts{Requests: n, Errors: math.Min(n, poisson(r, n*rate))}
}

// poisson draws exactly for small means, and from the normal law for large ones.
func poisson(r *rand.Rand, mean float64) float64 {
	if mean > 50 {
		return math.Max(0, math.Round(mean+math.Sqrt(mean)*r.NormFloat64()))
	}
	n, p, limit := 0.0, r.Float64(), math.Exp(-mean)
	for p > limit {
		p *= r.Float64()
		n++
	}
	return n
}
