package metrics

import (
	"fmt"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

func reported(node string, to time.Time, requests float64) Report {
	return Report{Node: node, From: to.Add(-time.Second), To: to,
		Counts: map[string]map[string]analysis.Counts{
			"shop":  {"v1": {Requests: requests}, "v1.2": {Requests: 1, Errors: 1}, "v0": {Requests: 7}},
			"other": {"v1": {Requests: 1e6}},
		},
		Slices: map[string]map[string]map[string]analysis.Counts{"shop": {"v1": {"10.0.0.1:80": {Requests: requests}}}},
	}
}

// A loop that does not come for its evidence costs a few cells per Envoy, however many reports arrive.
func TestReportsAreSummedWhileTheLoopIsBusy(t *testing.T) {
	e := NewEnvoy(time.Second, func() []string { return nil })
	e.Watch([]Target{shop})
	base := time.Now()
	for i := range 1000 {
		for _, node := range []string{"b", "a"} {
			e.Add(reported(node, base.Add(time.Duration(i)*time.Second), 10))
		}
	}
	if n := len(e.targets["shop"].counts); n != 2 {
		t.Errorf("%d cells are kept", n)
	}
	evs := e.round(base)
	if len(evs) != 1 || len(evs[0].Cells) != 2*apartMost {
		t.Fatalf("%+v", evs)
	}
	for i, want := range []string{"a", "b"} {
		c := rollout.Cell{}
		for _, part := range evs[0].Cells[i*apartMost : (i+1)*apartMost] {
			from := c.From
			if c.Join(part); !from.IsZero() {
				c.From = from
			}
		}
		if c.Slice != want || c.Counts["v1"].Requests != 10_000 || c.Counts["v1.2"] != (analysis.Counts{Requests: 1000, Errors: 1000}) || len(c.Counts) != 2 ||
			!c.From.Equal(base.Add(-time.Second)) || !c.To.Equal(base.Add(999*time.Second)) || c.Endpoints["v1"][0].Requests != 10_000 {
			t.Errorf("%+v", c)
		}
	}
	if evs = e.round(base); len(cellsOf(evs)) != 0 {
		t.Errorf("counted twice: %+v", evs)
	}
}

func TestWhoeverReportsIsBounded(t *testing.T) {
	e := NewEnvoy(time.Second, func() []string { return nil })
	e.Watch([]Target{shop})
	for i := range reportersMost + 100 {
		e.Add(reported(fmt.Sprint(i), time.Now(), 1))
	}
	if n := len(e.targets["shop"].counts); n != reportersMost || e.Figures().Failures != 100 {
		t.Errorf("%d cells are kept, %d failures", n, e.Figures().Failures)
	}
}

// An Envoy and a gRPC client of the same name count differently: they are never one cell.
func TestAClientIsNoEnvoy(t *testing.T) {
	e := NewEnvoy(time.Second, func() []string { return nil })
	e.Watch([]Target{shop})
	r := reported("n", time.Now(), 1)
	e.Add(r)
	r.Proxy = rollout.Client
	e.Add(r)
	if cells := cellsOf(e.round(time.Now())); len(cells) != 2 || cells[0].Proxy == cells[1].Proxy {
		t.Errorf("%+v", cells)
	}
}
