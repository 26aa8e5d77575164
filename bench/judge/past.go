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
	rate, stable, clump float64
	n                   int
}

// library keeps the days, because a day costs more than a release.
type library struct {
	mu   sync.Mutex
	days map[pastKey]*past
}

func (lib *library) of(l law, n int) (analysis.Dispersion, analysis.Usual) {
	lib.mu.Lock()
	defer lib.mu.Unlock()
	key := pastKey{l.rate, l.stable, l.clump, n}
	p := lib.days[key]
	if p == nil {
		p = liveADay(l, uint64(n))
		lib.days[key] = p
	}
	return p.disp.Clone(), p.usual
}

// liveADay takes steps of ten seconds, the shortest window of the dispersion.
func liveADay(l law, seed uint64) *past {
	d := newDice(1_000_000 + seed)
	quiet := law{rate: l.rate * 10, stable: l.stable, canary: l.stable, clump: l.clump}
	p := &past{}
	for t := 0.0; t < day; t += 10 {
		learn(&p.disp, &p.usual, t, quiet.second(d, 0, 0))
	}
	return p
}

func learn(disp *analysis.Dispersion, usual *analysis.Usual, now float64, k tick) {
	var s [envoys]analysis.Slice
	for i, n := range k.slices {
		s[i] = analysis.Slice{Name: string(rune('a' + i)), Counts: n}
	}
	disp.Add(now, s[:])
	usual.Add(now, k.batch.Stable)
}
