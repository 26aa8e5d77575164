package analysis

import "math"

// Capital is a gambler's money on the tilts, with a reserve that is injected over time, so that a
// regression that begins late still meets fresh capital (restarts).
type Capital struct {
	S    [tilts]float64 `json:"s"`
	Q    float64        `json:"q"` // not bet yet
	E    float64        `json:"e"`
	MaxE float64        `json:"max_e"`
	Prev float64        `json:"prev"` // seconds of the last update
}

// NewCapital bets the given share at once and keeps the rest for later.
func NewCapital(start float64) Capital {
	c := Capital{Q: 1 - start, E: 1, MaxE: 1}
	for k := range c.S {
		c.S[k] = start / tilts
	}
	return c
}

// inject releases reserve: the longer since the last update, the more. A clock that was set back does
// not count: the age is never below 0, nor less than it was.
func (c *Capital) inject(r Restarts, now float64, step bool) {
	if r == (Restarts{}) {
		r = DefaultRestarts()
	}
	c.Prev = max(c.Prev, 0)
	now = max(now, c.Prev)
	f := 1 - math.Pow((c.Prev+r.After)/(now+r.After), r.Power)
	if step {
		f += r.Step
	}
	inj := c.Q * min(max(f, 0), 1)
	c.Q -= inj
	for k := range c.S {
		c.S[k] += inj / tilts
	}
	c.Prev = now
}

// settle sums up after the bets, capping what one batch may gain: so many times what there was.
func (c *Capital) settle(gain float64) {
	sum := 0.0
	for _, s := range c.S {
		sum += s
	}
	limit := min(max(1, c.E)*gain, mostE)
	c.E = c.Q + sum
	if c.E > limit {
		c.scale((limit - c.Q) / sum)
		c.E = limit
	}
	c.MaxE = max(c.MaxE, c.E)
}

// scale takes the part of the bets beyond f away, 0 to 1. It only lowers E, so the promise stands.
func (c *Capital) scale(f float64) {
	sum := 0.0
	for k := range c.S {
		c.S[k] *= f
		sum += c.S[k]
	}
	c.E = c.Q + sum
}

// bound takes away what a bet has beyond a limit. It only lowers E.
func (c *Capital) bound(most float64) {
	sum := 0.0
	for k := range c.S {
		c.S[k] = min(c.S[k], most)
		sum += c.S[k]
	}
	c.E = c.Q + sum
}

// pay multiplies one bet by exp(l).
func (c *Capital) pay(k int, l float64) { c.S[k] *= math.Exp(min(l, expLimit)) }

// Relative updates the rollback test: null "canary rate <= R0 * stable's + D0 at every instant".
// m is the clump bound, now the seconds since the canary first got traffic, step whether the weight
// changed since the last update. (STATISTICS.md 2.3)
func (c *Capital) Relative(cfg *Config, b Batch, m, now float64, step bool) {
	nc, nb := b.Canary.Requests, b.Stable.Requests
	if nc < leastRequests || nb < leastRequests {
		return
	}
	c.inject(cfg.Restarts, now, step)
	var l logs
	gains(cfg, &b, &l)
	for k := range c.S {
		c.pay(k, l[k]/m)
	}
	c.settle(math.Pow(cfg.Alpha, -1/minBatches))
}

// tilted is the odds of a bet on the canary's errors, where stable has r times its requests.
func tilted(cfg *Config, theta, r float64) float64 {
	return min(theta*(cfg.R0+r)/(theta*cfg.R0+r), maxTilt)
}

// gains are the logarithms of what each bet on a batch is multiplied by, before the clump bound. (STATISTICS.md 2.3)
func gains(cfg *Config, b *Batch, l *logs) {
	nc := b.Canary.Requests
	r := b.Stable.Requests / nc
	u := cfg.R0 / r
	for k, theta := range rollbackTilts {
		a := tilted(cfg, theta, r)
		l[k] = -nc * cfg.D0 * (a - 1)
		if b.Canary.Errors > 0 {
			l[k] += b.Canary.Errors * math.Log(a)
		}
		if b.Stable.Errors > 0 {
			l[k] += b.Stable.Errors * math.Log1p(-u*(a-1))
		}
	}
}

// Absolute updates the one-sample test: null "error rate <= limit". (STATISTICS.md 2.8, 9)
func (c *Capital) Absolute(cfg *Config, limit float64, n Counts, m, now float64, step bool) {
	if n.Requests <= 0 || limit <= 0 {
		return
	}
	c.inject(cfg.Restarts, now, step)
	for k, theta := range rollbackTilts {
		a := min(theta, maxTilt)
		c.pay(k, (n.Errors*math.Log(a)-n.Requests*limit*(a-1))/m)
	}
	c.settle(math.Pow(cfg.Alpha, -1/minBatches))
}

// reached allows for the rounding of 1/alpha.
func reached(e, level float64) bool { return math.Log(e) >= math.Log(1/level)-1e-9 }
