package analysis

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"
)

const precision = 200 // bits

func bf(x float64) *big.Float { return new(big.Float).SetPrec(precision).SetFloat64(x) }

func add(a, b *big.Float) *big.Float { return new(big.Float).SetPrec(precision).Add(a, b) }
func sub(a, b *big.Float) *big.Float { return new(big.Float).SetPrec(precision).Sub(a, b) }
func mul(a, b *big.Float) *big.Float { return new(big.Float).SetPrec(precision).Mul(a, b) }
func quo(a, b *big.Float) *big.Float { return new(big.Float).SetPrec(precision).Quo(a, b) }

// bigExp is Taylor's series after halving the argument until it is below 2^-8: the 20th term is below 2^-213.
func bigExp(x *big.Float) *big.Float {
	halvings := max(x.MantExp(nil)+8, 0)
	y := new(big.Float).SetPrec(precision).SetMantExp(x, -halvings)
	sum, term := bf(1), bf(1)
	for i := 1.0; i <= 20; i++ {
		term = quo(mul(term, y), bf(i))
		sum = add(sum, term)
	}
	for range halvings {
		sum = mul(sum, sum)
	}
	return sum
}

// bigLog is Newton's method on exp, from the float64 logarithm: each of two rounds doubles its 53 bits.
func bigLog(x *big.Float) *big.Float {
	mantissa := new(big.Float)
	exponent := x.MantExp(mantissa)
	m, _ := mantissa.Float64()
	y := bf(math.Log(m) + float64(exponent)*math.Ln2)
	for range 2 {
		y = add(y, sub(quo(x, bigExp(y)), bf(1)))
	}
	return y
}

// twin is the rollback test once more, slow and plain, in numbers of 200 bits: one line per line of
// the specification, products instead of sums of logarithms, no shortcut and no rounding to speak of.
type twin struct {
	s     [12]*big.Float
	q, e  *big.Float
	prev  float64
	bets  [12]map[[5]float64]*big.Float // factors worked out before, by what they depend on
	leaps map[float64]*big.Float
}

func newTwin(r Restarts) *twin {
	t := &twin{q: sub(bf(1), bf(r.Start)), e: bf(1), leaps: map[float64]*big.Float{}}
	for k := range t.s {
		t.s[k] = quo(bf(r.Start), bf(12))
		t.bets[k] = map[[5]float64]*big.Float{}
	}
	return t
}

// factor is what bet k is multiplied by: (a^xc * b^xb * exp(-nc d0 (a-1)))^(1/m).
func (t *twin) factor(c Config, k int, nc, xc, nb, xb, m float64) *big.Float {
	key := [5]float64{nc, xc, nb, xb, m}
	if f := t.bets[k][key]; f != nil {
		return f
	}
	theta := bf(math.Exp(0.12 * math.Pow(1.45, float64(k))))
	r := quo(bf(nb), bf(nc))
	a := quo(mul(theta, add(bf(c.R0), r)), add(mul(theta, bf(c.R0)), r))
	if a.Cmp(bf(16)) > 0 {
		a = bf(16)
	}
	gain := sub(a, bf(1))
	b := sub(bf(1), mul(quo(bf(c.R0), r), gain))
	l := sub(add(mul(bf(xc), bigLog(a)), mul(bf(xb), bigLog(b))), mul(mul(bf(nc), bf(c.D0)), gain))
	t.bets[k][key] = bigExp(quo(l, bf(m)))
	return t.bets[k][key]
}

func (t *twin) update(c Config, nc, xc, nb, xb, m, now float64, step bool) {
	f := 1 - math.Pow((t.prev+c.Restarts.After)/(now+c.Restarts.After), c.Restarts.Power)
	if step {
		f += c.Restarts.Step
	}
	t.prev = now
	inj := mul(t.q, bf(f))
	t.q = sub(t.q, inj)
	sum := bf(0)
	for k := range t.s {
		t.s[k] = mul(add(t.s[k], quo(inj, bf(12))), t.factor(c, k, nc, xc, nb, xb, m))
		sum = add(sum, t.s[k])
	}
	limit := mul(t.e, bf(1/math.Sqrt(c.Alpha)))
	if t.e.Cmp(bf(1)) < 0 {
		limit = bf(1 / math.Sqrt(c.Alpha))
	}
	if limit.Cmp(bf(mostE)) > 0 {
		limit = bf(mostE)
	}
	t.e = add(t.q, sum)
	if t.e.Cmp(limit) > 0 {
		for k := range t.s {
			t.s[k] = quo(mul(t.s[k], sub(limit, t.q)), sum)
		}
		t.e = limit
	}
}

