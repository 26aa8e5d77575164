package main

import (
	"fmt"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

// commonRamp is the ramp on which every rule is compared.
var commonRamp = ramp{{300, 0.01}, {600, 0.05}, {1200, 0.10}, {2400, 0.25}, {horizon, 0.5}}

// ramp are weights, each with the second until which it holds.
type ramp []struct {
	until  int
	weight float64
}

func (r ramp) at(t int) float64 {
	for _, s := range r {
		if t < s.until {
			return s.weight
		}
	}
	return r[len(r)-1].weight
}

// canaryd is a release that goes through the very state machine that runs in production, by the default policy: one Envoy
// that counts by endpoint, a day of stable alone before, and a weight that takes as long as every rule's.
type canaryd struct {
	world.Release
	begin  time.Time
	slices int
	common bool // the steps of the common ramp, each held as long as there
}

// defaultPolicy is that of a service that says nothing.
func defaultPolicy() policy.Policy {
	p := policy.Default()
	p.Service, p.Route.Probe = "shop", policy.ProbeOff
	return p
}

func defaultConfig() analysis.Config {
	p := defaultPolicy()
	return rollout.JudgeConfig(&p)
}

func newCanaryd(lib *library, l law, on int, common bool) *canaryd {
	c := &canaryd{Release: world.Release{Lag: (delay - 1) * time.Second}, begin: time.Unix(day, 0).UTC(), slices: l.slices(), common: common}
	p := defaultPolicy()
	p.Judge.MaxErrorRate = policy.Share(l.ceiling)
	if common {
		p.Judge.Budget = 1e9 // the ramp is given
		for _, s := range commonRamp {
			p.Ramp.Steps = append(p.Ramp.Steps, policy.Share(s.weight))
		}
		p.Ramp.Steps = append(p.Ramp.Steps, 1)
	}
	p.Versions = []policy.Seed{{Version: "stable", Endpoints: endpoints("10.0.0.1", c.slices), Stable: true}}
	at := c.begin.Add(-c.Lag)
	c.Take(at, rollout.PolicyChanged{At: at, Policy: p, By: "simulation"})
	c.Take(c.begin, rollout.Tick{At: c.begin})
	c.Dispersion, c.Usual = lib.of(l, on)
	c.Rate, c.SeenAt, c.Batch = rollout.Rate{Requests: l.rate * 10, Weight: 10, Seconds: day}, c.begin, time.Second
	at, c.begin = c.begin, c.begin.Add(c.Lag)
	c.Take(at, rollout.Announced{At: at, Version: "release", Endpoints: endpoints("10.0.0.2", c.slices), By: "simulation"})
	c.Take(c.begin, rollout.Tick{At: c.begin})
	return c
}

func endpoints(host string, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("%s:%d", host, 8000+i))
	}
	return all
}

func (c *canaryd) weight() float64 { return float64(c.Weight("release")) / policy.FullWeight }

func (c *canaryd) see(t int, k tick) decision {
	if c.common {
		c.Policy.Ramp.Hold = c.hold()
	}
	from := c.begin.Add(time.Duration(t) * time.Second)
	e := rollout.Observed{At: from.Add(time.Second), Batch: time.Second}
	if k.drop {
		e.Missing = &rollout.Missing{Code: analysis.SourceUnreachable, Reason: "simulated"}
	} else {
		e.Cells = []rollout.Cell{c.cell(from, e.At, k)}
	}
	c.Take(e.At, e)
	switch c.Version("release").Phase {
	case rollout.Failed:
		return cut
	case rollout.Stable:
		return promote
	}
	return goOn
}

// cell is what the Envoy reports.
func (c *canaryd) cell(from, to time.Time, k tick) rollout.Cell {
	stable, canary := k.stable(c.slices), k.canary(c.slices)
	for i, name := range c.Version("stable").Endpoints {
		stable[i].Name, canary[i].Name = name, c.Version("release").Endpoints[i]
	}
	return rollout.Cell{Slice: "envoy", From: from, To: to,
		Counts:    map[string]analysis.Counts{"stable": k.batch.Stable, "release": k.batch.Canary},
		Endpoints: map[string][]analysis.Slice{"stable": stable, "release": canary}}
}

// hold makes the present step end when the common ramp's does.
func (c *canaryd) hold() policy.Duration {
	for _, s := range commonRamp[:len(commonRamp)-1] {
		if w := c.weight(); w <= s.weight {
			end := c.begin.Add(time.Duration(s.until) * time.Second)
			return policy.Duration(max(0, end.Sub(c.Version("release").WeightSince)-c.Lag))
		}
	}
	return policy.Duration(time.Minute)
}
