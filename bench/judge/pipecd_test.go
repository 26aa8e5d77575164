package main

import (
	"math"
	"testing"
)

// Ranks without ties have known counts: 5 of 5 above is 1 of 252, and so on; ties share their ranks.
func TestPipeCDIsFaithful(t *testing.T) {
	for name, c := range map[string]struct {
		x, y []float64
		p    float64
	}{
		"all above":           {[]float64{6, 7, 8, 9, 10}, []float64{1, 2, 3, 4, 5}, 1.0 / 252},
		"one below":           {[]float64{5, 7, 8, 9, 10}, []float64{1, 2, 3, 4, 6}, 2.0 / 252},
		"all below":           {[]float64{1, 2, 3}, []float64{4, 5, 6}, 1},
		"all the same":        {repeat(0.1, 5), repeat(0.1, 5), 1},
		"ties: 3 of 5 errors": {append(repeat(0, 2), repeat(1, 3)...), repeat(0, 5), 1.0 / 12}, // C(7,2)/C(10,5)
		"ties: 4 of 5":        {append(repeat(0, 1), repeat(1, 4)...), repeat(0, 5), 1.0 / 42},
	} {
		if got := higher(c.x, c.y); math.Abs(got-c.p) > 1e-12 {
			t.Errorf("%s: %g, want %g", name, got, c.p)
		}
	}
	if !pipecdPasses(nil, nil) || pipecdPasses(nil, repeat(0, 5)) || pipecdPasses(repeat(0, 5), nil) {
		t.Error("no data on both sides passes, on one side it fails")
	}
}
