package metrics

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Answers is what an Envoy counted of a version's answers, where it measures them.
type Answers struct {
	Counted []analysis.Answered
	Took    []analysis.Took
	Issued  float64 // requests that began
	Active  float64 // requests that are open at the end of the interval
}

// answers adds to a cell what a report says of the versions' answers.
func (t *seen) answers(c *rollout.Cell, r Report) {
	for version, of := range r.Answers[t.Service] {
		n, ok := c.Counts[version]
		if !ok {
			continue
		}
		if as := analysis.FitAnswers(t.sorted(of.Counted), n); len(as) > 0 {
			if c.Answers == nil {
				c.Answers = map[string][]analysis.Answer{}
			}
			c.Answers[version] = as
		}
		if ts := t.timed(of.Took); len(ts) > 0 {
			if c.Times == nil {
				c.Times = map[string][]analysis.Times{}
			}
			c.Times[version] = ts
		}
		if issued, known := t.issued(version, r, of, n); known {
			if c.Issued == nil {
				c.Issued = map[string]float64{}
			}
			c.Issued[version] = issued
		}
	}
}

// issued is how many requests of a version began in an interval, less those that their clients gave up, which never end in an Envoy's
// counts: those that ended, and as many as are open more than at the last report. A report that is lost makes no difference then. Of the
// first one of an Envoy nothing is known; of one that began the cluster anew, neither.
func (t *seen) issued(version string, r Report, of Answers, ended analysis.Counts) (n float64, known bool) {
	t.forgetActive(r.To)
	by := activeOf{reporter{r.Node, r.Stream, r.Proxy}, version}
	was, known := t.active[by]
	if t.active == nil {
		t.active = map[activeOf]unended{}
	}
	if !known && len(t.active) >= reportersMost {
		return 0, false
	}
	t.active[by] = unended{of.Active, r.To}
	n = ended.Requests + of.Active - was.requests
	return n, known && n >= 0
}

// activeOf is one version through one proxy.
type activeOf struct {
	reporter
	version string
}

// unended are the requests that were open at the end of a report.
type unended struct {
	requests float64
	at       time.Time
}

// forgetActive makes room, once in a while: each connection of an Envoy, and each version, has entries of its own.
func (t *seen) forgetActive(now time.Time) {
	if now.Sub(t.tidied).Abs() < time.Minute {
		return
	}
	t.tidied = now
	maps.DeleteFunc(t.active, func(_ activeOf, a unended) bool { return now.Sub(a.at).Abs() > longestGap })
}

// sorted are answers by class, code and endpoint. What is none of the classes is the rest: the Envoy may have had other ones
// a moment ago.
func (t *seen) sorted(of []analysis.Answered) []analysis.Answer {
	out := make([]analysis.Answer, 0, len(of))
	for _, a := range of {
		n := analysis.Counts{Requests: a.N}
		if t.fails(a.Code) {
			n.Errors = a.N
		}
		class := a.Class
		switch {
		case len(t.Classes) == 0:
			class = ""
		case !slices.Contains(t.Classes, class):
			class = policy.Rest
		}
		out = append(out, analysis.Answer{Class: class, Code: a.Code, Endpoint: a.Endpoint, Counts: n})
	}
	return analysis.JoinAnswers(nil, out)
}

// fails reports whether an answer with a code is an error: 500 and up, or a gRPC status that the policy counts.
func (t *seen) fails(code string) bool {
	name, grpc := strings.CutPrefix(code, "grpc-")
	n, err := strconv.Atoi(name)
	if grpc {
		return err == nil && slices.Contains(t.Statuses, n)
	}
	return err == nil && n >= 500
}

func (t *seen) timed(of []analysis.Took) []analysis.Times {
	bounds := analysis.Bounds(t.Edges)
	var out []analysis.Times
	for _, k := range of {
		i, known := slices.BinarySearchFunc(out, k.Endpoint, func(h analysis.Times, name string) int { return cmp.Compare(h.Name, name) })
		if !known {
			out = slices.Insert(out, i, analysis.Times{Name: k.Endpoint, UpTo: bounds})
		}
		out[i].Put(k.Millis, k.N)
	}
	return out
}
