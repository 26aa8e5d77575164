package metrics

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
)

const (
	queryTimeout = 10 * time.Second
	restRound    = 30 * time.Second // how often services at rest are asked about
)

// Prometheus is the source of evidence that reads counters, sample by sample, from a Prometheus
// server that scrapes the Envoys.
type Prometheus struct {
	tally
	api      promv1.API
	interval time.Duration
	match    Match

	mu      sync.Mutex
	targets []Target

	progress map[string]*progress // by service
	scrape   time.Duration        // longest distance of two samples seen lately
	asked    time.Time            // last round that worked
	restedAt time.Time            // last round with services at rest
}

// NewPrometheus makes the source. The transport carries auth and TLS; every query carries the matchers.
func NewPrometheus(url string, rt http.RoundTripper, interval time.Duration, match Match) (*Prometheus, error) {
	c, err := api.NewClient(api.Config{Address: url, RoundTripper: rt})
	if err != nil {
		return nil, fmt.Errorf("prometheus %s: %w", url, err)
	}
	return &Prometheus{api: promv1.NewAPI(c), interval: interval, match: match, progress: map[string]*progress{}}, nil
}

// Watch implements Source.
func (p *Prometheus) Watch(targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = slices.Clone(targets)
}

// Run implements Source.
func (p *Prometheus) Run(ctx context.Context, deliver func([]Evidence)) error {
	t := time.NewTicker(p.interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			p.mu.Lock()
			targets := p.targets
			p.mu.Unlock()
			if len(targets) > 0 {
				deliver(p.Round(ctx, targets))
			}
		}
	}
}

// Round asks once for everything.
func (p *Prometheus) Round(ctx context.Context, targets []Target) []Evidence {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	now := time.Now()
	p.keep(targets, now)
	for _, pr := range p.progress {
		p.scrape = max(p.scrape, pr.scrape())
	}
	window := p.window(now)
	targets, window = p.withRest(targets, window, now)
	told := answers{streams: map[string][]stream{}, failures: map[string]error{}}
	p.envoyCounters(ctx, now, window, targets, &told)
	for _, t := range targets {
		if t.Queries != nil {
			p.ownCounters(ctx, now, window, t, &told)
		}
	}
	var out []Evidence
	var silent []Target
	for _, t := range targets {
		ev := Evidence{Service: t.Service}
		if err := told.failures[t.Service]; err != nil && t.AtRest {
			continue
		} else if err != nil {
			ev.Missing = failureOf(err)
			out = append(out, ev)
			continue
		}
		pr := p.progress[t.Service]
		ev.Cells = pr.read(t, told.streams[t.Service])
		for _, c := range ev.Cells {
			p.saw(c.To)
		}
		if t.AtRest && len(ev.Cells) == 0 {
			continue
		}
		if !t.AtRest {
			ev.Missing, ev.Warnings = pr.unclear(t.Service), pr.remarks()
		}
		if len(ev.Cells) == 0 && ev.Missing == nil && p.overdue(t, now) {
			silent = append(silent, t)
			continue
		}
		if len(ev.Cells) > 0 || ev.Missing != nil {
			ev.Batch = pr.scrape()
			out = append(out, ev)
		}
	}
	if len(told.failures) == 0 {
		p.asked = now
	}
	if len(silent) > 0 {
		out = append(out, p.silence(ctx, now, silent)...)
	}
	return out
}

func (p *Prometheus) keep(targets []Target, now time.Time) {
	next := map[string]*progress{}
	for _, t := range targets {
		if next[t.Service] = p.progress[t.Service]; next[t.Service] == nil {
			next[t.Service] = newProgress(now)
		}
		if pr := next[t.Service]; pr.atRest != t.AtRest {
			pr.atRest, pr.since = t.AtRest, now
		}
	}
	p.progress = next
}

// withRest leaves services at rest out of most rounds; those that they are in reach back further.
func (p *Prometheus) withRest(targets []Target, window time.Duration, now time.Time) ([]Target, time.Duration) {
	ago := now.Sub(p.restedAt)
	if ago >= restRound {
		p.restedAt = now
		return targets, max(window, min(ago+2*p.scrape+5*time.Second, longestGap).Truncate(time.Second))
	}
	return slices.DeleteFunc(slices.Clone(targets), func(t Target) bool { return t.AtRest }), window
}

// window reaches back to the samples of the last round, five minutes at most.
func (p *Prometheus) window(now time.Time) time.Duration {
	for _, pr := range p.progress {
		if len(pr.instances) == 0 && !pr.atRest {
			return longestGap
		}
	}
	if p.asked.IsZero() || p.scrape == 0 {
		return longestGap
	}
	w := now.Sub(p.asked) + 2*p.scrape + 5*time.Second
	return min(w.Truncate(time.Second), longestGap)
}
