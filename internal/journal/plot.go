package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

const (
	// PointsMost is how many points one plot may rest on: eleven days of a release.
	PointsMost = 200_000
	// BucketsMost is how many buckets one has at most.
	BucketsMost = 5000

	usualBuckets = 500
	leastStep    = 5 * time.Second // points are no closer, but for those of decisions
)

// ErrTooLong says that a plot would rest on too many points.
var ErrTooLong = fmt.Errorf("more than %d points of the journal lie between: ask for a shorter time, with `from` and `to`", PointsMost)

// Bucket is an interval of a plot. What was counted lies within it; weight and evidence are those at its end.
type Bucket struct {
	From      time.Time         `json:"from"`
	Requests  float64           `json:"requests"`
	Errors    float64           `json:"errors"`
	Stable    analysis.Counts   `json:"stable"`
	Phase     string            `json:"phase"`
	Weight    float64           `json:"weight"`    // decided, 0 to 1
	Evidence  float64           `json:"evidence"`  // against the version: it is cut at Threshold; 0: it is not judged
	Threshold float64           `json:"threshold"` // and this is 0, too
	Promotion float64           `json:"promotion"` // evidence for it: it may be promoted at PromoteAt
	PromoteAt float64           `json:"promote_at"`
	Slow      []SlowBucket      `json:"slow,omitempty"`    // at each edge; none: it is not judged how long its answers take
	Classes   []ClassBucket     `json:"classes,omitempty"` // none: all requests are judged together
	Decisions []json.RawMessage `json:"decisions,omitempty"`
}

// Plot is what is drawn of one version.
type Plot struct {
	Service string
	Version string
	From    time.Time // zero: from its latest attempt on
	To      time.Time // zero: up to the last point

	points  []plotted
	records []dated
	gaps    []GapSpan
	last    time.Time
}

type plotted struct {
	at     time.Time
	own    Stand
	stable Stand
}

type dated struct {
	at  time.Time
	raw json.RawMessage
}

// Take takes in what stands beside the events of a chunk. Broken is why not all of it could be read.
func (p *Plot) Take(c *Chunk, broken error) error {
	if broken != nil {
		p.gap(c.At, c.At, "a part cannot be read: "+broken.Error())
	}
	if !c.Lost.IsZero() {
		p.gap(c.Lost, c.At, string(c.Why))
	}
	for _, x := range c.Points {
		if x.At.Before(p.From) && !p.From.IsZero() || x.At.After(p.To) && !p.To.IsZero() {
			continue
		}
		own := slices.IndexFunc(x.Versions, func(s Stand) bool { return s.Version == p.Version })
		if own < 0 {
			continue
		}
		pt := plotted{at: x.At, own: x.Versions[own]}
		if i := slices.IndexFunc(x.Versions, func(s Stand) bool { return s.Version == x.Stable }); i >= 0 && i != own {
			pt.stable = x.Versions[i]
		}
		p.points = append(p.points, pt)
	}
	for _, raw := range c.Records {
		var r struct {
			At      time.Time `json:"at"`
			Version string    `json:"version"`
		}
		if json.Unmarshal(raw, &r) == nil && r.Version == p.Version {
			p.records = append(p.records, dated{r.At, raw})
		}
	}
	if len(p.points) > PointsMost {
		return ErrTooLong
	}
	return nil
}

func (p *Plot) gap(from, to time.Time, why string) {
	if (p.To.IsZero() || !from.After(p.To)) && !to.Before(p.From) {
		p.gaps = append(p.gaps, GapSpan{from, to, why})
	}
}

// Evidence is a plot as it is answered. A bucket of which nothing is in the journal is left out.
type Evidence struct {
	Service string    `json:"service"`
	Version string    `json:"version"`
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Step    float64   `json:"step"` // seconds
	Buckets []Bucket  `json:"buckets"`
	Gaps    []GapSpan `json:"gaps"`
}

// Buckets are the plot in intervals of a length; 0: as many as are usual.
func (p *Plot) Buckets(step time.Duration) (Evidence, error) {
	slices.SortStableFunc(p.points, func(a, b plotted) int { return a.at.Compare(b.at) })
	e := Evidence{Service: p.Service, Version: p.Version, From: p.From, To: p.To, Buckets: []Bucket{}, Gaps: append([]GapSpan{}, p.gaps...)}
	if e.From.IsZero() {
		p.latest()
	}
	if n := len(p.points); n > 0 {
		if e.From.IsZero() {
			e.From = p.points[0].at
		}
		if e.To.IsZero() {
			e.To = p.points[n-1].at
		}
	} else if e.To.IsZero() {
		e.To = e.From
	}
	span := max(0, e.To.Sub(e.From))
	if step == 0 {
		step = max(leastStep, (span/usualBuckets + time.Second - 1).Truncate(time.Second))
	}
	if span/step > BucketsMost {
		return e, errors.New("that is too many buckets: ask for a longer `step`, or a shorter time")
	}
	e.Step = step.Seconds()
	p.fill(&e, step)
	return e, nil
}

// latest leaves the points of the latest attempt.
func (p *Plot) latest() {
	attempt := 0
	for _, x := range p.points {
		attempt = max(attempt, x.own.Attempt)
	}
	p.points = slices.DeleteFunc(p.points, func(x plotted) bool { return x.own.Attempt != attempt })
	if len(p.points) > 0 {
		p.records = slices.DeleteFunc(p.records, func(r dated) bool { return r.at.Before(p.points[0].at.Add(-leastStep)) })
	}
}

func (p *Plot) fill(e *Evidence, step time.Duration) {
	var before plotted
	index := func(at time.Time) int { return int(at.Sub(e.From) / step) }
	for _, x := range p.points {
		i := index(x.at)
		if n := len(e.Buckets); n == 0 || index(e.Buckets[n-1].From) != i {
			e.Buckets = append(e.Buckets, Bucket{From: e.From.Add(time.Duration(i) * step)})
		}
		b := &e.Buckets[len(e.Buckets)-1]
		own := grown(before.own, x.own)
		b.Requests, b.Errors = b.Requests+own.Requests, b.Errors+own.Errors
		b.Stable = b.Stable.Add(grown(before.stable, x.stable))
		b.slow(before.own, x.own)
		b.byClass(before.own, x.own)
		b.Phase, b.Weight = string(x.own.Phase), float64(x.own.Weight)/10000
		b.Evidence, b.Threshold, b.Promotion, b.PromoteAt = x.own.Evidence, x.own.Threshold, x.own.Promotion, x.own.PromoteAt
		before = x
	}
	for _, r := range p.records {
		i := index(r.at)
		n, found := slices.BinarySearchFunc(e.Buckets, i, func(b Bucket, i int) int { return index(b.From) - i })
		if n == len(e.Buckets) && n > 0 && !r.at.After(e.To) {
			n, found = n-1, true
		}
		if found {
			e.Buckets[n].Decisions = append(e.Buckets[n].Decisions, r.raw)
		}
	}
}

// grown is what was counted between two points: of the version that is meant in both, by the same attempt. The first point of
// one whose counts began before says nothing.
func grown(was, is Stand) analysis.Counts {
	if was.Version != is.Version || was.Attempt != is.Attempt {
		return analysis.Counts{}
	}
	return more(was.Counts, is.Counts)
}

func more(was, is analysis.Counts) analysis.Counts {
	return analysis.Counts{Requests: max(0, is.Requests-was.Requests), Errors: max(0, is.Errors-was.Errors)}
}
