package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// ratioHorizon is long enough that hardly a run is cut short: four hours.
const ratioHorizon = 4 * 3600

// ratioRow is canaryd's distance from Wald's bound for one law.
type ratioRow struct {
	law    law
	wald   int     // seconds from the onset
	caught float64 // share of the runs
	mean   float64 // of the times to the cut, times the bound; a run that was not cut counts with the horizon
	median float64
}

func ratioLaws(onset int) []law {
	var ls []law
	for _, rate := range []float64{1, 10, 100, 1000, 10000} {
		for _, p := range []float64{0.0001, 0.001, 0.01} {
			for _, x := range []float64{1.5, 2, 5, 10} {
				ls = append(ls, law{name: fmt.Sprintf("x%g", x), rate: rate, stable: p, canary: p * x, clump: 1, onset: onset})
			}
		}
	}
	return ls
}

// ratios measures the laws whose bound lies within two hours: there nearly every run ends before the
// horizon, so the mean is one of all runs.
func ratios(runs, onset int) []ratioRow {
	var rows []ratioRow
	cutter := newCutter(&library{days: map[pastKey]*past{}})
	for _, l := range ratioLaws(onset) {
		s := wald(l, ratioHorizon)
		if s < 0 || s > onset+ratioHorizon/3 {
			continue
		}
		r := ratioRow{law: l, wald: s - onset}
		c := measureFor(l, cutter, runs, true, ratioHorizon)
		times := append([]float64{}, c.times...)
		for len(times) < runs {
			times = append(times, float64(ratioHorizon-onset))
		}
		r.caught = float64(c.cuts) / float64(runs)
		r.mean, r.median = mean(times)/float64(r.wald), median(times)/float64(r.wald)
		rows = append(rows, r)
	}
	return rows
}

// ratioTable prints the rows and their mean; only rows with a bound of at least the given seconds
// enter the second mean, because a judge that looks once a second cannot show a ratio below that.
func ratioTable(w io.Writer, runs int) {
	for _, onset := range []int{0, 600, 1800} {
		rows := ratios(runs, onset)
		fmt.Fprintf(w, "\nTIME TO CUT OVER WALD'S BOUND, onset at %d min, common ramp, the judge alone on given weights, %d releases a cell\n", onset/60, runs)
		t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "req/s\tstable\tcanary\tWald s\tcut\tmean ratio\tmedian ratio")
		var all, long [2]float64
		n, m := 0.0, 0.0
		for _, r := range rows {
			fmt.Fprintf(t, "%g\t%g%%\t%s\t%d\t%.1f%%\t%.2f\t%.2f\n", r.law.rate, r.law.stable*100, r.law.name, r.wald, 100*r.caught, r.mean, r.median)
			all[0], all[1], n = all[0]+r.mean, all[1]+r.median, n+1
			if r.wald >= 10 {
				long[0], long[1], m = long[0]+r.mean, long[1]+r.median, m+1
			}
		}
		_ = t.Flush() // into memory; the writer below returns errors
		fmt.Fprintf(w, "all %.0f cells: mean of means %.2f, of medians %.2f; the %.0f cells with a bound of 10 s and more: %.2f, %.2f\n", n, all[0]/n, all[1]/n, m, long[0]/m, long[1]/m)
	}
}
