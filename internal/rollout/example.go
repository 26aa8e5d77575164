package rollout

import (
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Sampled brings examples of failed requests from access log records, by version. Nothing is decided by them.
type Sampled struct {
	At       time.Time                     `json:"at"`
	Failures map[string][]analysis.Example `json:"failures,omitempty"`
}

func (e Sampled) when() time.Time { return e.At }
func (e Sampled) name() string    { return "sampled" }

// sampled remembers the examples of versions whose failures are counted. A class that requests are not told apart by is none; one of which a
// version has answered nothing is.
func (m *machine) sampled(e Sampled) {
	m.own(m.spare)
	known := m.Classes()
	for _, v := range m.with(live) {
		if !v.is(counted) && v.Name != m.Stable {
			continue
		}
		examples := slices.Clone(e.Failures[v.Name])
		for i := range examples {
			c := examples[i].Class
			if !slices.Contains(known, c) && !slices.ContainsFunc(v.Failures.Asked, func(t analysis.Tally) bool { return t.Name == c }) {
				examples[i].Class = ""
			}
		}
		v.Failures.Show(examples)
	}
}

// allShown reports whether every failure that is counted may be among the examples: a gRPC status is not, and an operator's own
// queries may count anything.
func (m *machine) allShown() bool { return !m.Policy.Route.GRPC() && m.Policy.Judge.Queries == nil }
