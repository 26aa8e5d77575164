package metrics

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	upEvery   = 5 * time.Second // how often it is asked which Envoys can be scraped
	namedMost = 3               // in a reason
)

// silent is a service without readings, though its queries were answered.
type silent struct {
	target   Target
	told     []string // by Prometheus
	warnings []string
}

// scrapes are which targets Prometheus could scrape, by job and instance.
type scrapes struct {
	up    map[target]bool
	asked time.Time
}

type target struct{ job, instance model.LabelValue }

// overdue reports that a service has had no cell for three scrapes.
func (p *Prometheus) overdue(pr *progress, now time.Time) bool {
	last := pr.fresh
	if last.Before(pr.since) {
		last = pr.since
	}
	patience := max(3*pr.scrape()+2*p.interval, 5*time.Second)
	for _, in := range pr.instances {
		if !in.named { // these are counted late
			return now.Sub(last) > patience+unnamedWait+agreeing*pr.scrape()
		}
	}
	return now.Sub(last) > patience
}

// explained says of each silent service why it is silent.
func (p *Prometheus) explained(ctx context.Context, list []silent, now time.Time) []Evidence {
	var out []Evidence
	for _, s := range list {
		pr := p.progress[s.target.Service]
		ev := Evidence{Service: s.target.Service, Batch: pr.scrape(), Warnings: s.warnings}
		if len(s.told) > 0 {
			ev.Missing = &rollout.Missing{Code: analysis.SourceUnreachable, Reason: "Prometheus gave a partial answer: " + clipped(strings.Join(s.told, "; "))}
		} else {
			ev.Missing = why(pr, s.target, p.scraped(ctx, pr, now), now.Add(p.clock.ahead()))
		}
		out = append(out, ev)
	}
	return out
}

// scraped returns which targets can be scraped, of the jobs of a service. It does not ask when none is
// known.
func (p *Prometheus) scraped(ctx context.Context, pr *progress, now time.Time) map[target]bool {
	if len(pr.instances) == 0 || now.Sub(p.scrapes.asked) < upEvery {
		return p.scrapes.up
	}
	jobs := map[string]bool{}
	for _, other := range p.progress {
		for _, in := range other.instances {
			jobs[string(in.labels[model.JobLabel])] = true
		}
	}
	v := &parser.VectorSelector{Name: "up", LabelMatchers: []*labels.Matcher{oneOf(model.JobLabel, slices.Sorted(maps.Keys(jobs)))}}
	value, _, f := p.query(ctx, with(v, p.match...))
	if vector, ok := value.(model.Vector); f == nil && ok {
		p.scrapes = scrapes{up: map[target]bool{}, asked: now}
		for _, s := range vector {
			p.scrapes.up[target{s.Metric[model.JobLabel], s.Metric[model.InstanceLabel]}] = s.Value == 1
		}
	}
	return p.scrapes.up
}

// why says why a service has no new readings; now is by Prometheus' clock.
func why(pr *progress, t Target, up map[target]bool, now time.Time) *rollout.Missing {
	if len(pr.instances) == 0 {
		return &rollout.Missing{Code: analysis.NoSeries, Reason: fmt.Sprintf("Prometheus has no series of %s/%s: does it scrape the Envoys, and do their statistics include the cluster?", t.Service, policy.WireName(t.Stable))}
	}
	var down []string
	for _, in := range pr.all() {
		if !up[target{in.labels[model.JobLabel], in.labels[model.InstanceLabel]}] {
			down = append(down, in.name)
		}
	}
	if len(down) == len(pr.instances) {
		return &rollout.Missing{Code: analysis.TargetDown, Reason: "Prometheus cannot scrape " + someOf(down)}
	}
	return &rollout.Missing{Code: analysis.Stale, Reason: fmt.Sprintf("the newest sample of %s is %s old", t.Service, now.Sub(pr.newest()).Round(time.Second))}
}

// someOf names a few.
func someOf(names []string) string {
	if len(names) <= namedMost {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s … and %d more", strings.Join(names[:namedMost], ", "), len(names)-namedMost)
}

// redacted is an address without user, password and query.
func redacted(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "its address"
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}
