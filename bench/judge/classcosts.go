package main

import (
	"fmt"
	"io"
	"math"
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

// broadSheet compares, release by release, how long two judges take to cut what is worse in all classes.
type broadSheet struct {
	sheet
	logs, cells, most float64
}

func newBroadSheet(w io.Writer, a asked, name string, unanswered bool, how string) *broadSheet {
	if unanswered {
		name += " unanswered"
	}
	return &broadSheet{sheet: sheet{asked: a, w: w, name: name, columns: "requests/s\trelease           \ttogether s\tby class s\tratio\t+-   \tcut  \tcut by class",
		title: fmt.Sprintf("WORSE IN ALL OF %d CLASSES, told by class and together, stable fails 0.1 %%, failures without an answer: %t, common ramp, %s, %d releases a cell\n", allClasses, unanswered, how, a.runs) +
			"seconds from the onset to the cut: mean, one that is not cut counts with the hour; +-: the ratio's standard error"}}
}

// cell is a row of what each of two judges took for each release, in seconds since the onset.
func (s *broadSheet) cell(l law, seconds [][2]float64) {
	var sum, cuts [2]float64
	for _, at := range seconds {
		for k := range at {
			sum[k] += at[k]
			if at[k] < float64(horizon-l.onset) {
				cuts[k]++
			}
		}
	}
	n, ratio, squares := float64(len(seconds)), sum[1]/sum[0], 0.0
	for _, at := range seconds {
		squares += (at[1] - ratio*at[0]) * (at[1] - ratio*at[0])
	}
	deviation := math.Sqrt(squares*n/max(n-1, 1)) / sum[0]
	s.row("%g\t%s\t%.1f\t%.1f\t%.3f\t%.3f\t%g\t%g", l.rate, l.name, sum[0]/n, sum[1]/n, ratio, deviation, cuts[0], cuts[1])
	s.logs, s.cells, s.most = s.logs+math.Log(ratio), s.cells+1, max(s.most, ratio)
}

func (s *broadSheet) end() {
	s.sum("geometric mean of the ratios %.3f, largest %.3f", math.Exp(s.logs/s.cells), s.most)
}

func (s *broadSheet) asks(l law) bool { return s.takes(fmt.Sprintf("%g/s, %s,", l.rate, l.name)) }

// broadTable asks what it costs to judge by class where classes have nothing to do with it: the same counts, told by class and not. A release
// that is not cut counts with the hour.
func broadTable(w io.Writer, a asked) {
	for _, unanswered := range []bool{false, true} {
		s := newBroadSheet(w, a, "broad", unanswered, "the judge alone on given weights")
		for _, l := range broads() {
			if s.asks(l) {
				s.cell(l, classLaw{law: l, unanswered: unanswered, alike: true}.compare(a))
			}
		}
		s.end()
	}
}

// broadMachineTable asks it of the whole state machine, which waits where evidence speaks against the release: weights, and so counts, are no
// longer the same.
func broadMachineTable(w io.Writer, a asked) {
	for _, unanswered := range []bool{false, true} {
		s := newBroadSheet(w, a, "machine", unanswered, "through the state machine")
		for _, l := range broads() {
			if !s.asks(l) {
				continue
			}
			q := onCommonRamp(sorted(l.rate, l.stable, sharedBy(0.0003), a.runs))
			q.Seed, q.Canary, q.Onset = a.seed, l.canary, time.Duration(l.onset)*time.Second
			if unanswered {
				q.Told.Unanswered = 0.5
			}
			seconds := make([][2]float64, a.runs)
			for k, fates := range [][]world.Fate{together(q).Fates(), q.Fates()} {
				for i, f := range fates {
					seconds[i][k] = max(0, f.After-q.Onset).Seconds()
				}
			}
			s.cell(l, seconds)
		}
		s.end()
	}
}

// compare is the seconds from the onset to the cut of each release, together and by class.
func (l classLaw) compare(a asked) [][2]float64 {
	seconds := make([][2]float64, a.runs)
	l.each(a, func(p *classPast, run int) {
		for k, at := range l.both(p, a.dice(run)) {
			seconds[run][k] = float64(max(0, at-l.onset))
		}
	})
	return seconds
}

// both is when each of two judges cuts one release: one that is told no classes, and one that is.
func (l classLaw) both(p *classPast, d dice) (at [2]int) {
	m := newClassMaker(l, d)
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
func mixTable(w io.Writer, a asked) {
	s := sheet{asked: a, w: w, name: "mix", columns: "requests/s\tof a class of\tthat fails\tthe canary gets\ttogether\tby class\tat most (99 %)",
		title: fmt.Sprintf("ANOTHER MIX OF CLASSES, each as good as stable's, nothing tolerated, %d classes, the others fail 0.2 %%, common ramp, cut at 0.1 %% of %d releases", allClasses, a.runs)}
	for _, rate := range []float64{20, 500} {
		for _, m := range []struct{ share, fails, times float64 }{{0.1, 0.02, 1.5}, {0.01, 0.1, 3}} {
			if !s.takes(fmt.Sprintf("%g/s, %g%%", rate, 100*m.share)) {
				continue
			}
			classes := sharedBy(m.share)
			for i := range classes {
				classes[i].Mixed = classes[i].Share * (1 - m.share*m.times) / (1 - m.share)
			}
			classes[0].Mixed, classes[0].Stable, classes[0].Canary = m.share*m.times, m.fails-0.002, m.fails-0.002
			q := onCommonRamp(sorted(rate, 0.002, classes, a.runs))
			q.Seed, q.Policy.Judge.Tolerate = a.seed, untolerant().Judge.Tolerate
			before, after := together(q).Ask(), q.Ask()
			s.row("%g\t%g%%\t%g%%\t%gx\t%d\t%d\t%.2f%%", rate, 100*m.share, 100*m.fails, m.times, before.Cut, after.Cut, 100*atMost(after.Cut, a.runs, 0.01))
		}
	}
}

// exerciseTable asks how long a good release waits for classes that come rarely.
func exerciseTable(w io.Writer, a asked) {
	s := sheet{asked: a, w: w, name: "exercise", columns: "requests/s\trarest\tan hour\ttogether    \tby class, exercise: 0\texercise: 3 \tmean wait\tlongest\tpromoted\tcut \theld",
		title: fmt.Sprintf("GOOD RELEASES, stable fails 0.1 %%, %d classes, default ramp, 6 h at most, %d releases a cell; seconds to the promotion, median and 90 %%", allClasses, a.runs)}
	for _, rate := range []float64{1000, 100, 10} {
		for _, share := range []float64{0.001, 0.0003, 0.0001} {
			if !s.takes(fmt.Sprintf("%g/s, %g%%", rate, 100*share)) {
				continue
			}
			q := sorted(rate, 0.001, sharedBy(share), a.runs)
			q.Seed, q.Horizon = a.seed, 6*time.Hour
			free := q
			free.Policy.Judge.Exercise = 0
			freely, all := free.Fates(), q.Fates()
			before, without, with := together(q).Ask(), q.Sum(freely), q.Sum(all)
			wait, longest, promoted := 0.0, 0.0, 0
			for i := range all {
				if all[i].Phase == rollout.Stable && freely[i].Phase == rollout.Stable {
					one := (all[i].After - freely[i].After).Seconds()
					wait, longest, promoted = wait+one, max(longest, one), promoted+1
				}
			}
			wait /= float64(max(promoted, 1))
			s.row("%g\t%g%%\t%.1f\t%s\t%s\t%s\t%.0f\t%.0f\t%d\t%d\t%d", rate, 100*share, rate*share*3600, both(before.PromotedAt, "%.0f"), both(without.PromotedAt, "%.0f"), both(with.PromotedAt, "%.0f"), wait, longest, with.Promoted, with.Cut, with.Held)
		}
	}
}
