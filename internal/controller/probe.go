package controller

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/probe"
	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	probeEvery  = time.Second
	downAfter   = 3 * time.Second
	probeAtOnce = 128 // versions that are being asked; each is let go after a second
)

// prober asks the endpoints of versions under test: Envoy's load reports say nothing about a version
// without a healthy host.
type prober struct {
	out   chan<- probed
	wake  chan struct{}
	slots chan struct{}

	mu      sync.Mutex
	targets map[string]map[string]*watched // service, version
}

// probed is news of a version of a service.
type probed struct {
	service string
	rollout.Probed
}

type watched struct {
	how       *probe.Probe
	endpoints []string
	asking    bool
	downSince time.Time // when the first of the questions that nobody answered was asked; zero: answered
	told      bool
	up        bool
}

// fits reports whether a version is asked as it is to be, and was told as what it is taken for.
func (w *watched) fits(how *probe.Probe, v *rollout.Version) bool {
	return w != nil && *w.how == *how && slices.Equal(w.endpoints, v.Endpoints) && (!w.told || w.up == v.Reachable)
}

func newProber(out chan<- probed) *prober {
	return &prober{out: out, wake: make(chan struct{}, 1), slots: make(chan struct{}, probeAtOnce), targets: map[string]map[string]*watched{}}
}

// set says which versions of a service are to be probed.
func (p *prober) set(service string, s *rollout.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, how := p.targets[service], probe.Of(&s.Policy)
	asked := func(v *rollout.Version) bool { return how != nil && v.Probed() }
	same, n := true, 0
	for _, v := range s.Versions {
		if asked(v) {
			same, n = same && old[v.Name].fits(how, v), n+1
		}
	}
	if same && n == len(old) {
		return
	}
	next := make(map[string]*watched, n)
	for _, v := range s.Versions {
		if !asked(v) {
			continue
		}
		w := old[v.Name]
		if !w.fits(how, v) {
			w = &watched{how: how, endpoints: v.Endpoints}
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
		next[v.Name] = w
	}
	if len(next) == 0 {
		delete(p.targets, service)
		return
	}
	p.targets[service] = next
}

func (p *prober) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-p.wake:
		}
		p.round(ctx, &wg)
	}
}

// round asks every version that is not being asked. It waits for none of them: one that hangs holds up
// nobody else.
func (p *prober) round(ctx context.Context, wg *sync.WaitGroup) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for service, versions := range p.targets {
		for version, w := range versions {
			if !w.asking {
				w.asking = true
				wg.Go(func() { p.ask(ctx, service, version, w) })
			}
		}
	}
}

func (p *prober) ask(ctx context.Context, service, version string, w *watched) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	asked := time.Now()
	up := w.how.Any(ctx, w.endpoints)
	<-p.slots
	if p.book(service, version, w, asked, up) {
		select {
		case p.out <- probed{service, rollout.Probed{At: time.Now(), Version: version, Up: up}}:
		case <-ctx.Done():
		}
	}
	p.mu.Lock()
	w.asking = false // only now: what is told of a version comes in order
	p.mu.Unlock()
}

// book notes an answer and says whether it is news: up at once, down when nobody answered for three
// seconds. Time in which nobody was asked does not count, nor does what became of former endpoints.
func (p *prober) book(service, version string, w *watched, asked time.Time, up bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.targets[service][version] != w {
		return false
	}
	if up {
		w.downSince = time.Time{}
	} else {
		if w.downSince.IsZero() {
			w.downSince = asked
		}
		if time.Since(w.downSince) < downAfter {
			return false
		}
	}
	news := !w.told || w.up != up
	w.told, w.up = true, up
	return news
}

// probed takes in whether a version answers.
func (c *Controller) probed(e probed) {
	if u := c.units[e.service]; u != nil {
		c.must(u, e.Probed)
	}
}

// reachable reports whether a version answers now; where canaryd is not to ask it is believed to.
func reachable(ctx context.Context, s *rollout.State, v *rollout.Version) bool {
	how := probe.Of(&s.Policy)
	return how == nil || how.Any(ctx, v.Endpoints)
}
