package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Where the evidence comes from: metrics.source of canaryd.yml.
const (
	SourceEnvoy      = "envoy"
	SourcePrometheus = "prometheus"
)

// source refuses what its source of evidence cannot count.
func (c *check) source(source string) {
	if source == SourcePrometheus && len(c.d.Policy.Route.Classes) > 0 {
		c.fail("route.classes", "route.classes needs `metrics: {source: envoy}` in canaryd.yml: Envoy's counters in Prometheus do not tell classes; those of the service may: judge.queries.class names the label")
	}
	if source == SourcePrometheus {
		c.timed()
	}
	if source != SourceEnvoy {
		return
	}
	p := c.d.Policy
	if p.Judge.Slow != nil && len(p.Route.Classes) == 0 { // else it is said of these
		c.measured("judge.slow", "judge.slow")
	}
	if p.Judge.Queries != nil {
		c.fail("judge.queries", "judge.queries needs `metrics: {source: prometheus}` in canaryd.yml: load reports carry Envoy's own counts only")
	}
	usual := Policy{Route: p.Route}
	if !slices.Equal(p.GRPCStatuses(), usual.GRPCStatuses()) {
		c.fail("judge.grpc_errors", "judge.grpc_errors needs `metrics: {source: prometheus}` in canaryd.yml: the statuses that load reports count as errors are fixed: %s", strings.Join(GRPCErrors(), ", "))
	}
}

// envoyBuckets are the bounds of Envoy's histograms in milliseconds, where its bootstrap does not name others.
var envoyBuckets = []float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000, 3_600_000}

// timed says where Prometheus cannot tell how long answers took.
func (c *check) timed() {
	j := &c.d.Policy.Judge
	switch {
	case j.Slow == nil:
	case j.Queries != nil && j.Queries.Buckets == "":
		c.warn("judge.slow", "judge.queries replaces Envoy's counters and names no buckets: it is not judged how long answers take; write buckets, as in app_request_duration_seconds_bucket{...}")
	case j.Queries == nil:
		for i, e := range j.Slow.Edges {
			ms := e.Std().Seconds() * 1000
			if n, is := slices.BinarySearch(envoyBuckets, ms); !is {
				c.warn(fmt.Sprintf("judge.slow.edges[%d]", i), "%s is no bucket of Envoy's histograms, unless stats_config.histogram_bucket_settings in its bootstrap makes it one: write %s", e, besides(n))
			}
		}
	}
}

// besides are the buckets on both sides of a place among them.
func besides(n int) string {
	var near []string
	for _, ms := range envoyBuckets[max(n-1, 0):min(n+1, len(envoyBuckets))] {
		near = append(near, time.Duration(ms*float64(time.Millisecond)).String())
	}
	return strings.Join(near, " or ")
}
