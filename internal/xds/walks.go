package xds

import (
	"iter"
	"slices"
)

// walk goes through all of something again and again, some of it in each tick: what is forgotten after an hour may be remembered for
// some seconds more, and a cut need not wait until ten thousand have been looked at.
type walk struct {
	ahead  []string // names that are still to be looked at before all are looked at anew
	looked int      // how much a tick has looked at, and what of that later ticks make up for
}

// walks are those of the hub.
type walks struct{ parting, nodes, debts walk }

// steps looks at the next names. look says how much that was.
func (w *walk) steps(all iter.Seq[string], look func(name string) int) {
	if len(w.ahead) == 0 {
		w.ahead = slices.Collect(all)
	}
	for w.looked = max(0, w.looked-toldAtOnce); len(w.ahead) > 0 && w.looked < toldAtOnce; w.ahead = w.ahead[1:] {
		w.looked += look(w.ahead[0])
	}
}
