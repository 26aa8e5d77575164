package analysis

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// The vectors A1 to A3 of STATISTICS-2.md 5: three classes, the last one the rest.
const classVectors = `
A1
now=1 m=1 mj=1,1,1 step=false (14,0,686,1)(4,4,196,0)(2,0,98,0) -> lnE=3.453878 A=3.269263 T=3.453878 C=-0.294072,4.765078,-0.259401
now=2 m=1 mj=1,1,1 step=false (15,0,690,0)(3,3,190,0)(1,0,95,0) -> lnE=6.907755 A=5.721518 T=6.907755 C=-0.524995,8.720078,-0.514863
A2
now=1 m=1.5 mj=1.5,4,2 step=false (1,0,60,0)(0,0,20,1)(0,0,9,0) -> lnE=-0.012013 A=-0.020050 T=-0.000154 C=-0.000230,0,0
now=2 m=1.5 mj=1.5,4,2 step=false (0,0,66,1)(1,1,18,0)(1,0,8,0) -> lnE=0.433142 A=0.466174 T=0.484724 C=-0.000230,0.872823,-0.000194
now=3 m=1.5 mj=1.5,4,2 step=true (8,0,60,0)(3,2,17,0)(1,1,9,0) -> lnE=2.760945 A=3.213344 T=3.282661 C=-0.000869,1.466584,0.334992
now=4 m=1.5 mj=1.5,4,2 step=false (7,0,62,0)(2,2,21,0)(1,0,10,0) -> lnE=5.553539 A=6.057632 T=6.152693 C=-0.001501,2.360459,0.334855
A3
now=1 m=1 mj=1,1,1 step=false (70,70,6930,7)(20,20,1980,2)(10,10,990,1) -> lnE=3.453878 A=2.596561 T=3.453878 C=4.076362,4.076362,4.076362
now=2 m=1 mj=1,1,1 step=false (70,70,6930,7)(20,20,1980,2)(10,10,990,1) -> lnE=6.907755 A=4.770442 T=6.907755 C=7.750633,7.750633,7.750633
`

var threeShares = []float64{0.7, 0.2, 0.1}

// vectorTick is a line of them.
type vectorTick struct {
	now     float64
	m       float64
	classes []ClassBatch
	step    bool
	want    [6]float64
}

func (v *vectorTick) sum() (b Batch) {
	for _, c := range v.classes {
		b.Canary, b.Stable = b.Canary.Add(c.Canary), b.Stable.Add(c.Stable)
	}
	return b
}

func readVector(t *testing.T, line string) vectorTick {
	var v vectorTick
	v.classes = make([]ClassBatch, 3)
	c, w := v.classes, &v.want
	_, err := fmt.Sscanf(line, "now=%f m=%f mj=%f,%f,%f step=%t (%f,%f,%f,%f)(%f,%f,%f,%f)(%f,%f,%f,%f) -> lnE=%f A=%f T=%f C=%f,%f,%f", &v.now, &v.m, &c[0].M, &c[1].M, &c[2].M, &v.step,
		&c[0].Canary.Requests, &c[0].Canary.Errors, &c[0].Stable.Requests, &c[0].Stable.Errors,
		&c[1].Canary.Requests, &c[1].Canary.Errors, &c[1].Stable.Requests, &c[1].Stable.Errors,
		&c[2].Canary.Requests, &c[2].Canary.Errors, &c[2].Stable.Requests, &c[2].Stable.Errors,
		&w[0], &w[1], &w[2], &w[3], &w[4], &w[5])
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return v
}

func eachVector(t *testing.T, begin func(), tick func(name string, v vectorTick)) {
	name := ""
	for _, line := range strings.Split(strings.TrimSpace(classVectors), "\n") {
		if !strings.HasPrefix(line, "now=") {
			name = line
			begin()
			continue
		}
		v := readVector(t, line)
		tick(fmt.Sprintf("%s, second %.0f", name, v.now), v)
	}
}

