package controller

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/probe"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/xds"
)

const (
	probeEvery = time.Second
	downAfter  = 3 * time.Second
)

// prober connects to the endpoints of versions under test: Envoy's load reports say nothing about a
// version without a healthy host.
type prober struct {
	out  chan<- rollout.Probed
	wake chan struct{}

	mu      sync.Mutex
	targets map[string]map[string]*watched // service, version
}

type watched struct {
	endpoints []string
	path      string // HTTP; empty: TCP
	lastUp    time.Time
	told      bool
	up        bool
}

func newProber(out chan<- rollout.Probed) *prober {
	return &prober{out: out, wake: make(chan struct{}, 1), targets: map[string]map[string]*watched{}}
}

// set says which versions of a service are to be probed.
func (p *prober) set(service string, s rollout.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, next := p.targets[service], map[string]*watched{}
	for _, v := range s.Versions {
		if !v.Phase.Judged() || s.Policy.Route.Probe == policy.ProbeOff {
			continue
		}
		pr := old[v.Name]
		if pr == nil || !slices.Equal(pr.endpoints, v.Endpoints) || pr.told && pr.up != v.Reachable {
			pr = &watched{endpoints: v.Endpoints, lastUp: time.Now()}
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
		pr.path = s.Policy.Route.HealthPath
		next[v.Name] = pr
	}
	if len(next) == 0 {
		delete(p.targets, service)
		return
	}
	p.targets[service] = next
}

func (p *prober) run(ctx context.Context) {
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-p.wake:
		}
		p.round(ctx)
	}
}

// round probes everything at once.
func (p *prober) round(ctx context.Context) {
	var wg sync.WaitGroup
	p.mu.Lock()
	for service, versions := range p.targets {
		for version, pr := range versions {
			name, endpoints, path := xds.ClusterName(service, version), pr.endpoints, pr.path
			wg.Go(func() {
				up := probe.Any(ctx, endpoints, path)
				if e, ok := p.book(pr, name, up); ok {
					select {
					case p.out <- e:
					case <-ctx.Done():
					}
				}
			})
		}
	}
	p.mu.Unlock()
	wg.Wait()
}

// book notes a result and says whether there is news: up at once, down after three seconds.
func (p *prober) book(pr *watched, name string, up bool) (rollout.Probed, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if up {
		pr.lastUp = now
	} else if now.Sub(pr.lastUp) < downAfter {
		return rollout.Probed{}, false
	}
	news := !pr.told || pr.up != up
	pr.told, pr.up = true, up
	return rollout.Probed{At: now, Version: name, Up: up}, news
}
