package analysis

import (
	"fmt"
	"math"
	"slices"
)

// Times are how long one endpoint's answers took. Invariant: UpTo rises strictly, and len(N) = len(UpTo)+1.
type Times struct {
	Name string    `json:"name,omitempty"` // the endpoint; empty: the source does not tell
	UpTo []float64 `json:"up_to"`          // seconds, inclusive
	N    []float64 `json:"n"`              // answers between the bound before and this one; the last: beyond all bounds
}

// Took are answers of an endpoint that took so many whole milliseconds to their first byte, rounded down.
type Took struct {
	Endpoint string
	Millis   int
	N        float64
}

// timesMost bounds a stored histogram.
const timesMost = 256

// Bounds are those of a histogram of durations, in seconds: eight to each power of ten from 1 ms to 60 s, and the given
// edges. Answers later than an edge are counted exactly then.
func Bounds(edges []float64) []float64 {
	var bounds []float64
	for unit := 1; unit <= 10_000; unit *= 10 {
		for _, tenths := range []int{10, 15, 20, 30, 40, 50, 60, 80} {
			if ms := tenths * unit; ms%10 == 0 && ms <= 600_000 { // 1.5 ms is no whole one
				bounds = append(bounds, float64(ms/10)/1000)
			}
		}
	}
	for _, e := range edges {
		if e > 0 && !math.IsInf(e, 0) {
			bounds = append(bounds, e)
		}
	}
	slices.Sort(bounds)
	return slices.Compact(bounds)
}

// Put counts n answers that took at least so many whole milliseconds, and not one more. What took that long to the
// microsecond is later than a bound of as many milliseconds.
func (t *Times) Put(millis int, n float64) {
	if t.N == nil {
		t.N = make([]float64, len(t.UpTo)+1)
	}
	i, _ := slices.BinarySearch(t.UpTo, float64(millis+1)/1000)
	t.N[i] += n
}

// All are the answers of a histogram.
func (t *Times) All() (n float64) {
	for _, k := range t.N {
		n += k
	}
	return n
}

// JoinTimes adds histograms to those of the same names. Of two with other bounds those remain that both have.
func JoinTimes(into, more []Times) []Times {
	out := slices.Clone(into)
	for _, t := range more {
		i := slices.IndexFunc(out, func(o Times) bool { return o.Name == t.Name })
		if i < 0 {
			out = append(out, t)
			continue
		}
		out[i] = out[i].plus(t)
	}
	return out
}

// plus leaves both as they are: others may have them.
func (t Times) plus(o Times) Times {
	if slices.Equal(t.UpTo, o.UpTo) {
		sum := Times{t.Name, t.UpTo, slices.Clone(t.N)}
		for i, n := range o.N {
			sum.N[i] += n
		}
		return sum
	}
	sum := Times{Name: t.Name}
	for _, b := range t.UpTo {
		if _, both := slices.BinarySearch(o.UpTo, b); both {
			sum.UpTo = append(sum.UpTo, b)
		}
	}
	sum.N = make([]float64, len(sum.UpTo)+1)
	for _, h := range []Times{t, o} {
		for i, n := range h.N {
			at := len(sum.UpTo)
			if i < len(h.UpTo) {
				at, _ = slices.BinarySearch(sum.UpTo, h.UpTo[i])
			}
			sum.N[at] += n
		}
	}
	return sum
}

// Sound says what makes a histogram unusable, nil when nothing does.
func (t *Times) Sound() error {
	if len(t.UpTo) > timesMost || len(t.N) != len(t.UpTo)+1 {
		return fmt.Errorf("a histogram has %d bounds and %d counts", len(t.UpTo), len(t.N))
	}
	for i, b := range t.UpTo {
		if !(b > 0 && b <= mostCount) || i > 0 && b <= t.UpTo[i-1] {
			return fmt.Errorf("the bounds of a histogram do not rise: %g s is out of order", b)
		}
	}
	return each("count", mostCount, t.N...)
}
