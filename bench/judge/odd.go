package main

import (
	"fmt"
	"io"
	"time"

	"github.com/canaryd/canaryd/internal/world"
)

// oddTable runs releases through the very state machine, with its default policy (steps: auto), four endpoints of
// each version and a day without releases before: what the specification of the judge had not simulated.
func oddTable(w io.Writer, a asked) {
	t := &sheet{asked: a, w: w, columns: fmt.Sprintf("%-42s\treq/s\tstable\tbatch\tpromoted\t median\t cut\t median\t failed\tundecided\tof them at the first step", "what"),
		title: fmt.Sprintf("THE STATE MACHINE WITH ITS DEFAULT POLICY, %d releases a row", a.runs)}
	row := func(what string, q world.Question) {
		if !t.takes(fmt.Sprintf("%s, %g requests/s, %g%%, batches of %s", what, q.PerSecond, q.Stable*100, q.Batch)) {
			return
		}
		q.Runs, q.Seed = a.runs, 1
		if q.Policy.Service == "" {
			q.Policy = defaultPolicy()
		}
		if q.Instances.Stable == 0 {
			q.Instances.Stable, q.Instances.Canary = 4, 4
		}
		q.Past = 24 * time.Hour
		is := q.Ask()
		part := func(n int) string { return fmt.Sprintf("%.0f%%", 100*float64(n)/float64(a.runs)) }
		t.row("%s\t%g\t%g%%\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%v", what, q.PerSecond, q.Stable*100, q.Batch, part(is.Promoted), figure(is.PromotedAt.Median, " s"),
			part(is.Cut), figure(is.CutAfter.Median, " s"), figure(is.Failed.Median, ""), part(is.Undecided), is.AtFirst)
	}
	cleanRows(row)
	badRows(row)
	troubleRows(row)
}

func figure(v *float64, unit string) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.0f%s", *v, unit)
}

// cleanRows: the ramp by budget must let every clean release through, whatever the traffic.
func cleanRows(row func(string, world.Question)) {
	for _, batch := range []time.Duration{time.Second, 5 * time.Second} {
		for _, rate := range []float64{10, 100, 1000, 10000, 30000} {
			for _, p := range []float64{0, 0.001, 0.01} {
				row("equal", world.Question{PerSecond: rate, Stable: p, Canary: p, Horizon: 6 * time.Hour, Batch: batch})
			}
		}
	}
}

// badRows: what a release costs that fails from its first request. A weight is in force at once here,
// as it is in production but for a millisecond; the tables of all rules let it take two seconds.
func badRows(row func(string, world.Question)) {
	for _, rate := range []float64{10, 100, 1000, 10000} {
		for _, c := range []struct {
			name string
			rate float64
		}{{"total failure", 1}, {"x10", 0.01}, {"x5", 0.005}} {
			row(c.name, world.Question{PerSecond: rate, Stable: 0.001, Canary: c.rate, Horizon: 6 * time.Hour, Batch: time.Second})
		}
	}
}

func troubleRows(row func(string, world.Question)) {
	between := func(at, from, to time.Duration) bool { return at >= from && at < to }
	base := world.Question{PerSecond: 500, Stable: 0.001, Canary: 0.001, Horizon: 2 * time.Hour, Batch: time.Second}
	q := base
	q.Trouble.Outage = func(at time.Duration) (float64, float64) {
		if between(at, 5*time.Minute, 10*time.Minute) {
			return 0.3, 0.3
		}
		return 0, 0
	}
	row("outage in common, minutes 5 to 10", q)
	q.Trouble.Outage = func(at time.Duration) (float64, float64) {
		if at >= 2*time.Minute {
			return 0.3, 0
		}
		return 0, 0
	}
	row("a fix: stable fails 30 % from minute 2 on", q)
	q = base
	q.Trouble.Hangs = func(at time.Duration) bool { return at >= 5*time.Minute }
	row("completes nothing from minute 5 on", q)
	q = base
	q.Trouble.Blind = func(at time.Duration) bool { return int(at.Minutes())%2 == 1 }
	row("no counts every other minute", q)
	q = base
	q.Trouble.Blind = func(at time.Duration) bool { return at >= 3*time.Minute }
	row("no counts from minute 3 on", q)
	q = base
	q.Canary = 0.01
	row("x10, four endpoints", q)
	q.Instances.Stable, q.Instances.Canary = 1, 1
	row("x10, one endpoint", q)
	q.Canary = 1
	row("total failure, one endpoint", q)
	q.Canary = 0.001
	row("equal, one endpoint", q)
	ceiling := defaultPolicy()
	ceiling.Judge.MaxErrorRate = 0.02
	q = base
	q.Policy, q.Canary = ceiling, 0.05
	row("5 % errors, max_error_rate 2 %", q)
	q.Canary = 0.001
	row("equal, max_error_rate 2 %", q)
	q.Stable, q.Canary = 0.03, 0.03
	row("both above max_error_rate 2 %", q)
}
