package controller

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/xds"
)

const (
	probeEvery   = time.Second
	probeTimeout = time.Second
	downAfter    = 3 * time.Second
)

// prober connects to the endpoints of versions under test: Envoy's load reports say nothing about a
// version without a healthy host.
type prober struct {
	out  chan<- rollout.Probed
	wake chan struct{}

	mu      sync.Mutex
	targets map[string]map[string]*probe // service, version
}

type probe struct {
	endpoints []string
	path      string // HTTP; empty: TCP
	lastUp    time.Time
	told      bool
	up        bool
}

func newProber(out chan<- rollout.Probed) *prober {
	return &prober{out: out, wake: make(chan struct{}, 1), targets: map[string]map[string]*probe{}}
}

// set says which versions of a service are to be probed.
func (p *prober) set(service string, s rollout.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, next := p.targets[service], map[string]*probe{}
	for _, v := range s.Versions {
		if !v.Phase.Judged() || s.Policy.Route.Probe == policy.ProbeOff {
			continue
		}
		pr := old[v.Name]
		if pr == nil || !slices.Equal(pr.endpoints, v.Endpoints) || pr.told && pr.up != v.Reachable {
			pr = &probe{endpoints: v.Endpoints, lastUp: time.Now()}
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
				up := reachable(ctx, endpoints, path)
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
func (p *prober) book(pr *probe, name string, up bool) (rollout.Probed, bool) {
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

// reachable reports whether any endpoint answers.
func reachable(ctx context.Context, endpoints []string, path string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	answers := make(chan bool, len(endpoints))
	for _, e := range endpoints {
		go func() { answers <- answersAt(ctx, e, path) }()
	}
	for range endpoints {
		if <-answers {
			return true
		}
	}
	return false
}

func answersAt(ctx context.Context, endpoint, path string) bool {
	if path == "" {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", endpoint)
		if err != nil {
			return false
		}
		return c.Close() == nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+endpoint+path, nil)
	if err != nil {
		return false
	}
	req.Header.Set("User-Agent", "canaryd-probe")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // nothing of it is needed
	return resp.StatusCode < 400
}
