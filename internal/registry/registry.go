// Package registry finds versions that others run: in files and behind URLs, in the formats of
// Prometheus' file_sd and http_sd, which Consul, Nomad, EC2 and Kubernetes have bridges to.
package registry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/sirupsen/logrus"
	slogrus "github.com/sirupsen/logrus/hooks/slog"
)

const (
	gather    = 200 * time.Millisecond // files come one by one
	retry     = 5 * time.Second        // of an origin that cannot be looked at
	retryMost = time.Minute
)

// Options say where to look.
type Options struct {
	Log   *logrus.Logger
	Files []File
	URLs  []URL
}

// Registry watches all origins.
type Registry struct {
	log     *logrus.Logger
	origins []origin
	retry   time.Duration
}

// New makes a registry; it starts looking with Run.
func New(o Options) *Registry {
	r := &Registry{log: o.Log, retry: retry}
	for _, f := range o.Files {
		r.origins = append(r.origins, f.origin())
	}
	for _, u := range o.URLs {
		r.origins = append(r.origins, u.origin())
	}
	r.origins = named(r.origins)
	return r
}

// Run watches until ctx ends, and hands over all that an origin names, at first and whenever it changes.
// What cannot be read changes nothing.
func (r *Registry) Run(ctx context.Context, hand func(Set)) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, o := range r.origins {
		wg.Go(func() { r.keep(ctx, o, hand) })
	}
	<-ctx.Done()
	return nil
}

// keep watches one origin and tries again where that fails: its certificates may come later, and the
// other origins do not depend on it.
func (r *Registry) keep(ctx context.Context, o origin, hand func(Set)) {
	told := ""
	for pause := r.retry; ; pause = min(2*pause, retryMost) {
		err := r.watch(ctx, o, hand)
		if ctx.Err() != nil {
			return
		}
		if err.Error() != told {
			told = err.Error()
			r.log.WithError(err).WithField("origin", o.name).Error("nothing is found there until this is mended; what was found stays as it is")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// watch looks at an origin until ctx ends or it cannot be looked at.
func (r *Registry) watch(ctx context.Context, o origin, hand func(Set)) error {
	if err := o.check(); err != nil {
		return err
	}
	reg := prometheus.NewRegistry() // Prometheus' own metrics of discovery; nobody asks for them here
	log := slogrus.NewHandler(r.log, nil).WithAttrs([]slog.Attr{slog.String("origin", o.name)})
	d, err := o.config.NewDiscoverer(discovery.DiscovererOptions{
		Logger:  slog.New(newHiding(log, o.hidden)),
		Metrics: o.config.NewDiscovererMetrics(reg, discovery.NewRefreshMetrics(reg)),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	groups := make(chan []*targetgroup.Group)
	go func() {
		defer close(groups)
		d.Run(ctx, groups)
	}()
	follow(o.name, groups, hand)
	return errors.New("it is no longer watched: the log lines before say why")
}

// follow hands over what the groups of an origin amount to, until there are no more. The first set is
// handed over also when it is empty: that, too, is something to know.
func follow(name string, groups <-chan []*targetgroup.Group, hand func(Set)) {
	bySource := map[string]*targetgroup.Group{}
	var last *Set
	var gathered <-chan time.Time
	for {
		select {
		case gs, ok := <-groups:
			if !ok {
				return
			}
			for _, g := range gs {
				switch {
				case g == nil:
				case len(g.Targets) == 0:
					delete(bySource, g.Source)
				default:
					bySource[g.Source] = g
				}
			}
			if gathered == nil {
				gathered = time.After(gather)
			}
		case <-gathered:
			gathered = nil
			if now := setOf(name, bySource); last == nil || !now.equal(*last) {
				last = &now
				hand(now)
			}
		}
	}
}