func TestTheSpecifiedVectorsOfClassesHold(t *testing.T) {
	cfg := defaults()
	var j Judge
	begin := func() { j = NewJudge(); j.Classify(threeShares) }
	eachVector(t, begin, func(name string, v vectorTick) {
		if v.step {
			j.Step()
		}
		base := Baseline{M: v.m, Classes: v.classes}
		j.ended(&cfg, j.betClasses(&cfg, v.sum(), &base, v.m, 0, v.now, false))
		got := [6]float64{j.E(&cfg), j.Relative.E, j.Classes.Twin.E, j.Classes.Each[0].Capital.E, j.Classes.Each[1].Capital.E, j.Classes.Each[2].Capital.E}
		for i, what := range []string{"E", "A", "T", "C1", "C2", "C3"} {
			if math.Abs(math.Log(got[i])-v.want[i]) > 1e-6 {
				t.Errorf("%s: ln %s = %.6f, want %.6f", name, what, math.Log(got[i]), v.want[i])
			}
		}
	})
}

func TestADispersionOfAClassFallsBackOnTheServices(t *testing.T) {
	var d Dispersion
	d.Num[0], d.Den[0], d.Errs = 94.666667, 36, 12
	for prior, want := range map[float64]float64{1.2: 2.104167, 3: 3.791667} {
		if got := d.BoundFrom(prior); math.Abs(got-want) > 1e-6 {
			t.Errorf("with a prior of %g m is %.6f, want %.6f", prior, got, want)
		}
	}
	if d.Bound() != d.BoundFrom(3) {
		t.Error("the prior of a service is not 3")
	}
}

// dumb is the same judgement once more: plain products, one line per line of the specification.
type dumb struct {
	cfg           *Config
	shares        []float64
	a, t          dumbCapital
	c             []dumbCapital
	open          []dumbOpen
	thin          dumbOpen
	minutes, last []float64
	e             float64
	ends          [][2]float64 // moments and the evidence then
}

type dumbCapital struct {
	s    [12]float64
	q, e float64
	prev float64
	step bool
}

type dumbOpen struct {
	nc, xc, nb, xb, since float64
	first                 float64 // the canary's first requests in it
	filled                bool
}

func newDumb(cfg *Config, shares []float64) *dumb {
	fresh := dumbCapital{q: 0.55, e: 1}
	for k := range fresh.s {
		fresh.s[k] = 0.45 / 12
	}
	d := &dumb{cfg: cfg, shares: shares, a: fresh, t: fresh, e: 1, open: make([]dumbOpen, len(shares)), minutes: make([]float64, len(shares)), last: make([]float64, len(shares))}
	for range shares {
		d.c = append(d.c, fresh)
	}
	return d
}

func (c *dumbCapital) inject(now float64) {
	f := 1 - math.Pow((c.prev+300)/(now+300), 0.4)
	if c.step {
		f += 0.1
	}
	moved := c.q * min(max(f, 0), 1)
	c.q -= moved
	for k := range c.s {
		c.s[k] += moved / 12
	}
	c.prev, c.step = now, false
}

func (c *dumbCapital) lay(cfg *Config, o dumbOpen, m float64) {
	r := o.nb / o.nc
	for k := range c.s {
		theta := math.Exp(0.12 * math.Pow(1.45, float64(k)))
		a := min(theta*(cfg.R0+r)/(theta*cfg.R0+r), 16)
		c.s[k] *= math.Pow(math.Pow(a, o.xc)*math.Pow(1-cfg.R0/r*(a-1), o.xb)*math.Exp(-o.nc*cfg.D0*(a-1)), 1/m)
	}
}

func (c *dumbCapital) total() float64 {
	sum := c.q
	for _, s := range c.s {
		sum += s
	}
	return sum
}

func (c *dumbCapital) scale(f float64) {
	for k := range c.s {
		c.s[k] *= f
	}
	c.e = c.total()
}

func (c *dumbCapital) settle(cfg *Config, w float64) {
	limit := max(1, c.e) / math.Sqrt(cfg.Alpha) / w
	if c.e = c.total(); c.e > limit {
		c.scale((limit - c.q) / (c.e - c.q))
	}
}

func (o *dumbOpen) add(b ClassBatch, now float64) {
	if !o.filled {
		*o = dumbOpen{since: now, filled: true}
	}
	if o.nc <= 0 {
		o.first = now
	}
	o.nc, o.xc, o.nb, o.xb = o.nc+b.Canary.Requests, o.xc+b.Canary.Errors, o.nb+b.Stable.Requests, o.xb+b.Stable.Errors
}

func (d *dumb) step() {
	d.a.step, d.t.step, d.thin = true, true, dumbOpen{}
	for j := range d.c {
		d.c[j].step, d.open[j] = true, dumbOpen{}
	}
}

