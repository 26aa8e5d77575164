package journal

import (
	"math"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Pace is what was judged of how long answers take, at one edge. "Errors" are slow answers.
type Pace struct {
	After    float64         // seconds: what took longer is slow
	Canary   analysis.Counts // since it is judged; so is Stable
	Stable   analysis.Counts
	Evidence float64 // that it is slower
}

func pacesOf(j *analysis.Judge) (all []Pace) {
	if j.Slow == nil || j.Slow.At == 0 {
		return nil
	}
	for i := range j.Slow.Edges {
		e := &j.Slow.Edges[i]
		all = append(all, Pace{e.After, e.Judged.Canary, e.Judged.Stable, e.Capital.E})
	}
	return all
}

// paces writes those of a point's versions.
func (o *out) paces(versions []Stand) {
	ofVersions(o, aPaces, versions, func(s *Stand) []Pace { return s.Paces }, func(p Pace) {
		o.number(p.After)
		o.counts(p.Canary)
		o.counts(p.Stable)
		o.single(p.Evidence)
	})
}

// paces reads them into the last of some points.
func (i *in) paces(points []Point) {
	intoVersions(i, points, func() Pace {
		p := Pace{After: i.number(), Canary: i.counts(), Stable: i.counts(), Evidence: i.single()}
		if !(p.After > 0) || math.IsInf(p.After, 0) || p.Canary.Sound() != nil || p.Stable.Sound() != nil {
			i.fail()
		}
		return p
	}, func(s *Stand, all []Pace) { s.Paces = all })
}

// SlowBucket are the answers of an interval that were judged by how long they took, at one edge.
type SlowBucket struct {
	Edge           float64 `json:"edge"` // seconds: what took longer is slow
	Requests       float64 `json:"requests"`
	Slow           float64 `json:"slow"`
	StableRequests float64 `json:"stable_requests"`
	StableSlow     float64 `json:"stable_slow"`
	Evidence       float64 `json:"evidence"` // that the version is slower, at the end of the interval; the mean over the edges holds it at 20
}

// slow adds to a bucket what was judged between two points, at the edges that both know.
func (b *Bucket) slow(was, is Stand) {
	if was.Version != is.Version || was.Attempt != is.Attempt {
		was.Paces = nil
	}
	for _, p := range is.Paces {
		s := b.edge(p.After)
		s.Evidence = p.Evidence
		for _, w := range was.Paces {
			if w.After == p.After {
				own, stable := more(w.Canary, p.Canary), more(w.Stable, p.Stable)
				s.Requests, s.Slow = s.Requests+own.Requests, s.Slow+own.Errors
				s.StableRequests, s.StableSlow = s.StableRequests+stable.Requests, s.StableSlow+stable.Errors
			}
		}
	}
}

func (b *Bucket) edge(after float64) *SlowBucket {
	return entry(&b.Slow, func(s *SlowBucket) bool { return s.Edge == after }, SlowBucket{Edge: after})
}
