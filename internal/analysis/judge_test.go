package analysis

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
)

// poisson draws by inversion; exact for the small means used here.
func poisson(r *rand.Rand, mean float64) float64 {
	n, p, limit := 0.0, r.Float64(), math.Exp(-mean)
	for p > limit {
		p *= r.Float64()
		n++
	}
	return n
}

// The heart of the proof, by enumeration: under the null no bet gains on average.
func TestNoBetGainsUnderTheNull(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	cfg := defaults()
	for range 300 {
		nc, nb := 1+r.IntN(12), 1+r.IntN(40)
		pb := r.Float64() * 0.5
		pc := min(1, cfg.R0*pb+cfg.D0)
		for k := range tilts {
			mean := 0.0
			for xc := 0; xc <= nc; xc++ {
				for xb := 0; xb <= nb; xb++ {
					c := Capital{}
					c.S[k] = 1
					cfg.Alpha = 1e-300 // no cap
					c.Prev, c.E = 1, 1
					c.Relative(&cfg, Batch{Counts{float64(nc), float64(xc)}, Counts{float64(nb), float64(xb)}}, 1, 1, false)
					mean += binomial(nc, xc, pc) * binomial(nb, xb, pb) * c.E
				}
			}
			if mean > 1+1e-9 {
				t.Fatalf("nc=%d nb=%d pb=%.3f tilt %d: mean %.6f", nc, nb, pb, k, mean)
			}
		}
	}
}

func binomial(n, k int, p float64) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return math.Exp(a-b-c) * math.Pow(p, float64(k)) * math.Pow(1-p, float64(n-k))
}

func TestWithoutRequestsOnOneSideNothingChanges(t *testing.T) {
	cfg := defaults()
	c, p := NewCapital(DefaultRestarts().Start), NewPromotion()
	before, beforeP := c, p
	for _, b := range []Batch{{Counts{0, 0}, Counts{10, 5}}, {Counts{10, 10}, Counts{0, 0}}} {
		c.Relative(&cfg, b, 1, 1, false)
		p.Update(&cfg, b, 1, p.E)
	}
	if c != before || p != beforeP {
		t.Error("something changed")
	}
}

func TestTemperingIsScaling(t *testing.T) {
	cfg := defaults()
	a, b := NewCapital(DefaultRestarts().Start), NewCapital(DefaultRestarts().Start)
	a.Relative(&cfg, Batch{Counts{10, 3}, Counts{90, 1}}, 1, 1, false)
	b.Relative(&cfg, Batch{Counts{20, 6}, Counts{180, 2}}, 2, 1, false)
	if math.Abs(a.E-b.E) > 1e-12 {
		t.Errorf("%g and %g", a.E, b.E)
	}
}

func TestEqualRatesAreNoEvidence(t *testing.T) {
	cfg := defaults()
	for _, x := range []float64{0, 1, 50, 100} {
		c := NewCapital(DefaultRestarts().Start)
		c.Relative(&cfg, Batch{Counts{100, x}, Counts{900, 9 * x}}, 1, 1, false)
		if c.E > 1 {
			t.Errorf("x=%g: E = %g", x, c.E)
		}
	}
}

// aaRun simulates one rollout of a release equal to stable, judged every second, and reports a cut.
// The share moves as a ramp does, and the error rate drifts and has outages in common.
func aaRun(seed uint64, cfg Config, seconds int, rate, p float64) bool {
	r := rand.New(rand.NewPCG(seed, 99))
	j := NewJudge()
	weights := []float64{0.01, 0.05, 0.1, 0.25, 0.5}
	for s := 1; s <= seconds; s++ {
		w := weights[min(s*10/seconds, 4)]
		if s > 1 && w != weights[min((s-1)*10/seconds, 4)] {
			j.Step()
		}
		now := p * (1 + 0.8*math.Sin(float64(s)/700))
		if s%3600 > 3000 && s%3600 < 3060 {
			now = min(0.3, 40*p) // a minute of trouble in common every hour
		}
		nc, nb := math.Max(1, math.Round(rate*w)), math.Round(rate*(1-w))
		b := Batch{Counts{nc, poisson(r, nc*now)}, Counts{nb, poisson(r, nb*now)}}
		j.Observe(&cfg, b, Baseline{M: 1, Usual: p}, float64(s))
		if cut, _ := j.Worse(&cfg); cut {
			return true
		}
	}
	return false
}

