package main

import (
	"math"
	"slices"

	"github.com/canaryd/canaryd/internal/analysis"
)

// pipecd is an ANALYSIS stage of PipeCD as its examples have it: 10 % canary beside a baseline variant
// (analysis-with-baseline), 30 minutes, every 5 (analysis-by-metrics). Each look compares the error rates of the last five
// minutes, one a minute, by the test of Mann and Whitney at 5 %, deviation HIGH; failureLimit is 0, so the first
// difference is a cut. Where neither side has data the look passes; where one has none it fails. The baseline is a fourth
// of stable.
type pipecd struct {
	c, b   analysis.Counts
	x, y   []float64
	common bool
}

const pipecdAlpha = 0.05

func (p *pipecd) weight() float64 { return 0.1 }

func (p *pipecd) see(t int, k tick) decision {
	if !k.drop {
		p.c, p.b = p.c.Add(k.batch.Canary), p.b.Add(k.slices[0])
	}
	s := t + 1
	if s%60 == 0 {
		if p.c.Requests > 0 {
			p.x = append(p.x, p.c.Rate())
		}
		if p.b.Requests > 0 {
			p.y = append(p.y, p.b.Rate())
		}
		p.c, p.b = analysis.Counts{}, analysis.Counts{}
	}
	if s%300 != 0 {
		return goOn
	}
	passed := pipecdPasses(p.x, p.y)
	p.x, p.y = nil, nil
	switch {
	case !passed:
		return cut
	case s >= 1800 && !p.common:
		return promote
	}
	return goOn
}

func pipecdPasses(x, y []float64) bool {
	if len(x) == 0 || len(y) == 0 {
		return len(x) == len(y)
	}
	return higher(x, y) > pipecdAlpha
}

// higher is the exact chance, ties included, that the ranks of x among all would be as high as they are if x and y were
// alike; 1 where all values are the same.
func higher(x, y []float64) float64 {
	all := slices.Sorted(slices.Values(slices.Concat(x, y)))
	if all[0] == all[len(all)-1] {
		return 1
	}
	rank := func(v float64) int { // twice the mean of those who share it
		i, _ := slices.BinarySearch(all, v)
		j, _ := slices.BinarySearch(all, math.Nextafter(v, math.Inf(1)))
		return i + j + 1
	}
	seen, most := 0, 0
	for _, v := range x {
		seen += rank(v)
	}
	for _, v := range all {
		most += rank(v)
	}
	ways := make([][]float64, len(x)+1) // by how many are taken, and their sum of ranks
	for i := range ways {
		ways[i] = make([]float64, most+1)
	}
	ways[0][0] = 1
	for _, v := range all {
		r := rank(v)
		for n := len(x); n > 0; n-- {
			for sum := most; sum >= r; sum-- {
				ways[n][sum] += ways[n-1][sum-r]
			}
		}
	}
	high, total := 0.0, 0.0
	for sum, n := range ways[len(x)] {
		total += n
		if sum >= seen {
			high += n
		}
	}
	return high / total
}
