package metrics

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/canaryd/canaryd/internal/policy"
)

// routeLabels are what libraries call the route of a request, the plainest first.
var routeLabels = []string{"handler", "route", "http_route", "endpoint", "uri", "path", "grpc_method", "rpc_method", "method_name", "operation", "action", "view"}

// valuesMost of a label of routes. What has more is a label of paths.
const valuesMost = 1000

// Values are the values of the label that names the route of a request, and how many requests of a version Prometheus counted for each within the
// last five minutes; label is the one that the policy names, else the first of the usual ones that the counters have.
func (p *Prometheus) Values(ctx context.Context, q *policy.Queries, version string) (label string, values map[string]float64, err error) {
	v, err := plainSelector(q.Requests)
	if err != nil {
		return "", nil, fmt.Errorf("judge.queries: %q: %w", q.Requests, err)
	}
	ctx, x := noting(ctx)
	is := &labels.Matcher{Type: labels.MatchEqual, Name: versionLabel, Value: version}
	answer, _, _, err := p.api.Query(ctx, (&parser.MatrixSelector{VectorSelector: with(with(v, is), p.match...), Range: longestGap}).String(), time.Time{})
	if err != nil {
		return "", nil, errors.New(failureOf(err, x, p.url).Reason)
	}
	m, ok := answer.(model.Matrix)
	if !ok {
		return "", nil, fmt.Errorf("Prometheus answered a %s where samples were asked for", answer.Type())
	}
	candidates := routeLabels
	if q.Class != "" {
		candidates = []string{q.Class}
	}
	for _, label := range candidates {
		values := map[string]float64{}
		for _, s := range m {
			if name := className(string(s.Metric[model.LabelName(label)])); name != "" {
				values[name] += risen(s.Values)
			}
		}
		if n := len(values); n > 0 && (n <= valuesMost || q.Class != "") {
			return label, values, nil
		}
	}
	return "", nil, nil
}

// risen is by how much a counter rose. Where it fell it began anew.
func risen(samples []model.SamplePair) (n float64) {
	for i := 1; i < len(samples); i++ {
		d := float64(samples[i].Value - samples[i-1].Value)
		if d < 0 {
			d = float64(samples[i].Value)
		}
		n += d
	}
	return n
}
