package analysis

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
)

// Whatever times a clock shows, forwards and backwards, no number becomes one that cannot be stored.
func TestNoSequenceOfTimesMakesNaN(t *testing.T) {
	cfg := Config{Alpha: 0.001, Beta: 0.01, R0: 1.1, D0: 0.0001, R1: 1.5, D1: 0.0005, Budget: 20, Ceiling: 0.05, Burst: 0.3}
	jumps := []float64{0, 1, 1, 1, -1, 30, -30, 301, -301, -1000, 3600, -86400, 1.9e6, 2e7, -1e9, 1e9, math.MaxInt64 / 1e9, -math.MaxInt64 / 1e9}
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 3))
		j, d, u, now := NewJudge(), Dispersion{}, Usual{}, 0.0
		for range 200 {
			now = min(max(now+jumps[r.IntN(len(jumps))], -math.MaxInt64/1e9), math.MaxInt64/1e9)
			stable := Counts{float64(r.IntN(1000)), 0}
			stable.Errors = float64(r.IntN(5)) * min(stable.Requests, 1)
			b := Batch{Counts{float64(r.IntN(50)), float64(r.IntN(2))}, stable}
			half := Counts{stable.Requests / 2, stable.Errors / 2}
			parts := []Slice{{"a", half}, {"b", half}}[:1+r.IntN(2)]
			d.Add(now, parts, u.Rate())
			u.Add(now, stable)
			switch r.IntN(5) {
			case 0:
				j.Step()
			case 1:
				j.Against(&cfg, b, Baseline{M: d.Bound(), Batch: 0.1}, now)
			case 2:
				j.Alone(&cfg, b.Canary, 0.01, Baseline{M: d.Bound(), Batch: 0.1}, now)
			default:
				j.Observe(&cfg, b, Baseline{M: d.Bound(), Usual: u.Rate(), Share: 0.1, Batch: 0.1}, now)
			}
			j.Placebo.Observe(&cfg, parts, 1, d.Bound(), now)
			if _, err := json.Marshal(struct {
				J Judge
				D Dispersion
				U Usual
				N Numbers
			}{j, d, u, j.Numbers(&cfg)}); err != nil {
				t.Fatalf("seed %d at %g s: %v", seed, now, err)
			}
			if m := d.Bound(); !(m >= 1 && m <= clumpMax) {
				t.Fatalf("seed %d at %g s: clump bound %g", seed, now, m)
			}
		}
	}
}

// A judge goes on judging after its clock was set back.
func TestAJudgeWhoseClockIsSetBackStillSees(t *testing.T) {
	cfg := Config{Alpha: 0.001, Beta: 0.01, R0: 1.1, D0: 0.0001, R1: 1.5, D1: 0.0005}
	j, now := NewJudge(), 1000.0
	tick := func(errors float64) bool {
		now++
		j.Observe(&cfg, Batch{Counts{50, errors}, Counts{950, 0}}, Baseline{M: 1}, now)
		cut, _ := j.Worse(&cfg)
		return cut
	}
	for range 60 {
		tick(0)
	}
	now -= 2000
	for range 5 {
		if tick(50) {
			return
		}
	}
	t.Fatalf("E is %g after 250 failed requests", j.E(&cfg))
}

func TestStoredRecent(t *testing.T) {
	var r Recent
	for i := range 100 {
		r.Add(float64(i), Batch{Canary: Counts{Requests: 1}})
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var again Recent
		if err := json.Unmarshal(raw, &again); err != nil || again.Sum(float64(i)) != r.Sum(float64(i)) || again.Len != r.Len {
			t.Fatalf("%d buckets became %d (%v)", r.Len, again.Len, err)
		}
	}
	for _, raw := range []string{`{"buckets":[],"len":1}`, `{"buckets":[{}],"len":-1}`, `{"buckets":7}`} {
		if err := json.Unmarshal([]byte(raw), &r); err == nil {
			t.Errorf("%s was read", raw)
		}
	}
}
