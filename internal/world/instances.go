package world

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Instances are what the versions consist of. Each gets an equal part of its version's requests.
type Instances struct {
	Stable, Canary int // 0: one
	Moments        Moments
	Hiccup         Hiccup
}

// Moments are times in which a single instance fails, or is slow: a pause, a restart of its cache, a noisy neighbour. Each instance has its own.
type Moments struct {
	PerHour           float64 // of each instance
	Shortest, Longest time.Duration
	Fails             float64 // share of its requests, 0 to 1
}

// Hiccup is one moment in which the canary's first instance fails everything.
type Hiccup struct {
	At, For time.Duration // since the announcement
	Within  time.Duration // it comes so much later than At at most, by chance
}

// falls draws when it comes.
func (h Hiccup) falls(r *rand.Rand) Hiccup {
	if h.Within > 0 {
		h.At += time.Duration(r.Int64N(int64(h.Within)))
	}
	return h
}

// instance is one of a version's.
type instance struct {
	name   string
	moment moment
	fails  float64 // share of its present requests that its moment fails
	lags   lags
}

// moment is the present or next one of an instance.
type moment struct{ begin, end time.Time }

// crew are the instances of a version.
type crew []*instance

func newCrew(n int, host string) (c crew, endpoints []string) {
	for i := range max(n, 1) {
		name := fmt.Sprintf("%s:%d", host, i+1)
		c, endpoints = append(c, &instance{name: name}), append(endpoints, name)
	}
	return c, endpoints
}

// clone is the same crew, with moments of its own from now on.
func (c crew) clone() (d crew) {
	for _, x := range c {
		y := *x
		d = append(d, &y)
	}
	return d
}

func (c crew) names() (all []string) {
	for _, x := range c {
		all = append(all, x.name)
	}
	return all
}

// failing finds which share of an interval's requests each instance fails for its moments.
func (i Instances) failing(r *rand.Rand, from time.Time, batch time.Duration, all crew) {
	for _, x := range all {
		x.fails = 0
		if i.Moments.PerHour > 0 {
			x.fails = x.moment.share(r, i.Moments, from, batch)
		}
	}
}

// share is which part of an interval's requests its moments take.
func (x *moment) share(r *rand.Rand, m Moments, from time.Time, batch time.Duration) float64 {
	seconds, to := 0.0, from.Add(batch)
	for {
		if !x.end.After(from) {
			x.begin = from.Add(time.Duration(r.ExpFloat64() / m.PerHour * float64(time.Hour)))
			x.end = x.begin.Add(m.Shortest + time.Duration(r.Float64()*float64(m.Longest-m.Shortest)))
		}
		seconds += overlap(from, to, x.begin, x.end)
		if !x.end.Before(to) {
			return seconds / batch.Seconds() * m.Fails
		}
		from = x.end
	}
}

func overlap(from, to, begin, end time.Time) float64 {
	if begin.After(from) {
		from = begin
	}
	if end.Before(to) {
		to = end
	}
	return max(0, to.Sub(from).Seconds())
}

// count draws what a version's instances answered in an interval of mean requests, where a rate of them fails anyway.
func (c crew) count(r *rand.Rand, mean, rate float64) (sum analysis.Counts, each []analysis.Slice) {
	each = make([]analysis.Slice, 0, len(c))
	for _, x := range c {
		one := x.count(r, mean/float64(len(c)), rate)
		sum, each = sum.Add(one), append(each, analysis.Slice{Name: x.name, Counts: one})
	}
	return sum, each
}

// count draws what one instance answered.
func (x *instance) count(r *rand.Rand, mean, rate float64) analysis.Counts {
	n := poisson(r, mean)
	bad := failed(r, n, rate)
	if f := min(x.fails, 1); f > 0 {
		bad = math.Min(n, math.Round(n*f)+bad)
	}
	return analysis.Counts{Requests: n, Errors: bad}
}
