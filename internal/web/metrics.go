package web

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Collector gathers canaryd's own metrics when they are asked for.
type Collector struct {
	Controller *controller.Controller
	Source     metrics.Source
	decisions  prometheus.Histogram
}

// NewCollector makes the collector.
func NewCollector(c *controller.Controller, s metrics.Source) *Collector {
	return &Collector{Controller: c, Source: s, decisions: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "canaryd_decision_seconds", Help: "From evidence read to the new weight in force.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	})}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("canaryd_"+name, help, labels, nil)
}

// Describe sends nothing: the set of series follows the services.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	f, err := c.Controller.Figures(ctx)
	if err != nil {
		return // the daemon is stopping
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	for s, err := range c.Controller.Services(ctx, "", nil) {
		if err != nil {
			return
		}
		if s.Unreadable != nil {
			continue
		}
		collectVersions(&s.State, gauge, counter)
		for outcome, n := range map[analysis.Outcome]int{analysis.Pass: s.Verdicts.Pass, analysis.Fail: s.Verdicts.Fail, analysis.Wait: s.Verdicts.Wait} {
			if n > 0 {
				counter(desc("verdicts_total", "Judgements by outcome.", "service", "outcome"), float64(n), s.State.Policy.Service, string(outcome))
			}
		}
		counter(desc("placebos_total", "Slices of stable judged as if they were canaries, one per release.", "service"), float64(s.State.Placebos.Begun), s.State.Policy.Service)
		counter(desc("placebo_alarms_total", "Placebos whose evidence reached 20; above 1 in 20 judge.clump is too low.", "service"), float64(s.State.Placebos.Alarms), s.State.Policy.Service)
		for _, d := range s.Dropped {
			counter(desc("version_dropped_total", "Requests that circuit breakers dropped before they reached the version; not among its requests and errors.", "service", "version"), d.Total, s.State.Policy.Service, d.Version)
		}
		gauge(desc("xds_unapplied_nodes", "Envoys without the present table.", "service"), float64(f.Hub.Unapplied[s.State.Policy.Service]), s.State.Policy.Service)
	}
	src := c.Source.Figures()
	counter(desc("source_queries_total", "Queries sent, or load reports received."), float64(src.Queries))
	counter(desc("source_failures_total", "Queries that failed, or rounds without an expected load report."), float64(src.Failures))
	if !src.Newest.IsZero() {
		gauge(desc("source_age_seconds", "Age of the newest evidence."), time.Since(src.Newest).Seconds())
	}
	gauge(desc("source_clock_ahead_seconds", "How far the clock of the source of evidence is ahead of canaryd's; 0 with load reports."), src.ClockAhead.Seconds())
	gauge(desc("xds_streams", "Connected ADS streams."), float64(f.Hub.Streams))
	for typ, n := range f.Hub.Nacks {
		counter(desc("xds_nacks_total", "Updates refused by Envoys.", "type"), float64(n), typ)
	}
	for reason, n := range f.Hub.Refused {
		counter(desc("xds_refused_total", "Streams, names and reports that were not taken in; limits by their key in xds.limits.", "reason"), float64(n), string(reason))
	}
	counter(desc("xds_node_mismatches_total", "Nodes admitted under another name than their certificate's."), float64(f.Hub.Mismatch))
	gauge(desc("leader", "Whether this replica decides."), 1)
	gauge(desc("config_last_reload_successful", "Whether the last reload of the policies worked."), truth(f.ReloadOK))
	gauge(desc("config_last_reload_success_timestamp_seconds", "When the policies were last reloaded."), float64(f.ReloadedAt.Unix()))
	gauge(desc("store_writable", "Whether the history is being written."), truth(f.StoreError == nil))
	for _, d := range f.Decisions {
		c.decisions.Observe(d.Seconds())
	}
	c.decisions.Collect(ch)
}

func collectVersions(s *rollout.State, gauge, counter func(*prometheus.Desc, float64, ...string)) {
	svc := s.Policy.Service
	for i := range s.Versions {
		v := &s.Versions[i]
		if !v.Phase.Live() && time.Since(v.EndedAt) > time.Hour {
			continue // label sets of versions that are long gone are dropped
		}
		gauge(desc("version_weight_ratio", "Decided weight of a version.", "service", "version"), float64(s.Weight(v.Name))/policy.FullWeight, svc, v.Name)
		counter(desc("version_requests_total", "Requests since its first weight.", "service", "version"), v.Counts.Requests, svc, v.Name)
		counter(desc("version_errors_total", "Failed requests since its first weight.", "service", "version"), v.Counts.Errors, svc, v.Name)
		gauge(desc("version_phase", "1 for the phase that the version is in.", "service", "version", "phase"), 1, svc, v.Name, string(v.Phase))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
