// Package registry finds versions that others run: in files and behind URLs, in the formats of
// Prometheus' file_sd and http_sd, which Consul, Nomad, EC2 and Kubernetes have bridges to.
package registry

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/file"
	"github.com/prometheus/prometheus/discovery/http"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/sirupsen/logrus"
)

// The labels that say what a target is.
const (
	labelService = "service"
	labelVersion = "version"
)

// Found is a version and where it runs, as one origin says.
type Found struct {
	Service, Version string
	Endpoints        []string // sorted; none: the origin no longer names it
	Origin           string
}

// File is a set of files with targets, JSON or YAML.
type File struct {
	Files   []string
	Refresh time.Duration
}

// URL is an address that answers with targets.
type URL struct {
	URL     string
	Refresh time.Duration
	HTTP    config.HTTPClientConfig
}

// Registry watches all origins.
type Registry struct {
	log     logrus.FieldLogger
	origins map[string]discovery.Config
	found   chan []Found
}

// New makes a registry; it looks at nothing before Run, and tells found what changes.
func New(log logrus.FieldLogger, files []File, urls []URL, found chan []Found) *Registry {
	r := &Registry{log: log, origins: map[string]discovery.Config{}, found: found}
	for _, f := range files {
		r.origins[fmt.Sprintf("file_sd %v", f.Files)] = &file.SDConfig{Files: f.Files, RefreshInterval: model.Duration(f.Refresh)}
	}
	for _, u := range urls {
		r.origins["http_sd "+u.URL] = &http.SDConfig{URL: u.URL, RefreshInterval: model.Duration(u.Refresh), HTTPClientConfig: u.HTTP}
	}
	return r
}

// Run watches until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	reg := prometheus.NewRegistry() // Prometheus' own metrics of discovery; nobody asks for them here
	refresh := discovery.NewRefreshMetrics(reg)
	var wg sync.WaitGroup
	defer wg.Wait()
	for origin, c := range r.origins {
		d, err := c.NewDiscoverer(discovery.DiscovererOptions{Logger: slog.New(toLogrus{r.log.WithField("origin", origin)}), Metrics: c.NewDiscovererMetrics(prometheus.NewRegistry(), refresh)})
		if err != nil {
			return fmt.Errorf("%s: %w", origin, err)
		}
		groups := make(chan []*targetgroup.Group)
		wg.Go(func() { d.Run(ctx, groups) })
		wg.Go(func() { r.follow(ctx, origin, groups) })
	}
	<-ctx.Done()
	return nil
}

// follow merges an origin's groups and tells what changed in them.
func (r *Registry) follow(ctx context.Context, origin string, groups <-chan []*targetgroup.Group) {
	bySource := map[string]*targetgroup.Group{}
	last := map[[2]string][]string{}
	for {
		select {
		case <-ctx.Done():
			return
		case gs := <-groups:
			for _, g := range gs {
				if g != nil {
					bySource[g.Source] = g
				}
			}
		}
		now := merge(bySource)
		changes := differences(origin, last, now)
		last = now
		if len(changes) == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case r.found <- changes:
		}
	}
}

// merge gathers the addresses by service and version; targets without both labels are somebody else's.
func merge(groups map[string]*targetgroup.Group) map[[2]string][]string {
	out := map[[2]string][]string{}
	for _, g := range groups {
		for _, t := range g.Targets {
			labels := g.Labels.Merge(t)
			key := [2]string{string(labels[labelService]), string(labels[labelVersion])}
			if address := string(labels[model.AddressLabel]); key[0] != "" && key[1] != "" && address != "" {
				out[key] = append(out[key], address)
			}
		}
	}
	for key, es := range out {
		slices.Sort(es)
		out[key] = slices.Compact(es)
	}
	return out
}

func differences(origin string, last, now map[[2]string][]string) []Found {
	var out []Found
	for key, es := range now {
		if !slices.Equal(last[key], es) {
			out = append(out, Found{key[0], key[1], es, origin})
		}
	}
	for key := range last {
		if now[key] == nil {
			out = append(out, Found{key[0], key[1], nil, origin})
		}
	}
	slices.SortFunc(out, func(a, b Found) int {
		return slices.Compare([]string{a.Service, a.Version}, []string{b.Service, b.Version})
	})
	return out
}

// toLogrus hands the library's log on.
type toLogrus struct{ log logrus.FieldLogger }

func (h toLogrus) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (h toLogrus) Handle(_ context.Context, rec slog.Record) error {
	fields := logrus.Fields{}
	rec.Attrs(func(a slog.Attr) bool { fields[a.Key] = a.Value.String(); return true })
	h.log.WithFields(fields).Warn(rec.Message)
	return nil
}

func (h toLogrus) WithAttrs(as []slog.Attr) slog.Handler {
	fields := logrus.Fields{}
	for _, a := range as {
		fields[a.Key] = a.Value.String()
	}
	return toLogrus{h.log.WithFields(fields)}
}

func (h toLogrus) WithGroup(string) slog.Handler { return h }
