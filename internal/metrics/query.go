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

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// The labels that say whose counter it is.
const (
	clusterLabel = "envoy_cluster_name"
	classLabel   = "envoy_response_code_class"
	versionLabel = "version" // of what judge.queries selects
)

const namesPerQuery = 2500

// query asks Prometheus, and returns what it answered and what it had to say to that. The moment is
// Prometheus' own present: its clock may differ from canaryd's.
func (p *Prometheus) query(ctx context.Context, q parser.Expr) (model.Value, []string, *failure) {
	p.queries.Add(1)
	ctx, x := noting(ctx)
	value, warnings, infos, err := p.api.Query(ctx, q.String(), time.Time{})
	if x.status != 0 {
		p.clock.heard(x)
	}
	if err != nil {
		p.failures.Add(1)
		return nil, nil, failureOf(err, x, p.url)
	}
	return value, slices.Concat([]string(warnings), []string(infos)), nil
}

// samples asks for the samples of the last while, as they were scraped.
func (p *Prometheus) samples(ctx context.Context, v *parser.VectorSelector, window time.Duration) (model.Matrix, []string, *failure) {
	value, told, f := p.query(ctx, &parser.MatrixSelector{VectorSelector: with(v, p.match...), Range: window})
	if f != nil {
		return nil, nil, f
	}
	m, ok := value.(model.Matrix)
	if !ok {
		return nil, nil, &failure{Missing: rollout.Missing{Code: analysis.QueryError, Reason: fmt.Sprintf("Prometheus answered a %s where samples were asked for", value.Type())}}
	}
	received := time.Now()
	for _, s := range m {
		if n := len(s.Values); n > 0 {
			p.clock.sampled(s.Values[n-1].Timestamp.Time(), received)
		}
	}
	return m, told, nil
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
	warnings map[string][]string
	failures map[string]*failure
	failure  *failure // the last
	answered bool     // something was
	hung     []Target // services whose own queries took the time that there was
}

// others reports whether a service other than one was answered.
func (a *answers) others(but string) bool {
	for s := range a.warnings { // all that were asked about
		if s != but && a.failures[s] == nil {
			return true
		}
	}
	return false
}

// take keeps one answer about some services.
func (a *answers) take(services []string, told []string, f *failure) {
	for _, s := range services {
		if f != nil {
			a.failures[s] = f
		}
		a.warnings[s] = append(a.warnings[s], told...)
	}
	if f != nil {
		a.failure = f
	} else {
		a.answered = true
	}
}

// busy reports that Prometheus wants to hear no more this round.
func (a *answers) busy() bool { return a.failure != nil && a.failure.wait > 0 }

// ask sends the queries of a round.
func (p *Prometheus) ask(ctx context.Context, parts []part, now time.Time) *answers {
	told := &answers{streams: map[string][]stream{}, warnings: map[string][]string{}, failures: map[string]*failure{}}
	for _, part := range parts {
		p.envoyCounters(ctx, part, told)
		p.ownInTurn(ctx, part, now, told)
	}
	return told
}

// The counters of a version, in Envoy's own metrics: of final answers, and of the attempts before them.
var (
	requestMetrics = []string{"envoy_cluster_upstream_rq_completed", "envoy_cluster_retry_upstream_rq_completed"}
	classMetrics   = []string{"envoy_cluster_upstream_rq_xx", "envoy_cluster_retry_upstream_rq_xx"}
	// What circuit breakers dropped. Since Envoy 1.38 those of max_requests are counted apart.
	overflowMetrics = []string{"envoy_cluster_upstream_rq_pending_overflow", "envoy_cluster_upstream_rq_active_overflow"}
)

const (
	statusPrefix      = "envoy_cluster_grpc_" // of the grpc_stats filter: a counter for each status
	unavailableStatus = 14
)

// cluster is a version of a target, by its name in Envoy's statistics.
type cluster struct {
	target  Target
	version string
}

// envoyCounters reads Envoy's counters of all services in queries split by size only, and those of services whose durations are wanted
// apart; a service's are in one query, so that they are seen at one moment.
func (p *Prometheus) envoyCounters(ctx context.Context, part part, told *answers) {
	for _, timed := range []bool{false, true} {
		var together []Target
		size := 0
		for _, t := range part.targets {
			if t.Queries != nil || t.Timed != timed {
				continue
			}
			if size += len(t.Versions); size > namesPerQuery && len(together) > 0 {
				p.envoyQuery(ctx, together, part.window, told)
				together, size = nil, len(t.Versions)
			}
			together = append(together, t)
		}
		if len(together) > 0 {
			p.envoyQuery(ctx, together, part.window, told)
		}
	}
}

