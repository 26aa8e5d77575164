package main

import (
	"fmt"
	"io"
	"math"
	"sync/atomic"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/world"
)

// promised is a world in which the canary is exactly as good as stable.
type promised struct{ law }

// equals are the worlds of the promise, every one at two request rates; the last one lies outside of
// it, because its clumps are larger than anything seen before.
func equals() []promised {
	var ps []promised
	for _, rate := range []float64{20, 500} {
		base := law{rate: rate, stable: 0.002, canary: 0.002, clump: 1}
		add := func(name string, set func(*law)) { ps = append(ps, promised{with(base, name, set)}) }
		add("independent errors", func(*law) {})
		add("drift, fourfold", func(l *law) { l.drift = true })
		add("outage in common, 5 min", func(l *law) { l.outage = [2]int{1000, 1300} })
		add("stable read a second late", func(l *law) { l.skew = true })
		add("outage, stable read late", func(l *law) { l.skew, l.outage = true, [2]int{1000, 1300} })
		add("gap of 4 min, a reset", func(l *law) { l.gap, l.resetAt = [2]int{100, 340}, 900 })
		add("clumps of 3 (geometric)", func(l *law) { l.clump = 3 })
		add("clumps of 10 (geometric)", func(l *law) { l.clump = 10 })
		add("clumps of 20 (fixed)", func(l *law) { l.fixed = 20 })
		add("bursts of 10 to 50 s", func(l *law) { l.burst = true })
		add("beta-binomial, 0.001", func(l *law) { l.icc = 0.001 })
		add("beta-binomial, 0.01", func(l *law) { l.icc = 0.01 })
		add("one endpoint, independent", func(l *law) { l.instances = 1 })
		add("one endpoint, clumps of 3", func(l *law) { l.instances, l.clump = 1, 3 })
		add("one endpoint, clumps of 10", func(l *law) { l.instances, l.clump = 1, 10 })
		add("ceiling at 1 %", func(l *law) { l.ceiling = 0.01 })
		add("ceiling at 1 %, outage", func(l *law) { l.ceiling, l.outage = 0.01, [2]int{1000, 1300} })
		add("clumps of 10, the day before had none", func(l *law) { l.clump, l.calmBefore = 10, true })
	}
	return ps
}

// promiseTable counts false cuts with nothing tolerated, so that equal is the edge of what is promised.
// The bound in the last column is the upper 99 % one (Clopper and Pearson).
func promiseTable(w io.Writer, a asked) {
	for _, length := range []struct {
		hours, batch, runs int
	}{{1, 1, a.runs}, {24, 10, max(a.runs/4, 1)}} {
		t := &sheet{asked: a, w: w, columns: fmt.Sprintf("req/s\t%-37s\tat 1 %%\tat most (99 %%)\tat 0.1 %%\tat most (99 %%)\tplacebos at 20\tm", "world"),
			title: fmt.Sprintf("EQUAL RELEASES CUT, nothing tolerated (tolerate: {ratio: 1, margin: 0}), common ramp, the judge alone on given weights, %d h judged every %d s, %d releases a cell", length.hours, length.batch, length.runs)}
		lib := &library{days: map[pastKey]*past{}}
		for _, p := range equals() {
			if !t.takes(fmt.Sprintf("%s, %g requests/s, %d h", p.name, p.rate, length.hours)) {
				continue
			}
			r := p.count(lib, 3600*length.hours, length.batch, length.runs)
			most := func(n int) float64 { return 100 * atMost(n, length.runs, 0.01) }
			t.row("%g\t%s\t%d\t%.2f%%\t%d\t%.3f%%\t%.1f%%\t%.2f", p.rate, p.name, r.cuts[0], most(r.cuts[0]), r.cuts[1], most(r.cuts[1]), 100*float64(r.placebos)/float64(length.runs), r.m)
		}
	}
}

type counted struct {
	cuts     [2]int // at 1 % and 0.1 %
	placebos int
	m        float64 // mean clump bound at the end
}

