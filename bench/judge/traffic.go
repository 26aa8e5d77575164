package main

import (
	"math"
	"math/rand/v2"

	"github.com/canaryd/canaryd/internal/analysis"
)

const envoys = 4 // that stable's counts come from

// law is how requests and errors come. Rates are fractions of 1, times seconds.
type law struct {
	name     string
	rate     float64 // requests/s
	stable   float64 // error rate
	canary   float64
	onset    int     // second at which the canary's rate becomes canary; stable's before
	clump    float64 // mean size of a clump of errors; 1: independent
	outage   [2]int  // seconds of trouble in common
	fixing   [2]int  // seconds of trouble that only stable has
	gap      [2]int  // seconds without scrapes
	resetAt  int     // second at which the counters start anew
	freezeAt int     // second from which the canary completes nothing
	long     bool    // a rollout of 24 h instead of one
}

// worse reports whether the canary should be cut.
func (l law) worse() bool { return l.canary > l.stable*1.1+1e-4 }

func (l law) rates(t int) (stable, canary float64) {
	stable, canary = l.stable, l.stable
	if t >= l.onset {
		canary = l.canary
	}
	if t >= l.outage[0] && t < l.outage[1] {
		stable, canary = 0.3, math.Max(canary, 0.3)
	}
	if t >= l.fixing[0] && t < l.fixing[1] {
		stable = 0.3
	}
	return stable, canary
}

// tick is what one second brings.
type tick struct {
	batch  analysis.Batch
	slices [envoys]analysis.Counts // stable's
	drop   bool                    // no usable cell
}

type dice struct{ *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 0xca7a71))} }

func (d dice) poisson(mean float64) float64 {
	if mean > 40 {
		return math.Max(0, math.Round(mean+math.Sqrt(mean)*d.NormFloat64()))
	}
	n, p, limit := 0.0, d.Float64(), math.Exp(-mean)
	for p > limit {
		p *= d.Float64()
		n++
	}
	return n
}

// clumps returns the sizes of the clumps of errors that mean errors come in.
func (d dice) clumps(mean, size float64, each func(n float64)) {
	if size <= 1 {
		if n := d.poisson(mean); n > 0 {
			each(n)
		}
		return
	}
	for range int(d.poisson(mean / size)) {
		each(1 + math.Floor(math.Log(1-d.Float64())/math.Log(1-1/size)))
	}
}

// second makes the counts of second t at weight w.
func (l law) second(d dice, t int, w float64) tick {
	ps, pc := l.rates(t)
	var k tick
	k.batch.Canary.Requests = d.poisson(l.rate * w)
	if l.freezeAt > 0 && t >= l.freezeAt {
		k.batch.Canary.Requests = 0
	}
	d.clumps(k.batch.Canary.Requests*pc, l.clump, func(n float64) { k.batch.Canary.Errors += n })
	for i := range k.slices {
		k.slices[i].Requests = d.poisson(l.rate * (1 - w) / envoys)
		k.batch.Stable.Requests += k.slices[i].Requests
	}
	d.clumps(k.batch.Stable.Requests*ps, l.clump, func(n float64) {
		if l.clump > 1 {
			k.slices[d.IntN(envoys)].Errors += n
		} else {
			for range int(n) {
				k.slices[d.IntN(envoys)].Errors++
			}
		}
		k.batch.Stable.Errors += n
	})
	k.batch.Canary.Errors = math.Min(k.batch.Canary.Errors, k.batch.Canary.Requests)
	k.batch.Stable.Errors = math.Min(k.batch.Stable.Errors, k.batch.Stable.Requests)
	k.drop = t >= l.gap[0] && t < l.gap[1] || l.resetAt > 0 && t == l.resetAt
	return k
}
