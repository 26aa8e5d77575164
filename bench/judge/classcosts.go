package main

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

// broad is a release that fails more than stable in every class.
type broad struct {
	name   string
	rate   float64
	canary float64
	onset  time.Duration
}

func broads() (all []broad) {
	for _, rate := range []float64{1000, 10000, 100, 10} {
		if rate > 10 { // x2 of ten requests/s is not seen within the hour
			all = append(all, broad{"x2", rate, 0.002, 0})
		}
		all = append(all, broad{"x5", rate, 0.005, 0}, broad{"x10", rate, 0.01, 0}, broad{"total", rate, 1, 0}, broad{"x10 at 30 min", rate, 0.01, 30 * time.Minute})
	}
	return all
}

// broadTable asks what it costs to judge by class where classes have nothing to do with it: the same requests, told by class and not.
// A release that is not cut counts with the hour.
func broadTable(w io.Writer, runs int) {
	for _, unanswered := range []float64{0, 0.5} {
		fmt.Fprintf(w, "\nWORSE IN ALL OF %d CLASSES, told by class and together, stable fails 0.1 %%, %.0f %% of the failures get no answer, common ramp, the same %d releases\n", allClasses, 100*unanswered, runs)
		fmt.Fprintln(w, "seconds to the cut: mean, one that is not cut counts with the hour")
		t := rows(w)
		fmt.Fprintln(t, "requests/s\trelease\ttogether s\tby class s\tratio\tcut\tcut by class")
		logs, cells, most := 0.0, 0.0, 0.0
		for _, b := range broads() {
			q := onCommonRamp(sorted(b.rate, 0.001, sharedBy(0.01), runs))
			q.Canary, q.Onset, q.Told.Unanswered = b.canary, b.onset, unanswered
			before, cutBefore := toCut(together(q))
			after, cut := toCut(q)
			fmt.Fprintf(t, "%g\t%s\t%.1f\t%.1f\t%.3f\t%d\t%d\n", b.rate, b.name, before, after, after/before, cutBefore, cut)
			flushed(t)
			logs, cells, most = logs+math.Log(after/before), cells+1, max(most, after/before)
		}
		fmt.Fprintf(w, "geometric mean of the ratios %.3f, largest %.3f\n", math.Exp(logs/cells), most)
	}
}

// toCut is the mean time from the onset to the cut, and how many are cut after it.
func toCut(q world.Question) (seconds float64, cut int) {
	for _, f := range q.Fates() {
		if f.Phase == rollout.Failed {
			cut++
			seconds += max(0, f.After-q.Onset).Seconds()
		} else {
			seconds += (q.Horizon - q.Onset).Seconds()
		}
	}
	return seconds / float64(q.Runs), cut
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
