package analysis

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

// moments drives a judge with 40 requests/s of the canary and 360 of stable in batches of a length; what of the canary's falls into one
// of the moments, each so long, fails. It returns the largest E, and E at the end.
func moments(t *testing.T, j *Judge, tick, until, lasts float64, begins ...float64) (most, last float64) {
	t.Helper()
	cfg := defaults()
	cfg.R0, cfg.D0, cfg.Burst = 1, 0, 0.3
	for to := tick; to <= until; to += tick {
		b := Batch{Counts{40 * tick, 0}, Counts{360 * tick, 0}}
		if int(to/10) != int((to-tick)/10) {
			b.Stable.Errors = 3
		}
		for _, begin := range begins {
			b.Canary.Errors += math.Round(40 * max(0, min(to, begin+lasts)-max(to-tick, begin)))
		}
		j.Observe(&cfg, b, Baseline{M: 1, Batch: tick}, to)
		most = max(most, j.E(&cfg))
		if cut, _ := j.Worse(&cfg); cut {
			return most, math.Inf(1)
		}
	}
	return most, j.E(&cfg)
}

// Wherever reports begin, a hiccup of the length of a burst gains as much as a batch while it lasts, and as much as one error when it
// is over: a second one does not add up to a cut.
func TestAHiccupCountsOnce(t *testing.T) {
	for _, tick := range []float64{0.1, 0.2, 0.5, 1, 5} {
		for phase := 0.0; phase < tick; phase += tick / 16 {
			j := NewJudge()
			most, last := moments(t, &j, tick, 50, 0.3, 30+phase)
			if most > 32 || most < 10 || last > 5 {
				t.Errorf("batches of %g s, %.3f s after one began: E rose to %.3g, and is %.3g when it is over", tick, phase, most, last)
			}
			j = NewJudge()
			if most, _ := moments(t, &j, tick, 250, 0.3, 30+phase, 130+phase, 200+phase); most > 500 {
				t.Errorf("batches of %g s, %.3f s after one began: three hiccups raise E to %.3g", tick, phase, most)
			}
		}
	}
}

// What is known for certain before a hiccup does not make it a cut, and is not forgotten for it.
func TestAHiccupDoesNotCutAlone(t *testing.T) {
	for _, tick := range []float64{0.1, 1, 5} {
		j := NewJudge()
		for k := range j.Relative.S {
			j.Relative.S[k] *= 600
		}
		j.Relative.scale(1)
		before := j.Relative.E
		if most, last := moments(t, &j, tick, 60, 0.3, 30+tick/2); before < 200 || most >= 1000 || last > 16*before {
			t.Errorf("batches of %g s: E was %.3g, rose to %.3g, and is %.3g", tick, before, most, last)
		}
	}
}

// A release that goes on failing is no hiccup, though reports come seldom.
func TestWhatOutlastsABurstIsCutInTwoBatches(t *testing.T) {
	for _, tick := range []float64{1, 5, 30} {
		j := NewJudge()
		begins := 2 * tick
		n := 0
		for until := 3 * tick; ; until += tick {
			j = NewJudge()
			n++
			if _, last := moments(t, &j, tick, until, math.Inf(1), begins); math.IsInf(last, 1) || n > 5 {
				break
			}
		}
		if n != 2 {
			t.Errorf("batches of %g s: it is cut with the %dth that fails, want the second", tick, n)
		}
	}
}

// The promise: a recount only ever takes back, whatever was seen.
func TestARecountNeverRaisesTheEvidence(t *testing.T) {
	r := rand.New(rand.NewPCG(14, 1))
	took := 0
	for n := range 5000 {
		cfg := defaults()
		cfg.Burst = 0.3
		if r.IntN(2) == 0 {
			cfg.Ceiling = 0.05
		}
		tick := []float64{0.1, 0.2, 1, 5}[r.IntN(4)]
		j := NewJudge()
		for i := 1; i < 30; i++ {
			b := Batch{Counts{float64(r.IntN(20)), 0}, Counts{float64(r.IntN(200)), 0}}
			if r.IntN(4) == 0 {
				b.Canary.Errors = math.Floor(r.Float64() * (b.Canary.Requests + 1))
			}
			if r.IntN(9) == 0 {
				j.Step()
			}
			j.Observe(&cfg, b, Baseline{M: 1 + 3*r.Float64(), Batch: tick, Kind: r.IntN(2)}, float64(i)*tick)
			var before Judge
			j.CloneTo(&before)
			if j.Hiccup.M > 0 {
				j.recount(&cfg, float64(i)*tick)
			}
			if j.Relative.E > before.Relative.E || j.Ceiling.E > before.Ceiling.E || j.E(&cfg) > before.E(&cfg) {
				t.Fatalf("case %d: E rose from %.6g to %.6g", n, before.E(&cfg), j.E(&cfg))
			}
			if sum := j.Relative.Q; j.Relative.E < before.Relative.E {
				for _, s := range j.Relative.S {
					sum += s
				}
				if took++; math.Abs(sum-j.Relative.E) > 1e-9*sum {
					t.Fatalf("case %d: E is %.6g, the money %.6g", n, j.Relative.E, sum)
				}
				for _, e := range j.Ends.At[:j.Ends.Len] {
					if e.E > j.E(&cfg) {
						t.Fatalf("case %d: what follows may gain from %.6g, E is %.6g", n, e.E, j.E(&cfg))
					}
				}
			}
			j = before
		}
	}
	if took < 1000 {
		t.Errorf("only %d recounts took something back: little was tested", took)
	}
}

// A restart within a hiccup changes nothing.
func TestAHiccupIsKept(t *testing.T) {
	cfg := defaults()
	cfg.Burst = 0.3
	a, b := NewJudge(), NewJudge()
	for i, x := range []float64{0, 0, 3, 4, 4, 1, 0, 0, 0, 0, 0, 0} {
		for _, j := range []*Judge{&a, &b} {
			j.Observe(&cfg, Batch{Counts{4, x}, Counts{36, 0}}, Baseline{M: 1, Batch: 0.1}, float64(i+1)/10)
		}
		raw, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		b = Judge{}
		if err := json.Unmarshal(raw, &b); err != nil || b.Sound() != nil {
			t.Fatal(err, b.Sound())
		}
		if a.E(&cfg) != b.E(&cfg) || !reflect.DeepEqual(a.Hiccup, b.Hiccup) {
			t.Fatalf("after batch %d: E = %g, read again %g", i+1, a.E(&cfg), b.E(&cfg))
		}
	}
	if n := a.Numbers(&cfg); !reflect.DeepEqual(a.Hiccup, Hiccup{}) || a.E(&cfg) > 5 || n.Moments != 1 || n.MomentErrors != 12 {
		t.Errorf("it is over, and E is %g: %v", a.E(&cfg), a.Hiccup)
	}
}
