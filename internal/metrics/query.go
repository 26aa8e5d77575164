package metrics

import (
	"context"
	"fmt"
	"maps"
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

// envoyCounters reads Envoy's counters of all services in queries split by size only.
func (p *Prometheus) envoyCounters(ctx context.Context, now time.Time, window time.Duration, targets []Target,
	into map[string]map[string]map[int64]sample, failures map[string]error) {
	owner := map[string][2]string{} // envoy_cluster_name: service, version
	for _, t := range targets {
		for _, v := range t.Versions {
			if t.Queries == nil {
				owner[t.Service+"/"+policy.WireName(v)] = [2]string{t.Service, v}
			}
		}
	}
	names := append(slices.Sorted(maps.Keys(envoyParts)), statusMetrics(targets)...)
	statuses := map[string][]int{}
	for _, t := range targets {
		statuses[t.Service] = t.Statuses
	}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(owner)), namesPerQuery) {
		v := &parser.VectorSelector{LabelMatchers: []*labels.Matcher{oneOf(labels.MetricName, names), oneOf(clusterLabel, chunk)}}
		m, err := p.query(ctx, v, now, window)
		if err != nil {
			for _, n := range chunk {
				failures[owner[n][0]] = err
			}
			continue
		}
		for _, s := range m {
			o := owner[string(s.Metric[clusterLabel])]
			part, ok := partOf(s.Metric, statuses[o[0]])
			if !ok {
				continue
			}
			gather(into, o[0], o[1], part, s)
		}
	}
}

const statusPrefix = "envoy_cluster_grpc_" // of the grpc_stats filter: a counter for each status

// statusMetrics are the counters of the statuses that are errors to any of the targets.
func statusMetrics(targets []Target) []string {
	var names []string
	for _, t := range targets {
		for _, n := range t.Statuses {
			names = append(names, statusPrefix+strconv.Itoa(n))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// partOf says which of a version's counters a series belongs to.
func partOf(m model.Metric, statuses []int) (part int, ok bool) {
	name := string(m[model.MetricNameLabel])
	if status, is := strings.CutPrefix(name, statusPrefix); is {
		n, err := strconv.Atoi(status)
		return 4, err == nil && slices.Contains(statuses, n)
	}
	part, ok = envoyParts[name]
	return part, ok && (part < 2 || m[classLabel] == "5")
}

// ownCounters reads the counters that a policy names instead: two queries a service, because two
// selectors cannot be joined into one range selector.
func (p *Prometheus) ownCounters(ctx context.Context, now time.Time, window time.Duration, targets []Target,
	into map[string]map[string]map[int64]sample, failures map[string]error) {
	for _, t := range targets {
		if t.Queries == nil {
			continue
		}
		for part, text := range map[int]string{0: t.Queries.Requests, 2: t.Queries.Errors} {
			v, err := plainSelector(text)
			var m model.Matrix
			if err == nil {
				m, err = p.query(ctx, with(v, oneOf(versionLabel, t.Versions)), now, window)
			}
			if err != nil {
				failures[t.Service] = err
				break
			}
			for _, s := range m {
				gather(into, t.Service, string(s.Metric[versionLabel]), part, s)
			}
		}
	}
}
