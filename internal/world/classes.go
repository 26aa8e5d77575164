package world

import (
	"math/rand/v2"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Class is a kind of requests, and how it differs from the others. Rates are fractions of 1.
type Class struct {
	Name   string
	Share  float64 // of the requests
	Mixed  float64 // of the canary's requests, where its mix is another one; 0: Share
	Stable float64 // its error rate is so much above the question's, or below
	Canary float64 // and so much above that of the canary, from Question.Onset on; before that as much as Stable
}

// Told is what of the answers the evidence says.
type Told struct {
	Nothing    bool    // counts only, whatever the classes
	Unanswered float64 // part of the failures that get no answer: nobody knows their class
}

// mixed is the class's part of a version's requests.
func (c *Class) mixed(canary bool) float64 {
	if canary && c.Mixed > 0 {
		return c.Mixed
	}
	return c.Share
}

// rate is its error rate, where the version's is usual.
func (c *Class) rate(canary, begun bool, usual float64) float64 {
	if canary && begun {
		return min(max(usual+c.Canary, 0), 1)
	}
	return min(max(usual+c.Stable, 0), 1)
}

// excess is by how much the canary's error rate is above stable's on average, at a time when theirs are usual.
func (q *Question) excess(begun bool, stable, canary float64) (sum float64) {
	if len(q.Classes) == 0 {
		return max(0, canary-stable)
	}
	for i := range q.Classes {
		c := &q.Classes[i]
		sum += c.mixed(true) * max(0, c.rate(true, begun, canary)-c.rate(false, begun, stable))
	}
	return sum
}

// one is how an Envoy counts a version in an interval.
type one struct {
	version string
	canary  bool
	mean    float64 // requests
	usual   float64 // error rate
	crew    crew
}

// count draws what an Envoy counts of a version: in all, by endpoint, and by class where there are any.
func (q *Question) count(r *rand.Rand, c *rollout.Cell, v one, begun bool) {
	if len(q.Classes) == 0 {
		c.Counts[v.version], c.Endpoints[v.version] = v.crew.count(r, v.mean, v.usual)
		return
	}
	var sum analysis.Counts
	each := make([]analysis.Slice, len(v.crew))
	answers := make([]analysis.Answer, 0, (len(q.Classes)+4)*len(v.crew))
	for i := range q.Classes {
		k := &q.Classes[i]
		rate := k.rate(v.canary, begun, v.usual)
		for e, x := range v.crew {
			n := x.count(r, v.mean*k.mixed(v.canary)/float64(len(v.crew)), rate)
			sum, each[e].Counts = sum.Add(n), each[e].Add(n)
			answers = q.Told.answers(r, answers, analysis.Answer{Class: k.Name, Endpoint: x.name, Counts: n})
		}
	}
	for e, x := range v.crew {
		each[e].Name = x.name
	}
	c.Counts[v.version], c.Endpoints[v.version] = sum, each
	if !q.Told.Nothing {
		if c.Answers == nil {
			c.Answers = map[string][]analysis.Answer{}
		}
		c.Answers[v.version] = answers
	}
}

// answers adds those of one endpoint and class: successes and failures apart, without what was not answered.
func (t *Told) answers(r *rand.Rand, all []analysis.Answer, a analysis.Answer) []analysis.Answer {
	failed := a.Errors
	if well := a.Requests - failed; well > 0 {
		a.Code, a.Counts = "200", analysis.Counts{Requests: well}
		all = append(all, a)
	}
	if t.Unanswered > 0 {
		for range int(failed) {
			if r.Float64() < t.Unanswered {
				failed--
			}
		}
	}
	if failed > 0 {
		a.Code, a.Counts = "500", analysis.Counts{Requests: failed, Errors: failed}
		all = append(all, a)
	}
	return all
}

// Named are the classes as a policy names them, the last one is its rest.
func Named(classes []Class) (named []policy.Class) {
	for _, c := range classes[:max(len(classes)-1, 0)] {
		named = append(named, policy.Class{Name: c.Name, Path: "/" + c.Name})
	}
	return named
}
