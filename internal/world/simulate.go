package world

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
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
	Trouble        Trouble
	Instances      Instances
	Envoys         int           // 0: one
	Past           time.Duration // of stable alone, before the release
	Horizon        time.Duration
	Batch          time.Duration // how often evidence comes
	Runs           int
	Seed           uint64
	Done           func() // called after each run, from several goroutines
}

// Trouble is what else may happen, each at a time since the announcement; nil: never.
type Trouble struct {
	Outage func(at time.Duration) (stable, canary float64) // error rates that add to the usual ones
	Hangs  func(at time.Duration) bool                     // the canary completes nothing
	Blind  func(at time.Duration) bool                     // no counts come
	Before func(left time.Duration) float64                // error rate that adds to stable's, so long before the announcement
}

// Answer is what became of the simulated releases.
type Answer struct {
	Runs       int       `json:"runs"`
	Cut        int       `json:"cut"`
	Promoted   int       `json:"promoted"`
	Undecided  int       `json:"undecided"`
	AtFirst    int       `json:"undecided_at_the_first_step"`
	CutAfter   Quantiles `json:"cut_after_seconds"`      // from the onset
	Failed     Quantiles `json:"failed_before_cut"`      // expected requests beyond stable's rate
	PromotedAt Quantiles `json:"promoted_after_seconds"` // from the announcement
	HalfAt     Quantiles `json:"half_after_seconds"`     // from the announcement to 50 % or more
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
	first  bool // at the first step
	after  time.Duration
	failed float64
	half   time.Duration // since when it had 50 %; 0: never
}

// Ask runs the releases through the very state machine and judge that run in production.
func (q Question) Ask() Answer {
	fates := make([]fate, q.Runs)
	Runs(q.Runs, func(i int) {
		fates[i] = q.run(rand.New(rand.NewPCG(q.Seed, uint64(i))))
		if q.Done != nil {
			q.Done()
		}
	})
	a := Answer{Runs: q.Runs}
	var cut, failed, promoted, half []float64
	for _, f := range fates {
		if f.half > 0 {
			half = append(half, f.half.Seconds())
		}
		switch f.phase {
		case rollout.Failed:
			a.Cut++
			cut, failed = append(cut, max(0, f.after-q.Onset).Seconds()), append(failed, f.failed)
		case rollout.Stable:
			a.Promoted++
			promoted = append(promoted, f.after.Seconds())
		default:
			a.Undecided++
			if f.first {
				a.AtFirst++
			}
		}
	}
	a.CutAfter, a.Failed, a.PromotedAt, a.HalfAt = quantiles(cut), quantiles(failed), quantiles(promoted), quantiles(half)
	return a
}

// run is one release from its announcement to its fate.
func (q Question) run(r *rand.Rand) fate {
	begin := time.Unix(0, 0).UTC()
	at := begin
	q.Instances.Hiccup = q.Instances.Hiccup.falls(r)
	p := q.Policy
	p.Route.Probe = policy.ProbeOff
	stable, stableAt := newCrew(q.Instances.Stable, "127.0.0.1")
	canary, canaryAt := newCrew(q.Instances.Canary, "127.0.0.2")
	seen := func(s rollout.State, batch, since time.Duration) rollout.Observed {
		return q.seen(r, s, at, batch, since, stable, canary)
	}
	p.Versions = []policy.Seed{{Version: "stable", Endpoints: stableAt, Stable: true}}
	var s Release
	s.Take(at, rollout.PolicyChanged{At: at, Policy: p, By: "simulation"})
	for ; at.Sub(begin) < q.Past; at = at.Add(pastBatch) {
		s.Take(at.Add(pastBatch), seen(s.State, pastBatch, at.Sub(begin)-q.Past))
	}
	begin = at
	s.Take(at, rollout.Announced{At: at, Version: "release", Endpoints: canaryAt, By: "simulation"})
	var f fate
	for at.Sub(begin) < q.Horizon {
		since := at.Sub(begin)
		stable, canary := q.rates(since)
		f.failed += q.PerSecond * q.Batch.Seconds() * float64(s.Weight("release")) / policy.FullWeight * math.Max(0, canary-stable)
		e := seen(s.State, q.Batch, since)
		at = e.At
		s.Take(at, e)
		v := s.Version("release")
		f.first = s.Weight("release") <= p.Ramp.First()
		if f.half == 0 && s.Weight("release") >= policy.FullWeight/2 {
			f.half = at.Sub(begin)
		}
		if f.phase, f.after = v.Phase, at.Sub(begin); !v.Phase.Waiting() {
			return f
		}
	}
	return f
}

// pastBatch is the length of a batch before the announcement: the shortest window of the dispersion.
const pastBatch = 10 * time.Second

// rates are the error rates at a time since the announcement.
func (q Question) rates(at time.Duration) (stable, canary float64) {
	stable, canary = q.Stable, q.Stable
	if at >= q.Onset {
		canary = q.Canary
	}
	if at < 0 && q.Trouble.Before != nil {
		stable = min(stable+q.Trouble.Before(-at), 1)
	}
	if at >= 0 && q.Trouble.Outage != nil {
		moreStable, moreCanary := q.Trouble.Outage(at)
		stable, canary = min(stable+moreStable, 1), min(canary+moreCanary, 1)
	}
	return stable, canary
}

// seen makes the evidence of one batch that begins at a moment.
func (q Question) seen(r *rand.Rand, s rollout.State, from time.Time, batch, since time.Duration, old, release crew) rollout.Observed {
	weight := float64(s.Weight("release")) / policy.FullWeight
	stable, canary := q.rates(since)
	n := q.PerSecond * batch.Seconds()
	e := rollout.Observed{At: from.Add(batch), Batch: q.Batch}
	if since >= 0 && q.Trouble.Blind != nil && q.Trouble.Blind(since) {
		e.Missing = &rollout.Missing{Code: analysis.SourceUnreachable, Reason: "simulated"}
		return e
	}
	completed := n * weight
	if since >= 0 && q.Trouble.Hangs != nil && q.Trouble.Hangs(since) {
		completed = 0
	}
	to := e.At
	fails := q.Instances.failing(r, from, batch, slices.Concat(old, release))
	if h := q.Instances.Hiccup; h.For > 0 && since >= 0 {
		begin := from.Add(h.At - since)
		fails[release[0]] += overlap(from, to, begin, begin.Add(h.For)) / batch.Seconds()
	}
	envoys := max(q.Envoys, 1)
	for i := range envoys {
		c := rollout.Cell{Slice: strconv.Itoa(i), From: from, To: to, Counts: map[string]analysis.Counts{}, Endpoints: map[string][]analysis.Slice{}}
		c.Counts["stable"], c.Endpoints["stable"] = old.count(r, n*(1-weight)/float64(envoys), stable, fails)
		if weight > 0 {
			c.Counts["release"], c.Endpoints["release"] = release.count(r, completed/float64(envoys), canary, fails)
		}
		e.Cells = append(e.Cells, c)
	}
	return e
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
