package analysis

import "math"

const ratios = 61

// Interval is a 95 % confidence sequence for the ratio of the two error rates, for people to look at.
// (STATISTICS.md 2.10)
type Interval struct {
	L [ratios]float64 `json:"l"`
}

func ratio(i int) float64 { return math.Exp2(-6 + 0.2*float64(i)) }

// ratioGrid and ratioLogs are the ratios and their logarithms.
var ratioGrid, ratioLogs = func() (g, l [ratios]float64) {
	for i := range g {
		g[i] = ratio(i)
		l[i] = math.Log(g[i])
	}
	return g, l
}()

// ratioWeights favour ratios near 1.
var ratioWeights = func() (w [ratios]float64) {
	sum := 0.0
	for i := range w {
		l := math.Log(ratio(i))
		w[i] = 1 / (1 + l*l)
		sum += w[i]
	}
	for i := range w {
		w[i] /= sum
	}
	return w
}()

// Update adds one batch; a batch without errors says nothing about the ratio.
func (iv *Interval) Update(b Batch, m float64) {
	x := b.Canary.Errors + b.Stable.Errors
	if x <= 0 || b.Canary.Requests <= 0 || b.Stable.Requests <= 0 {
		return
	}
	r := b.Stable.Requests / b.Canary.Requests
	for i := range iv.L {
		iv.L[i] += (b.Canary.Errors*ratioLogs[i] - x*math.Log((ratioGrid[i]+r)/(1+r))) / m
	}
}

// Bounds is the interval, widened by one grid cell on each side; 0 and +Inf where it is open.
func (iv *Interval) Bounds() (lo, hi float64) {
	top := iv.L[0]
	for _, l := range iv.L {
		top = max(top, l)
	}
	sum := 0.0
	for i, l := range iv.L {
		sum += ratioWeights[i] * math.Exp(l-top)
	}
	limit := top + math.Log(sum) - math.Log(20)
	first, last := -1, -1
	for i, l := range iv.L {
		if l > limit {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	lo, hi = 0, math.Inf(1)
	if first > 0 {
		lo = ratio(first - 1)
	}
	if last >= 0 && last < ratios-1 {
		hi = ratio(last + 1)
	}
	return lo, hi
}
