package main

import (
	"fmt"
	"io"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/world"
)

// instanceTables ask the promise again where versions consist of instances, each of which may fail for a moment, and
// where evidence comes ten times a second: through the very state machine, with nothing tolerated. A row is printed as soon as it is known.
func instanceTables(w io.Writer, a asked) {
	t := &sheet{asked: a, w: w, columns: fmt.Sprintf("%-61s\tinstances\tbatch\treleases\t cut\tat most (99 %%)", "world"),
		title: "EQUAL RELEASES CUT at 0.1 %, versions of instances, nothing tolerated, 400 requests/s, 0.1 % errors where a row does not say otherwise"}
	row, cuts, all := 0, 0, 0
	for _, batch := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, time.Second, 5 * time.Second} {
		for _, x := range instanceWorlds() {
			if row++; t.takes(x.title() + ", batches of " + batch.String()) {
				x.print(t, row, batch, &cuts, &all)
			}
		}
	}
	if all > 0 {
		t.sum("of the promise: %d of %d cut, at most %.3f%% with 99 %% confidence", cuts, all, 100*atMost(cuts, all, 0.01))
	}
}

// instanceWorld is one row.
type instanceWorld struct {
	name    string
	made    world.Instances
	busy    bool // 10 000 requests/s and 1 % errors: every endpoint has failures within any burst
	outage  bool // 20 s in which stable failed 50 %, just before the release
	outside bool // of the promise: the release is truly worse for a while, or its moments are longer than judge.burst and rare
}

// title tells what is no promise.
func (x instanceWorld) title() string {
	if x.outside {
		return x.name + " (outside)"
	}
	return x.name
}

func instanceWorlds() []instanceWorld {
	moments := func(perHour float64, shortest, longest time.Duration, fails float64) world.Moments {
		return world.Moments{PerHour: perHour, Shortest: shortest, Longest: longest, Fails: fails}
	}
	const hiccup = 300 * time.Millisecond
	var all []instanceWorld
	for _, canary := range []int{1, 4} {
		for _, perHour := range []float64{0.1, 1, 10} {
			all = append(all, instanceWorld{name: fmt.Sprintf("each fails 0.3 s, %g times an hour", perHour), made: world.Instances{Stable: 20, Canary: canary, Moments: moments(perHour, hiccup, hiccup, 1)}})
		}
		all = append(all, instanceWorld{name: "each pauses 0.1 to 2 s, 6 times an hour", made: world.Instances{Stable: 20, Canary: canary, Moments: moments(6, hiccup/3, 2*time.Second, 1)}})
	}
	one := world.Instances{Stable: 1, Canary: 1}
	with := func(i world.Instances, m world.Moments) world.Instances { i.Moments = m; return i }
	all = append(all,
		instanceWorld{name: "one endpoint, independent errors", made: one},
		instanceWorld{name: "one endpoint, fails 0.3 s once an hour", made: with(one, moments(1, hiccup, hiccup, 1))},
		instanceWorld{name: "one endpoint, after an outage", made: one, outage: true},
		instanceWorld{name: "noisy neighbours: 30 to 120 s at 20 %, once in 2 h", made: world.Instances{Stable: 20, Canary: 1, Moments: moments(0.5, 30*time.Second, 2*time.Minute, 0.2)}, outside: true},
	)
	for _, w := range []struct {
		weight string
		at     time.Duration
	}{{"1", 2 * time.Minute}, {"5", 12 * time.Minute}, {"10", 22 * time.Minute}} {
		for _, d := range []time.Duration{100 * time.Millisecond, hiccup, 500 * time.Millisecond, time.Second, 2 * time.Second} {
			all = append(all, instanceWorld{name: fmt.Sprintf("one hiccup of %s at %s %%", d, w.weight), outside: d > hiccup,
				made: world.Instances{Stable: 20, Canary: 1, Hiccup: world.Hiccup{At: w.at, Within: 6 * time.Minute, For: d}}})
		}
	}
	four := world.Instances{Stable: 20, Canary: 4}
	for _, at := range []time.Duration{2 * time.Minute, 12 * time.Minute, 22 * time.Minute} { // 1, 5 and 10 %
		all = append(all, instanceWorld{name: fmt.Sprintf("one hiccup of 300ms of one of four after %g min", at.Minutes()),
			made: world.Instances{Stable: 20, Canary: 4, Hiccup: world.Hiccup{At: at, Within: 6 * time.Minute, For: hiccup}}})
	}
	const busy = "10 000 requests/s, 1 % errors: "
	all = append(all,
		instanceWorld{name: busy + "independent", made: four, busy: true},
		instanceWorld{name: busy + "each fails 0.3 s once an hour", made: with(four, moments(1, hiccup, hiccup, 1)), busy: true},
	)
	for _, canary := range []int{1, 4} {
		all = append(all, instanceWorld{name: busy + "one hiccup of 300ms at 1 %", busy: true,
			made: world.Instances{Stable: 20, Canary: canary, Hiccup: world.Hiccup{At: 2 * time.Minute, Within: 6 * time.Minute, For: hiccup}}})
	}
	return all
}

