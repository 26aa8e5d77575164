package analysis

import (
	"math"
	"math/rand/v2"
	"testing"
)

// What is said of the time that is left is kept, where nothing fails.
func TestTheBoundFallsInTheTimeThatIsSaid(t *testing.T) {
	cfg := defaults()
	for _, rate := range []float64{0.5, 0.05, 0.01} {
		for _, m := range []float64{1, 4, 30} {
			var x Exposure
			now := 0.0
			second := func(errors float64) { now++; x.Add(Batch{Counts{20, errors}, Counts{380, 0}}, now) }
			second(2)
			said := x.Until(&cfg, m, 20, rate)
			if most := UpperCount(2/m, math.Log(20)) * m / (rate + cfg.D0); most >= 20*forget {
				if !math.IsInf(said, 1) {
					t.Errorf("rate %g, m %g: %.0f s were said, and it never comes", rate, m, said)
				}
				continue
			}
			took := 0.0
			for ; x.Upper(&cfg, m) > rate && took < 1e5; took++ {
				second(0)
			}
			if math.Abs(took-said) > 2+said/5 {
				t.Errorf("rate %g, m %g: took %.0f s, %.0f s were said", rate, m, took, said)
			}
		}
	}
}

// The bound is found in a few steps; halving its range sixty times finds the same.
func TestUpperCountAsHalvingFindsIt(t *testing.T) {
	halved := func(y, level float64) float64 {
		lg, _ := math.Lgamma(1 + y)
		lo, hi := y, 2*y+10
		for lg+hi-(1+y)*math.Log1p(hi) < level {
			hi *= 2
		}
		for range 60 {
			if mid := (lo + hi) / 2; lg+mid-(1+y)*math.Log1p(mid) >= level {
				hi = mid
			} else {
				lo = mid
			}
		}
		return hi
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 20_000 {
		y, level := math.Exp(r.Float64()*26-6), math.Exp(r.Float64()*8-4)
		if r.IntN(10) == 0 {
			y = 0
		}
		got, want := UpperCount(y, level), halved(y, level)
		if !(math.Abs(got-want) <= 1e-6*(want-y)+1e-12*want) {
			t.Fatalf("of %g events at %g: %g, want %g", y, level, got, want)
		}
	}
}
