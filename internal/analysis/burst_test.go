package analysis

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
)

// shortly judges batches of 100 ms, errors of the canary as given.
func shortly(cfg *Config, errors ...float64) (j Judge, lnE []float64) {
	j = NewJudge()
	for i, x := range errors {
		j.Observe(cfg, Batch{Counts{2, x}, Counts{38, 0}}, Baseline{M: 1, Batch: 0.1}, float64(i+1)/10)
		lnE = append(lnE, math.Log(j.E(cfg)))
	}
	return j, lnE
}

// C of STATISTICS-2.md.
func TestTheBurstVectorHolds(t *testing.T) {
	cfg := defaults()
	cfg.Burst = 0.3
	_, got := shortly(&cfg, 0, 1, 2, 2, 2, 2, 2)
	want := []float64{-0.000405, 1.103587, 3.453878, 3.453878, 3.453878, 4.557464, 6.907755}
	for i := range want {
		if math.Abs(got[i]-want[i]) > 1e-6 {
			t.Errorf("batch %d: ln E = %.6f, want %.6f", i+1, got[i], want[i])
		}
	}
}

// Whatever happens before and after, what fails within the length of a burst multiplies E by alpha^(-1/2) at most: also
// with a ceiling, from two kinds of proxies, and over a restart.
func TestABurstGainsNoMoreThanABatch(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 2))
	gained := 0
	for n := range 3000 {
		cfg := defaults()
		cfg.Burst = []float64{0.2, 0.3, 0.5, 1, 5}[r.IntN(5)]
		if r.IntN(2) == 0 {
			cfg.Ceiling = 0.05
		}
		tick := []float64{0.1, 0.2, 0.4}[r.IntN(3)]
		j := NewJudge()
		ticks := 10 + r.IntN(20)
		begins := float64(ticks)*tick + r.Float64()*tick
		ends := begins + cfg.Burst
		before, most := 1.0, 0.0
		for i := 1; i < ticks+int(cfg.Burst/tick)+4; i++ {
			to := float64(i) * tick
			nc := float64(8 + r.IntN(12))
			b := Batch{Counts{nc, 0}, Counts{float64(r.IntN(300)), 0}}
			if bad := min(to, ends) - max(to-tick, begins); bad > 0 {
				b.Canary.Errors = math.Ceil(nc * bad / tick)
			} else if r.IntN(8) == 0 {
				b.Canary.Errors = min(nc, 1)
			}
			j.Observe(&cfg, b, Baseline{M: 1, Kind: r.IntN(2), Batch: tick}, to)
			if r.IntN(10) == 0 {
				raw, err := json.Marshal(j)
				if err != nil {
					t.Fatal(err)
				}
				j = Judge{}
				if err := json.Unmarshal(raw, &j); err != nil {
					t.Fatal(err)
				}
			}
			if to <= begins { // one of the ends that the burst did not touch is what it is measured from
				if to <= begins-cfg.Burst-8*tick {
					before = 1
				}
				before = max(before, j.E(&cfg))
			} else if to-tick < ends {
				most = max(most, j.E(&cfg))
			}
		}
		if most > before*math.Pow(cfg.Alpha, -0.5)*(1+1e-9) {
			t.Fatalf("case %d: a burst of %g s in batches of %g s raised E from %.4g to %.4g", n, cfg.Burst, tick, before, most)
		}
		if most > 2*before {
			gained++
		}
	}
	if gained < 1000 {
		t.Errorf("only %d of 3000 bursts raised E at all: little was tested", gained)
	}
}

// Two endpoints that fail are no hiccup of one: the release is cut within two batches.
func TestTwoFailingEndpointsAreNoHiccup(t *testing.T) {
	for _, test := range []struct {
		name      string
		endpoints []string
		batches   int
	}{{"not known", nil, 5}, {"one", []string{"a"}, 5}, {"two", []string{"a", "b"}, 2}} {
		cfg := defaults()
		cfg.Burst = 0.3
		j := NewJudge()
		n := 0
		for cut := false; !cut && n < 10; n++ {
			now := float64(n+1) / 10
			for _, e := range test.endpoints {
				j.Failing.Add(now, []Slice{{e, Counts{5, 5}}})
			}
			j.Observe(&cfg, Batch{Counts{10, 10}, Counts{90, 0}}, Baseline{M: 1, Batch: 0.1}, now)
			cut, _ = j.Worse(&cfg)
		}
		if n != test.batches {
			t.Errorf("errors of endpoints %s: cut after %d batches of 0.1 s, want %d", test.name, n, test.batches)
		}
	}
}

// One error each of two endpoints, or two errors long ago, do not show that two fail.
func TestWhoFailsIsForgotten(t *testing.T) {
	var f Failing
	f.Add(1, []Slice{{"a", Counts{9, 2}}, {"b", Counts{9, 1}}})
	if f.several(0.5, 1) {
		t.Error("one error of the second endpoint was enough")
	}
	f.Add(1.1, []Slice{{"b", Counts{9, 1}}})
	if !f.several(0.5, 1) || f.several(1.05, 1) {
		t.Errorf("two endpoints failed twice within the time, and only then: %v", f)
	}
	for i := range 2 * mostFailing {
		f.Add(2, []Slice{{string(rune('A' + i)), Counts{1, 1}}})
	}
	if len(f.Endpoints) != mostFailing {
		t.Errorf("%d endpoints are kept, want %d", len(f.Endpoints), mostFailing)
	}
}

// Ten batches of 0.1 s prove no more than one of a second.
func TestPromotionIsProvenBySecondsNotByBatches(t *testing.T) {
	cfg := defaults()
	whole, short := NewJudge(), NewJudge()
	b := Batch{Counts{50_000, 0}, Counts{50_000, 50}}
	tenth := Batch{Counts{5_000, 0}, Counts{5_000, 5}}
	for s := range 5 {
		whole.Observe(&cfg, b, Baseline{M: 1, Batch: 1}, float64(s+1))
		for i := range 10 {
			short.Observe(&cfg, tenth, Baseline{M: 1, Batch: 0.1}, float64(s)+float64(i+1)/10)
		}
		if short.Promotion.E > whole.Promotion.E*(1+1e-9) {
			t.Fatalf("after %d s short batches have proven %.4g, long ones %.4g", s+1, short.Promotion.E, whole.Promotion.E)
		}
	}
	if whole.Promotion.E < 5 {
		t.Errorf("nothing was proven: %g", whole.Promotion.E)
	}
}

// What was known at the ends of batches is what it was after a restart, and reaches back for minutes, however short batches are.
func TestEndsOfBatchesAreKept(t *testing.T) {
	var x Ends
	for i := range 3000 {
		x.add(end{float64(i+1) / 10, float64(i + 1), 1}, 1)
	}
	raw, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	var again Ends
	if err := json.Unmarshal(raw, &again); err != nil || again != x {
		t.Errorf("%v is read as %v: %v", x, again, err)
	}
	for _, ago := range []float64{0, 0.1, 0.4, 1, 1.4, 5, 20, 60, 120} {
		if got := 300 - x.before(300-ago).At; got < ago-0.01 || got > 1.6*ago+0.11 {
			t.Errorf("what was known %g s ago is said to be what was known %g s ago", ago, got)
		}
	}
}