// question is about an hour on the common ramp, or ten minutes on one that is six times as fast where batches are short.
func (x instanceWorld) question(batch time.Duration, runs int) world.Question {
	p, horizon := untolerant(), time.Hour
	if batch < time.Second {
		horizon = 10 * time.Minute
		p.Ramp.Hold /= 6
		x.made.Hiccup.At, x.made.Hiccup.Within = x.made.Hiccup.At/6, x.made.Hiccup.Within/6
	}
	q := world.Question{Policy: p, PerSecond: 400, Stable: 0.001, Canary: 0.001, Instances: x.made, Horizon: horizon, Batch: batch, Past: 6 * time.Hour, Runs: runs, Seed: 1}
	if x.busy {
		q.PerSecond, q.Stable, q.Canary = 10_000, 0.01, 0.01
	}
	if x.outage {
		q.Trouble.Before = outageBefore(0.5)
	}
	return q
}

// print adds one row; what is no promise is told by fewer. Rows share no releases: one that chance cuts would be cut in each of them.
func (x instanceWorld) print(t *sheet, row int, batch time.Duration, cuts, all *int) {
	runs := t.runs
	if x.outside {
		runs = max(runs/4, 1)
	}
	q := x.question(batch, runs)
	q.Seed = uint64(row)
	n := q.Ask().Cut
	if !x.outside {
		*cuts, *all = *cuts+n, *all+runs
	}
	t.row("%s\t%d, %d\t%s\t%d\t%d\t%.2f%%", x.title(), x.made.Stable, x.made.Canary, batch, runs, n, 100*atMost(n, runs, 0.01))
}

// outageTable asks how much an outage of stable just before a release delays its judgement.
func outageTable(w io.Writer, a asked) {
	t := &sheet{asked: a, w: w, name: "after", columns: "release    \tendpoints\t20 s before     \t at 50 % after\t       cut\t cut after\t failed requests",
		title: fmt.Sprintf("AFTER AN OUTAGE OF STABLE, default policy, 150 requests/s, 0.1 %% errors, one Envoy, %d releases a row", a.runs)}
	for _, endpoints := range []int{1, 4} {
		for _, rate := range []float64{0.001, 0.5, 0.05, 0.01} {
			for _, fails := range []float64{0, 0.5, 0.05} {
				release, before := fmt.Sprintf("fails %g%%", 100*rate), outageName(fails)
				if !t.takes(fmt.Sprintf("%s, %d endpoints, %s", release, endpoints, before)) {
					continue
				}
				q := world.Question{Policy: defaultPolicy(), PerSecond: 150, Stable: 0.001, Canary: rate, Instances: world.Instances{Stable: endpoints, Canary: 1}, Horizon: time.Hour, Batch: time.Second,
					Past: 24 * time.Hour, Runs: a.runs, Seed: 1}
				q.Trouble.Before = outageBefore(fails)
				is := q.Ask()
				t.row("%s\t%d\t%s\t%s\t%d of %d\t%s\t%s", release, endpoints, before, figure(is.HalfAt.Median, " s"), is.Cut, a.runs, figure(is.CutAfter.Median, " s"), figure(is.Failed.Median, ""))
			}
		}
	}
}

// outageBefore is an outage of 20 s that ended 30 s before the release.
func outageBefore(fails float64) func(left time.Duration) float64 {
	return func(left time.Duration) float64 {
		if left > 30*time.Second && left <= 50*time.Second {
			return fails
		}
		return 0
	}
}

func outageName(fails float64) string {
	if fails == 0 {
		return "no outage"
	}
	return fmt.Sprintf("an outage of %g%%", 100*fails)
}

// quietTable asks how long quiet services take to promote a good release, and how often one at the edge is promoted.
func quietTable(w io.Writer, a asked) {
	t := &sheet{asked: a, w: w, name: "quiet", columns: "req/s\tstable\trelease      \t promoted\t median h\t cut\t failed requests",
		title: fmt.Sprintf("QUIET SERVICES, default policy, 24 h at most, %d releases a row", a.runs)}
	for _, rate := range []float64{0.1, 0.3, 1, 3, 10} {
		for _, p := range []float64{0, 0.001, 0.01} {
			edge := 1.5*p + max(0.0005, 20/(3600*rate))
			for _, c := range []struct {
				name string
				rate float64
			}{{"equal", p}, {"edge", edge}, {"total failure", 1}} {
				if !t.takes(fmt.Sprintf("%g requests/s, %g%%, %s", rate, 100*p, c.name)) {
					continue
				}
				q := world.Question{Policy: defaultPolicy(), PerSecond: rate, Stable: p, Canary: c.rate, Instances: world.Instances{Stable: 2, Canary: 2}, Horizon: 24 * time.Hour, Batch: time.Second, Past: 24 * time.Hour, Runs: a.runs, Seed: 1}
				is := q.Ask()
				hours := "-"
				if is.PromotedAt.Median != nil {
					hours = fmt.Sprintf("%.1f", *is.PromotedAt.Median/3600)
				}
				t.row("%g\t%g%%\t%s\t%d of %d\t%s\t%d\t%s", rate, 100*p, c.name, is.Promoted, a.runs, hours, is.Cut, figure(is.Failed.Median, ""))
			}
		}
	}
}

// untolerant is a policy under which a release that is as good as stable lies on the edge of what may be cut, and is never
// promoted within the hour.
func untolerant() policy.Policy {
	p := defaultPolicy()
	p.Ramp.Steps = policy.Steps{0.01, 0.05, 0.1, 0.25, 0.5, 1}
	p.Ramp.Hold = policy.Duration(10 * time.Minute)
	p.Judge.Tolerate = policy.Bound{Ratio: 1}
	p.Judge.PromoteWithin = policy.Within{Ratio: 1, Margin: 1e-9}
	p.Judge.Budget = 1e9
	return p
}
