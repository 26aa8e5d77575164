package main

import (
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/world"
)

// usualEdge is where answers are slow, where the policy does not say.
const usualEdge = policy.Duration(200 * time.Millisecond)

// slowFlags are what the flags say of slow answers.
type slowFlags struct {
	stable, canary string // empty: no slower release is simulated
}

func (s *slowFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&s.stable, "stable-slow", "1%", "share of stable's answers that are slow: they take longer than all edges of judge.slow")
	c.Flags().StringVar(&s.canary, "canary-slow", "", "that of a slower release, which is simulated as well")
}

// timed gives a question how long answers take, where a flag asks for it. It returns the share of the slower release.
func (s *slowFlags) timed(c *cobra.Command, q *world.Question) (canary float64, err error) {
	if !c.Flags().Changed("stable-slow") && s.canary == "" {
		return 0, nil
	}
	if q.Slow.Stable, err = share("stable-slow", s.stable); err != nil {
		return 0, err
	}
	q.Slow.Canary = q.Slow.Stable
	if s.canary != "" {
		if canary, err = share("canary-slow", s.canary); err != nil {
			return 0, err
		}
	}
	told := policy.UsualSlow()
	if p := q.Policy.Judge.Slow; p != nil {
		told = *p
	}
	if len(told.Edges) == 0 { // stable's own day would have one near its slow answers
		told.Edges = policy.Edges{usualEdge}
	}
	q.Policy.Judge.Slow = &told
	q.Slow.Edges = slices.Clone(told.Seconds())
	return canary, nil
}

// slowed is what became of releases of one kind that is held for slow answers.
func slowed(r simulated) string {
	return percent(float64(r.Slower)/float64(r.Runs)) + "\t" + seconds(r.SlowerAt)
}
