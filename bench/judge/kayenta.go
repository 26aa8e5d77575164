package main

import (
	"math"
	"slices"
)

// Kayenta's judge: Mann-Whitney with the Hodges-Lehmann estimate, tolerance 0.25, confidence 0.98,
// direction increase, as PEERS section 2C gives it.

const (
	kayentaTolerance = 0.25
	kayentaZ         = 2.3263478740408408 // -Phi^-1((1-0.98)/2)
)

// kayentaHigh reports whether the experiment x is judged higher than the control y.
func kayentaHigh(x, y []float64) bool {
	lo, _, est, ok := mannWhitney(x, y, kayentaZ)
	return ok && lo > kayentaTolerance*math.Abs(est)
}

// mannWhitney returns the confidence interval and the estimate of the shift; ok is false where the
// classifier passes without a test.
func mannWhitney(x, y []float64, z float64) (lo, hi, est float64, ok bool) {
	if len(x) == 0 || len(y) == 0 {
		return 0, 0, 0, false
	}
	sx, sy := slices.Clone(x), slices.Clone(y)
	slices.Sort(sx)
	slices.Sort(sy)
	if slices.Equal(sx, sy) || len(slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(sx), sy...))))) == 1 {
		return 0, 0, 0, false
	}
	if sx[0] == sx[len(sx)-1] && sy[0] == sy[len(sy)-1] { // both constant: noise would be added
		d := sx[0] - sy[0]
		return d, d, d, true
	}
	muMin, muMax := sx[0]-sy[len(sy)-1], sx[len(sx)-1]-sy[0]
	f := func(zq float64) float64 { return rootOf(sx, sy, zq, muMin, muMax) }
	return f(z), f(-z), f(0), true
}

// rootOf finds mu with wilcoxon(x - mu, y) = zq. The statistic falls in steps as mu rises.
func rootOf(x, y []float64, zq, lo, hi float64) float64 {
	wd := func(mu float64) float64 { return wilcoxon(x, y, mu) - zq }
	if wd(lo) <= 0 {
		return lo
	}
	if wd(hi) >= 0 {
		return hi
	}
	return brent(wd, lo, hi, 1e-4, 1000)
}

// brent is the root finder that R and Kayenta use. The statistic jumps, so its verdicts depend on
// where exactly this one stops.
func brent(f func(float64) float64, a, b, tol float64, most int) float64 {
	fa, fb := f(a), f(b)
	c, fc := a, fa
	for range most {
		prev := b - a
		if math.Abs(fc) < math.Abs(fb) {
			a, b, c = b, c, b
			fa, fb, fc = fb, fc, fb
		}
		enough := 2*2.220446e-16*math.Abs(b) + tol/2
		step := (c - b) / 2
		if math.Abs(step) <= enough || fb == 0 {
			return b
		}
		if math.Abs(prev) >= enough && math.Abs(fa) > math.Abs(fb) {
			if p, q := interpolate(a, b, c, fa, fb, fc); p < 0.75*(c-b)*q-math.Abs(enough*q)/2 && p < math.Abs(prev*q/2) {
				step = p / q
			}
		}
		if math.Abs(step) < enough {
			step = math.Copysign(enough, step)
		}
		a, fa = b, fb
		b += step
		fb = f(b)
		if fb > 0 == (fc > 0) && fb != 0 {
			c, fc = a, fa
		}
	}
	return b
}

func interpolate(a, b, c, fa, fb, fc float64) (p, q float64) {
	cb := c - b
	if a == c {
		t := fb / fa
		p, q = cb*t, 1-t
	} else {
		r, t1, t2 := fa/fc, fb/fc, fb/fa
		p, q = t2*(cb*r*(r-t1)-(b-a)*(t1-1)), (r-1)*(t1-1)*(t2-1)
	}
	if p > 0 {
		return p, -q
	}
	return -p, q
}

func wilcoxon(x, y []float64, mu float64) float64 {
	type value struct {
		v    float64
		from int
	}
	var all []value
	for _, v := range x {
		all = append(all, value{v - mu, 0})
	}
	for _, v := range y {
		all = append(all, value{v, 1})
	}
	slices.SortFunc(all, func(a, b value) int {
		switch {
		case a.v < b.v:
			return -1
		case a.v > b.v:
			return 1
		}
		return 0
	})
	n, m := float64(len(x)), float64(len(y))
	sum, ties := 0.0, 0.0
	for i := 0; i < len(all); {
		j := i
		for j < len(all) && all[j].v == all[i].v {
			j++
		}
		rank, t := float64(i+j+1)/2, float64(j-i)
		ties += t*t*t - t
		for ; i < j; i++ {
			if all[i].from == 0 {
				sum += rank
			}
		}
	}
	dz := sum - n*(n+1)/2 - n*m/2
	sigma := math.Sqrt(n * m / 12 * ((n + m + 1) - ties/((n+m)*(n+m-1))))
	if sigma == 0 {
		return 0
	}
	corr := 0.0
	if dz > 0 {
		corr = 0.5
	} else if dz < 0 {
		corr = -0.5
	}
	return (dz - corr) / sigma
}