func (p *Prometheus) envoyQuery(ctx context.Context, targets []Target, window time.Duration, told *answers) {
	clusters := map[string]cluster{}
	var services []string
	for _, t := range targets {
		services = append(services, t.Service)
		for _, v := range t.Versions {
			clusters[t.Service+"/"+policy.WireName(v)] = cluster{t, v}
		}
	}
	if told.busy() {
		told.take(services, nil, told.failure)
		return
	}
	metrics := slices.Concat(requestMetrics, classMetrics, overflowMetrics, statusMetrics(targets))
	if targets[0].Timed {
		metrics = append(metrics, tookMetric)
	}
	v := &parser.VectorSelector{LabelMatchers: []*labels.Matcher{oneOf(labels.MetricName, metrics), oneOf(clusterLabel, slices.Sorted(maps.Keys(clusters)))}}
	m, said, f := p.samples(ctx, v, window)
	told.take(services, said, f)
	for _, s := range m {
		c := clusters[string(s.Metric[clusterLabel])]
		if kind, wanted := c.counts(s.Metric); wanted {
			st := stream{version: c.version, kind: kind, labels: s.Metric, samples: s.Values}
			st.upTo, wanted = boundOf(kind, s.Metric)
			if service := c.target.Service; wanted {
				told.streams[service] = append(told.streams[service], st)
			}
		}
	}
}

// statusMetrics are the counters of the gRPC statuses that are errors to any of the targets.
func statusMetrics(targets []Target) []string {
	var metrics []string
	for _, t := range targets {
		for _, n := range t.Statuses {
			metrics = append(metrics, statusPrefix+strconv.Itoa(n))
		}
	}
	slices.Sort(metrics)
	return slices.Compact(metrics)
}

// counts says whether a series counts for the version, and what it counts.
func (c cluster) counts(m model.Metric) (k kind, wanted bool) {
	name := string(m[model.MetricNameLabel])
	if status, is := strings.CutPrefix(name, statusPrefix); is {
		n, err := strconv.Atoi(status)
		if n == unavailableStatus {
			return unavailable, slices.Contains(c.target.Statuses, n)
		}
		return failures, err == nil && slices.Contains(c.target.Statuses, n)
	}
	switch {
	case slices.Contains(classMetrics, name):
		return failures, m[classLabel] == "5"
	case slices.Contains(overflowMetrics, name):
		return overflow, true
	case name == tookMetric:
		return took, true
	}
	return requests, slices.Contains(requestMetrics, name)
}

// ownCounters reads the counters that a policy names instead: two queries a service, three where durations are wanted, because
// selectors cannot be joined into one range selector. The errors come second: a scrape in between is
// then no whole one, and is read with the next round.
func (p *Prometheus) ownCounters(ctx context.Context, t Target, window time.Duration, told *answers) {
	for _, q := range []struct {
		text string
		kind kind
	}{{t.Queries.Requests, requests}, {t.Queries.Errors, failures}} {
		if told.busy() {
			told.take([]string{t.Service}, nil, told.failure)
			return
		}
		said, f := p.ownQuery(ctx, t, q.text, q.kind, window, told)
		told.take([]string{t.Service}, said, f)
		if f != nil {
			return
		}
	}
	if !t.Timed || t.Queries.Buckets == "" || told.busy() {
		return
	}
	pr, begun := p.progress[t.Service], time.Now()
	if !pr.bucketsAgain.After(begun) {
		pr.bucketsWrong = ""
		if _, f := p.ownQuery(ctx, t, t.Queries.Buckets, took, window, told); f != nil {
			pr.bucketsWrong = "it does not tell how long answers took: " + f.Reason
		}
		if hangs(ctx, begun) {
			pr.bucketsAgain = time.Now().Add(longestGap)
		}
	}
	if pr.bucketsWrong != "" { // nothing waits for durations
		told.warnings[t.Service] = append(told.warnings[t.Service], pr.bucketsWrong)
	}
}

func (p *Prometheus) ownQuery(ctx context.Context, t Target, text string, k kind, window time.Duration, told *answers) ([]string, *failure) {
	v, err := plainSelector(text)
	if err != nil { // the policy's check lets none through
		return nil, &failure{Missing: rollout.Missing{Code: analysis.QueryError, Reason: fmt.Sprintf("judge.queries: %q: %v", text, err)}}
	}
	m, said, f := p.samples(ctx, with(v, oneOf(versionLabel, t.Versions)), window)
	if f != nil {
		return said, f
	}
	for _, s := range m {
		st := stream{version: string(s.Metric[versionLabel]), kind: k, labels: s.Metric, samples: s.Values, sort: sortOf(s.Metric, k, t.Queries.Class)}
		wanted := true
		if st.upTo, wanted = boundOf(k, s.Metric); wanted {
			told.streams[t.Service] = append(told.streams[t.Service], st)
		}
	}
	return said, nil
}