// tick bets on a second, and says since when the canary failed in what was bet on.
func (d *dumb) tick(batches []ClassBatch, m, now float64) (first float64) {
	n, total := 0.0, float64(len(d.c))
	for _, b := range batches {
		n += b.Canary.Requests
	}
	var forA, forT []dumbOpen
	for j, b := range batches {
		var single dumbOpen
		single.add(b, now)
		if n*d.shares[j] < 3 {
			d.thin.add(b, now)
		} else if single.nc >= 1 && single.nb >= 1 {
			forA = append(forA, single)
		}
	}
	if d.thin.nc >= 1 && d.thin.nb >= 1 {
		forA, d.thin = append(forA, d.thin), dumbOpen{}
	} else if now-d.thin.since > 300 {
		d.thin = dumbOpen{}
	}
	if len(forA) > 0 {
		d.a.inject(now)
		for _, o := range forA {
			d.a.lay(d.cfg, o, m)
		}
		d.a.settle(d.cfg, 0.6)
	}
	for j, b := range batches {
		d.last[j] += b.Canary.Requests
		o := &d.open[j]
		if o.add(b, now); now-o.since > 300 {
			if j < len(d.c)-1 {
				d.open[len(d.c)-1].add(ClassBatch{Batch: Batch{Counts{o.nc, o.xc}, Counts{o.nb, o.xb}}}, now)
			}
			*o = dumbOpen{}
		}
		if o.nc < 1 || o.nb < 1 {
			continue
		}
		forT = append(forT, *o)
		d.c[j].inject(now)
		d.c[j].lay(d.cfg, *o, min(max(d.last[j], 1), b.M))
		d.c[j].settle(d.cfg, 0.4/total)
		*o = dumbOpen{}
	}
	if len(forT) > 0 {
		d.t.inject(now)
		for _, o := range forT {
			d.t.lay(d.cfg, o, m)
		}
		d.t.settle(d.cfg, 1)
	}
	first = now
	for _, o := range append(forA, forT...) {
		if o.xc > 0 {
			first = min(first, o.first)
		}
	}
	return first
}

func (d *dumb) sum() (e, q float64) {
	e, q = 0.6*min(d.a.e, 10*d.t.e), 0.6*min(d.a.q, 10*d.t.e)
	for j := range d.c {
		e, q = e+0.4/float64(len(d.c))*d.c[j].e, q+0.4/float64(len(d.c))*d.c[j].q
	}
	return e, q
}

// cap lets the evidence be a limit at most.
func (d *dumb) cap(limit float64) {
	e, q := d.sum()
	if e > limit {
		d.a.scale((limit - q) / (e - q))
		for j := range d.c {
			d.c[j].scale((limit - q) / (e - q))
		}
		e, _ = d.sum()
	}
	d.e = min(e, limit)
}

// TestADumbJudgeOfClassesAgrees compares both over random evidence of a minute, weights changed meanwhile.
func TestADumbJudgeOfClassesAgrees(t *testing.T) {
	cfg := defaults()
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 17))
		shares := []float64{0.5, 0.2, 0.15, 0.1, 0.01, 0.04}
		j, d := NewJudge(), newDumb(&cfg, shares)
		j.Classify(shares)
		for now := 1.0; now < 59; now++ {
			if r.IntN(20) == 0 {
				j.Step()
				d.step()
			}
			var v vectorTick
			for i, s := range shares {
				nc, nb := float64(int(s*40*r.Float64()+r.Float64())), float64(int(s*800*r.Float64()))
				xc := 0.0
				if i == 4 || r.IntN(60) == 0 {
					xc = float64(int(nc * r.Float64() * 1.5))
				}
				v.classes = append(v.classes, ClassBatch{Batch{Counts{nc, min(xc, nc)}, Counts{nb, min(float64(r.IntN(2)), nb)}}, 1 + 3*r.Float64()})
			}
			base := Baseline{Classes: v.classes}
			j.ended(&cfg, j.betClasses(&cfg, v.sum(), &base, 1.3, 1, now, false)) // stable fails usually, so nothing is a hiccup
			d.tick(v.classes, 1.3, now)
			d.cap(max(1, d.e) / math.Sqrt(cfg.Alpha))
			if got, want := math.Log(j.E(&cfg)), math.Log(d.e); math.Abs(got-want) > 1e-9*max(1, math.Abs(want)) {
				t.Fatalf("seed %d, second %.0f: ln E = %.12f, the dumb one says %.12f", seed, now, got, want)
			}
		}
	}
}

