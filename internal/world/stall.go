package world

import (
	"math/rand/v2"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Stall is when the canary stops to answer: what it is asked from then on is open until its proxy gives it up. Load reports tell what began.
type Stall struct {
	At      time.Duration // since the announcement, within the batch by chance; 0: never
	Timeout time.Duration // after which the proxy gives a request up; 0: never
}

// falls draws when it comes.
func (s Stall) falls(r *rand.Rand, batch time.Duration) Stall {
	if s.At > 0 {
		s.At += time.Duration(r.Float64() * float64(batch))
	}
	return s
}

// share is which part of an interval's requests is not answered.
func (s *Stall) share(since, batch time.Duration) float64 {
	if s.At == 0 {
		return 0
	}
	return min(1, max(0, (since+batch-s.At).Seconds()/batch.Seconds()))
}

// unanswered are requests that began at a moment, and are open.
type unanswered struct {
	at time.Time
	n  float64
}

// issue adds to what a cell counts which requests began, and those that are given up; of the canary so many on average get no answer.
func (s *Stall) issue(r *rand.Rand, c *rollout.Cell, mean float64, t *tick) {
	if s.At == 0 {
		return
	}
	c.Issued = map[string]float64{}
	for version, n := range c.Counts {
		c.Issued[version] = n.Requests
	}
	if mean > 0 {
		lost := poisson(r, mean)
		c.Issued["release"] += lost
		t.open = append(t.open, unanswered{c.To, lost})
	}
	for s.Timeout > 0 && len(t.open) > 0 && c.To.Sub(t.open[0].at) >= s.Timeout {
		n := t.open[0].n
		c.Counts["release"], t.open = c.Counts["release"].Add(analysis.Counts{Requests: n, Errors: n}), t.open[1:]
	}
}
