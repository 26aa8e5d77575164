package world

import (
	"math/rand/v2"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Slow is how long answers take. Shares are fractions of 1.
type Slow struct {
	Edges          []float64 // seconds, rising; what is slow takes longer than all of them, everything else less
	Stable, Canary float64   // share of the answers that are slow; the canary's from Question.Onset on
}

// time draws how long the answers took that a cell counts.
func (s *Slow) time(r *rand.Rand, c *rollout.Cell, begun bool) {
	if len(s.Edges) == 0 {
		return
	}
	c.Times = map[string][]analysis.Times{}
	for _, version := range []string{"stable", "release"} { // in this order: the draws are the same in each run
		share := s.Stable
		if version == "release" && begun {
			share = s.Canary
		}
		for _, x := range c.Endpoints[version] {
			t := analysis.Times{Name: x.Name, UpTo: s.Edges, N: make([]float64, len(s.Edges)+1)}
			slow := failed(r, x.Requests, share)
			t.N[0], t.N[len(s.Edges)] = x.Requests-slow, slow
			c.Times[version] = append(c.Times[version], t)
		}
	}
}
