package main

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/world"
)

// allClasses is how many classes the tables have, the rest included: as many as there may be.
const allClasses = 20

// classPasts are the different pasts that the releases of a cell share.
const classPasts = 4

// sharedBy are classes of which the first has a share, and each other one four fifths of what the one before has.
func sharedBy(first float64) []world.Class {
	all := []world.Class{{Name: "checkout", Share: first}}
	sum := 0.0
	for i := range allClasses - 1 {
		sum += math.Pow(0.8, float64(i))
	}
	for i := range allClasses - 1 {
		name := fmt.Sprintf("class-%d", i)
		if i == allClasses-2 {
			name = policy.Rest
		}
		all = append(all, world.Class{Name: name, Share: (1 - first) * math.Pow(0.8, float64(i)) / sum})
	}
	return all
}

// sorted is a question about a service with classes: the default policy, four endpoints of each version.
func sorted(rate, stable float64, classes []world.Class, runs int) world.Question {
	p := defaultPolicy()
	p.Route.Classes = world.Named(classes)
	return world.Question{Policy: p, PerSecond: rate, Stable: stable, Canary: stable, Classes: classes, Instances: world.Instances{Stable: 4, Canary: 4},
		Past: 6 * time.Hour, Pasts: classPasts, Horizon: time.Hour, Batch: time.Second, Runs: runs, Seed: 1}
}

// onCommonRamp gives it the common ramp, on which nothing is promoted.
func onCommonRamp(q world.Question) world.Question {
	q.Policy.Ramp.Steps, q.Until = nil, nil
	for _, s := range commonRamp {
		q.Policy.Ramp.Steps, q.Until = append(q.Policy.Ramp.Steps, policy.Share(s.weight)), append(q.Until, time.Duration(s.until)*time.Second)
	}
	q.Policy.Ramp.Steps = append(q.Policy.Ramp.Steps, 1)
	q.Policy.Judge.Budget = 1e9
	q.Policy.Judge.PromoteWithin = policy.Within{Ratio: 1, Margin: 1e-9}
	return q
}

// together is the same question about a judge that knows of no classes.
func together(q world.Question) world.Question {
	q.Policy.Route.Classes, q.Told.Nothing = nil, true
	return q
}

// brokenTable asks what becomes of a release of which one class fails wholly. Of what a tenth of the runs shows as well there are so many.
func brokenTable(w io.Writer, a asked) {
	s := sheet{asked: a, w: w, name: "broken", columns: "requests/s\tits share\tramp   \tjudged          \treleases\tpromoted\tcut \tafter s     \tfailed      \tundecided\theld",
		title: fmt.Sprintf("ONE OF %d CLASSES FAILS WHOLLY, the others are well, stable fails 0.1 %%, an hour at most\n\"after s\", \"failed\": median and 90 %%; \"held\": undecided for want of a class", allClasses)}
	for _, rate := range []float64{1000, 10000, 100} {
		for _, share := range []float64{0.0003, 0.0001} {
			classes, all, some := sharedBy(share), a.runs, max(a.runs/10, 1)
			classes[0].Canary = 1
			if rate != 1000 {
				all = some
			}
			for _, c := range []struct {
				ramp, judged string
				q            world.Question
			}{
				{"default", "by class", sorted(rate, 0.001, classes, all)}, {"common", "by class", onCommonRamp(sorted(rate, 0.001, classes, all))},
				{"default", "together", together(sorted(rate, 0.001, classes, some))}, {"common", "together", onCommonRamp(together(sorted(rate, 0.001, classes, some)))},
			} {
				if !s.takes(fmt.Sprintf("%g/s, %g%%, %s ramp, %s", rate, 100*share, c.ramp, c.judged)) {
					continue
				}
				c.q.Seed = a.seed
				is := c.q.Ask()
				s.row("%g\t%g%%\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%d\t%d", rate, 100*share, c.ramp, c.judged, is.Runs, is.Promoted, is.Cut, both(is.CutAfter, "%.0f"), both(is.Failed, "%.1f"), is.Undecided, is.Held)
			}
		}
	}
}

// both are a median and a ninth decile.
func both(q world.Quantiles, format string) string {
	if q.Median == nil {
		return "-"
	}
	return fmt.Sprintf(format+", "+format, *q.Median, *q.P90)
}

// classTables prints the rows that are asked for.
func classTables(w io.Writer, a asked) {
	for _, print := range []func(io.Writer, asked){brokenTable, broadTable, broadMachineTable, equalTable, classInstanceTable, mixTable, exerciseTable} {
		print(w, a)
	}
}
