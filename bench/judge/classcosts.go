package main

import (
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

// broads are releases that fail more than stable in every class.
func broads() (all []law) {
	for _, rate := range []float64{1000, 10000, 100, 10} {
		base := law{rate: rate, stable: 0.001, clump: 1}
		add := func(name string, canary float64, onset int) {
			all = append(all, with(base, name, func(l *law) { l.canary, l.onset = canary, onset }))
		}
		if rate > 10 { // x2 of ten requests/s is not seen within the hour
			add("x2", 0.002, 0)
		}
		add("x5", 0.005, 0)
		add("x10", 0.01, 0)
		add("total", 1, 0)
		add("x10 at 30 min", 0.01, 1800)
	}
	return all
}

// broadTable asks what it costs to judge by class where classes have nothing to do with it: the same counts, told by class and not. A release
// that is not cut counts with the hour.
func broadTable(w io.Writer, runs int) {
	for _, unanswered := range []bool{false, true} {
		fmt.Fprintf(w, "\nWORSE IN ALL OF %d CLASSES, told by class and together, stable fails 0.1 %%, failures without an answer: %t, common ramp, the judge alone on given weights, %d releases a cell\n", allClasses, unanswered, runs)
		fmt.Fprintln(w, "seconds from the onset to the cut: mean, one that is not cut counts with the hour")
		t := rows(w)
		fmt.Fprintln(t, "requests/s\trelease\ttogether s\tby class s\tratio\tcut\tcut by class")
		logs, cells, most := 0.0, 0.0, 0.0
		for _, l := range broads() {
			seconds, cuts := classLaw{law: l, unanswered: unanswered, alike: true}.compare(runs)
			ratio := seconds[1] / seconds[0]
			fmt.Fprintf(t, "%g\t%s\t%.1f\t%.1f\t%.3f\t%d\t%d\n", l.rate, l.name, seconds[0], seconds[1], ratio, cuts[0], cuts[1])
			flushed(t)
			logs, cells, most = logs+math.Log(ratio), cells+1, max(most, ratio)
		}
		fmt.Fprintf(w, "geometric mean of the ratios %.3f, largest %.3f\n", math.Exp(logs/cells), most)
	}
}

// compare is the mean time to the cut together and by class, and how many are cut after the onset.
func (l classLaw) compare(runs int) (seconds [2]float64, cuts [2]int) {
	var mu sync.Mutex
	pasts := make([]classPast, classPasts)
	world.Runs(runs, func(i int) {
		p := &pasts[i%len(pasts)]
		p.once.Do(func() { p.live(l, uint64(i%len(pasts))) })
		at := l.both(p, uint64(i)+1)
		mu.Lock()
		defer mu.Unlock()
		for k := range at {
			seconds[k] += float64(max(0, at[k]-l.onset)) / float64(runs)
			if at[k] < horizon {
				cuts[k]++
			}
		}
	})
	return seconds, cuts
}

// both is when each of two judges cuts one release: one that is told no classes, and one that is.
func (l classLaw) both(p *classPast, seed uint64) (at [2]int) {
	m := newClassMaker(l, newDice(seed))
	known := p.clone()
	rule := newClassJudged(known, p.usual, l, 0.001)
	plain := &judged{cfg: rule.cfg, j: analysis.NewJudge(), slices: l.slices(), batch: 1, disp: p.disp.Clone(), usual: p.usual}
	at = [2]int{horizon, horizon}
	for t := 0; t < horizon && (at[0] == horizon || at[1] == horizon); t++ {
		w := commonRamp.at(t)
		k := m.second(t, w)
		known.lay(k, w/(1-w))
		plain.given(w, t)
		if plain.see(t, k.tick) == cut && at[0] == horizon {
			at[0] = t + 1
		}
		usual := rule.usual.Rate()
		rule.given(w, t)
		if rule.see(t, k) && at[1] == horizon {
			at[1] = t + 1
		}
		known.learn(k, day+float64(t+1), l.slices(), usual)
	}
	return at
}

// mixTable asks whether a release is cut because it gets another mix of classes, each of which fails as often as with stable.
func mixTable(w io.Writer, runs int) {
	fmt.Fprintf(w, "\nANOTHER MIX OF CLASSES, each as good as stable's, nothing tolerated, %d classes, the others fail 0.2 %%, common ramp, cut at 0.1 %% of %d releases\n", allClasses, runs)
	t := rows(w)
	fmt.Fprintln(t, "requests/s\tof a class of\tthat fails\tthe canary gets\ttogether\tby class\tat most (99 %)")
	for _, rate := range []float64{20, 500} {
		for _, m := range []struct{ share, fails, times float64 }{{0.1, 0.02, 1.5}, {0.01, 0.1, 3}} {
			classes := sharedBy(m.share)
			for i := range classes {
				classes[i].Mixed = classes[i].Share * (1 - m.share*m.times) / (1 - m.share)
			}
			classes[0].Mixed, classes[0].Stable, classes[0].Canary = m.share*m.times, m.fails-0.002, m.fails-0.002
			q := onCommonRamp(sorted(rate, 0.002, classes, runs))
			q.Policy.Judge.Tolerate = untolerant().Judge.Tolerate
			before, after := together(q).Ask(), q.Ask()
			fmt.Fprintf(t, "%g\t%g%%\t%g%%\t%gx\t%d\t%d\t%.2f%%\n", rate, 100*m.share, 100*m.fails, m.times, before.Cut, after.Cut, 100*atMost(after.Cut, runs, 0.01))
			flushed(t)
		}
	}
}

// exerciseTable asks how long a good release waits for classes that come rarely.
func exerciseTable(w io.Writer, runs int) {
	fmt.Fprintf(w, "\nGOOD RELEASES, stable fails 0.1 %%, %d classes, default ramp, 6 h at most, %d releases a cell; seconds to the promotion, median and 90 %%\n", allClasses, runs)
	t := rows(w)
	fmt.Fprintln(t, "requests/s\trarest\tan hour\ttogether\tby class, exercise: 0\texercise: 3\tmean wait\tpromoted\tcut\theld")
	for _, rate := range []float64{1000, 100, 10} {
		for _, share := range []float64{0.001, 0.0003, 0.0001} {
			q := sorted(rate, 0.001, sharedBy(share), runs)
			q.Horizon = 6 * time.Hour
			free := q
			free.Policy.Judge.Exercise = 0
			freely, all := free.Fates(), q.Fates()
			before, without, with := together(q).Ask(), q.Sum(freely), q.Sum(all)
			wait, promoted := 0.0, 0
			for i := range all {
				if all[i].Phase == rollout.Stable && freely[i].Phase == rollout.Stable {
					wait, promoted = wait+(all[i].After-freely[i].After).Seconds(), promoted+1
				}
			}
			wait /= float64(max(promoted, 1))
			fmt.Fprintf(t, "%g\t%g%%\t%.1f\t%s\t%s\t%s\t%.0f\t%d\t%d\t%d\n", rate, 100*share, rate*share*3600, both(before.PromotedAt, "%.0f"), both(without.PromotedAt, "%.0f"), both(with.PromotedAt, "%.0f"), wait, with.Promoted, with.Cut, with.Held)
			flushed(t)
		}
	}
}
