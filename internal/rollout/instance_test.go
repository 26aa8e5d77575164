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
		m := &machine{State: &State{Versions: []*Version{{Name: "v2", Phase: Canary}}}}
		v := m.Versions[0]
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

// Behind one name there may be one instance or twenty: what a moment in one of them costs depends on it, and nobody but the
// Envoys knows.
func TestInstancesBehindANameAreCounted(t *testing.T) {
	spread := func(n int, each float64) (all []analysis.Slice) {
		for i := range n {
			all = append(all, analysis.Slice{Name: fmt.Sprintf("10.0.0.%d:8080", i), Counts: analysis.Counts{Requests: each}})
		}
		return all
	}
	for _, c := range []struct {
		name      string
		endpoints []string
		seen      []analysis.Slice
		want      float64
	}{
		{"addresses count themselves", []string{"10.0.0.1:80", "10.0.0.2:80"}, spread(5, 10), 2},
		{"a name that nobody asked yet", []string{"shop:80"}, nil, 1},
		{"twenty behind a name", []string{"shop:80"}, spread(20, 10), 20},
		{"one replaced, the old one fading", []string{"shop:80"}, append(spread(4, 100), analysis.Slice{Name: "10.0.1.1:8080", Counts: analysis.Counts{Requests: 1}}), 4.02},
	} {
		m := &machine{State: &State{Versions: []*Version{{Name: "v1", Phase: Stable, Endpoints: c.endpoints}}}}
		cell := Cell{Slice: "edge-1", From: time.Unix(0, 0), To: time.Unix(1, 0), Counts: map[string]analysis.Counts{"v1": {Requests: 1}}, Endpoints: map[string][]analysis.Slice{"v1": c.seen}}
		m.tallyLately([]Cell{cell}, 1)
		if got := m.Versions[0].instances(); got < c.want-0.01 || got > c.want+0.01 {
			t.Errorf("%s: %g instances, want %g", c.name, got, c.want)
		}
	}
}

func TestReplacedEndpointsAreLookedAtAnew(t *testing.T) {
	v := &Version{Endpoints: []string{"10.0.0.1:80", "10.0.0.2:80"}}
	for _, c := range []struct {
		endpoints []string
		want      bool
	}{{v.Endpoints, false}, {[]string{"10.0.0.1:80", "shop:80"}, true}, {v.Endpoints[:1], false}, {nil, false}, {[]string{"shop:80"}, true}} {
		v.Endpoints = c.endpoints
		if got := v.byName(); got != c.want {
			t.Errorf("before they are looked at: %v are names: %v", c.endpoints, got)
		}
		v.lookUp()
		if got := v.byName(); got != c.want {
			t.Errorf("%v are names: %v", c.endpoints, got)
		}
	}
}
