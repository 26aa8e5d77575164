package analysis

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
)

// Vector B1 of STATISTICS-2.md 5: age two batches; issued, completed and failed of each batch; open requests, increments of n and x.
func TestTheSpecifiedVectorOfOpenRequestsHolds(t *testing.T) {
	var w Waiting
	for i, v := range [][6]float64{
		{10, 9, 0, 0, 9, 0}, {10, 10, 0, 0, 10, 0}, {10, 6, 0, 0, 6, 0}, {10, 0, 0, 0, 0, 0}, {10, 0, 0, 5, 5, 5}, {10, 0, 0, 15, 10, 10},
		{10, 12, 12, 13, 10, 10}, {10, 30, 20, 0, 17, 7}, {10, 12, 0, 0, 12, 0},
	} {
		at := float64(i)
		n, _ := w.Add(Age{2, 0.1}, Started{at, at + 1, v[0], Counts{v[1], v[2]}}, true)
		if open := w.open(2, at+1, 1); open != v[3] || n != (Counts{v[4], v[5]}) {
			t.Errorf("batch %d: %g are open, %+v counted; want %g, %g and %g", i+1, open, n, v[3], v[4], v[5])
		}
	}
}

// request is one of a second implementation: each has its own life.
type request struct{ begins, ends float64 }

// Whoever knows every request finds that none is counted twice, none before it is as old, and none that ended well within the age as
// failed, whatever is on its way and however the reports come.
func TestOpenRequestsAreCountedForCertain(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 5))
		var all []request
		for at := 0.0; at < 60; at += r.ExpFloat64() / 20 {
			q := request{at, at + 0.2*r.ExpFloat64()}
			if r.IntN(10) == 0 || seed%3 == 0 && at > 30 {
				q.ends = at + 15 // a timeout: it fails then
			}
			all = append(all, q)
		}
		var w Waiting
		var counted Counts
		end := 0.0
		for from := 0.0; from < 60; {
			to := from + 0.1 + r.Float64()
			if seed%2 == 0 {
				to = from + 0.1
			}
			var issued, old float64
			var c Counts
			for _, q := range all {
				if q.begins >= from && q.begins < to {
					issued++
				}
				if q.ends >= from && q.ends < to {
					c.Requests++
					if q.ends-q.begins >= 15-1e-9 {
						c.Errors++
					}
				}
				if q.begins < to-5+0.25 && q.ends >= to {
					old++
				}
			}
			n, _ := w.Add(Age{5, 0.2}, Started{from, to, issued, c}, seed%5 > 0 || r.IntN(3) > 0)
			if open := w.open(5, to, to-from); open > old {
				t.Fatalf("seed %d at %.1f s: %g are said to be open for five seconds, %g are", seed, to, open, old)
			}
			counted, from, end = counted.Add(n), to, to
			if len(w.Begun) > begunMost+1 || w.Sound() != nil {
				t.Fatalf("seed %d: %d moments are kept, %v", seed, len(w.Begun), w.Sound())
			}
		}
		ended, failed := 0.0, 0.0
		for _, q := range all {
			slow := q.ends-q.begins >= 5
			if q.ends < end || q.begins < end-4.75 && slow {
				ended++
			}
			if slow && (q.ends < end || q.begins < end-4.75) {
				failed++
			}
		}
		if counted.Requests > ended+1 || counted.Errors > failed {
			t.Errorf("seed %d: %+v counted, %g ended or hung, %g of them failed", seed, counted, ended, failed)
		}
		if seed%5 > 0 && seed%3 == 0 && counted.Errors < 0.6*failed {
			t.Errorf("seed %d: %g of %g requests that hung are found", seed, counted.Errors, failed)
		}
	}
}

func TestWhatCannotBeComparedIsNeverCountedLater(t *testing.T) {
	var w Waiting
	at, sum := 0.0, Counts{}
	add := func(issued float64, c Counts, counts bool) {
		n, _ := w.Add(Age{5, 0.2}, Started{at, at + 1, issued, c}, counts)
		at, sum = at+1, sum.Add(n)
	}
	for range 5 {
		add(10, Counts{10, 0}, true)
	}
	for range 10 {
		add(10, Counts{}, false)
	}
	for range 5 {
		add(10, Counts{10, 0}, true)
	}
	if sum.Errors > 0 || sum.Requests != 100 {
		t.Errorf("%+v counted", sum)
	}
	before := sum
	w.Lose()
	for range 20 {
		add(10, Counts{10, 0}, true)
	}
	if sum.Errors != before.Errors {
		t.Errorf("%g were open before counts were lost, and are counted after it", sum.Errors-before.Errors)
	}
}

func TestOpenRequestsAreStoredAndShifted(t *testing.T) {
	var w Waiting
	for i := range 10 {
		w.Add(Age{5, 0.2}, Started{float64(i), float64(i + 1), 10, Counts{2, 1}}, true)
	}
	c := w.Clone()
	c.Shift(-100)
	if slices.Equal(c.Begun, w.Begun) {
		t.Error("the copy shares its moments")
	}
	raw, err := json.Marshal(w)
	var again Waiting
	if err != nil || json.Unmarshal(raw, &again) != nil || !slices.Equal(again.Begun, w.Begun) || again.Most != w.Most {
		t.Errorf("%s: %v", raw, err)
	}
	a, openA := w.Add(Age{5, 0.2}, Started{10, 11, 10, Counts{2, 1}}, true)
	b, openB := c.Add(Age{5, 0.2}, Started{-90, -89, 10, Counts{2, 1}}, true)
	if a != b || openA != openB {
		t.Errorf("after the clock was set back %+v are counted, not %+v", b, a)
	}
}