// count runs equal releases; one run answers for both levels, because the evidence at 1 % is judged
// apart from that at 0.1 % (the cap of one batch depends on the level).
func (p promised) count(lib *library, seconds, batch, runs int) counted {
	var cuts [2]atomic.Int64
	var placebos atomic.Int64
	ms := make([]float64, runs)
	world.Runs(runs, func(i int) {
		hit, placebo, m := p.run(lib, seconds, batch, uint64(i)+1)
		for k := range hit {
			if hit[k] {
				cuts[k].Add(1)
			}
		}
		if placebo {
			placebos.Add(1)
		}
		ms[i] = m
	})
	return counted{[2]int{int(cuts[0].Load()), int(cuts[1].Load())}, int(placebos.Load()), mean(ms)}
}

func (p promised) run(lib *library, seconds, batch int, seed uint64) (cuts [2]bool, placebo bool, m float64) {
	d, wd := newDice(seed), &aftermath{}
	var rules [2]*judged
	on := d.IntN(pastsKept)
	for k, alpha := range []float64{0.01, 0.001} {
		rules[k] = newJudged(lib, p.law, on, batch)
		rules[k].cfg.Alpha, rules[k].cfg.R0, rules[k].cfg.D0 = alpha, 1, 0
	}
	l := p.law
	together := l.burst || l.icc > 0 // what goes on for seconds is simulated second by second
	if !together {
		l.rate *= float64(batch)
	}
	var fake analysis.Placebo
	for t := 0; t < seconds; t += batch {
		w := commonRamp.at(t * 3600 / seconds)
		tk := l.second(d, wd, t, w)
		for s := 1; s < batch && together; s++ {
			tk.add(l.second(d, wd, t+s, w))
		}
		if !tk.drop {
			fake.Observe(&rules[1].cfg, tk.stable(l.slices()), seed, rules[1].disp.Bound(), float64(t+batch))
		}
		for k, r := range rules {
			r.given(w, t)
			cuts[k] = cuts[k] || r.see(t, tk) == cut
		}
		if cuts[0] && cuts[1] {
			break
		}
	}
	return cuts, fake.MaxE >= 20, rules[1].disp.Bound()
}

func (k *tick) add(o tick) {
	k.batch.Canary, k.batch.Stable = k.batch.Canary.Add(o.batch.Canary), k.batch.Stable.Add(o.batch.Stable)
	for i := range k.slices {
		k.slices[i], k.places[i] = k.slices[i].Add(o.slices[i]), k.places[i].Add(o.places[i])
	}
}

// stable is the tick's counts of stable by slice.
func (k tick) stable(n int) []analysis.Slice { return named(k.slices[:n]) }

// canary is the tick's counts of the canary by instance.
func (k tick) canary(n int) []analysis.Slice { return named(k.places[:n]) }

func named(counts []analysis.Counts) []analysis.Slice { return namedInto(nil, counts) }

// namedInto writes over what a slice held.
func namedInto(s []analysis.Slice, counts []analysis.Counts) []analysis.Slice {
	s = s[:0]
	for i, c := range counts {
		s = append(s, analysis.Slice{Name: "abcd"[i : i+1], Counts: c})
	}
	return s
}

// atMost is the upper confidence bound on a chance that hit n of all times (Clopper and Pearson); doubt is 1 % for 99 %.
func atMost(n, all int, doubt float64) float64 {
	lo, hi := 0.0, 1.0
	for range 60 {
		mid := (lo + hi) / 2
		if below(n, all, mid) > doubt {
			lo = mid
		} else {
			hi = mid
		}
	}
	return hi
}

// below is the binomial chance of n hits or fewer.
func below(n, all int, p float64) float64 {
	sum := 0.0
	lgAll, _ := math.Lgamma(float64(all + 1))
	for i := 0; i <= n; i++ {
		a, _ := math.Lgamma(float64(i + 1))
		b, _ := math.Lgamma(float64(all - i + 1))
		sum += math.Exp(lgAll - a - b + float64(i)*math.Log(p) + float64(all-i)*math.Log1p(-p))
	}
	return sum
}
