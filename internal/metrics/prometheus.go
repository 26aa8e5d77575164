package metrics

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
)

const (
	queryTimeout = 10 * time.Second
	patienceMost = 8 * time.Second // between two tries at a Prometheus that does not answer
)

// Prometheus is the source of evidence that reads counters, sample by sample, from a Prometheus
// server that scrapes the Envoys.
type Prometheus struct {
	tally
	api      promv1.API
	url      string
	interval time.Duration
	match    Match

	mu      sync.Mutex
	targets []Target

	progress map[string]*progress // by service
	clock    clock
	about    atomic.Int64 // clock's
	scrapes  scrapes

	failed failure // of the last round without any answer
	until  time.Time
	tries  int
}

// NewPrometheus makes the source. The transport carries auth and TLS; every query carries the matchers.
func NewPrometheus(url string, rt http.RoundTripper, interval time.Duration, match Match) (*Prometheus, error) {
	c, err := api.NewClient(api.Config{Address: url, RoundTripper: noter{rt}})
	if err != nil {
		return nil, fmt.Errorf("prometheus %s: %w", url, err)
	}
	return &Prometheus{api: promv1.NewAPI(c), url: redacted(url), interval: interval, match: match, progress: map[string]*progress{}}, nil
}

// Watch implements Source.
func (p *Prometheus) Watch(targets []Target) {
	p.drops.keep(targets, time.Now())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = slices.Clone(targets)
}

// Figures implements Source.
func (p *Prometheus) Figures() Figures {
	f := p.tally.Figures()
	f.ClockAhead = time.Duration(p.about.Load())
	return f
}

// Run implements Source. Rounds are a little irregular: many canaryds do not ask at once, and the clock
// is measured at different parts of a second.
func (p *Prometheus) Run(ctx context.Context, deliver func([]Evidence)) error {
	t := time.NewTimer(p.interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			t.Reset(p.interval*9/10 + rand.N(p.interval/5))
			p.mu.Lock()
			targets := p.targets
			p.mu.Unlock()
			if len(targets) == 0 {
				continue
			}
			if evs := p.Round(ctx, targets); len(evs) > 0 {
				deliver(evs)
			}
		}
	}
}

// Round asks once for everything that is due.
func (p *Prometheus) Round(ctx context.Context, targets []Target) []Evidence {
	now := time.Now()
	p.keep(targets, now)
	if now.Before(p.until) {
		return missed(targets, p.failed)
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	parts := p.parts(targets, now)
	told := p.ask(ctx, parts, now)
	p.noteHung(told)
	p.pause(told, now)
	p.about.Store(int64(p.clock.about()))
	var out []Evidence
	var quiet []silent
	for _, part := range parts {
		for _, t := range part.targets {
			ev, any := p.evidence(t, told, now)
			switch {
			case any:
				out = append(out, ev)
			case !t.AtRest && p.overdue(p.progress[t.Service], now):
				quiet = append(quiet, silent{t, told.warnings[t.Service], ev.Warnings})
			}
		}
	}
	return append(append(out, p.waiting(targets, now)...), p.explained(ctx, quiet, now)...)
}

// evidence is what a round learnt of one service, if anything.
func (p *Prometheus) evidence(t Target, told *answers, now time.Time) (Evidence, bool) {
	ev := Evidence{Service: t.Service}
	pr := p.progress[t.Service]
	if f := told.failures[t.Service]; f != nil {
		ev.Missing = &f.Missing
		return ev, !t.AtRest
	}
	pr.answered = now
	ev.Cells = pr.read(t, told.streams[t.Service])
	for v, n := range pr.dropped {
		p.drops.add(t.Service, v, n, now)
	}
	ahead := p.clock.ahead()
	for i := range ev.Cells {
		c := &ev.Cells[i]
		c.From, c.To = c.From.Add(-ahead), c.To.Add(-ahead)
		p.saw(c.To)
		if c.To.After(pr.fresh) {
			pr.fresh = c.To
		}
	}
	ev.Batch = pr.scrape()
	if t.AtRest {
		return ev, len(ev.Cells) > 0
	}
	ev.Missing, ev.Warnings = pr.unclear(t.Service), p.warnings(pr, told.warnings[t.Service])
	return ev, len(ev.Cells) > 0 || ev.Missing != nil
}

// warnings are what a person should know of the evidence: from Prometheus, of the labels, of the clock.
func (p *Prometheus) warnings(pr *progress, told []string) []string {
	var all []string
	for _, w := range told {
		all = append(all, "Prometheus says: "+w)
	}
	all = append(all, pr.remarks()...)
	if w := p.clock.warning(); w != "" {
		all = append(all, w)
	}
	return all
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

// pause leaves a Prometheus alone that asked for it, or that answers nothing.
func (p *Prometheus) pause(told *answers, now time.Time) {
	f := told.failure
	if f == nil || told.answered && f.wait == 0 {
		p.tries = 0
		return
	}
	wait := min(p.interval<<min(p.tries, 16), patienceMost) - p.interval
	p.tries++
	p.failed, p.until = *f, now.Add(max(wait, f.wait))
}

// missed is a failure for every service under judgement.
func missed(targets []Target, f failure) []Evidence {
	var out []Evidence
	for _, t := range targets {
		if !t.AtRest {
			out = append(out, Evidence{Service: t.Service, Missing: &f.Missing})
		}
	}
	return out
}
