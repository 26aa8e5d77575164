package main

import (
	"math"

	"github.com/canaryd/canaryd/internal/analysis"
)

// decision of a rule after a second.
type decision int

const (
	goOn decision = iota
	cut
	promote
)

// rule judges second by second; weight is what it wants the canary to have (on its own ramp).
type rule interface {
	see(t int, k tick) decision
	weight() float64
}

// maker makes a fresh rule; common says that the weights are given from outside.
type maker struct {
	name string
	make func(l law, d dice, common bool) rule
}

func makers() []maker {
	lib := &library{days: map[pastKey]*past{}}
	return []maker{
		{"canaryd", func(l law, d dice, common bool) rule { return newCanaryd(lib, l, d.IntN(pastsKept), common) }},
		{"flagger", func(_ law, _ dice, common bool) rule { return newFlagger(common) }},
		{"argo", func(_ law, _ dice, common bool) rule { return newArgo(common) }},
		{"kayenta", func(_ law, _ dice, common bool) rule { return newKayenta(common) }},
	}
}

// canaryd is the judge that runs in production, with the ramp by budget of `steps: auto`.
type canaryd struct {
	cfg     analysis.Config
	j       analysis.Judge
	disp    analysis.Dispersion
	usual   analysis.Usual
	rate    float64
	common  bool
	w       float64
	since   int
	pending bool // a weight change takes two seconds; what straddles it is dropped
	settle  int
	only    bool // cuts only: what it would promote goes on
	slices  int
}

func defaultConfig() analysis.Config {
	return analysis.Config{Alpha: 0.001, Beta: 0.01, R0: 1.1, D0: 1e-4, R1: 1.5, D1: 5e-4, Budget: 20}
}

var ladder = []float64{0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5}

const (
	reaction = 3.0 // seconds: two batches and one
	dwell    = 60
)

// newCanaryd begins with a day's knowledge of stable, as a running system has.
func newCanaryd(lib *library, l law, day int, common bool) *canaryd {
	c := &canaryd{cfg: defaultConfig(), j: analysis.NewJudge(), rate: l.rate, common: common, slices: l.slices()}
	c.cfg.Ceiling = l.ceiling
	c.disp, c.usual = lib.of(l, day)
	c.w = ladder[0]
	for _, w := range ladder {
		if w <= math.Min(c.cfg.Budget/(l.rate*reaction), 0.25) {
			c.w = w
		}
	}
	return c
}

func (c *canaryd) learn(now float64, k tick) {
	learn(&c.disp, &c.usual, now+day, c.slices, k)
}

// newCutter is canaryd without promotions, to time cuts of what lies between tolerate and promote_within.
func newCutter(lib *library) maker {
	return maker{"canaryd", func(l law, d dice, common bool) rule {
		c := newCanaryd(lib, l, d.IntN(pastsKept), common)
		c.only = true
		return c
	}}
}

func (c *canaryd) weight() float64 { return c.w }

func (c *canaryd) see(t int, k tick) decision {
	now := float64(t + 1)
	if k.drop || t < c.settle {
		return goOn
	}
	base := analysis.Baseline{M: c.disp.Bound(), Usual: c.usual.Rate()}
	if t-c.since >= 30 {
		base.Share = c.w / (1 - c.w)
	}
	judged := c.j.Observe(&c.cfg, k.batch, base, now)
	c.learn(float64(t), k)
	if worse, _ := c.j.Worse(&c.cfg); worse {
		return cut
	}
	if !judged || c.j.Incident(now) || c.j.Suspicious(&c.cfg) || t-c.since < dwell {
		return goOn
	}
	if c.w >= ladder[len(ladder)-1] {
		if c.j.Proven(&c.cfg) && !c.only {
			return promote
		}
		return goOn
	}
	if c.common {
		return goOn
	}
	next := c.w
	for i := len(ladder) - 1; i >= 0 && ladder[i] > c.w; i-- {
		next = ladder[i]
	}
	if c.j.Exposure.Upper(&c.cfg, math.Max(c.j.M, 1))*c.rate*next*reaction <= c.cfg.Budget {
		c.moveTo(next, t)
	}
	return goOn
}

func (c *canaryd) moveTo(w float64, t int) {
	c.w, c.since, c.settle = w, t+1, t+3
	c.j.Step()
}

// given follows a weight that was set from outside.
func (c *canaryd) given(w float64, t int) {
	if w != c.w {
		c.w, c.since = w, t
		if t > 0 {
			c.j.Step()
		}
	}
}