func (t *twin) lnE() float64 {
	l, _ := bigLog(t.e).Float64()
	return l
}

func FuzzTheTwinAgrees(f *testing.F) {
	seeds := uint64(20)
	if raced {
		seeds = 3
	}
	for s := range seeds {
		f.Add(s, 0.01, 0.05, 100.0)
	}
	f.Fuzz(func(t *testing.T, seed uint64, p, w, rate float64) {
		if !(p >= 0 && p <= 1 && w > 0.001 && w < 0.9 && rate >= 2 && rate < 1e6) {
			return
		}
		r := rand.New(rand.NewPCG(seed, 2))
		cfg := defaults()
		cfg.Restarts = DefaultRestarts()
		c, d := NewCapital(cfg.Restarts.Start), newTwin(cfg.Restarts)
		now := 0.0
		for range 40 {
			now += 0.1 + 5*r.Float64()
			nc, nb := math.Ceil(rate*w), math.Ceil(rate*(1-w))
			xc, xb := math.Min(nc, poisson(r, math.Min(nc*p*(1+r.Float64()), 50))), math.Min(nb, poisson(r, math.Min(nb*p, 50)))
			m, step := 1+3*r.Float64(), r.IntN(20) == 0
			c.Relative(&cfg, Batch{Counts{nc, xc}, Counts{nb, xb}}, m, now, step)
			d.update(cfg, nc, xc, nb, xb, m, now, step)
			if math.Abs(math.Log(c.E)-d.lnE()) > 1e-9*(1+math.Abs(d.lnE())) || math.IsNaN(c.E) {
				t.Fatalf("ln E = %.12g, the twin says %.12g", math.Log(c.E), d.lnE())
			}
		}
	})
}

// A week of ticks and 10^9 requests: rounding does not add up. In the last hour the canary gets worse,
// so that the agreement is also one about evidence that grows.
func TestAWeekAndABillionRequestsLeaveTheTwinsEqual(t *testing.T) {
	began := time.Now()
	week := 7 * 24 * 3600
	if raced {
		week /= 50
	}
	cfg := defaults()
	cfg.Restarts = DefaultRestarts()
	r := rand.New(rand.NewPCG(7, 7))
	c, d := NewCapital(cfg.Restarts.Start), newTwin(cfg.Restarts)
	requests, worst := 0.0, 0.0
	for s := 1; s <= week; s++ {
		const nc, nb = 165, 1490 // 1 655 requests/s
		p := 0.001
		if s > week-3600 {
			p = 0.0016
		}
		xc, xb := poisson(r, nc*p), poisson(r, nb*0.001)
		c.Relative(&cfg, Batch{Counts{nc, xc}, Counts{nb, xb}}, 1.25, float64(s), false)
		d.update(cfg, nc, xc, nb, xb, 1.25, float64(s), false)
		requests += nc + nb
		if s%7200 == 0 || s > week-3600 && s%60 == 0 {
			worst = max(worst, math.Abs(math.Log(c.E)-d.lnE()))
		}
	}
	t.Logf("%g requests in %d ticks: ln E = %.6f, the largest difference to 200 bits was %.2g (%s)", requests, week, math.Log(c.E), worst, time.Since(began).Round(time.Millisecond))
	if !raced && requests < 1e9 || worst > 1e-7 {
		t.Errorf("the float64 judge drifted by %g nats", worst)
	}
	if c.E < 1 {
		t.Errorf("nothing was compared about evidence that grows: E = %g", c.E)
	}
}
