// Package metrics reads evidence: requests and errors per version, from Envoy's load reports or from
// Prometheus. Both sources deliver counts, never rates, and say which kind of evidence is missing.
package metrics

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Target is a service whose versions are being compared, or one at rest. At rest only stable's counts are wanted, to learn how its
// errors usually arrive, and missing ones are not reported.
type Target struct {
	AtRest   bool
	Judged   bool // what is counted may cut: the sooner it comes, the better
	Service  string
	Stable   string
	Versions []string // stable among them
	Queries  *policy.Queries
	Statuses []int     // gRPC statuses that are errors; nil: not a gRPC service
	Classes  []string  // that requests are told apart by, where Envoys count them; nil: none
	Timed    bool      // how long answers took is wanted
	Edges    []float64 // seconds: of how many answers took longer it is to be known exactly
	Limited  bool      // route.limits.requests is set: Envoys report what it drops as errors, too
}

// Evidence is what one round learnt about one service.
type Evidence struct {
	Service string
	Cells   []rollout.Cell
	Batch   time.Duration
	Missing *rollout.Missing
	// Warnings are what a person should know about where the evidence comes from.
	Warnings []string
}

// Source delivers evidence until its context ends.
type Source interface {
	// Watch says what to look at from now on. It does not block.
	Watch([]Target)
	// Run calls deliver once a round, never concurrently.
	Run(ctx context.Context, deliver func([]Evidence)) error
	// Figures are for the metrics.
	Figures() Figures
	// Dropped are the requests of a service that circuit breakers dropped, by version.
	Dropped(service string) []Dropped
}

// Figures of a source.
type Figures struct {
	Queries, Failures uint64
	Newest            time.Time     // end of the newest evidence
	ClockAhead        time.Duration // the source's clock of canaryd's, as far as it can be told
}

// tally keeps a source's figures.
type tally struct {
	queries, failures atomic.Uint64
	newest            atomic.Int64
	drops
}

func (t *tally) Figures() Figures {
	f := Figures{Queries: t.queries.Load(), Failures: t.failures.Load()}
	if n := t.newest.Load(); n > 0 {
		f.Newest = time.Unix(0, n)
	}
	return f
}

func (t *tally) saw(at time.Time) {
	if n := at.UnixNano(); n > t.newest.Load() {
		t.newest.Store(n)
	}
}
