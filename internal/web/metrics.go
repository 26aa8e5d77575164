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
	Lost       func() map[string]uint64 // notifications, by target; nil: nobody is told
	Wrong      func() bool              // whether the last reload of who may do what failed; nil: it cannot
	Database   string                   // its name, which copies of it share; empty: none is said
	decisions  prometheus.Histogram
}

// NewCollector makes the collector.
func NewCollector(c *controller.Controller, s metrics.Source) *Collector {
	return &Collector{Controller: c, Source: s, decisions: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "canaryd_decision_seconds", Help: "From evidence read to the new weight in force.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	})}
}

func (c *Collector) lost() map[string]uint64 {
	if c.Lost == nil {
		return nil
	}
	return c.Lost()
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
		collectService(&s, f.Hub.Unapplied[s.Name], gauge, counter)
	}
	src := c.Source.Figures()
	counter(desc("source_queries_total", "Queries sent, or load reports received."), float64(src.Queries))
	counter(desc("source_failures_total", "Queries that failed, or rounds without an expected load report."), float64(src.Failures))
	if !src.Newest.IsZero() {
		gauge(desc("source_age_seconds", "Age of the newest evidence."), time.Since(src.Newest).Seconds())
	}
	gauge(desc("source_clock_ahead_seconds", "How far the clock of the source of evidence is ahead of canaryd's; 0 with load reports."), src.ClockAhead.Seconds())
	collectEnvoys(&f, gauge, counter)
	for target, n := range c.lost() {
		counter(desc("notify_failures_total", "Notifications that were given up or dropped.", "target"), float64(n), target)
	}
	gauge(desc("leader", "Whether this replica decides."), 1)
	gauge(desc("config_last_reload_successful", "Whether the last reload of the policies, and of who may do what, worked."), truth(f.ReloadOK && (c.Wrong == nil || !c.Wrong())))
	gauge(desc("config_last_reload_success_timestamp_seconds", "When the policies were last reloaded."), float64(f.ReloadedAt.Unix()))
	if c.Database != "" {
		gauge(desc("database_info", "1, with the name of the database, which a copy of it has as well.", "database"), 1, c.Database)
	}
	gauge(desc("store_writable", "Whether the history is being written."), truth(f.StoreError == nil))
	for _, d := range f.Decisions {
		c.decisions.Observe(d.Seconds())
	}
	c.decisions.Collect(ch)
}

func collectService(s *controller.Service, unapplied int, gauge, counter func(*prometheus.Desc, float64, ...string)) {
	collectVersions(&s.State, gauge, counter)
	for outcome, n := range map[analysis.Outcome]int{analysis.Pass: s.Verdicts.Pass, analysis.Fail: s.Verdicts.Fail, analysis.Wait: s.Verdicts.Wait} {
		counter(desc("verdicts_total", "Judgements by outcome.", "service", "outcome"), float64(n), s.Name, string(outcome))
	}
	for _, kind := range outcomes() {
		counter(desc("rollouts_total", "Attempts by what became of them, and what happened to them on the way.", "service", "outcome"), float64(s.Outcomes[kind]), s.Name, string(kind))
	}
	collectEvidence(&s.State, gauge)
	counter(desc("placebos_total", "Slices of stable judged as if they were canaries, one per release.", "service"), float64(s.State.Placebos.Begun), s.Name)
	counter(desc("placebo_alarms_total", "Placebos whose evidence reached 20; above 1 in 20 judge.clump is too low.", "service"), float64(s.State.Placebos.Alarms), s.Name)
	for _, d := range s.Dropped {
		counter(desc("version_dropped_total", "Requests that circuit breakers dropped before they reached the version; not among its requests and errors.", "service", "version"), d.Total, s.Name, d.Version)
	}
	gauge(desc("xds_unapplied_nodes", "Envoys that do not have the present weights yet.", "service"), float64(unapplied), s.Name)
}

func collectEnvoys(f *controller.Figures, gauge, counter func(*prometheus.Desc, float64, ...string)) {
	for standing, n := range f.Hub.Nodes {
		gauge(desc("xds_nodes", "Envoys by the worst standing that each has of a service.", "standing"), float64(n), string(standing))
	}
	gauge(desc("xds_streams", "Connected ADS streams."), float64(f.Hub.Streams))
	for typ, n := range f.Hub.Nacks {
		counter(desc("xds_nacks_total", "Updates refused by Envoys.", "type"), float64(n), typ)
	}
	for reason, n := range f.Hub.Refused {
		counter(desc("xds_refused_total", "Streams, names and reports that were refused; limits by their key in xds.limits.", "reason"), float64(n), string(reason))
	}
	counter(desc("xds_node_mismatches_total", "Nodes admitted under another name than their certificate's."), float64(f.Hub.Mismatch))
}

func collectVersions(s *rollout.State, gauge, counter func(*prometheus.Desc, float64, ...string)) {
	svc := s.Policy.Service
	for _, v := range s.Versions {
		if !v.Phase.Live() && time.Since(v.EndedAt) > time.Hour {
			continue // label sets of versions that are long gone are dropped
		}
		gauge(desc("version_weight_ratio", "Decided weight of a version.", "service", "version"), float64(s.Weight(v.Name))/policy.FullWeight, svc, v.Name)
		counter(desc("version_requests_total", "Requests since its first weight.", "service", "version"), v.Counts.Requests, svc, v.Name)
		counter(desc("version_errors_total", "Failed requests since its first weight.", "service", "version"), v.Counts.Errors, svc, v.Name)
		gauge(desc("version_phase", "1 for the phase that the version is in.", "service", "version", "phase"), 1, svc, v.Name, string(v.Phase))
	}
}

// outcomes are the records that say what became of an attempt, or that a person should know.
func outcomes() []rollout.Kind {
	return []rollout.Kind{rollout.KindPromoted, rollout.KindRolledBack, rollout.KindReturned, rollout.KindAborted, rollout.KindSuperseded, rollout.KindHeld, rollout.KindAlarm}
}

// collectEvidence is how much there is for and against versions under test, and how much is needed.
func collectEvidence(s *rollout.State, gauge func(*prometheus.Desc, float64, ...string)) {
	evidence := desc("version_evidence", "Evidence of a version under test: that it is worse (rollback), and that it is good enough (promotion).", "service", "version", "test")
	threshold := desc("version_evidence_threshold", "The evidence at which that is decided.", "service", "version", "test")
	verdict := desc("version_verdict", "1 for the code of the present verdict of a version under test: what it waits for.", "service", "version", "code")
	for _, v := range s.Versions {
		if v.Phase.Waiting() && v.Verdict.Code != "" {
			gauge(verdict, 1, s.Policy.Service, v.Name, string(v.Verdict.Code))
		}
		if d := v.Verdict; v.Phase.Waiting() && d.Threshold > 0 {
			gauge(evidence, d.Evidence, s.Policy.Service, v.Name, "rollback")
			gauge(threshold, d.Threshold, s.Policy.Service, v.Name, "rollback")
			gauge(evidence, d.Promotion, s.Policy.Service, v.Name, "promotion")
			gauge(threshold, d.PromoteAt, s.Policy.Service, v.Name, "promotion")
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
