package rollout

import (
	"maps"
	"testing"

	"github.com/canaryd/canaryd/internal/analysis"
)

// What some cells have counted is summed up, and they keep what they have: one alone is not copied.
func TestCountsOfCells(t *testing.T) {
	cell := func(requests float64) Cell {
		return Cell{Counts: map[string]analysis.Counts{"v1": {Requests: requests, Errors: 1}}}
	}
	cells := []Cell{cell(1), cell(2), cell(4), cell(8)}
	cells[1].Proxy, cells[3].Counts = Client, map[string]analysis.Counts{"v2": {Requests: 8}}
	m := &machine{State: &State{}}
	all := m.countsOf(cells, func(Cell) bool { return true })
	if want := map[string]analysis.Counts{"v1": {Requests: 5, Errors: 2}, "v2": {Requests: 8}}; !maps.Equal(all[Envoy], want) {
		t.Errorf("%v, want %v", all[Envoy], want)
	}
	if want := map[string]analysis.Counts{"v1": {Requests: 2, Errors: 1}}; !maps.Equal(all[Client], want) {
		t.Errorf("%v, want %v", all[Client], want)
	}
	if cells[0].Counts["v1"].Requests != 1 || len(cells[0].Counts) != 1 {
		t.Errorf("the first cell has counted %v now", cells[0].Counts)
	}
	if none := m.countsOf(cells, func(Cell) bool { return false }); none[Envoy] != nil || none[Client] != nil {
		t.Errorf("no cell has counted %v", none)
	}
}
