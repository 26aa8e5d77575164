// Command judge measures how soon, at what cost and how wrongly releases are cut: by canaryd's own
// state machine and judge, the very code that runs in production, and by the documented rules of Flagger, Argo Rollouts,
// Kayenta and PipeCD and an alarm as Amazon ECS has it, beside Wald's bound for a test that knew both rates. One program, one table.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"

	"github.com/canaryd/canaryd/internal/world"
)

const (
	horizon = 3600 // seconds of a rollout
	delay   = 2    // seconds from a decision to the weight
)

// result is the fate of one simulated release.
type result struct {
	decision decision
	at       int     // second
	extra    float64 // expected failed requests beyond stable's rate until the weight is 0
}

// simulate runs one release under one rule.
func simulate(l law, m maker, seed uint64, common bool, horizon int) result {
	d := newDice(seed)
	r := m.make(l, d, common)
	var res result
	res.at = horizon
	wd := &aftermath{}
	weights := [delay + 1]float64{}
	for i := range weights {
		weights[i] = r.weight()
	}
	for t := range horizon {
		w := weights[t%len(weights)]
		if _, own := r.(*canaryd); common && !own { // canaryd's own policy has that ramp
			w = commonRamp.at(t)
		}
		if j, ok := r.(*judged); ok {
			j.given(w, t)
		}
		ps, pc := l.rates(t)
		res.extra += l.rate * w * max(0, pc-ps)
		if k := r.see(t, l.second(d, wd, t, w)); k != goOn {
			res.decision, res.at = k, t+1
			if k == cut {
				res.extra += delay * l.rate * w * max(0, pc-ps)
			} else { // what a bad release costs after its promotion is not counted
				res.at = t + 1
			}
			return res
		}
		weights[(t+delay)%len(weights)] = r.weight()
	}
	return res
}

// cell sums up many releases.
type cell struct {
	cuts, promoted int
	times, extras  []float64 // of those cut
	allExtras      float64
	promotions     []float64
}

func measure(l law, m maker, runs int, common bool) cell {
	return measureFor(l, m, runs, common, horizon)
}

func measureFor(l law, m maker, runs int, common bool, horizon int) cell {
	results := make([]result, runs)
	world.Runs(runs, func(i int) { results[i] = simulate(l, m, uint64(i)+1, common, horizon) })
	var c cell
	for _, r := range results {
		c.allExtras += r.extra / float64(runs)
		switch r.decision {
		case cut:
			c.cuts++
			c.times = append(c.times, float64(r.at-l.onset))
			c.extras = append(c.extras, r.extra)
		case promote:
			c.promoted++
			c.promotions = append(c.promotions, float64(r.at))
		}
	}
	return c
}

