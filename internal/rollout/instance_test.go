package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// cellsOf are what some Envoys counted of v2: ten requests each, and errors of one of them.
func cellsOf(envoys, errors int, who string) []Cell {
	var cells []Cell
	for i := range envoys {
		n := analysis.Counts{Requests: 10}
		if name := fmt.Sprint("edge-", i); name == who || who == "all" {
			n.Errors = float64(errors)
		}
		cells = append(cells, Cell{Slice: fmt.Sprint("edge-", i), From: time.Unix(0, 0), To: time.Unix(1, 0), Counts: map[string]analysis.Counts{"v2": n}})
	}
	return cells
}

func TestAnEnvoyIsNamedThatHasTheErrorsToItself(t *testing.T) {
	for _, c := range []struct {
		name   string
		rounds [][]Cell
		want   string // empty: nobody is named
	}{
		{"one of three", [][]Cell{cellsOf(3, 5, "edge-1")}, "; 100% of its errors were counted by edge-1, one of several Envoys"},
		{"one of a thousand, after others had a few", [][]Cell{cellsOf(1000, 1, "edge-7"), cellsOf(1000, 9, "edge-900"), cellsOf(1000, 9, "edge-900")}, "counted by edge-900"},
		{"all of them", [][]Cell{cellsOf(3, 5, "all")}, ""},
		{"a thousand of them", [][]Cell{cellsOf(1000, 5, "all")}, ""},
		{"the only one", [][]Cell{cellsOf(1, 5, "edge-0")}, ""},
		{"two errors", [][]Cell{cellsOf(3, 2, "edge-1")}, ""},
		{"no cell", [][]Cell{nil}, ""},
	} {
		m := &machine{State: &State{Versions: []Version{{Name: "v2", Phase: Canary}}}}
		v := &m.Versions[0]
		for _, cells := range c.rounds {
			m.tallyLately(cells, 1)
		}
		if got := m.blame(v); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if len(v.Envoys) > envoysMost+1 {
			t.Errorf("%s: %d slices are kept", c.name, len(v.Envoys))
		}
	}
}
