package analysis

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// plainRecent is Recent in a list of its own.
type plainRecent []bucket

func (p plainRecent) add(now float64, b Batch) plainRecent {
	p = slices.DeleteFunc(slices.Clone(p), func(o bucket) bool { return o.At > now })
	if n := len(p); n > 0 && now-p[n-1].At < 1 {
		last := &p[n-1].B
		last.Canary, last.Stable = last.Canary.Add(b.Canary), last.Stable.Add(b.Stable)
		return p
	}
	p = append(p, bucket{now, b})
	return p[max(0, len(p)-recentMost):]
}

func (p plainRecent) since(from float64) (s Batch) {
	for i, b := range p {
		if b.At > from || i == len(p)-1 {
			s.Canary, s.Stable = s.Canary.Add(b.B.Canary), s.Stable.Add(b.B.Stable)
		}
	}
	return s
}

// Copies of what came lately share most of it, and each goes on by itself, whatever the clock does.
func TestCopiesOfWhatCameLately(t *testing.T) {
	type kept struct {
		r Recent
		p plainRecent
	}
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		all, now := []kept{{}}, 0.0
		for range 2000 {
			i := r.IntN(len(all))
			k := all[i]
			switch n := r.IntN(300); {
			case n == 0:
				now = max(0, now-100*r.Float64())
			case n < 5:
				now -= 3 * r.Float64()
			case n < 8:
				now += 40 * r.Float64()
			default:
				now += []float64{0.1, 0.5, 1, 1, 2}[seed%5]
			}
			b := Batch{Counts{r.Float64(), r.Float64()}, Counts{r.Float64(), r.Float64()}}
			k.p = k.p.add(now, b)
			k.r.Add(now, b)
			if r.IntN(50) == 0 && len(all) < 5 {
				all = append(all, k)
			} else {
				all[i] = k
			}
			for _, k := range all {
				if k.r.Len != len(k.p) || k.r.Sum(now) != k.p.since(now-recentSeconds) || k.r.since(now-clumpSeconds) != k.p.since(now-clumpSeconds) {
					t.Fatalf("seed %d, second %g: %d buckets with %+v, want %d with %+v", seed, now, k.r.Len, k.r.Sum(now), len(k.p), k.p.since(now-recentSeconds))
				}
				for i, b := range k.p {
					if *k.r.at(i) != b {
						t.Fatalf("seed %d, second %g: bucket %d is %+v, want %+v", seed, now, i, *k.r.at(i), b)
					}
				}
			}
		}
	}
}
