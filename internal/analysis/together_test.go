package analysis

import (
	"math"
	"math/rand/v2"
	"testing"
)

// momentsOf is how much of a tick some of the endpoints fail, each for 0.3 s from a time in seconds.
func momentsOf(tick float64, begins ...float64) func(i, endpoint int) float64 {
	return func(i, endpoint int) float64 {
		if endpoint >= len(begins) {
			return 0
		}
		to, begin := float64(i)*tick, begins[endpoint]
		return max(0, min(to, begin+0.3)-max(to-tick, begin)) / tick
	}
}

// cutsOfTwoMoments is how many are cut of 20 releases as good as stable, of which two instances fail for a moment of their own, the second at times after the first.
func cutsOfTwoMoments(tick, usual float64, together bool) (cuts int) {
	r := rand.New(rand.NewPCG(1, 2))
	for seed := range uint64(20) {
		begin := 62 + r.Float64()
		f := fleet{tick: tick, each: 250 * tick, usual: usual, together: together, fails: momentsOf(tick, begin, begin+1.5*r.Float64())}
		if f.cutAt(seed, true, int(70/tick)) > 0 {
			cuts++
		}
	}
	return cuts
}

// Where stable's instances fail for a moment now and then, two of the canary's that do so within a second and a half are two moments, not a
// release that fails.
func TestTwoMomentsCutNobodyWhereStableHasThem(t *testing.T) {
	before := 0
	for _, tick := range []float64{0.1, 0.2, 1} {
		for _, usual := range []float64{0.001, 0.01, 0.05} {
			before += cutsOfTwoMoments(tick, usual, false)
			if n := cutsOfTwoMoments(tick, usual, true); n > 0 {
				t.Errorf("ticks of %g s, %g%% errors: %d of 20 are cut", tick, 100*usual, n)
			}
		}
	}
	if before < 40 {
		t.Errorf("where stable has none %d of 180 are cut, want 40 and more: nothing was tested", before)
	}
}

// Three endpoints that fail have no moments: such a release is cut as soon as where stable has none, and one that fails on two of four two
// seconds later at most.
func TestWhatGoesOnFailingIsCutWhereStableHasMoments(t *testing.T) {
	const tick = 0.1
	for endpoints, most := range map[int]int{2: 20, 3: 1, 4: 1} {
		for _, share := range []float64{0.5, 1} {
			f := fleet{tick: tick, each: 25, usual: 0.001, fails: func(i, endpoint int) float64 {
				if i > 620 && endpoint < endpoints {
					return share
				}
				return 0
			}}
			for seed := range uint64(20) {
				f.together = false
				soon := f.cutAt(seed, true, 700)
				f.together = true
				if late := f.cutAt(seed, true, 700); late == 0 || late > soon+most {
					t.Errorf("%d of 4 endpoints fail %g%%, seed %d: cut after %d ticks, without moments of stable after %d", endpoints, 100*share, seed, late-620, soon-620)
				}
			}
		}
	}
}

// Together is known of moments that make a few of many errors, and of independent errors hardly ever.
func TestErrorsThatComeTogetherAreKnown(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, test := range []struct {
		name     string
		perHour  float64 // moments of each of eight endpoints, in which 6 requests fail
		rate     float64 // errors in 10 s of an endpoint, independent
		from, to float64 // share of the time in which it is known, after the first three hours
	}{
		{"independent, few", 0, 0.2, 0, 0.05},
		{"independent, many", 0, 5, 0, 0.05},
		{"moments, few other errors", 1, 0.2, 1, 1},
		{"moments, many other errors", 3, 2, 0.9, 1},
		{"rare moments", 0.3, 0.2, 0.9, 1},
	} {
		var d Dispersion
		known, all := 0, 0
		for tick := range 12 * 360 {
			each := make([]Slice, 8)
			for i := range each {
				each[i] = Slice{string(rune('a' + i)), Counts{500, poisson(r, test.rate)}}
				if r.Float64() < test.perHour/360 {
					each[i].Errors += 6
				}
			}
			if d.Add(float64(tick+1)*10, each, test.rate/500); tick >= 3*360 {
				if all++; d.Together() {
					known++
				}
			}
		}
		if share := float64(known) / float64(all); share < test.from || share > test.to || math.IsNaN(share) {
			t.Errorf("%s: known %.1f%% of the time, want %g to %g%%", test.name, 100*share, 100*test.from, 100*test.to)
		}
	}
}