// TestNoBetOnTwoStrataGains enumerates what two classes of a canary that is just as bad as tolerated may do: one request each, stable's
// errors Poisson. The mean of what is won is 1 at most.
func TestNoBetOnTwoStrataGains(t *testing.T) {
	cfg := defaults()
	largest := 0.0
	for _, p := range [][2]float64{{0.01, 0.2}, {0.001, 0.5}, {0.05, 0.05}, {0.3, 0.002}} {
		mean := 0.0
		for out := range 1 << 8 { // canary 1 + 1 requests, stable 3 + 3
			prob, l := 1.0, logs{}
			for s := range 2 {
				var b Batch
				b.Canary.Requests, b.Stable.Requests = 1, 3
				pc := min(1, cfg.R0*p[s]+cfg.D0)
				for bit := range 4 {
					bad, q := out>>(4*s+bit)&1 == 1, p[s]
					if bit == 0 {
						q = pc
					}
					switch {
					case bad && bit == 0:
						b.Canary.Errors++
					case bad:
						b.Stable.Errors++
					}
					if bad {
						prob *= q
					} else {
						prob *= 1 - q
					}
				}
				var g logs
				gains(&cfg, &b, &g)
				l.add(&g, 1)
			}
			sum := 0.0
			for k := range l {
				sum += math.Exp(l[k]) / tilts
			}
			mean += prob * sum
		}
		largest = max(largest, mean)
	}
	if largest > 1 || largest < 0.5 {
		t.Errorf("the largest mean is %.6f", largest)
	}
}

func TestOneStratumIsTheCapitalOfToday(t *testing.T) {
	cfg := defaults()
	j, c := NewJudge(), NewCapital(DefaultRestarts().Start)
	j.Classify([]float64{1, 0})
	for now := 1.0; now < 30; now++ {
		b := Batch{Counts{20, float64(int(now) % 7 / 6)}, Counts{900, 1}}
		base := Baseline{Classes: []ClassBatch{{b, 1}, {M: 1}}}
		j.betClasses(&cfg, b, &base, 1, 0, now, false)
		c.Relative(&cfg, b, 1, now, false)
		for what, got := range map[string]float64{"A": j.Relative.E, "T": j.Classes.Twin.E, "C": j.Classes.Each[0].Capital.E} {
			if math.Abs(got-c.E) > 1e-12*c.E {
				t.Fatalf("second %.0f: %s is %.15f, today's capital %.15f", now, what, got, c.E)
			}
		}
	}
}

func TestCountsAndClumpsOfOneFactorLeaveTheEvidence(t *testing.T) {
	run := func(f float64) float64 {
		cfg := defaults()
		j := NewJudge()
		j.Classify([]float64{0.9, 0.1})
		for now := 1.0; now < 20; now++ {
			b := []ClassBatch{{Batch{Counts{100 * f, 1 * f}, Counts{900 * f, 3 * f}}, 2 * f}, {Batch{Counts{40 * f, 1 * f}, Counts{90 * f, 0}}, 2 * f}}
			v := vectorTick{classes: b}
			j.betClasses(&cfg, v.sum(), &Baseline{Classes: b}, 2*f, 0, now, false)
		}
		return j.E(&cfg)
	}
	if a, b := run(1), run(3); math.Abs(a-b) > 1e-9*a {
		t.Errorf("E is %.12f, and %.12f of three times as much in clumps of three", a, b)
	}
}

func TestAClassThatStableDoesNotServeEndsUpInTheRest(t *testing.T) {
	cfg := defaults()
	j := NewJudge()
	j.Classify([]float64{0.9, 0.1})
	for now := 1.0; now <= 302; now++ {
		b := []ClassBatch{{Batch{Counts{1, 1}, Counts{}}, 1}, {M: 1}}
		v := vectorTick{classes: b}
		j.betClasses(&cfg, v.sum(), &Baseline{Classes: b}, 1, 0, now, false)
	}
	rest := j.Classes.Each[1].Open[0]
	if own := j.Classes.Each[0].Open[0]; own.Batch != (Batch{}) || rest.Canary != (Counts{302, 302}) {
		t.Errorf("the class still has %v, the rest %v: want 302 in the rest", own.Batch, rest.Batch)
	}
}

