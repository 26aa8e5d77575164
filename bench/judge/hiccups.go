package main

import (
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/world"
)

// hiccup is one moment in the life of a release that is otherwise exactly as good as stable: the only instance of the canary, which
// stable's twenty never did, fails everything. Where batches are short all of it is six times as fast.
type hiccup struct {
	row         int // rows share no releases
	weight      float64
	at          float64 // seconds; it comes within six minutes from then
	lasts       float64
	batch, fast float64
	busy        bool // 10 000 requests/s of which 1 % fail anyway, and the hiccup is of one of the canary's four instances
}

const (
	hiccupRate   = 400.0 // requests/s
	hiccupErrors = 0.001
	busyRate     = 10_000.0
	busyErrors   = 0.01
	hiccupWithin = 360.0
)

// hiccupTable asks the judge alone, on given weights, with nothing tolerated: thousands of releases a row.
func hiccupTable(w io.Writer, a asked) {
	t := &sheet{asked: a, w: w, columns: "batch \thiccup         \tat   \treleases\t cut\tat most (95 %)\t  (99 %)",
		title: fmt.Sprintf("EQUAL RELEASES CUT at 0.1 %%, one hiccup of the canary's only instance at a random moment, nothing tolerated, %g requests/s, 0.1 %% errors (of one of four: %g requests/s, %g %% errors), the judge alone on given weights", hiccupRate, busyRate, 100*busyErrors)}
	row, cuts, all := 0, 0, 0
	for _, lasts := range []float64{0.3, 0.1, 0, 0.5, 1, 2} { // the promise first
		for _, batch := range []float64{1, 0.2, 5, 0.1} {
			for _, at := range []struct{ weight, seconds float64 }{{0.01, 120}, {0.05, 720}, {0.1, 1320}} {
				h := hiccup{row: row, weight: at.weight, at: at.seconds, lasts: lasts, batch: batch, fast: 1}
				if batch < 1 {
					h.fast = 6
				}
				if row++; t.takes(h.title()) {
					h.print(t, &cuts, &all)
				}
				if lasts == 0 {
					break // there is none
				}
			}
		}
	}
	for _, batch := range []float64{1, 0.2, 5, 0.1} {
		h := hiccup{row: row, weight: 0.01, at: 120, lasts: 0.3, batch: batch, fast: 1, busy: true}
		if batch < 1 {
			h.fast = 6
		}
		if row++; t.takes(h.title()) {
			h.print(t, new(int), new(int))
		}
	}
	if all > 0 {
		t.sum("up to 0.3 s, of the only instance: %d of %d cut, at most %.3f%% with 99 %% confidence", cuts, all, 100*atMost(cuts, all, 0.01))
	}
}

func (h hiccup) title() string {
	batch := time.Duration(h.batch * float64(time.Second))
	if h.lasts == 0 {
		return fmt.Sprintf("none, batches of %s", batch)
	}
	of := ""
	if h.busy {
		of = " of one of four"
	}
	return fmt.Sprintf("%g s%s at %g %%, batches of %s", h.lasts, of, 100*h.weight, batch)
}

// print adds one row; hiccups that are longer than judge.burst are no promise, and fewer tell.
func (h hiccup) print(t *sheet, cuts, all *int) {
	runs, mark := t.runs, ""
	if h.lasts > 0.3 {
		runs, mark = max(runs/10, 1), " (outside)"
	}
	n := h.count(runs)
	if h.lasts > 0 && h.lasts <= 0.3 {
		*cuts, *all = *cuts+n, *all+runs
	}
	what, at := "none", "-"
	if h.lasts > 0 {
		if h.busy {
			mark = " of 1 of 4"
		}
		what, at = fmt.Sprintf("%g s%s", h.lasts, mark), fmt.Sprintf("%g %%", 100*h.weight)
	}
	most := func(doubt float64) float64 { return 100 * atMost(n, runs, doubt) }
	t.row("%s\t%s\t%s\t%d\t%d\t%.3f%%\t%.3f%%", time.Duration(h.batch*float64(time.Second)), what, at, runs, n, most(0.05), most(0.01))
}

func (h hiccup) count(runs int) int {
	var cuts atomic.Int64
	world.Runs(runs, func(i int) {
		if h.cuts(uint64(h.row*1_000_000 + i + 1)) {
			cuts.Add(1)
		}
	})
	return int(cuts.Load())
}

// cuts takes one release through the common ramp.
func (h hiccup) cuts(seed uint64) bool {
	d := newDice(seed)
	cfg, j := defaultConfig(), analysis.NewJudge()
	cfg.R0, cfg.D0 = 1, 0
	begin := (h.at + d.Float64()*hiccupWithin) / h.fast
	rate, errors, instances := hiccupRate, hiccupErrors, 1.0
	if h.busy {
		rate, errors, instances = busyRate, busyErrors, 4
	}
	weight := 0.0
	for i := 1; float64(i)*h.batch <= horizon/h.fast; i++ {
		to := float64(i) * h.batch
		from := to - h.batch
		if w := hiccupRamp.at(int(from * h.fast)); w != weight {
			j.Step()
			weight = w
		}
		var b analysis.Batch
		b.Canary.Requests, b.Stable.Requests = d.poisson(rate*weight*h.batch), d.poisson(rate*(1-weight)*h.batch)
		failing := max(0, min(to, begin+h.lasts)-max(from, begin)) / h.batch / instances
		b.Canary.Errors = min(b.Canary.Requests, d.poisson(b.Canary.Requests*errors)+math.Round(b.Canary.Requests*failing))
		b.Stable.Errors = d.poisson(b.Stable.Requests * errors)
		load := weight / (1 - weight) * 20 / instances
		j.Observe(&cfg, b, analysis.Baseline{M: analysis.Loaded(1.02, load), Usual: errors, Batch: h.batch}, to)
		if cut, _ := j.Worse(&cfg); cut {
			return true
		}
	}
	return false
}

// hiccupRamp is that of the worlds with instances.
var hiccupRamp = ramp{{600, 0.01}, {1200, 0.05}, {1800, 0.1}, {2400, 0.25}, {horizon, 0.5}}
