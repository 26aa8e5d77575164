package main

import (
	"sync"

	"github.com/canaryd/canaryd/internal/analysis"
)

const (
	day       = 24 * 3600.0
	pastsKept = 16 // different days that releases of one law share
)

// past is what a running system knows about stable after a day without trouble.
type past struct {
	disp  analysis.Dispersion
	usual analysis.Usual
}

type pastKey struct {
	rate, stable, clump, fixed, icc float64
	burst, calm                     bool
	instances, n                    int
}

// library keeps the days, because a day costs more than a release.
type library struct {
	mu   sync.Mutex
	days map[pastKey]*past
}

func (lib *library) of(l law, n int) (analysis.Dispersion, analysis.Usual) {
	lib.mu.Lock()
	defer lib.mu.Unlock()
	key := pastKey{l.rate, l.stable, l.clump, l.fixed, l.icc, l.burst, l.calmBefore, l.slices(), n}
	p := lib.days[key]
	if p == nil {
		p = liveADay(l, uint64(n))
		lib.days[key] = p
	}
	return p.disp.Clone(), p.usual
}

// liveADay takes steps of ten seconds, the shortest window of the dispersion, or of one where errors
// of one second belong together.
func liveADay(l law, seed uint64) *past {
	d := newDice(1_000_000 + seed)
	quiet := law{rate: l.rate, stable: l.stable, canary: l.stable, clump: l.clump, fixed: l.fixed, icc: l.icc, burst: l.burst, instances: l.instances}
	if l.calmBefore {
		quiet.clump = 1
	}
	step := 10.0
	if l.burst || l.icc > 0 {
		step = 1
	}
	quiet.rate *= step
	p, w := &past{}, &aftermath{}
	for t := 0.0; t < day; t += step {
		k := quiet.second(d, w, 0, 0)
		p.disp.Add(t, k.stable(quiet.slices()), p.usual.Rate())
		p.usual.Add(t, k.batch.Stable)
	}
	return p
}
