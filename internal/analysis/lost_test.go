package analysis

import (
	"math"
	"math/rand/v2"
	"testing"
)

// laidAt are the logarithms of what a tick of answers by class, and of failures without an answer, multiplies a capital by.
func laidAt(cfg *Config, classes []Batch, lost Batch) logs {
	var s strata
	for i := range classes {
		var l logs
		gains(cfg, &classes[i], &l)
		s.add(cfg, &classes[i], &l, 1)
	}
	s.addLost(cfg, &lost, 1)
	return s.logs
}

// Failures with an answer and without share one tolerance: no bet gains from a release that exceeds stable's rates by no more than is tolerated,
// however that is shared among both. Counts are Poisson's, so the mean of a bet is known.
func TestNoBetGainsFromWhatIsToleratedWithAndWithoutAnAnswer(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	cfg := defaults()
	most := math.Inf(-1)
	for range 2000 {
		classes := make([]Batch, 1+r.IntN(5))
		var lost Batch
		for i := range classes {
			classes[i] = Batch{Counts{Requests: float64(1 + r.IntN(40))}, Counts{Requests: float64(1 + r.IntN(400))}}
			lost.Canary, lost.Stable = lost.Canary.Add(classes[i].Canary), lost.Stable.Add(classes[i].Stable)
		}
		unlaid := float64(r.IntN(2) * r.IntN(20)) // of a class that waits for stable
		lost.Canary.Requests += unlaid
		base := laidAt(&cfg, classes, lost)
		mean := base // logarithm of the mean of each bet
		count := func(side *Counts, expected float64) {
			side.Errors++
			more := laidAt(&cfg, classes, lost)
			side.Errors--
			for k := range mean {
				mean[k] += expected * math.Expm1(more[k]-base[k])
			}
		}
		pbl := 0.01 * r.Float64()
		pcl := cfg.R0*pbl + cfg.D0*r.Float64()
		if r.IntN(3) == 0 {
			pcl = pbl * r.Float64()
		}
		for i := range classes {
			b := &classes[i]
			pb := 0.01 * r.Float64()
			pc := max(0, min(cfg.R0*(pb+pbl)+cfg.D0-pcl, cfg.R0*pb+cfg.D0))
			count(&b.Canary, b.Canary.Requests*pc)
			count(&b.Stable, b.Stable.Requests*pb)
		}
		count(&lost.Canary, lost.Canary.Requests*pcl)
		count(&lost.Stable, lost.Stable.Requests*pbl)
		for k := range mean {
			most = max(most, mean[k])
		}
	}
	if most > 1e-9 {
		t.Errorf("a bet gains %g nats on average", most)
	}
	if most < -0.01 {
		t.Errorf("no bet comes near to what is tolerated: %g nats at most", most)
	}
}

// Where everything is answered it costs nothing that failures without an answer could be told.
func TestWhatIsAnsweredCostsNothingMore(t *testing.T) {
	cfg := defaults()
	cfg.Restarts = DefaultRestarts()
	told, plain := NewJudge(), NewJudge()
	r := rand.New(rand.NewPCG(4, 4))
	for s := range 300 {
		var sum Batch
		batches := make([]ClassBatch, 3)
		for i := range batches {
			b := Batch{Counts{Requests: float64(4 + r.IntN(10))}, Counts{Requests: float64(100 + r.IntN(20))}}
			b.Canary.Errors = float64(r.IntN(100) / 98)
			batches[i] = ClassBatch{b, 1}
			sum.Canary, sum.Stable = sum.Canary.Add(b.Canary), sum.Stable.Add(b.Stable)
		}
		for _, j := range []*Judge{&told, &plain} {
			if s == 0 {
				j.Classify([]float64{0.4, 0.3, 0.3})
			}
			base := Baseline{M: 1, Classes: append([]ClassBatch{}, batches...)}
			if j == &told {
				base.Lost = Batch{Counts{Requests: sum.Canary.Requests}, Counts{Requests: sum.Stable.Requests}}
			}
			j.Observe(&cfg, sum, base, float64(s+1))
		}
	}
	if a, b := math.Log(told.Relative.E), math.Log(plain.Relative.E); math.Abs(a-b) > 1e-9*(1+math.Abs(b)) || b < 1 {
		t.Errorf("all together: ln E %g where it could be told, %g where not", a, b)
	}
}
