package metrics

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// overdue reports that a target has had no cell for three scrapes.
func (p *Prometheus) overdue(t Target, now time.Time) bool {
	pr := p.progress[t.Service]
	last := pr.fresh
	if last.Before(pr.since) {
		last = pr.since
	}
	return now.Sub(last) > max(3*pr.scrape()+2*p.interval, 5*time.Second)
}

// silence finds out why targets without an error have no samples.
func (p *Prometheus) silence(ctx context.Context, now time.Time, targets []Target) []Evidence {
	p.queries.Add(1)
	up := map[string]bool{}
	v, _, _, err := p.api.Query(ctx, p.matched(&parser.VectorSelector{Name: "up"}).String(), now)
	if vec, ok := v.(model.Vector); err == nil && ok {
		for _, s := range vec {
			up[string(s.Metric["job"])+"/"+string(s.Metric["instance"])] = s.Value == 1
		}
	}
	var out []Evidence
	for _, t := range targets {
		out = append(out, Evidence{Service: t.Service, Batch: p.progress[t.Service].scrape(), Missing: p.why(p.progress[t.Service], t, up, now)})
	}
	return out
}

// why says why a target has no samples.
func (p *Prometheus) why(pr *progress, t Target, up map[string]bool, now time.Time) *rollout.Missing {
	if len(pr.instances) == 0 {
		return &rollout.Missing{Code: analysis.NoSeries, Reason: fmt.Sprintf("Prometheus has no series of %s/%s: does it scrape the Envoys, and do their statistics include the cluster?", t.Service, policy.WireName(t.Stable))}
	}
	var down []string
	var newest time.Time
	newest = pr.newest()
	for _, in := range pr.all() {
		if !up[string(in.labels["job"])+"/"+string(in.labels["instance"])] {
			down = append(down, in.name)
		}
	}
	if len(down) == len(pr.instances) {
		slices.Sort(down)
		return &rollout.Missing{Code: analysis.TargetDown, Reason: "Prometheus cannot scrape " + someOf(down)}
	}
	return &rollout.Missing{Code: analysis.Stale, Reason: fmt.Sprintf("the newest sample of %s is %s old", t.Service, now.Sub(newest).Round(time.Second))}
}

// someOf names a few.
func someOf(names []string) string {
	if len(names) <= namedMost {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s … and %d more", strings.Join(names[:namedMost], ", "), len(names)-namedMost)
}

const namedMost = 3

// failureOf tells a wrong query from a Prometheus that is away.
func failureOf(err error) *rollout.Missing {
	var pe *promv1.Error
	if errors.As(err, &pe) && (pe.Type == promv1.ErrBadData || pe.Type == promv1.ErrExec || pe.Type == promv1.ErrClient) {
		return &rollout.Missing{Code: analysis.QueryError, Reason: "Prometheus refused the query: " + pe.Msg}
	}
	return &rollout.Missing{Code: analysis.SourceUnreachable, Reason: "Prometheus does not answer: " + err.Error()}
}
