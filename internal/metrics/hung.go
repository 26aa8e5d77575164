package metrics

import (
	"context"
	"fmt"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// A round waits for all that it asks. So a service whose own query hangs, at a Prometheus that answers the others, is asked about
// last and ever more rarely: the others would have evidence only as often as that query takes.

// hungAfter is how long a query of a service may take before it counts as one that hangs.
const hungAfter = queryTimeout / 2

// hung is how it stands with queries of a service that hang.
type hung struct {
	times int             // in succession
	asked time.Time       // when Prometheus had the time to answer last
	why   rollout.Missing // what was told of the last one
	of    policy.Queries  // other ones may not
}

// rare reports whether a service is to be asked about more rarely.
func (h hung) rare(t Target) bool { return h.times > 0 && t.Queries != nil && *t.Queries == h.of }

// hangs reports whether it is what was begun then that has taken the time of a round.
func hangs(ctx context.Context, begun time.Time) bool {
	return ctx.Err() != nil && time.Since(begun) >= hungAfter
}

// every is how often it is asked about.
func (h hung) every() time.Duration {
	return min(seekEvery<<min(h.times, 8), longestGap)
}

// ownInTurn reads the counters of services with queries of their own, and notes whose hang.
func (p *Prometheus) ownInTurn(ctx context.Context, part part, now time.Time, told *answers) {
	for _, t := range part.targets {
		if t.Queries == nil {
			continue
		}
		pr, begun := p.progress[t.Service], time.Now()
		if ctx.Err() == nil {
			pr.hung.asked = begun
		}
		p.ownCounters(ctx, t, pr.window(part, now), told)
		switch f := told.failures[t.Service]; {
		case f == nil:
			pr.hung = hung{}
		case hangs(ctx, begun):
			told.hung = append(told.hung, t)
		}
	}
}

// noteHung takes in whose queries hung in a round; where nothing else was answered, that is not theirs.
func (p *Prometheus) noteHung(told *answers) {
	for _, t := range told.hung {
		if !told.others(t.Service) {
			continue
		}
		h := &p.progress[t.Service].hung
		h.times, h.of, h.why = h.times+1, *t.Queries, told.failures[t.Service].Missing
		h.why.Reason += fmt.Sprintf(" the query of this service, and answers others: it is asked again in about %s", h.every())
	}
}

// waiting says of those that are not asked about in this round, because their queries hang, that they do.
func (p *Prometheus) waiting(targets []Target, now time.Time) []Evidence {
	var out []Evidence
	for _, t := range targets {
		if pr := p.progress[t.Service]; pr.hung.rare(t) && !t.AtRest && pr.tried != now {
			why := pr.hung.why
			out = append(out, Evidence{Service: t.Service, Missing: &why})
		}
	}
	return out
}
