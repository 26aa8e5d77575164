package analysis

import (
	"math"
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