func falseCuts(t *testing.T, runs int, cfg Config, seconds int, rate, p float64) int {
	t.Helper()
	var cuts atomic.Int64
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for n := next.Add(1); n <= uint64(runs); n = next.Add(1) {
				if aaRun(n, cfg, seconds, rate, p) {
					cuts.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(cuts.Load())
}

// releases is how many are simulated: fewer with the race detector, which is there for races.
func releases() int {
	if raced {
		return 100
	}
	return 2000
}

// plausible is the most cuts of n releases that have a chance of 0.1 % or more, each cut with probability p.
func plausible(n int, p float64) int {
	for k, tail := 0, 1.0; ; k++ { // tail: the chance of k or more
		if tail < 0.001 {
			return k - 1
		}
		tail -= binomial(n, k, p)
	}
}

func TestPlausible(t *testing.T) {
	for n, want := range map[int]int{2000: 35, 100: 5} {
		if got := plausible(n, 0.01); got != want {
			t.Errorf("of %d at 1 %% %d are plausible, want %d", n, got, want)
		}
	}
}

// The promise: a release exactly as bad as tolerated or better is cut with a probability of at most
// false_rollback. Strict profile (nothing tolerated), so that equal is the boundary of the null.
func TestFalseRollbackIsABound(t *testing.T) {
	cfg := defaults()
	cfg.Alpha, cfg.R0, cfg.D0 = 0.01, 1, 0
	for _, c := range []struct{ rate, p float64 }{{100, 0.001}, {1000, 0.01}} {
		n := falseCuts(t, releases(), cfg, 900, c.rate, c.p)
		t.Logf("%g requests/s, error rate %g: %d of %d equal releases were cut at alpha 1 %%", c.rate, c.p, n, releases())
		if most := plausible(releases(), cfg.Alpha); n > most {
			t.Errorf("more than %d are too many", most)
		}
	}
}

// The long figure: 24 hours, every second, at 0.1 %. Runs with FIGURES set; takes minutes.
func TestFigureFalseCutsIn24Hours(t *testing.T) {
	seconds := 600
	if os.Getenv("FIGURES") != "" {
		seconds = 24 * 3600
	}
	cfg := defaults()
	for _, c := range []struct {
		name   string
		r0, d0 float64
	}{{"default tolerance", 1.1, 1e-4}, {"nothing tolerated", 1, 0}} {
		cfg.R0, cfg.D0 = c.r0, c.d0
		n := falseCuts(t, releases(), cfg, seconds, 200, 0.002)
		t.Logf("FIGURE %d of %d equal releases were cut in %d s of judging every second (200 requests/s, error rate 0.2 %%, false_rollback 0.1 %%, %s)", n, releases(), seconds, c.name)
		if n > plausible(releases(), cfg.Alpha) {
			t.Errorf("%d cuts", n)
		}
	}
}

func TestTotalFailureIsCutInTwoBatches(t *testing.T) {
	cfg := defaults()
	j := NewJudge()
	for s := 1.0; ; s++ {
		j.Observe(&cfg, Batch{Counts{25, 25}, Counts{475, 0}}, Baseline{M: 4}, s)
		if cut, _ := j.Worse(&cfg); cut {
			if s != 2 {
				t.Errorf("cut after %g batches", s)
			}
			return
		}
	}
}

func TestACleanReleaseIsProvenInTheForetoldTime(t *testing.T) {
	cfg := defaults()
	for _, c := range []struct{ rate, p, want float64 }{{1000, 0, 24}, {100, 0, 244}, {1000, 0.001, 73}} {
		if got := TimeToPromote(&cfg, c.rate, 0.5, c.p, 1); math.Abs(got-c.want) > 0.05*c.want {
			t.Errorf("%g requests/s at %g: %.0f s, the specification says %.0f s", c.rate, c.p, got, c.want)
		}
	}
	r := rand.New(rand.NewPCG(5, 5))
	j := NewJudge()
	s := 1.0
	for ; !j.Proven(&cfg) && s < 1000; s++ {
		j.Observe(&cfg, Batch{Counts{500, poisson(r, 0.5)}, Counts{500, poisson(r, 0.5)}}, Baseline{M: 1}, s)
	}
	if s < 15 || s > 300 {
		t.Errorf("proven after %g s, foretold are 73 s", s)
	}
}

func TestTroubleInCommonHoldsAndOneSidedTroubleDoesNot(t *testing.T) {
	cfg := defaults()
	both, stableOnly := NewJudge(), NewJudge()
	for s := 1.0; s <= 10; s++ {
		both.Observe(&cfg, Batch{Counts{100, 50}, Counts{900, 450}}, Baseline{M: 1, Usual: 0.001}, s)
		stableOnly.Observe(&cfg, Batch{Counts{100, 0}, Counts{900, 450}}, Baseline{M: 1, Usual: 0.001}, s)
	}
	if !both.Incident(10) || both.Proven(&cfg) {
		t.Error("shared trouble is not held")
	}
	if stableOnly.Incident(10) || !stableOnly.Proven(&cfg) {
		t.Errorf("a fix cannot ship: incident %v, promotion test at %g", stableOnly.Incident(10), stableOnly.Promotion.E)
	}
	if cut, _ := both.Worse(&cfg); cut {
		t.Error("shared trouble was a cut")
	}
	if both.Incident(10 + 61) {
		t.Error("the incident never clears")
	}
}

// Evidence that nobody acts on (an alarm after a promotion) never overflows: a state with NaN in it
// could not be stored.
func TestEvidenceStaysFinite(t *testing.T) {
	cfg := defaults()
	cfg.Ceiling = 0.01
	j := NewJudge()
	for s := 1.0; s < 2000; s++ {
		j.Observe(&cfg, Batch{Counts{1000, 1000}, Counts{1000, 0}}, Baseline{M: 1}, s)
		j.Alone(&cfg, Counts{1000, 1000}, 0.001, Baseline{M: 1, Batch: 0.1}, s)
	}
	good := NewJudge()
	for s := 1.0; s < 20000; s++ {
		good.Observe(&cfg, Batch{Counts{100000, 0}, Counts{100000, 0}}, Baseline{M: 1}, s)
	}
	for _, x := range []any{j, good} {
		if _, err := json.Marshal(x); err != nil {
			t.Fatal(err)
		}
	}
	if cut, _ := j.Worse(&cfg); !cut || !good.Proven(&cfg) {
		t.Error("the evidence was lost")
	}
}

func TestACanaryThatCompletesNothingIsStarved(t *testing.T) {
	cfg := defaults()
	j := NewJudge()
	for s := 1.0; s <= 95; s++ {
		c := Counts{}
		if s <= 5 {
			c.Requests = 100
		}
		j.Observe(&cfg, Batch{c, Counts{900, 0}}, Baseline{M: 1, Share: 1.0 / 9}, s)
	}
	if d := j.Starving; d < 55 || d > 70 {
		t.Errorf("starved for %g s", d)
	}
}

// Only seconds with evidence count.
func TestAGapIsNotStarvation(t *testing.T) {
	cfg := defaults()
	j := NewJudge()
	s := 0.0
	starve := func(seconds int) {
		for range seconds {
			s++
			j.Observe(&cfg, Batch{Counts{}, Counts{900, 0}}, Baseline{M: 1, Share: 1.0 / 9}, s)
		}
	}
	starve(35)
	before := j.Starving
	s += 600
	starve(26)
	if j.Starving > before || before < 5 {
		t.Errorf("starved for %g s, and for %g s after a gap", before, j.Starving)
	}
}

func TestTheCeilingIsAveragedIntoOneAlpha(t *testing.T) {
	cfg := defaults()
	cfg.Ceiling = 0.05
	j := NewJudge()
	for s := 1.0; s <= 10; s++ { // stable has no errors; the canary 20 %
		j.Observe(&cfg, Batch{Counts{100, 20}, Counts{900, 0}}, Baseline{M: 1}, s)
	}
	if got, want := j.E(&cfg), (j.Relative.E+j.Ceiling.E)/2; got != want {
		t.Errorf("E = %g, want %g", got, want)
	}
	if cut, _ := j.Worse(&cfg); !cut {
		t.Error("20 % against a ceiling of 5 % was not cut")
	}
}

// Gaps, resets, nonsense and silence never move the evidence.
func FuzzNoNonsenseInNoNonsenseOut(f *testing.F) {
	f.Add(1.0, 2.0, 3.0, 4.0, 1.0)
	f.Add(-1.0, math.Inf(1), 0.0, math.NaN(), 0.0)
	f.Fuzz(func(t *testing.T, nc, xc, nb, xb, m float64) {
		if math.IsNaN(nc+xc+nb+xb) || math.IsInf(nc+xc+nb+xb, 0) || math.Abs(nc)+math.Abs(nb) > 1e12 {
			return // sources deliver finite counts
		}
		cfg := defaults()
		cfg.Ceiling = 0.1
		j := NewJudge()
		for s := 1.0; s < 5; s++ {
			j.Observe(&cfg, Batch{Counts{nc, xc}, Counts{nb, xb}}, Baseline{M: min(max(m, 1), 200)}, s)
		}
		for _, v := range []float64{j.Relative.E, j.Ceiling.E, j.Promotion.E, j.Exposure.Upper(&cfg, 1)} {
			if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
				t.Fatalf("%v", j)
			}
		}
		if (nc < 1 || nb < 1) && j.Updates > 0 && nc*4 < 1 {
			t.Fatal("judged without requests")
		}
	})
}

// BenchmarkObserveHiccups has three errors of one endpoint every ten batches: each is a hiccup that is counted once.
func BenchmarkObserveHiccups(b *testing.B) {
	cfg := defaults()
	cfg.Burst = 0.3
	j := NewJudge()
	endpoint := []Slice{{Name: "a", Counts: Counts{10, 3}}}
	b.ReportAllocs()
	for n := 1; b.Loop(); n++ {
		s := float64(n)
		x := 0.0
		if n%10 == 0 {
			x = 3
			j.Failing.Add(s, endpoint)
		}
		j.Observe(&cfg, Batch{Counts{10, x}, Counts{990, 1}}, Baseline{M: 1.1, Batch: 1}, s)
	}
}

func BenchmarkObserve(b *testing.B) {
	cfg := defaults()
	j := NewJudge()
	b.ReportAllocs()
	s := 1.0
	for b.Loop() {
		j.Observe(&cfg, Batch{Counts{10, 1}, Counts{990, 99}}, Baseline{M: 2}, s)
		s++
	}
}
