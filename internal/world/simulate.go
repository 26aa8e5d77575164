package world

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
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
	Trouble        Trouble
	Instances      Instances
	Classes        []Class // of requests, whose shares add up to 1, the last one what is left; none: all are alike
	Told           Told
	Slow           Slow // the zero value: nobody tells how long answers take
	Stall          Stall
	Envoys         int           // 0: one
	Past           time.Duration // of stable alone, before the release
	Pasts          int           // so many different ones, which the runs share; 0: each has its own
	Horizon        time.Duration
	Until          []time.Duration // since the announcement, when each step of the policy's ends, whatever its hold; nil: by the hold
	Batch          time.Duration   // how often evidence comes
	Runs           int
	Seed           uint64
	Done           func()                                        // called after each run, from several goroutines
	Seen           func(since time.Duration, v *rollout.Version) // called after each batch since the announcement, likewise; nil: nobody looks

	pasts []past
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
	Held       int       `json:"undecided_for_want_of_a_class"` // proven as a whole, and too little seen of a class
	AtFirst    int       `json:"undecided_at_the_first_step"`
	CutAfter   Quantiles `json:"cut_after_seconds"`      // from the onset
	Failed     Quantiles `json:"failed_before_cut"`      // expected requests beyond stable's rate
	PromotedAt Quantiles `json:"promoted_after_seconds"` // from the announcement
	HalfAt     Quantiles `json:"half_after_seconds"`     // from the announcement to 50 % or more
	Slower     int       `json:"held_for_slow_answers"`  // at some time
	SlowerAt   Quantiles `json:"held_for_slow_answers_after_seconds"`
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

// Fate is what became of one release.
type Fate struct {
	Phase  rollout.Phase
	First  bool            // it was at the first step
	Held   bool            // for want of a class
	After  time.Duration   // since the announcement
	Failed float64         // expected requests beyond stable's rate
	Half   time.Duration   // since when it had 50 %; 0: never
	Slower time.Duration   // since the announcement, when it was held for slow answers first; 0: never
	Spells []time.Duration // for how long each time
	Stalls time.Duration   // since the announcement, when it stopped to answer
	Open   float64         // requests that had no answer at the end

	slow bool // it is held for slow answers
}

// Fates are those of all runs, each through the very state machine and judge that run in production.
func (q Question) Fates() []Fate {
	fates := make([]Fate, q.Runs)
	q.pasts = make([]past, min(q.Pasts, q.Runs))
	Runs(q.Runs, func(i int) {
		fates[i] = q.run(i)
		if q.Done != nil {
			q.Done()
		}
	})
	return fates
}

// Ask sums them up.
func (q Question) Ask() Answer { return q.Sum(q.Fates()) }

// Sum is what became of some releases.
func (q Question) Sum(fates []Fate) Answer {
	a := Answer{Runs: len(fates)}
	var cut, failed, promoted, half, slower []float64
	for _, f := range fates {
		if f.Half > 0 {
			half = append(half, f.Half.Seconds())
		}
		if f.Slower > 0 {
			a.Slower++
			slower = append(slower, max(0, f.Slower-q.Onset).Seconds())
		}
		switch f.Phase {
		case rollout.Failed:
			a.Cut++
			cut, failed = append(cut, max(0, f.After-q.Onset).Seconds()), append(failed, f.Failed)
		case rollout.Stable:
			a.Promoted++
			promoted = append(promoted, f.After.Seconds())
		default:
			a.Undecided++
			if f.Held {
				a.Held++
			}
			if f.First {
				a.AtFirst++
			}
		}
	}
	a.CutAfter, a.Failed, a.PromotedAt, a.HalfAt = quantiles(cut), quantiles(failed), quantiles(promoted), quantiles(half)
	a.SlowerAt = quantiles(slower)
	return a
}

// past is what a service was before its release. Invariant: once it is made nothing changes it.
type past struct {
	once           sync.Once
	at             time.Time
	state          Release
	stable, canary crew
}

// lived makes a past.
func (q *Question) lived(r *rand.Rand, a *past) {
	a.at = time.Unix(0, 0).UTC()
	p := q.Policy
	p.Route.Probe = policy.ProbeOff
	var endpoints []string
	a.stable, endpoints = newCrew(q.Instances.Stable, "127.0.0.1")
	a.canary, _ = newCrew(q.Instances.Canary, "127.0.0.2")
	q.Slow.differ(r, a.stable)
	p.Versions = []policy.Seed{{Version: "stable", Endpoints: endpoints, Stable: true}}
	a.state.Take(a.at, rollout.PolicyChanged{At: a.at, Policy: p, By: "simulation"})
	for left := q.Past; left > 0; left -= pastBatch {
		e := q.seen(r, &a.state.State, &tick{from: a.at, batch: pastBatch, since: -left, old: a.stable, release: a.canary})
		a.at = a.at.Add(pastBatch)
		a.state.Take(a.at, e)
	}
}

// pastOf is what a run begins with.
func (q *Question) pastOf(r *rand.Rand, i int) *past {
	if len(q.pasts) == 0 {
		a := &past{}
		q.lived(r, a)
		return a
	}
	n := i % len(q.pasts)
	a := &q.pasts[n]
	a.once.Do(func() { q.lived(rand.New(rand.NewPCG(q.Seed, 1<<32+uint64(n))), a) })
	return a
}

