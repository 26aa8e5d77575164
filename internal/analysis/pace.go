package analysis

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Pace is how long stable's answers take: a day of them, and how the slow ones come together. It is carried from release to release.
// (STATISTICS-2.md 2.1, 2.3)
type Pace struct {
	At    float64    `json:"at,omitempty"`   // seconds of the last answers
	Day   Times      `json:"day,omitzero"`   // half-life 24 hours, with the bounds that all of it has
	Anew  Times      `json:"anew,omitzero"`  // what came since bounds are told that the day has not
	Since float64    `json:"since,omitzero"` // seconds: that long
	Edges []PaceEdge `json:"edges,omitempty"`
}

// PaceEdge is how answers that took longer than an edge come.
type PaceEdge struct {
	After      float64    `json:"after"` // seconds
	Usual      Usual      `json:"usual"` // errors are slow answers
	Dispersion Dispersion `json:"dispersion"`
}

// mostPaced is how many edges stable's pace is known at, with those of releases that began at others.
const mostPaced = 4 * MostEdges

// leastTimed is how many answers have to be known before edges are made of them.
const leastTimed = 1000.0

// anewAfter is for how many seconds other bounds have to be told before they may take the place of the day's: until then every proxy has told
// its own.
const anewAfter = 600.0

// sought are the shares of slow answers that edges are looked for at, and how far from that an edge may be. p50 is none of them: a
// regression moves the share above it least.
var sought = [...]struct{ share, least, most float64 }{{0.1, 0.03, 0.3}, {0.01, 0.003, 0.03}}

// wander is how far an edge's share may move from what is sought before another edge takes its place, which would have to learn anew
// how slow answers come together.
const wander = 1.8

// Learn takes in stable's answers of a tick, by endpoint where that is known. Edges are those that are configured, of each that is said of
// them, or, without any, of stable's own day; those that are held, by which releases are judged, stay.
func (p *Pace) Learn(now float64, configured [][]float64, held []float64, times []Times, bucketed func([]Slice) []Slice) {
	p.remember(now, times)
	want := slices.Clone(held)
	for _, edges := range configured {
		want = append(want, p.Choose(edges)...)
	}
	p.keep(want)
	for i := range p.Edges {
		e := &p.Edges[i]
		parts := Slowed(times, e.After)
		if len(parts) == 0 {
			continue
		}
		if slices.ContainsFunc(parts, func(s Slice) bool { return s.Name == "" }) { // never by Envoy: all of them see the same pause
			parts = []Slice{{Counts: sumOf(parts)}}
		}
		parts = Join(nil, parts)
		e.Usual.Add(now, sumOf(parts))
		e.Dispersion.Add(now, bucketed(parts), e.Usual.Rate())
	}
}

// remember adds answers to those of the day.
func (p *Pace) remember(now float64, times []Times) {
	if p.At > 0 && now > p.At {
		keep := math.Exp2(-(now - p.At) / halfLife)
		for i := range p.Day.N {
			p.Day.N[i] *= keep
		}
	}
	p.At = max(p.At, now)
	for _, t := range times {
		t.Name = ""
		switch {
		case p.Day.N == nil:
			p.Day = Times{UpTo: slices.Clone(t.UpTo), N: slices.Clone(t.N)}
		case slices.Equal(p.Day.UpTo, t.UpTo):
			for i, n := range t.N {
				p.Day.N[i] += n
			}
		default:
			p.Day = p.Day.plus(t)
		}
		p.begin(now, t)
	}
	if now-p.Since < anewAfter || p.Anew.All() < leastTimed {
		return
	}
	if len(p.own(&p.Anew)) > len(p.own(&p.Day)) {
		p.Day = Times{UpTo: p.Anew.UpTo, N: slices.Clone(p.Anew.N)}
	}
	p.Anew, p.Since = Times{}, 0
}

// begin keeps what comes with other bounds than the day has: another source's, or those that a person gave. The day would only lose bounds.
func (p *Pace) begin(now float64, t Times) {
	switch {
	case p.Anew.N != nil:
		p.Anew = p.Anew.plus(t)
	case !slices.Equal(p.Day.UpTo, t.UpTo):
		p.Anew, p.Since = Times{UpTo: slices.Clone(t.UpTo), N: slices.Clone(t.N)}, now
	}
}

// keep has the edges that are wanted, with what is known of those that stay.
func (p *Pace) keep(want []float64) {
	slices.Sort(want)
	want = slices.Compact(want)
	want = want[:min(len(want), mostPaced)]
	if slices.EqualFunc(p.Edges, want, func(e PaceEdge, after float64) bool { return e.After == after }) {
		return
	}
	var next []PaceEdge
	for _, after := range want {
		e := PaceEdge{After: after}
		if i := slices.IndexFunc(p.Edges, func(o PaceEdge) bool { return o.After == after }); i >= 0 {
			e = p.Edges[i]
		}
		next = append(next, e)
	}
	p.Edges = next
}

