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
		{"pipecd", func(_ law, _ dice, common bool) rule { return &pipecd{common: common} }},
		{"alarm", func(_ law, _ dice, common bool) rule { return &alarm{common: common} }},
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

// wald is the second on the common ramp at which a test that knew both rates and the onset would expect to be done.
func wald(l law, horizon int) int {
	cfg := defaultConfig()
	sum := 0.0
	for t := l.onset; t < horizon; t++ {
		ps, pc := l.rates(t)
		w := commonRamp.at(t)
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