func mean(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := 0.0
	for _, x := range v {
		s += x
	}
	return s / float64(len(v))
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func laws() []law {
	var ls []law
	for _, rate := range []float64{1, 10, 100, 1000, 10000} {
		for _, p := range []float64{0, 0.0001, 0.001, 0.01} {
			base := law{rate: rate, stable: p, clump: 1}
			ls = append(ls, with(base, "equal", func(l *law) { l.canary = p }))
			for _, x := range []float64{1.5, 2, 5, 10} {
				if p > 0 {
					ls = append(ls, with(base, fmt.Sprintf("x%g", x), func(l *law) { l.canary = p * x }))
				}
			}
			ls = append(ls, with(base, "total", func(l *law) { l.canary = 1 }))
		}
	}
	for _, rate := range []float64{10, 100, 1000, 10000} {
		base := law{rate: rate, stable: 0.001, clump: 1}
		ls = append(ls,
			with(base, "late x10 at 30 min", func(l *law) { l.canary, l.onset = 0.01, 1800 }),
			with(base, "late total at 30 min", func(l *law) { l.canary, l.onset = 1, 1800 }),
			with(base, "trouble in common", func(l *law) { l.canary, l.outage = 0.001, [2]int{1000, 1300} }),
			with(base, "clumps of 3, equal", func(l *law) { l.canary, l.clump = 0.001, 3 }),
			with(base, "clumps of 10, equal", func(l *law) { l.canary, l.clump = 0.001, 10 }),
			with(base, "clumps of 3, x10", func(l *law) { l.canary, l.clump = 0.01, 3 }),
			with(base, "gap of 4 min, x10", func(l *law) { l.canary, l.gap = 0.01, [2]int{2, 240} }),
			with(base, "reset, equal", func(l *law) { l.canary, l.resetAt = 0.001, 500 }),
			with(base, "fix while stable fails", func(l *law) { l.canary, l.fixing = 0.001, [2]int{300, 3600} }),
		)
	}
	return ls
}

func with(l law, name string, set func(*law)) law {
	l.name = name
	set(&l)
	return l
}

func main() {
	runs := flag.Int("runs", 200, "releases per cell")
	only := flag.String("only", "", "only scenarios whose name contains this; of -instances: \"one hiccup of 300ms at 10 %, batches of 1s\", \"batches of 5s\", \"after: fails 5%, 4 endpoints\", \"quiet: 10 requests/s\"; of -hiccups: \"0.3 s at 5 %, batches of 200ms\"; of -odd: \"x10, 100 requests/s\"; of -promise: \", 20 requests/s, 24 h\"")
	ratio := flag.Bool("ratio", false, "only canaryd's distance from Wald's bound")
	odd := flag.Bool("odd", false, "only the state machine with its default policy, in good and in odd worlds")
	promise := flag.Bool("promise", false, "only how often canaryd cuts releases as good as stable, world by world")
	moments := flag.Bool("instances", false, "only versions of instances that fail for a moment, what an outage of stable leaves behind, and quiet services")
	hiccups := flag.Bool("hiccups", false, "only good releases with a single hiccup that stable never had, by thousands")
	causes := flag.Bool("causes", false, "only how often the cause of a cut is named")
	seed := flag.Uint64("seed", 1, "of -classes and -causes: another one throws other dice")
	classes := flag.Bool("classes", false, "only releases judged by class: a class that fails, what judging by class costs, classes in another mix")
	svg := flag.String("svg", "", "write the pictures of docs/judge.md into this directory instead")
	flag.Parse()
	ms, a := makers(), asked{*runs, *seed, *only}
	if *svg != "" {
		if err := pictures(ms, *svg, *runs); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if *moments {
		instanceTables(os.Stdout, a)
		outageTable(os.Stdout, a)
		a.runs = max(a.runs/2, 1)
		quietTable(os.Stdout, a)
		return
	}
	if *classes {
		classTables(os.Stdout, a)
		return
	}
	if *causes {
		causeTable(os.Stdout, a)
		return
	}
	if *hiccups {
		hiccupTable(os.Stdout, a)
		return
	}
	if *promise {
		promiseTable(os.Stdout, a)
		return
	}
	if *odd {
		oddTable(os.Stdout, a)
		return
	}
	if *ratio {
		ratioTable(os.Stdout, *runs)
		return
	}
	fmt.Printf("%d releases per cell, judged every second for an hour at most; canaryd: its state machine by the default policy; a time below 0: cut before the onset\n", *runs)
	for _, common := range []bool{false, true} {
		rows := table(ms, a, common)
		compare(os.Stdout, rows, *runs)
	}
}

// table prints per scenario and rule: share cut; median seconds from the onset to the cut; mean failed
// requests beyond stable's rate of those cut; median seconds to promotion and the share promoted.
func table(ms []maker, a asked, common bool) []row {
	t := &sheet{asked: a, w: os.Stdout, title: "EACH ON ITS OWN DOCUMENTED STEPS", columns: "req/s\tstable\tcanary                \tWald s"}
	if common {
		t.title = "ALL ON THE COMMON RAMP (1 % to 5 min, 5 % to 10, 10 % to 20, 25 % to 40, 50 % to 60)"
	}
	for _, m := range ms {
		t.columns += fmt.Sprintf("\t %11s\t after s\t failed\t      promoted", m.name+": cut")
	}
	var rows []row
	for _, l := range laws() {
		if !t.takes(fmt.Sprintf("%s, %g requests/s, %g%%", l.name, l.rate, l.stable*100)) {
			continue
		}
		bound := "-"
		if l.worse() && common {
			if s := wald(l, horizon); s > 0 {
				bound = fmt.Sprint(s - l.onset)
			}
		}
		line := fmt.Sprintf("%g\t%g%%\t%s\t%s", l.rate, l.stable*100, l.name, bound)
		r := row{law: l, cells: map[string]cell{}}
		for _, m := range ms {
			c := measure(l, m, a.runs, common)
			r.cells[m.name] = c
			after, failed := "-", "-"
			if c.cuts > 0 {
				after, failed = fmt.Sprintf("%.0f", median(c.times)), fmt.Sprintf("%.0f", mean(c.extras))
			}
			promoted := "-"
			if c.promoted > 0 {
				promoted = fmt.Sprintf("%.0f%% at %.0f s", 100*float64(c.promoted)/float64(a.runs), median(c.promotions))
			}
			line += fmt.Sprintf("\t%.1f%%\t%s\t%s\t%s", 100*float64(c.cuts)/float64(a.runs), after, failed, promoted)
		}
		t.row("%s", line)
		rows = append(rows, r)
	}
	return rows
}