// flagger is the documented sample: 99 % success over one minute, 10 failed checks (5 on the common
// ramp) in all, no data is a failed check, +5 % a minute up to 50 %.
type flagger struct {
	n, x      float64
	failed    int
	threshold int
	w         float64
	common    bool
}

func newFlagger(common bool) *flagger {
	f := &flagger{threshold: 10, common: common}
	if common {
		f.threshold = 5
	}
	return f
}

func (f *flagger) weight() float64 { return f.w }

func (f *flagger) see(t int, k tick) decision {
	if !k.drop {
		f.n, f.x = f.n+k.batch.Canary.Requests, f.x+k.batch.Canary.Errors
	}
	if (t+1)%60 != 0 {
		return goOn
	}
	defer func() { f.n, f.x = 0, 0 }()
	if f.failed >= f.threshold { // on the tick after the last failure
		return cut
	}
	if f.w > 0 || f.common {
		if f.n == 0 || (f.n-f.x)/f.n*100 < 99 {
			f.failed++
			return goOn
		}
	}
	if f.common {
		return goOn
	}
	if f.w >= 0.5 {
		return promote
	}
	f.w += 0.05
	return goOn
}

// argo is the documented sample: 20, 40, 60, 80 % for ten minutes each, from minute ten on success of
// 95 % (irate: the last 15 s) every five minutes, aborted at the fourth failure.
type argo struct {
	recent [15]analysis.Counts
	failed int
	common bool
	w      float64
}

func newArgo(common bool) *argo { return &argo{common: common, w: 0.2} }

func (a *argo) weight() float64 { return a.w }

func (a *argo) see(t int, k tick) decision {
	a.recent[t%15] = analysis.Counts{}
	if !k.drop {
		a.recent[t%15] = k.batch.Canary
	}
	s := t + 1
	if s >= 600 && s%300 == 0 || a.common && s%300 == 0 {
		var sum analysis.Counts
		for _, c := range a.recent {
			sum = sum.Add(c)
		}
		if sum.Requests > 0 && 1-sum.Rate() < 0.95 { // an empty result is an error, and is tried again
			if a.failed++; a.failed > 3 {
				return cut
			}
		}
	}
	if !a.common && s%600 == 0 {
		if a.w += 0.2; a.w > 0.81 {
			return promote
		}
	}
	return goOn
}

// kayenta compares sixty one-minute error rates of canary and stable, once, after an hour at 10 %.
type kayenta struct {
	c, b   analysis.Counts
	x, y   []float64
	common bool
}

func newKayenta(common bool) *kayenta { return &kayenta{common: common} }

func (k *kayenta) weight() float64 { return 0.1 }

func (k *kayenta) see(t int, tk tick) decision {
	if !tk.drop {
		k.c, k.b = k.c.Add(tk.batch.Canary), k.b.Add(tk.batch.Stable)
	}
	if (t+1)%60 == 0 {
		if k.c.Requests > 0 {
			k.x = append(k.x, k.c.Rate())
		}
		if k.b.Requests > 0 {
			k.y = append(k.y, k.b.Rate())
		}
		k.c, k.b = analysis.Counts{}, analysis.Counts{}
	}
	if t+1 < 3600 {
		return goOn
	}
	if kayentaHigh(k.x, k.y) {
		return cut
	}
	return promote
}

// wald is the second at which a test that knew both rates and the onset would expect to be done.
func wald(l law, weight func(t int) float64, horizon int) int {
	cfg := defaultConfig()
	sum := 0.0
	for t := l.onset; t < horizon; t++ {
		ps, pc := l.rates(t)
		w := weight(t)
		sum += growth(l.rate*w, pc, l.rate*(1-w), ps, cfg)
		if sum >= math.Log(1/cfg.Alpha) {
			return t + 1
		}
	}
	return -1
}

// growth is the most that a second's evidence can be expected to add to ln E, over all tilts.
func growth(nc, pc, nb, pb float64, cfg analysis.Config) float64 {
	if nc <= 0 || nb <= 0 {
		return 0
	}
	u := cfg.R0 * nc / nb
	f := func(a float64) float64 {
		return nc*pc*math.Log(a) + nb*pb*math.Log1p(-u*(a-1)) - nc*cfg.D0*(a-1)
	}
	lo, hi := 1.0, 1+0.999999/u
	if pb == 0 {
		hi = math.Max(2, pc/cfg.D0*2)
		if u*(hi-1) >= 1 {
			hi = 1 + 0.999999/u
		}
	}
	for range 100 { // golden section; f is concave
		a, b := lo+(hi-lo)*0.382, lo+(hi-lo)*0.618
		if f(a) < f(b) {
			lo = a
		} else {
			hi = b
		}
	}
	return math.Max(0, f((lo+hi)/2))
}
