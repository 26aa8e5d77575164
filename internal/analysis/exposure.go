package analysis

import "math"

// forget is the time constant in seconds of the counts behind the exposure bound.
const forget = 600.0

// Exposure bounds how much worse than tolerated the canary may still be. (STATISTICS.md 2.7)
type Exposure struct {
	Canary Counts  `json:"canary"`
	Stable Counts  `json:"stable"`
	At     float64 `json:"at"`
}

// Add takes one batch in and forgets old ones.
func (x *Exposure) Add(b Batch, now float64) {
	keep := math.Exp(-max(0, now-x.At) / forget)
	x.At = now
	x.Canary = Counts{x.Canary.Requests * keep, x.Canary.Errors * keep}.Add(b.Canary)
	x.Stable = Counts{x.Stable.Requests * keep, x.Stable.Errors * keep}.Add(b.Stable)
}

// Upper is the 95 % anytime-valid upper bound on the canary's error rate beyond what is tolerated,
// from 0 to 1; 1 without evidence.
func (x *Exposure) Upper(cfg *Config, m float64) float64 {
	if x.Canary.Requests <= 0 || x.Stable.Requests <= 0 {
		return 1
	}
	rate := UpperCount(x.Canary.Errors/m, math.Log(20)) * m / x.Canary.Requests
	return min(max(rate-(cfg.R0*x.Stable.Rate()+cfg.D0), 0), 1)
}

// Until is how many seconds of clean requests, so many a second, the bound takes to fall to a rate; +Inf where what is
// forgotten meanwhile keeps it above.
func (x *Exposure) Until(cfg *Config, m, perSecond, rate float64) float64 {
	enough := UpperCount(x.Canary.Errors/m, math.Log(20)) * m / (rate + cfg.R0*x.Stable.Rate() + cfg.D0)
	most := perSecond * forget // requests that are remembered after a long time
	switch n := x.Canary.Requests; {
	case n >= enough:
		return 0
	case enough >= most:
		return math.Inf(1)
	default:
		return forget * math.Log((most-n)/(most-enough))
	}
}

// UpperCount is the smallest L > y with lgamma(1+y) + L - (1+y) ln(1+L) >= level: the bound on an
// expected count given y events, from a gamma(1) mixture.
func UpperCount(y, level float64) float64 {
	lg, _ := math.Lgamma(1 + y)
	beyond := func(l float64) float64 { return lg + l - (1+y)*math.Log1p(l) - level }
	l := 2*y + 10
	for beyond(l) < 0 {
		l *= 2
	}
	for { // convex and rising to the right of y: from above Newton's steps come down to it, and end when rounding does
		next := l - beyond(l)*(1+l)/(l-y)
		if !(next < l) {
			return l
		}
		l = next
	}
}
