package main

import (
	"fmt"
	"io"
	"math"
)

// row is what became of one law under every rule.
type row struct {
	law   law
	cells map[string]cell
}

// compare says how many failed requests the other rules cost for each of canaryd's, where both catch
// the release, and lists every row in which canaryd is not ahead.
func compare(w io.Writer, rows []row, runs int) {
	caught := func(c cell) bool { return float64(c.cuts) >= 0.95*float64(runs) }
	for _, rule := range []struct {
		name   string
		target float64
	}{{"flagger", 10}, {"argo", 50}, {"kayenta", 1}, {"pipecd", 1}, {"alarm", 1}} {
		least, n, logs := math.Inf(1), 0, 0.0
		var below []string
		for _, r := range rows {
			own, other := r.cells["canaryd"], r.cells[rule.name]
			if !r.law.worse() || r.law.rate < 100 || !caught(own) || !caught(other) {
				continue
			}
			x := mean(other.extras) / mean(own.extras)
			least, n, logs = min(least, x), n+1, logs+math.Log(x)
			if x < rule.target {
				below = append(below, fmt.Sprintf("%s (%.1f)", r.name(), x))
			}
		}
		if n > 0 {
			fmt.Fprintf(w, "%s costs %.0f times as many failed requests as canaryd (geometric mean of the %d rows of 100 requests/s and more that both catch; the least is %.1f); below %g: %v\n",
				rule.name, math.Exp(logs/float64(n)), n, least, rule.target, below)
		}
	}
	behind(w, rows, caught)
}

func (r row) name() string {
	return fmt.Sprintf("%g/s %g%% %s", r.law.rate, r.law.stable*100, r.law.name)
}

// behind lists rows in which a rule catches a bad release that canaryd does not, catches it at a lower
// cost, or promotes good releases that canaryd leaves undecided; with what the same rule does to
// releases that are as good as stable.
func behind(w io.Writer, rows []row, caught func(cell) bool) {
	falsely := map[string]int{} // by rule and world
	for _, r := range rows {
		for rule, c := range r.cells {
			if !r.law.worse() {
				falsely[rule+r.world()] = max(falsely[rule+r.world()], c.cuts)
			}
		}
	}
	fmt.Fprintln(w, "canaryd is behind in:")
	for _, r := range rows {
		own := r.cells["canaryd"]
		for _, rule := range []string{"flagger", "argo", "kayenta", "pipecd", "alarm"} {
			c := r.cells[rule]
			switch {
			case !r.law.worse():
				if c.promoted > own.promoted && c.cuts <= own.cuts {
					fmt.Fprintf(w, "  %s: %s promotes %d, canaryd %d\n", r.name(), rule, c.promoted, own.promoted)
				}
			case caught(c) && !caught(own):
				fmt.Fprintf(w, "  %s: %s catches %d, canaryd %d (%s cuts %d equal ones)\n", r.name(), rule, c.cuts, own.cuts, rule, falsely[rule+r.world()])
			case caught(c) && mean(c.extras) < mean(own.extras):
				fmt.Fprintf(w, "  %s: %s costs %.0f, canaryd %.0f (%s cuts %d equal ones)\n", r.name(), rule, mean(c.extras), mean(own.extras), rule, falsely[rule+r.world()])
			}
		}
	}
}

func (r row) world() string { return fmt.Sprintf("/%g/%g", r.law.rate, r.law.stable) }
