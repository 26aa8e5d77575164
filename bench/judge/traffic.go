package main

import (
	"math"
	"math/rand/v2"

	"github.com/canaryd/canaryd/internal/analysis"
)

const instances = 4 // of each version, that the counts come from, at most

// law is how requests and errors come. Rates are fractions of 1, times seconds.
type law struct {
	name       string
	rate       float64 // requests/s
	stable     float64 // error rate
	canary     float64
	onset      int     // second at which the canary's rate becomes canary; stable's before
	clump      float64 // mean size of a clump of errors; 1: independent
	outage     [2]int  // seconds of trouble in common
	fixing     [2]int  // seconds of trouble that only stable has
	gap        [2]int  // seconds without scrapes
	resetAt    int     // second at which the counters start anew
	freezeAt   int     // second from which the canary completes nothing
	drift      bool    // stable's rate and the canary's swing together, fourfold, every half hour
	skew       bool    // stable's counters are read a second late all the time
	fixed      float64 // every clump has this size
	burst      bool    // each error goes on for 10 to 50 s: a client that cannot be helped
	icc        float64 // beta-binomial: errors of one second and slice go together
	calmBefore bool    // the day before had no clumps
	ceiling    float64 // judge.max_error_rate
	instances  int     // of each version; 0: four
}

// worse reports whether the canary should be cut.
func (l law) worse() bool { return l.canary > l.stable*1.1+1e-4 }

func (l law) rates(t int) (stable, canary float64) {
	stable, canary = l.stable, l.stable
	if t >= l.onset {
		canary = l.canary
	}
	if l.drift {
		f := 1 + 0.6*math.Sin(float64(t)*2*math.Pi/1800)
		stable, canary = stable*f, canary*f
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
	slices [instances]analysis.Counts // stable's
	places [instances]analysis.Counts // the canary's; what goes on for seconds is in none of them
	drop   bool                       // no usable cell
}

type dice struct{ *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 0xca7a71))} }

func (d dice) poisson(mean float64) float64 {
	if mean > 40 {
		return math.Max(0, math.Round(mean+math.Sqrt(mean)*d.NormFloat64()))
	}
	n, p := 0.0, d.Float64()
	if p < 1-mean-1e-15 { // e^-mean is above 1 - mean: mostly nothing comes, and no power is asked for
		return 0
	}
	limit := math.Exp(-mean)
	for p > limit {
		p *= d.Float64()
		n++
	}
	return n
}

// size draws the size of a clump of errors.
func (l law) size(d dice) float64 {
	switch {
	case l.fixed > 0:
		return l.fixed
	case l.clump > 1:
		return 1 + math.Floor(math.Log(1-d.Float64())/math.Log(1-1/l.clump))
	}
	return 1
}

func (l law) meanSize() float64 { return math.Max(1, math.Max(l.clump, l.fixed)) }

// errors draws the failed ones of n requests, clump by clump; each tells the size of one.
func (l law) errors(d dice, n, rate float64, each func(size float64)) {
	if l.icc > 0 && rate > 0 { // gamma with the variance of the beta law
		shape := rate / l.icc
		rate *= d.gamma(shape) / shape
	}
	count := int(d.poisson(n * rate / l.meanSize()))
	if l.meanSize() == 1 && !l.burst {
		if count > 0 {
			each(float64(count))
		}
		return
	}
	for range count {
		each(l.size(d))
	}
}

// gamma draws from the gamma law (Marsaglia and Tsang 2000).
func (d dice) gamma(shape float64) float64 {
	if shape < 1 {
		return d.gamma(shape+1) * math.Pow(d.Float64(), 1/shape)
	}
	c := shape - 1.0/3
	for {
		x := d.NormFloat64()
		v := math.Pow(1+x/math.Sqrt(9*c), 3)
		if v > 0 && math.Log(1-d.Float64()) < x*x/2+c-c*v+c*math.Log(v) {
			return c * v
		}
	}
}

func (l law) slices() int {
	if l.instances > 0 {
		return l.instances
	}
	return instances
}

// aftermath is what outlasts a second: bursts that go on, and what was not read yet.
type aftermath struct {
	where          *dice // the canary's errors fall on its instances by
	canary, stable []int // seconds left of each burst
	late           *tick
}

// second makes the counts of second t at weight w.
func (l law) second(d dice, wd *aftermath, t int, w float64) tick {
	ps, pc := l.rates(t)
	var k tick
	k.batch.Canary.Requests = d.poisson(l.rate * w)
	if l.freezeAt > 0 && t >= l.freezeAt {
		k.batch.Canary.Requests = 0
	}
	if l.burst { // a burst lasts 30 s on average and fails once a second
		ps, pc = ps/30, pc/30
	}
	l.errors(d, k.batch.Canary.Requests, pc, func(n float64) {
		k.batch.Canary.Errors += n
		wd.lay(l, &k, n)
		wd.begin(l, d, &wd.canary)
	})
	n := l.slices()
	for i := range n {
		k.places[i].Requests = k.batch.Canary.Requests / float64(n)
		k.slices[i].Requests = d.poisson(l.rate * (1 - w) / float64(n))
		k.batch.Stable.Requests += k.slices[i].Requests
		fail := func(size float64) {
			k.slices[i].Errors += size
			k.batch.Stable.Errors += size
			if l.burst {
				wd.stable = append(wd.stable, i, 10+d.IntN(41))
			}
		}
		l.errors(d, k.slices[i].Requests, ps, fail)
	}
	wd.goOn(&k)
	k.batch.Canary.Errors = math.Min(k.batch.Canary.Errors, k.batch.Canary.Requests)
	k.batch.Stable.Errors = math.Min(k.batch.Stable.Errors, k.batch.Stable.Requests)
	k.drop = t >= l.gap[0] && t < l.gap[1] || l.resetAt > 0 && t == l.resetAt
	if l.skew {
		before := wd.late
		wd.late = &tick{batch: k.batch, slices: k.slices}
		if before != nil {
			k.batch.Stable, k.slices = before.batch.Stable, before.slices
		}
	}
	return k
}

// lay has errors of the canary fall on its instances: independent ones each on one of them, a clump on one. Who gets how many changes
// nothing of what comes after.
func (wd *aftermath) lay(l law, k *tick, errors float64) {
	if wd.where == nil {
		d := newDice(uint64(k.batch.Canary.Requests))
		wd.where = &d
	}
	if l.meanSize() > 1 {
		k.places[wd.where.IntN(l.slices())].Errors += errors
		return
	}
	for range int(errors) {
		k.places[wd.where.IntN(l.slices())].Errors++
	}
}

func (wd *aftermath) begin(l law, d dice, bursts *[]int) {
	if l.burst {
		*bursts = append(*bursts, 10+d.IntN(41))
	}
}

// goOn lets every burst fail once more, and end.
func (wd *aftermath) goOn(k *tick) {
	left := wd.canary[:0]
	for _, s := range wd.canary {
		k.batch.Canary.Errors++
		if s > 1 {
			left = append(left, s-1)
		}
	}
	wd.canary = left
	still := wd.stable[:0]
	for i := 0; i < len(wd.stable); i += 2 {
		slice, s := wd.stable[i], wd.stable[i+1]
		k.slices[slice].Errors++
		k.batch.Stable.Errors++
		if s > 1 {
			still = append(still, slice, s-1)
		}
	}
	wd.stable = still
}
