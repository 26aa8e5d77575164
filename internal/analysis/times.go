package analysis

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

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

// JoinAnswers adds answers to those of the same class, code and endpoint.
func JoinAnswers(into, more []Answer) []Answer {
	out := append(slices.Clone(into), more...)
	slices.SortStableFunc(out, Answer.compare)
	kept := out[:0]
	for _, a := range out {
		if last := len(kept) - 1; last >= 0 && kept[last].compare(a) == 0 {
			kept[last].Counts = kept[last].Counts.Add(a.Counts)
			continue
		}
		kept = append(kept, a)
	}
	return kept
}

func (a Answer) compare(o Answer) int {
	return cmp.Or(cmp.Compare(a.Class, o.Class), cmp.Compare(a.Code, o.Code), cmp.Compare(a.Endpoint, o.Endpoint))
}

// FitAnswers takes answers away until they are no more than the requests, nor the failed ones more than the errors, of which
// they are parts: they are counted a moment later. It takes from the most frequent ones.
func FitAnswers(answers []Answer, within Counts) []Answer {
	sum := Counts{}
	for _, a := range answers {
		sum = sum.Add(a.Counts)
	}
	failed := math.Min(sum.Errors, within.Errors)
	answers = lessen(answers, sum.Errors-failed, func(a Answer) bool { return a.Errors > 0 })
	ok := math.Min(sum.Requests-sum.Errors, within.Requests-failed)
	return lessen(answers, sum.Requests-sum.Errors-ok, func(a Answer) bool { return a.Errors == 0 })
}

// lessen takes some of those answers away of which is holds. An answer is a failure or it is none.
func lessen(answers []Answer, by float64, is func(Answer) bool) []Answer {
	if by <= 0 {
		return answers
	}
	answers = slices.Clone(answers)
	order := make([]int, 0, len(answers))
	for i, a := range answers {
		if is(a) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(answers[j].Requests, answers[i].Requests) })
	for _, i := range order {
		a := &answers[i]
		less := math.Min(by, a.Requests)
		a.Requests, by = a.Requests-less, by-less
		a.Errors = math.Min(a.Errors, a.Requests)
	}
	return slices.DeleteFunc(answers, func(a Answer) bool { return a.Requests <= 0 })
}