// own are the edges of a day of stable's own: the bounds nearest to the shares that are sought. One that is in place stays as long as it is near.
func (p *Pace) own(day *Times) (edges []float64) {
	if day.All() < leastTimed {
		return nil
	}
	for _, s := range sought {
		best, at := math.Inf(1), 0.0
		for _, bound := range day.UpTo {
			share, _ := day.Beyond(bound)
			if share < s.least || share > s.most {
				continue
			}
			far := math.Abs(math.Log(share / s.share))
			if far <= math.Log(wander) && slices.ContainsFunc(p.Edges, func(e PaceEdge) bool { return e.After == bound }) {
				far = -1
			}
			if far < best {
				best, at = far, bound
			}
		}
		if at > 0 && !slices.Contains(edges, at) {
			edges = append(edges, at)
		}
	}
	slices.Sort(edges)
	return edges
}

// Choose is by which edges a release that begins now is judged: those that are configured, else stable's own; none: too little is known
// of how long its answers take.
func (p *Pace) Choose(configured []float64) []float64 {
	if len(configured) > 0 {
		return slices.Clone(configured)
	}
	return p.own(&p.Day)
}

// Bound is how many slow answers one cause produces together, at an edge.
func (p *Pace) Bound(after float64) float64 {
	for i := range p.Edges {
		if p.Edges[i].After == after {
			return p.Edges[i].Dispersion.Bound()
		}
	}
	return clumpDefault
}

// Clone returns a copy that shares nothing.
func (p Pace) Clone() Pace {
	p.Day.UpTo, p.Day.N = slices.Clone(p.Day.UpTo), slices.Clone(p.Day.N) // Anew is never changed in place
	p.Edges = slices.Clone(p.Edges)
	for i := range p.Edges {
		p.Edges[i].Dispersion = p.Edges[i].Dispersion.Clone()
	}
	return p
}

// Shift moves its clock, where the clock that it was read from was set.
func (p *Pace) Shift(by float64) {
	if p.At != 0 {
		p.At += by
	}
	if p.Since != 0 {
		p.Since += by
	}
	for i := range p.Edges {
		p.Edges[i].Usual.Shift(by)
		p.Edges[i].Dispersion.Shift(by)
	}
}

// Sound says what makes a stored pace unusable, nil when nothing does.
func (p *Pace) Sound() error {
	if len(p.Edges) > mostPaced {
		return fmt.Errorf("%d edges of slow answers: at most %d", len(p.Edges), mostPaced)
	}
	err := seconds(p.At, p.Since)
	for _, day := range []*Times{&p.Day, &p.Anew} {
		if day.N != nil || day.UpTo != nil {
			err = errors.Join(err, day.Sound())
		}
	}
	for i := range p.Edges {
		err = errors.Join(err, each("edge", mostSeconds, p.Edges[i].After), p.Edges[i].Usual.Sound(), p.Edges[i].Dispersion.Sound())
	}
	return err
}

// Beyond is the share of a histogram's answers that took longer than a bound; false: it is no bound, or there are none.
func (t *Times) Beyond(after float64) (share float64, known bool) {
	n, known := t.beyond(after)
	if all := t.All(); known && all > 0 {
		return n / all, true
	}
	return 0, false
}

func (t *Times) beyond(after float64) (n float64, known bool) {
	i, known := slices.BinarySearch(t.UpTo, after)
	if !known {
		return 0, false
	}
	for _, k := range t.N[i+1:] {
		n += k
	}
	return n, true
}

// Slowed are the answers of each histogram that has an edge as a bound, with those that took longer as errors.
func Slowed(times []Times, after float64) (all []Slice) {
	for i := range times {
		if slow, known := times[i].beyond(after); known {
			all = append(all, Slice{times[i].Name, Counts{times[i].All(), slow}})
		}
	}
	return all
}

// SlowOf are all answers of some histograms, with those that took longer than an edge as errors; false: it is no bound of one of them.
func SlowOf(times []Times, after float64) (sum Counts, known bool) {
	for i := range times {
		slow, known := times[i].beyond(after)
		if !known {
			return Counts{}, false
		}
		sum = sum.Add(Counts{times[i].All(), slow})
	}
	return sum, true
}

func sumOf(all []Slice) (sum Counts) {
	for _, s := range all {
		sum = sum.Add(s.Counts)
	}
	return sum
}
