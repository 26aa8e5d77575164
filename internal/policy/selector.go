package policy

import (
	"github.com/prometheus/prometheus/promql/parser"
)

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