func TestAllTogetherCutWhereNoClassSpeaks(t *testing.T) {
	cfg := defaults()
	j := NewJudge()
	j.Classify(make([]float64, 20))
	for i := range j.Classes.Each {
		j.Classes.Each[i].Capital = Capital{}
	}
	b := make([]ClassBatch, 20)
	for i := range b {
		b[i] = ClassBatch{Batch{Counts{1, 1}, Counts{50, 0}}, 1}
	}
	v := vectorTick{classes: b}
	for now := 1.0; now < 10; now++ {
		j.Observe(&cfg, v.sum(), Baseline{M: 1, Classes: b}, now)
		for i := range j.Classes.Each {
			j.Classes.Each[i].Capital = Capital{}
		}
	}
	if cut, ceiling := j.Worse(&cfg); !cut || ceiling || j.Blame(&cfg) != -1 {
		t.Errorf("cut %t for the ceiling %t, class %d: all together are to blame", cut, ceiling, j.Blame(&cfg))
	}
}

// TestABurstOfAClassGainsNoMoreThanABatch lets one instance fail for a burst, in batches of a tenth of a second.
func TestABurstOfAClassGainsNoMoreThanABatch(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		cfg := defaults()
		cfg.Burst = 0.3
		j := NewJudge()
		j.Classify([]float64{0.8, 0.15, 0.05})
		begins := 1 + 3*r.Float64()
		before, most := 1.0, 0.0
		for i := range 60 {
			now := 0.1 * float64(i+1)
			b := []ClassBatch{{Batch{Counts{4, 0}, Counts{80, 0}}, 1}, {Batch{Counts{1, 0}, Counts{10, 0}}, 1}, {Batch{Counts{float64(r.IntN(2)), 0}, Counts{3, 0}}, 1}}
			touched := now > begins && now-0.1 < begins+0.3
			for k := range b {
				if touched {
					b[k].Canary.Errors = b[k].Canary.Requests
				}
			}
			v := vectorTick{classes: b}
			j.Observe(&cfg, v.sum(), Baseline{M: 1, Batch: 0.1, Classes: b}, now)
			if now <= begins {
				before = max(1, j.E(&cfg))
			}
			most = max(most, j.E(&cfg))
		}
		if limit := before * math.Pow(cfg.Alpha, -0.5) * (1 + 1e-9); most > limit {
			t.Fatalf("seed %d: E reached %.3f from %.3f in one burst: at most %.3f", seed, most, before, limit)
		}
	}
}

func manyClasses(errors int) (b []ClassBatch, sum Batch, shares []float64) {
	b = make([]ClassBatch, MostClasses)
	for i := range b {
		b[i] = ClassBatch{Batch{Counts{5, 0}, Counts{500, 0}}, 2}
		if i < errors {
			b[i].Canary.Errors, b[i].Stable.Errors = 1, 1
		}
		sum.Canary, sum.Stable = sum.Canary.Add(b[i].Canary), sum.Stable.Add(b[i].Stable)
		shares = append(shares, 1.0/MostClasses)
	}
	return b, sum, shares
}

func TestAJudgementByClassAllocatesNothing(t *testing.T) {
	cfg := defaults()
	cfg.Burst = 0.3
	j := NewJudge()
	b, sum, shares := manyClasses(3)
	j.Classify(shares)
	now := 0.0
	if n := testing.AllocsPerRun(200, func() {
		now++
		j.Observe(&cfg, sum, Baseline{M: 2, Batch: 1, Classes: b}, now)
	}); n != 0 {
		t.Errorf("%g allocations per judgement", n)
	}
}

func BenchmarkObserveClasses(b *testing.B) {
	for _, errors := range []int{0, 3, 20} {
		b.Run(fmt.Sprintf("20 classes, errors in %d", errors), func(b *testing.B) {
			cfg := defaults()
			j := NewJudge()
			classes, sum, shares := manyClasses(errors)
			j.Classify(shares)
			b.ReportAllocs()
			for now := 1.0; b.Loop(); now++ {
				j.Observe(&cfg, sum, Baseline{M: 2, Classes: classes}, now)
			}
		})
	}
}
