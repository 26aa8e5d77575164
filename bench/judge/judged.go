package main

import "github.com/canaryd/canaryd/internal/analysis"

// judged is the judge alone, on weights that are given and in force at once: what the state machine tells the judge is told
// it here, and nothing holds the ramp when evidence speaks against the release, which makes the promise harder to keep.
// A release never comes to its promotion.
type judged struct {
	cfg    analysis.Config
	j      analysis.Judge
	disp   analysis.Dispersion
	usual  analysis.Usual
	w      float64
	since  int
	slices int
	batch  int // seconds
}

// newJudged begins with a day's knowledge of stable, as a running system has.
func newJudged(lib *library, l law, on, batch int) *judged {
	c := &judged{cfg: defaultConfig(), j: analysis.NewJudge(), slices: l.slices(), batch: batch}
	c.cfg.Ceiling = l.ceiling
	c.disp, c.usual = lib.of(l, on)
	return c
}

// newCutter times cuts.
func newCutter(lib *library) maker {
	return maker{"canaryd", func(l law, d dice, _ bool) rule { return newJudged(lib, l, d.IntN(pastsKept), 1) }}
}

func (c *judged) weight() float64 { return c.w }

// given follows a weight that was set from outside.
func (c *judged) given(w float64, t int) {
	if w != c.w {
		c.w, c.since = w, t
		if t > 0 {
			c.j.Step()
		}
	}
}

// see is one batch. The canary has as many instances as stable.
func (c *judged) see(t int, k tick) decision {
	if k.drop {
		return goOn
	}
	usual := c.usual.Rate() // before this batch
	worse := c.judge(t, k, c.disp.Bound(), analysis.Baseline{})
	c.disp.Add(day+float64(t+c.batch), k.stable(c.slices), usual)
	if worse {
		return cut
	}
	return goOn
}

// judge is what the judge makes of a batch, with the clump bound of stable's instances and what is told of the batch beside counts.
func (c *judged) judge(t int, k tick, bound float64, told analysis.Baseline) (worse bool) {
	now, share := float64(t+c.batch), c.w/(1-c.w)
	told.M, told.Usual, told.Batch = analysis.Loaded(bound, share), c.usual.Rate(), float64(c.batch)
	if t-c.since >= 30 {
		told.Share = share
	}
	if k.batch.Canary.Errors > 0 {
		c.j.Fails(&c.cfg, now, told.Batch, k.canary(c.slices), max(told.Usual, c.j.Recent.Sum(now).Stable.Rate()), told.M)
	}
	c.j.Observe(&c.cfg, k.batch, told, now)
	if !c.j.Incident(now) {
		c.usual.Add(day+now, k.batch.Stable)
	}
	worse, _ = c.j.Worse(&c.cfg)
	return worse
}
