package main

import "testing"

func repeat(v float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// The vectors of PEERS section 2C.
func TestKayentaIsFaithful(t *testing.T) {
	for _, c := range []struct {
		name string
		x, y []float64
		high bool
	}{
		{"spinnaker#6278", append(repeat(100, 7), 1, 1, 1), repeat(1, 10), false},
		{"8 of 10", append(repeat(100, 8), 1, 1), repeat(1, 10), true},
		{"kayenta#426", []float64{0, 1, 2, 1, 0, 0}, repeat(0, 6), false},
		{"kayenta#510", []float64{54.9, 54.5, 55.1, 55.6, 57.4}, repeat(0, 5), true},
		{"two bad minutes", append(repeat(0.3, 2), repeat(0, 28)...), repeat(0, 30), false},
		{"both constant", repeat(0.05, 10), repeat(0.001, 10), true},
		{"19 of 30", append(repeat(0.3, 19), repeat(0, 11)...), repeat(0, 30), false},
		{"20 of 30", append(repeat(0.3, 20), repeat(0, 10)...), repeat(0, 30), true},
		{"26 of 60", append(repeat(0.3, 26), repeat(0, 34)...), repeat(0, 60), false},
		{"27 of 60", append(repeat(0.3, 27), repeat(0, 33)...), repeat(0, 60), true},
	} {
		if got := kayentaHigh(c.x, c.y); got != c.high {
			lo, hi, est, ok := mannWhitney(c.x, c.y, kayentaZ)
			t.Errorf("%s: high %v, want %v (%g..%g, %g, %v)", c.name, got, c.high, lo, hi, est, ok)
		}
	}
}
