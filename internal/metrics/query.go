package metrics

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/canaryd/canaryd/internal/policy"
)

// The labels that say whose counter it is.
const (
	clusterLabel = "envoy_cluster_name"
	classLabel   = "envoy_response_code_class"
	versionLabel = "version" // of what judge.queries selects
)

const namesPerQuery = 2500

// query asks for the samples of the last while, as they were scraped.
func (p *Prometheus) query(ctx context.Context, v *parser.VectorSelector, now time.Time, window time.Duration) (model.Matrix, error) {
	p.queries.Add(1)
	q := (&parser.MatrixSelector{VectorSelector: p.matched(v), Range: window}).String()
	value, _, _, err := p.api.Query(ctx, q, now)
	if err != nil {
		p.failures.Add(1)
		return nil, err
	}
	m, ok := value.(model.Matrix)
	if !ok {
		return nil, fmt.Errorf("prometheus answered a %s to %s", value.Type(), q)
	}
	return m, nil
}

// matched is a selector with the operator's matchers.
func (p *Prometheus) matched(v *parser.VectorSelector) *parser.VectorSelector {
	return with(v, p.match...)
}

func with(v *parser.VectorSelector, more ...*labels.Matcher) *parser.VectorSelector {
	c := *v
	c.LabelMatchers = slices.Concat(v.LabelMatchers, more)
	return &c
}

// oneOf matches any of some values. It is only ever printed, so its expression is not compiled: it may
// have thousands of them.
func oneOf(label string, values []string) *labels.Matcher {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = regexp.QuoteMeta(v)
	}
	return &labels.Matcher{Type: labels.MatchRegexp, Name: label, Value: strings.Join(quoted, "|")}
}

// answers are what one round was told, by service.
type answers struct {
	streams  map[string][]stream
	failures map[string]error
}

// The counters of a version, in Envoy's own metrics: of final answers, and of the attempts before them.
var (
	requestMetrics = []string{"envoy_cluster_upstream_rq_completed", "envoy_cluster_retry_upstream_rq_completed"}
	classMetrics   = []string{"envoy_cluster_upstream_rq_xx", "envoy_cluster_retry_upstream_rq_xx"}
)

const statusPrefix = "envoy_cluster_grpc_" // of the grpc_stats filter: a counter for each status

// cluster is a version of a target, by its name in Envoy's statistics.
type cluster struct {
	target  Target
	version string
}

// envoyCounters reads Envoy's counters of all services in queries split by size only; a service's are
// in one query, so that they are seen at one moment.
func (p *Prometheus) envoyCounters(ctx context.Context, now time.Time, window time.Duration, targets []Target, into *answers) {
	clusters := map[string]cluster{}
	var names []string
	ask := func() {
		if len(names) > 0 {
			p.envoyQuery(ctx, now, window, names, clusters, into)
		}
		names = nil
	}
	for _, t := range targets {
		if t.Queries != nil {
			continue
		}
		if len(names)+len(t.Versions) > namesPerQuery {
			ask()
		}
		for _, v := range t.Versions {
			name := t.Service + "/" + policy.WireName(v)
			clusters[name] = cluster{t, v}
			names = append(names, name)
		}
	}
	ask()
}

func (p *Prometheus) envoyQuery(ctx context.Context, now time.Time, window time.Duration, names []string, clusters map[string]cluster, into *answers) {
	metrics := slices.Concat(requestMetrics, classMetrics, statusMetrics(names, clusters))
	v := &parser.VectorSelector{LabelMatchers: []*labels.Matcher{oneOf(labels.MetricName, metrics), oneOf(clusterLabel, names)}}
	m, err := p.query(ctx, v, now, window)
	if err != nil {
		for _, n := range names {
			into.failures[clusters[n].target.Service] = err
		}
		return
	}
	for _, s := range m {
		c := clusters[string(s.Metric[clusterLabel])]
		if errs, wanted := c.counts(s.Metric); wanted {
			service := c.target.Service
			into.streams[service] = append(into.streams[service], stream{c.version, errs, s.Metric, s.Values})
		}
	}
}

// statusMetrics are the counters of the gRPC statuses that are errors to any of the targets.
func statusMetrics(names []string, clusters map[string]cluster) []string {
	var metrics []string
	for _, name := range names {
		for _, n := range clusters[name].target.Statuses {
			metrics = append(metrics, statusPrefix+strconv.Itoa(n))
		}
	}
	slices.Sort(metrics)
	return slices.Compact(metrics)
}

// counts says whether a series counts for the version, and whether it counts errors.
func (c cluster) counts(m model.Metric) (errs, wanted bool) {
	name := string(m[model.MetricNameLabel])
	if status, is := strings.CutPrefix(name, statusPrefix); is {
		n, err := strconv.Atoi(status)
		return true, err == nil && slices.Contains(c.target.Statuses, n)
	}
	if slices.Contains(classMetrics, name) {
		return true, m[classLabel] == "5"
	}
	return false, slices.Contains(requestMetrics, name)
}

// ownCounters reads the counters that a policy names instead: two queries a service, because two
// selectors cannot be joined into one range selector. The errors come second: a scrape in between is
// then no whole one, and is read with the next round.
func (p *Prometheus) ownCounters(ctx context.Context, now time.Time, window time.Duration, t Target, into *answers) {
	for _, q := range []struct {
		text string
		errs bool
	}{{t.Queries.Requests, false}, {t.Queries.Errors, true}} {
		v, err := plainSelector(q.text)
		var m model.Matrix
		if err == nil {
			m, err = p.query(ctx, with(v, oneOf(versionLabel, t.Versions)), now, window)
		}
		if err != nil {
			into.failures[t.Service] = err
			return
		}
		for _, s := range m {
			into.streams[t.Service] = append(into.streams[t.Service], stream{string(s.Metric[versionLabel]), q.errs, s.Metric, s.Values})
		}
	}
}
