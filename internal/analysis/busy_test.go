package analysis

import (
	"math/rand/v2"
	"testing"
)

// fleet is a canary of four endpoints beside stable, both with usual errors.
type fleet struct {
	tick, each, usual float64 // seconds; requests of an endpoint in a tick; error rate
	together          bool    // stable's errors are known to come together
	fails             func(i, endpoint int) float64
}

// cutAt is the tick that cuts it; 0: none.
func (f fleet) cutAt(seed uint64, told bool, ticks int) int {
	r := rand.New(rand.NewPCG(seed, 14))
	cfg := defaults()
	cfg.Burst = 0.3
	j := NewJudge()
	j.Together = f.together
	for i := 1; i <= ticks; i++ {
		now := float64(i) * f.tick
		var all []Slice
		b := Batch{Stable: Counts{Requests: 36 * f.each}}
		b.Stable.Errors = min(36*f.each, poisson(r, 36*f.each*f.usual))
		for n := range 4 {
			rate := max(f.usual, f.fails(i, n))
			s := Slice{string(rune('a' + n)), Counts{f.each, min(f.each, poisson(r, f.each*rate))}}
			if rate == 1 {
				s.Errors = f.each
			}
			all = append(all, s)
			b.Canary = b.Canary.Add(s.Counts)
		}
		if told {
			j.Fails(&cfg, now, f.tick, all, f.usual, 1.1)
		}
		j.Observe(&cfg, b, Baseline{M: 1.1, Usual: f.usual, Batch: f.tick}, now)
		if cut, _ := j.Worse(&cfg); cut {
			return i
		}
	}
	return 0
}

// Where errors come all the time, two endpoints of a busy canary have two of them in any half a second: that does not make
// two of a hiccup of one of them.
func TestUsualErrorsMakeNoHiccupOfTwoEndpoints(t *testing.T) {
	for _, tick := range []float64{0.1, 1} {
		for _, usual := range []float64{0.0005, 0.003, 0.01, 0.05} {
			cuts, begin := 0, int(62/tick)
			for seed := range uint64(100) {
				f := fleet{tick: tick, each: 250 * tick, usual: usual, fails: func(i, endpoint int) float64 {
					if part := min(0.3, tick) / tick; endpoint == 0 && i >= begin && float64(i-begin)*tick < 0.3-slack {
						return part
					}
					return 0
				}}
				if f.cutAt(seed, true, int(70/tick)) > 0 {
					cuts++
				}
			}
			if cuts > 1 {
				t.Errorf("ticks of %g s, %g%% errors: a hiccup of 0.3 s of one of four endpoints cuts %d of 100 releases as good as stable", tick, 100*usual, cuts)
			}
		}
	}
}

// Errors of all endpoints are no hiccup of one of them: what fails ten times as often as stable is cut a report sooner where
// that is known.
func TestWhatFailsEverywhereIsNoHiccup(t *testing.T) {
	var ticks [2]int
	for seed := range uint64(50) {
		f := fleet{tick: 1, each: 250, usual: 0.001, fails: func(int, int) float64 { return 0.01 }}
		for i, told := range []bool{false, true} {
			at := f.cutAt(seed, told, 20)
			if at == 0 {
				t.Fatalf("seed %d: not cut within 20 s", seed)
			}
			ticks[i] += at
		}
	}
	if 4*ticks[1] > 3*ticks[0] {
		t.Errorf("50 releases were cut after %d reports in all where it is told who fails, %d where it is not", ticks[1], ticks[0])
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
	j.Fails(&cfg, 1000, 1, []Slice{{"a", Counts{9, 2}}, {"b", Counts{9, 2}}}, 0, 1)
	if !j.Failing.several(999, 1) {
		t.Fatal("two endpoints failed")
	}
	if j.Fails(&cfg, 400, 1, []Slice{{"a", Counts{9, 0}}, {"b", Counts{9, 0}}}, 0, 1); j.Failing.several(399, 1) {
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
