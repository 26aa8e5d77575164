package world

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Slow is how long answers take. Shares are fractions of 1.
type Slow struct {
	Edges          []float64                      // seconds, rising; what is slow takes longer than all of them, everything else less
	Stable, Canary float64                        // share of the answers that are slow; the canary's from Question.Onset on
	Moments        Moments                        // of an instance: so many more of its answers are slow in them
	Cold           float64                        // so many more of an instance that has just begun, fading with 15 s
	Differ         float64                        // instances differ for good: the standard deviation of the logarithm of what their shares are multiplied by
	Shared         func(at time.Duration) float64 // so many more of both versions, at a time since the announcement; nil: none
	Untold         bool                           // nobody tells the instances
}

// lags is how slow an instance is.
type lags struct {
	moment moment
	more   float64 // share of its present answers that its moment makes slow
	factor float64 // of the usual share; 0: 1
}

const fading = 15 * time.Second

// differ draws how slow instances are for good.
func (s *Slow) differ(r *rand.Rand, all crew) {
	for _, x := range all {
		if s.Differ > 0 {
			x.lags.factor = math.Exp(s.Differ * r.NormFloat64())
		}
	}
}

// pausing finds how many answers of each instance its moments make slow in an interval.
func (s *Slow) pausing(r *rand.Rand, from time.Time, batch time.Duration, all crew) {
	for _, x := range all {
		if s.Moments.PerHour > 0 {
			x.lags.more = x.lags.moment.share(r, s.Moments, from, batch)
		}
	}
}

// share is which part of an instance's answers is slow, but for its moments.
func (s *Slow) share(x *instance, canary, begun bool, since, sinceFirst time.Duration) float64 {
	share := s.Stable
	if canary && begun {
		share = s.Canary
	}
	if x.lags.factor > 0 {
		share *= x.lags.factor
	}
	if s.Shared != nil {
		share += s.Shared(since)
	}
	if canary && s.Cold > 0 && sinceFirst > 0 {
		share += s.Cold * math.Exp(-float64(sinceFirst)/float64(fading))
	}
	return min(share, 1)
}

// time draws how long the answers took that a cell counts.
func (q *Question) time(r *rand.Rand, s *rollout.State, c *rollout.Cell, t *tick) {
	if len(q.Slow.Edges) == 0 {
		return
	}
	c.Times = map[string][]analysis.Times{}
	for _, v := range []struct {
		name string
		crew crew
	}{{"stable", t.old}, {"release", t.release}} { // in this order: the draws are the same in each run
		var sinceFirst time.Duration
		if o := s.Version(v.name); o != nil && !o.FirstWeight.IsZero() {
			sinceFirst = c.To.Sub(o.FirstWeight)
		}
		for i, x := range c.Endpoints[v.name] {
			slow := failed(r, x.Requests, q.Slow.share(v.crew[i], v.name == "release", t.since >= q.Onset, t.since, sinceFirst))
			slow = math.Min(x.Requests, slow+math.Round(x.Requests*v.crew[i].lags.more))
			took := analysis.Times{Name: x.Name, UpTo: q.Slow.Edges, N: make([]float64, len(q.Slow.Edges)+1)}
			if q.Slow.Untold {
				took.Name = ""
			}
			took.N[0], took.N[len(q.Slow.Edges)] = x.Requests-slow, slow
			c.Times[v.name] = append(c.Times[v.name], took)
		}
	}
}
