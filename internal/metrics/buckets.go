package metrics

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/canaryd/canaryd/internal/analysis"
)

// tookMetric is Envoy's histogram of how long final answers took, in milliseconds: from the request's end to the answer's, retries included.
const tookMetric = "envoy_cluster_upstream_rq_time_bucket"

// mostBounds of a histogram that is read.
const mostBounds = 200

// millis are parts of the names of metrics in milliseconds; all others are in seconds, as Prometheus wants it.
var millis = []string{"_milliseconds", "_millis", "_ms"}

func inMillis(metric string) bool {
	base := strings.TrimSuffix(metric, "_bucket")
	return metric == tookMetric || slices.ContainsFunc(millis, func(unit string) bool { return strings.HasSuffix(base, unit) })
}

// boundOf is the upper bound of a bucket in seconds; wanted: it is no bucket, or it has one.
func boundOf(k kind, m model.Metric) (seconds float64, wanted bool) {
	if k != took {
		return 0, true
	}
	le, err := strconv.ParseFloat(string(m[model.BucketLabel]), 64)
	if err != nil || math.IsNaN(le) || le <= 0 {
		return 0, false
	}
	if inMillis(string(m[model.MetricNameLabel])) {
		le /= 1000
	}
	return exactly(le), true
}

// exactly is a number of seconds as a duration of a policy has it.
func exactly(seconds float64) float64 {
	if seconds > math.MaxInt64/1e9 {
		return math.Inf(1)
	}
	return time.Duration(math.Round(seconds * 1e9)).Seconds()
}

// timing is how it is told how long a service's answers took.
type timing struct {
	edges  []float64
	metric string
	stable string
	asked  bool      // steps were read, and stable answered in one
	bounds []float64 // that stable's buckets have
	topped bool      // and one without a bound, which has all answers
}

func newTiming(t Target) *timing {
	if !t.Timed || t.Queries != nil && t.Queries.Buckets == "" {
		return nil
	}
	tm := &timing{edges: t.Edges, metric: tookMetric, stable: t.Stable}
	if t.Queries != nil {
		tm.metric = t.Queries.Buckets
	}
	return tm
}

// histogram is one of a version's, in one step.
type histogram struct {
	version, name string
}

// times are how long a step's answers took, by version. Of what was not there before nothing is known, and Envoys add up their histograms every
// five seconds: it may be about some seconds before the step.
func (tm *timing) times(s step, counts map[string]analysis.Counts) map[string][]analysis.Times {
	if tm == nil {
		return nil
	}
	tm.asked = tm.asked || counts[tm.stable].Requests > 0
	rose := map[histogram]map[float64]float64{}
	broken := map[histogram]bool{}
	for c, w := range s.to.values {
		if _, counted := counts[c.version]; c.kind != took || !counted {
			continue
		}
		h := histogram{c.version, c.name}
		v, there := s.from.values[c]
		if broken[h] = broken[h] || !there || w < v; rose[h] == nil {
			rose[h] = map[float64]float64{}
		}
		rose[h][c.upTo] = w - v
	}
	out := map[string][]analysis.Times{}
	for _, h := range slices.SortedFunc(maps.Keys(rose), func(a, b histogram) int {
		return cmp.Or(cmp.Compare(a.version, b.version), cmp.Compare(a.name, b.name))
	}) {
		t := apart(rose[h])
		_, whole := rose[h][math.Inf(1)]
		if h.version == tm.stable {
			tm.bounds, tm.topped = t.UpTo, whole
		}
		if whole && !broken[h] && len(t.UpTo) <= mostBounds && t.All() > 0 {
			out[h.version] = analysis.JoinTimes(out[h.version], []analysis.Times{t})
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// apart are the counts between bounds, of counts up to them, the last of which is without a bound.
func apart(upTo map[float64]float64) (t analysis.Times) {
	below := 0.0
	for _, le := range slices.Sorted(maps.Keys(upTo)) {
		t.N = append(t.N, max(0, upTo[le]-below))
		below = max(below, upTo[le])
		if !math.IsInf(le, 1) {
			t.UpTo = append(t.UpTo, le)
		}
	}
	return t
}

// refused says which configured edge is no bucket; empty: all are, or nothing is known of the buckets.
func (tm *timing) refused() string {
	for _, e := range tm.edges {
		i, is := slices.BinarySearch(tm.bounds, e)
		if is || len(tm.bounds) == 0 {
			continue
		}
		var near []string
		for _, b := range tm.bounds[max(i-1, 0):min(i+1, len(tm.bounds))] {
			near = append(near, inWords(b))
		}
		return fmt.Sprintf("judge.slow.edges: %s is no bucket of %s, so of releases with that edge it is not judged how long answers take: the nearest %s", inWords(e), tm.metric, strings.Join(near, " and "))
	}
	return ""
}

func inWords(seconds float64) string { return time.Duration(math.Round(seconds * 1e9)).String() }

// remarks are what a person should know of it.
func (tm *timing) remarks() []string {
	switch {
	case tm == nil:
	case len(tm.bounds) == 0 && tm.asked:
		return []string{fmt.Sprintf("Prometheus has no buckets of %s, so it is not judged how long answers take (judge.slow): of Envoys, the list of statistics in the bootstrap must have upstream_rq_time, as `canaryd bootstrap` prints it", tm.metric)}
	case len(tm.bounds) > 0 && !tm.topped:
		return []string{fmt.Sprintf("the bucket le=\"+Inf\" of %s is missing, which has all answers, so it is not judged how long these take (judge.slow): keep it where series are dropped (metric_relabel_configs)", tm.metric)}
	default:
		if text := tm.refused(); text != "" {
			return []string{text}
		}
	}
	return nil
}
