package analysis

import (
	"math/rand/v2"
	"testing"
)

// One endpoint, and nothing beside it to compare with: an outage is not taken for the way in which errors usually come, a
// hiccup is.
func TestAnOutageIsNoClump(t *testing.T) {
	for _, test := range []struct {
		name          string
		rate, p, bad  float64 // requests/s, usual error rate, that of the outage
		seconds, tick float64
		days          float64 // known before
		learnt        bool
	}{
		{"20 s of 50 %", 150, 0.001, 0.5, 20, 1, 1, false},
		{"20 s of 50 %, at rest", 150, 0.001, 0.5, 20, 10, 1, false},
		{"20 s of 50 %, five minutes known", 150, 0.001, 0.5, 20, 1, 300. / 86400, false},
		{"20 s of 5 %", 150, 0.001, 0.05, 20, 1, 1, false},
		{"20 s of everything, 10 requests/s", 10, 0.001, 1, 20, 1, 1, false},
		{"5 min of everything, at rest", 150, 0.001, 1, 300, 10, 1, false},
		{"8 s of everything, 100 ms batches", 150, 0.001, 1, 8, 0.1, 300. / 86400, false},
		{"2 s of everything", 150, 0.001, 1, 2, 1, 1, true},
		{"4 s of everything, 100 ms batches", 150, 0.001, 1, 4, 0.1, 300. / 86400, true},
		{"2 s of everything, at rest", 150, 0.001, 1, 2, 10, 1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			most := 0.0 // of a few days, so that one odd window decides nothing
			for seed := range uint64(5) {
				most += boundAfter(test.rate, test.p, test.bad, test.seconds, test.tick, test.days, seed) / 5
			}
			if learnt := most > 15; learnt != test.learnt {
				t.Errorf("in the twenty minutes after it the clump bound rose to %.3g", most)
			}
		})
	}
}

// One of two instances, or some of many, that have a bad minute once in two hours are no outage: so errors usually come. All of
// them together are one.
func TestAFewInstancesThatFailAreNoOutage(t *testing.T) {
	for _, test := range []struct {
		name            string
		instances, fail int
		rate            float64
		learnt          bool
	}{{"one of two at 20 %", 2, 1, 0.2, true}, {"one of two wholly", 2, 1, 1, true}, {"two of eight wholly", 8, 2, 1, true}, {"both", 2, 2, 0.5, false}, {"all of eight", 8, 8, 0.5, false}} {
		t.Run(test.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, 2))
			d, u := Dispersion{}, Usual{}
			for now := 1.0; now < 6*3600; now++ {
				var all []Slice
				var sum Counts
				for i := range test.instances {
					n, p := poisson(r, 100), 0.001
					if i < test.fail && int(now)%7200/60 == 60 {
						p = test.rate
					}
					all = append(all, Slice{string(rune('a' + i)), Counts{n, min(n, poisson(r, n*p))}})
					sum = sum.Add(all[i].Counts)
				}
				d.Add(now, all, u.Rate())
				u.Add(now, sum)
			}
			if m := d.Bound(); m > 20 != test.learnt {
				t.Errorf("after three bad minutes the clump bound is %.3g", m)
			}
		})
	}
}

// boundAfter is the largest clump bound in the twenty minutes after an outage.
func boundAfter(rate, p, bad, seconds, tick, days float64, seed uint64) (most float64) {
	r := rand.New(rand.NewPCG(seed, 2))
	d, u, now := Dispersion{}, Usual{}, 0.0
	serve := func(seconds, p float64) {
		now += seconds
		n := poisson(r, rate*seconds)
		c := Counts{n, min(n, poisson(r, n*p))}
		d.Add(now, []Slice{{"10.0.0.1:80", c}}, u.Rate())
		u.Add(now, c)
	}
	long := max(tick, 1)
	for range int(days * 86400 / long) {
		serve(long, p)
	}
	for left := seconds; left > 1e-6; left -= tick {
		part := min(1, left/tick)
		serve(tick, part*bad+(1-part)*p)
	}
	for range int(1200 / tick) {
		serve(tick, p)
		most = max(most, d.Bound())
	}
	return most
}