// run is one release from its announcement to its fate.
func (q Question) run(i int) Fate {
	r := rand.New(rand.NewPCG(q.Seed, uint64(i)))
	q.Instances.Hiccup, q.Stall = q.Instances.Hiccup.falls(r), q.Stall.falls(r, q.Batch)
	before := q.pastOf(r, i)
	s, begin := before.state, before.at
	t := tick{from: begin, batch: q.Batch, old: before.stable.clone(), release: before.canary.clone()}
	q.Slow.differ(r, t.release)
	s.Take(begin, rollout.Announced{At: begin, Version: "release", Endpoints: t.release.names(), By: "simulation"})
	f := Fate{Stalls: q.Stall.At}
	for t.since < q.Horizon {
		stable, canary := q.rates(t.since)
		f.Failed += q.PerSecond * q.Batch.Seconds() * float64(s.Weight("release")) / policy.FullWeight * q.excess(t.since >= q.Onset, stable, canary)
		e := q.seen(r, &s.State, &t)
		t.from = e.At
		t.since = t.from.Sub(begin)
		if q.Until != nil {
			s.Policy.Ramp.Hold = q.hold(&s.State, begin)
		}
		s.Take(e.At, e)
		v := s.Version("release")
		if q.Seen != nil {
			q.Seen(t.since, v)
		}
		f.note(&s.State, v, t.since, q.Batch)
		f.First = s.Weight("release") <= q.Policy.Ramp.First()
		if f.Phase, f.After = v.Phase, t.since; !v.Phase.Waiting() {
			break
		}
	}
	for _, o := range t.open {
		f.Open += o.n
	}
	return f
}

// note takes in what has become of the release until now.
func (f *Fate) note(s *rollout.State, v *rollout.Version, since, batch time.Duration) {
	if f.Half == 0 && s.Weight("release") >= policy.FullWeight/2 {
		f.Half = since
	}
	f.Held = v.Verdict.Code == analysis.Unexercised
	slower := v.Phase == rollout.Canary && v.Judge != nil && v.Judge.Slower(s.At.Sub(v.FirstWeight).Seconds())
	if slower && f.Slower == 0 {
		f.Slower = since
	}
	if slower && !f.slow {
		f.Spells = append(f.Spells, 0)
	}
	if f.slow = slower; slower {
		f.Spells[len(f.Spells)-1] += batch
	}
}

// hold makes the present step end when it has to.
func (q *Question) hold(s *rollout.State, begin time.Time) policy.Duration {
	for i, until := range q.Until[:min(len(q.Until), len(q.Policy.Ramp.Steps))] {
		if s.Weight("release") <= q.Policy.Ramp.Steps[i].Weight() {
			return policy.Duration(max(0, begin.Add(until).Sub(s.Version("release").WeightSince)))
		}
	}
	return q.Policy.Ramp.Hold
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

// tick is one batch of a run.
type tick struct {
	from         time.Time
	batch, since time.Duration // since the announcement, when it begins
	old, release crew
	open         []unanswered // of the canary's requests
}

// seen makes the evidence of one batch.
func (q *Question) seen(r *rand.Rand, s *rollout.State, t *tick) rollout.Observed {
	weight := float64(s.Weight("release")) / policy.FullWeight
	stable, canary := q.rates(t.since)
	n := q.PerSecond * t.batch.Seconds()
	e := rollout.Observed{At: t.from.Add(t.batch), Batch: q.Batch}
	if t.since >= 0 && q.Trouble.Blind != nil && q.Trouble.Blind(t.since) {
		e.Missing = &rollout.Missing{Code: analysis.SourceUnreachable, Reason: "simulated"}
		return e
	}
	stalled := q.Stall.share(t.since, t.batch)
	completed := n * weight * (1 - stalled)
	if t.since >= 0 && q.Trouble.Hangs != nil && q.Trouble.Hangs(t.since) {
		completed = 0
	}
	q.Instances.failing(r, t.from, t.batch, t.old)
	q.Instances.failing(r, t.from, t.batch, t.release)
	if h := q.Instances.Hiccup; h.For > 0 && t.since >= 0 {
		begin := t.from.Add(h.At - t.since)
		t.release[0].fails += overlap(t.from, e.At, begin, begin.Add(h.For)) / t.batch.Seconds()
	}
	q.Slow.pausing(r, t.from, t.batch, t.old)
	q.Slow.pausing(r, t.from, t.batch, t.release)
	envoys := max(q.Envoys, 1)
	for i := range envoys {
		c := rollout.Cell{Slice: strconv.Itoa(i), From: t.from, To: e.At, Counts: map[string]analysis.Counts{}, Endpoints: map[string][]analysis.Slice{}}
		q.count(r, &c, one{"stable", false, n * (1 - weight) / float64(envoys), stable, t.old}, false)
		if weight > 0 {
			q.count(r, &c, one{"release", true, completed / float64(envoys), canary, t.release}, t.since >= q.Onset)
		}
		q.time(r, s, &c, t)
		q.Stall.issue(r, &c, n*weight*stalled/float64(envoys), t)
		e.Cells = append(e.Cells, c)
	}
	return e
}

// failed draws how many of n requests fail.
func failed(r *rand.Rand, n, rate float64) float64 {
	switch {
	case rate >= 1:
		return n
	case rate < 0.1 || n > 1000:
		return math.Min(n, poisson(r, n*rate))
	}
	k := 0.0
	for range int(n) {
		if r.Float64() < rate {
			k++
		}
	}
	return k
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
