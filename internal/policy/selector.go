package policy

import (
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// ofTargets are labels that say whose counters they are, and not what was asked for.
var ofTargets = []string{labels.MetricName, "version", "instance", "job", "le"}

// selector refuses everything but a plain counter selector: canaryd needs the counters themselves,
// because a rate() has already thrown the counts away.
func (c *check) selector(path, q string) {
	if q == "" {
		c.fail(path, "missing: requests and errors are both needed, as plain selectors")
		return
	}
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(q)
	if err != nil {
		c.fail(path, "%q is not PromQL: %v", q, err)
		return
	}
	v, ok := expr.(*parser.VectorSelector)
	if !ok || v.OriginalOffset != 0 || v.Timestamp != nil || v.StartOrEnd != 0 {
		c.fail(path, "%q is not a plain counter selector: write name{label=\"value\"} without functions, ranges, offsets or aggregations", q)
		return
	}
	if v.Name == "" {
		c.fail(path, "%q names no metric: begin with its name, as in app_requests_total{...}", q)
	}
	for _, m := range v.LabelMatchers {
		if m.Name == "version" {
			c.fail(path, "leave the label `version` out: canaryd asks for the versions it judges")
		}
	}
}

// classLabel refuses labels that name no class of requests.
func (c *check) classLabel(q *Queries) {
	const path = "judge.queries.class"
	switch {
	case q.Class == "":
	case !labelName.MatchString(q.Class):
		c.fail(path, "%q is not the name of a label: write that of the label which names the route, as in handler", q.Class)
	case strings.HasPrefix(q.Class, "__") || slices.Contains(ofTargets, q.Class):
		c.fail(path, "the label %s says whose counter it is: write the label that names the route, as in handler", q.Class)
	default:
		for _, text := range []string{q.Requests, q.Errors} {
			if v, err := parser.NewParser(parser.Options{}).ParseExpr(text); err == nil && picks(v, q.Class) {
				c.warn(path, "%q selects one value of %s: every request is of the same class", text, q.Class)
				return
			}
		}
	}
}

func picks(e parser.Expr, label string) bool {
	v, ok := e.(*parser.VectorSelector)
	return ok && slices.ContainsFunc(v.LabelMatchers, func(m *labels.Matcher) bool { return m.Name == label && m.Type == labels.MatchEqual })
}

// buckets refuses what selects no buckets of a histogram.
func (c *check) buckets(text string) {
	const path = "judge.queries.buckets"
	if text == "" {
		return
	}
	c.selector(path, text)
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	v, ok := expr.(*parser.VectorSelector)
	switch {
	case err != nil || !ok:
	case v.Name != "" && !strings.HasSuffix(v.Name, "_bucket"):
		c.fail(path, "%s is no histogram: the name of its buckets ends in _bucket, as in app_request_duration_seconds_bucket", v.Name)
	case picks(v, labels.BucketLabel):
		c.fail(path, "leave the label `le` out: canaryd asks for all buckets")
	}
}
