package policy

import (
	"slices"
	"strings"
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
	if source != SourceEnvoy {
		return
	}
	p := c.d.Policy
	if p.Judge.Queries != nil {
		c.fail("judge.queries", "judge.queries needs `metrics: {source: prometheus}` in canaryd.yml: load reports carry Envoy's own counts only")
	}
	usual := Policy{Route: p.Route}
	if !slices.Equal(p.GRPCStatuses(), usual.GRPCStatuses()) {
		c.fail("judge.grpc_errors", "judge.grpc_errors needs `metrics: {source: prometheus}` in canaryd.yml: the statuses that load reports count as errors are fixed: %s", strings.Join(GRPCErrors(), ", "))
	}
}
