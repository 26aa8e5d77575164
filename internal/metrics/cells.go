package metrics

import (
	"maps"
	"math"
	"slices"

	"github.com/prometheus/common/model"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// gather sums a series into the samples of its instance; NaN is no sample.
func gather(into map[string]map[string]map[int64]sample, service, version string, part int, s *model.SampleStream) {
	instance := string(s.Metric["job"]) + "/" + string(s.Metric["instance"])
	byInstance := into[service]
	if byInstance == nil {
		byInstance = map[string]map[int64]sample{}
		into[service] = byInstance
	}
	byTime := byInstance[instance]
	if byTime == nil {
		byTime = map[int64]sample{}
		byInstance[instance] = byTime
	}
	for _, pair := range s.Values {
		v := float64(pair.Value)
		if math.IsNaN(v) {
			continue
		}
		t := int64(pair.Timestamp)
		sm, ok := byTime[t]
		if !ok {
			sm = sample{at: pair.Timestamp.Time(), versions: map[string]parts{}}
			byTime[t] = sm
		}
		parts := sm.versions[version]
		parts[part] += v
		sm.versions[version] = parts
	}
}

// cells turns samples into increments. A scrape counts only when it shows stable's total; what else
// is absent from it is 0. A decrease of anything drops the cell for every version.
func (p *Prometheus) cells(t Target, byInstance map[string]map[int64]sample) []rollout.Cell {
	pr := p.progress[t.Service]
	var out []rollout.Cell
	for _, instance := range slices.Sorted(maps.Keys(byInstance)) {
		byTime := byInstance[instance]
		for _, ts := range slices.Sorted(maps.Keys(byTime)) {
			s := byTime[ts]
			ref, known := pr.refs[instance]
			if _, ok := s.versions[t.Stable]; !ok || known && !s.at.After(ref.at) {
				continue
			}
			pr.refs[instance] = s
			if !known || s.at.Sub(ref.at) > longestGap {
				continue
			}
			p.scrape = max(p.scrape-p.scrape/64, s.at.Sub(ref.at))
			if c, ok := increment(t, instance, ref, s); ok {
				out = append(out, c)
				pr.fresh = s.at
				p.saw(s.at)
			}
		}
	}
	return out
}

func increment(t Target, instance string, from, to sample) (rollout.Cell, bool) {
	c := rollout.Cell{Slice: instance, From: from.at, To: to.at, Counts: map[string]analysis.Counts{}}
	for _, v := range t.Versions {
		a, b := from.versions[v], to.versions[v]
		for i := range a {
			if b[i] < a[i] {
				return c, false
			}
			b[i] -= a[i]
		}
		c.Counts[v] = analysis.Counts{Requests: b[0] + b[1], Errors: min(b[2]+b[3]+b[4], b[0]+b[1])}
	}
	return c, true
}
