package analysis

import (
	"math/rand/v2"
	"testing"
)

// Where errors come all the time, two endpoints of a busy canary have two of them in any half a second: that does not make
// two of a hiccup of one of them.
func TestUsualErrorsMakeNoHiccupOfTwoEndpoints(t *testing.T) {
	const endpoints, tick, each, usual = 4, 0.1, 25.0, 0.01
	cuts := 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 14))
		cfg := defaults()
		cfg.Burst = 0.3
		j := NewJudge()
		for i := 1; i <= 700; i++ {
			now := float64(i) * tick
			var all []Slice
			b := Batch{Stable: Counts{Requests: 900}}
			b.Stable.Errors = min(900, poisson(r, 900*usual))
			for n := range endpoints {
				s := Slice{string(rune('a' + n)), Counts{each, min(each, poisson(r, each*usual))}}
				if n == 0 && i >= 620 && i < 623 {
					s.Errors = each
				}
				all = append(all, s)
				b.Canary = b.Canary.Add(s.Counts)
			}
			j.Fails(&cfg, now, tick, all, usual)
			j.Observe(&cfg, b, Baseline{M: 1.1, Usual: usual, Batch: tick}, now)
			if cut, _ := j.Worse(&cfg); cut {
				cuts++
				break
			}
		}
	}
	if cuts > 0 {
		t.Errorf("a hiccup of 0.3 s of one of four endpoints cuts %d of 100 releases as good as stable", cuts)
	}
}

// A hiccup that was under way when the clock was set back does not hold up the cut.
func TestAHiccupEndsWhenTheClockIsSetBack(t *testing.T) {
	for _, back := range []float64{0.5, 5, 100, 900, 2000} {
		for _, tick := range []float64{0.1, 1} {
			cfg := defaults()
			cfg.Burst = 0.3
			j, now := NewJudge(), 1000.0
			round := func(errors float64) bool {
				now += tick
				j.Observe(&cfg, Batch{Counts{50, errors}, Counts{950, 0}}, Baseline{M: 1, Batch: tick}, now)
				cut, _ := j.Worse(&cfg)
				return cut
			}
			for range 100 {
				round(0)
			}
			round(20)
			now -= back
			n := 1
			for n < 100 && !round(50) {
				n++
			}
			if n > 10 {
				t.Errorf("set back by %g s: cut after %d batches of %g s, E is %g", back, n, tick, j.E(&cfg))
			}
		}
	}
}

// Endpoints that failed before the clock was set back do not fail ever since.
func TestWhoFailedIsForgottenWhenTheClockIsSetBack(t *testing.T) {
	cfg := defaults()
	j := NewJudge()
	j.Fails(&cfg, 1000, 1, []Slice{{"a", Counts{9, 2}}, {"b", Counts{9, 2}}}, 0)
	if !j.Failing.several(999) {
		t.Fatal("two endpoints failed")
	}
	if j.Fails(&cfg, 400, 1, []Slice{{"a", Counts{9, 0}}, {"b", Counts{9, 0}}}, 0); j.Failing.several(399) {
		t.Error("they still fail, ten minutes before they did")
	}
}

// A hiccup of a version at 100 % is one cause as well, however short batches are; one that goes on is seen a burst later.
func TestABurstAloneGainsNoMoreThanABatch(t *testing.T) {
	for _, test := range []struct {
		tick, seconds float64
		cut           bool
	}{{0.1, 0.3, false}, {0.2, 0.2, false}, {0.1, 0.9, true}, {0.2, 1, true}, {1, 2, true}} {
		cfg := defaults()
		cfg.Burst = 0.3
		j, worst := NewJudge(), 0.0
		for i := range 100 {
			c := Counts{Requests: 100 * test.tick}
			if i >= 50 && float64(i-50)*test.tick < test.seconds-slack {
				c.Errors = c.Requests
			}
			j.Alone(&cfg, c, 0.05, Baseline{M: 1, Batch: test.tick}, float64(i+1)*test.tick)
			worst = max(worst, j.Ceiling.E)
		}
		if reached(worst, cfg.Alpha) != test.cut {
			t.Errorf("failing for %g s in batches of %g s: E rises to %g", test.seconds, test.tick, worst)
		}
	}
}
