package analysis

import "math"

// Promotion is the mirror test: null "canary rate >= R1 * stable's + D1". It starts anew at each
// weight. (STATISTICS.md 2.6)
type Promotion struct {
	N [tiltsNI]float64 `json:"n"`
	E float64          `json:"e"`
}

// NewPromotion returns the test before any evidence.
func NewPromotion() Promotion {
	p := Promotion{E: 1}
	for k := range p.N {
		p.N[k] = 1.0 / tiltsNI
	}
	return p
}

// Update adds one batch. It may gain so much beyond what was proven a second ago, at most: many short batches prove no
// more than a long one.
func (p *Promotion) Update(cfg *Config, b Batch, m, ago float64) {
	nc, nb := b.Canary.Requests, b.Stable.Requests
	if nc <= 0 || nb <= 0 {
		return
	}
	r := nb / nc
	u := cfg.R1 / r
	sum := 0.0
	for k, theta := range promotionTilts {
		a := theta * (cfg.R1 + r) / (theta*cfg.R1 + r)
		l := nc * cfg.D1 * (1 - a)
		if b.Canary.Errors > 0 {
			l += b.Canary.Errors * math.Log(a)
		}
		if b.Stable.Errors > 0 {
			l += b.Stable.Errors * math.Log1p(u*(1-a))
		}
		p.N[k] *= math.Exp(min(l/m, expLimit))
		sum += p.N[k]
	}
	if limit := max(p.E, min(max(1, ago)*math.Pow(cfg.Beta, -1/minBatchNI), mostE)); sum > limit {
		for k := range p.N {
			p.N[k] *= limit / sum
		}
		sum = limit
	}
	p.E = sum
}

// MarginByCost is the margin of a proof in error rate that is worth having at a request rate: what lies below it costs no more than so
// many failed requests an hour, or less than margin. Nobody needs a proof of 0.05 % where that is one request a day.
// (STATISTICS-2.md 4.3)
func MarginByCost(margin, cost, perSecond float64) float64 {
	if cost <= 0 || perSecond <= 0 {
		return margin
	}
	return min(max(margin, cost/(3600*perSecond)), 1)
}
