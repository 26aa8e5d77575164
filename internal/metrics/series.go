package metrics

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// stream is one counter of a version, as Prometheus has it.
type stream struct {
	version string
	kind    kind
	labels  model.Metric
	samples []model.SamplePair
	upTo    float64 // of what counts durations: seconds
	sort
}

// exposition are the readings of what has the same labels, apart from those that are the counters' own.
type exposition struct {
	labels   model.LabelSet
	readings []*reading // by time
}

// whose says which labels are the counters' own; the others say which Envoy it is.
type whose func(model.LabelName) bool

// ownOfEnvoys are the labels of Envoy's counters: all its tags begin with envoy_. An operator may have
// made more tags of the cluster's name (stats_config.stats_tags): those that go with the version.
func ownOfEnvoys(tags map[model.LabelName]bool) whose {
	return func(name model.LabelName) bool {
		return name == model.MetricNameLabel || name == model.BucketLabel || strings.HasPrefix(string(name), "envoy_") || tags[name]
	}
}

// ownOfQueries are those of what judge.queries selects: all but job, instance and who scraped.
func ownOfQueries(name model.LabelName) bool {
	return name != model.InstanceLabel && !scraper(name)
}

// tags finds labels that go with the version: each version has one value, and not all have the same.
func tags(streams []stream) map[model.LabelName]bool {
	values := map[model.LabelName]map[string]model.LabelValue{} // label, version
	mixed := map[model.LabelName]bool{}
	for _, s := range streams {
		for name, v := range s.labels {
			if name == model.InstanceLabel || scraper(name) || ownOfEnvoys(nil)(name) {
				continue
			}
			if values[name] == nil {
				values[name] = map[string]model.LabelValue{}
			}
			had, seen := values[name][s.version]
			mixed[name] = mixed[name] || seen && had != v
			values[name][s.version] = v
		}
	}
	found := map[model.LabelName]bool{}
	for name, byVersion := range values {
		if len(slices.Compact(slices.Sorted(maps.Values(byVersion)))) > 1 && !mixed[name] {
			found[name] = true
		}
	}
	return found
}

// expositions sorts the samples of a service by whose and when they are. NaN is no sample.
func expositions(streams []stream, own whose, sc *scope) map[string]*exposition {
	found := map[string]*exposition{}
	at := map[*exposition]map[model.Time]*reading{}
	var k keys
	for _, s := range streams {
		target, name := k.of(s.labels, own, s.kind == took)
		x := found[target]
		if x == nil {
			x = &exposition{labels: others(s.labels, own)}
			found[target], at[x] = x, map[model.Time]*reading{}
		}
		c := counter{s.version, s.kind, name, s.upTo, s.sort}
		for _, pair := range s.samples {
			if math.IsNaN(float64(pair.Value)) {
				continue
			}
			r := at[x][pair.Timestamp]
			if r == nil {
				r = &reading{at: pair.Timestamp.Time(), scope: sc, values: map[counter]float64{}}
				at[x][pair.Timestamp] = r
			}
			r.values[c] = float64(pair.Value)
		}
	}
	for x, byTime := range at {
		x.readings = slices.SortedFunc(maps.Values(byTime), func(a, b *reading) int { return a.at.Compare(b.at) })
	}
	return found
}

// keys makes keys of label sets.
type keys struct {
	names        []string
	target, name []byte
}

// of returns a key of the labels that say which Envoy it is, and one of those that are the counter's own. That is the same for all buckets of
// a histogram.
func (k *keys) of(labels model.Metric, own whose, bucket bool) (target, name string) {
	k.names, k.target, k.name = k.names[:0], k.target[:0], k.name[:0]
	for l := range labels {
		if bucket && l == model.BucketLabel {
			continue
		}
		k.names = append(k.names, string(l))
	}
	slices.Sort(k.names)
	for _, l := range k.names {
		to := &k.target
		if own(model.LabelName(l)) {
			to = &k.name
		}
		*to = append(append(append(append(*to, l...), '='), labels[model.LabelName(l)]...), 0)
	}
	return string(k.target), string(k.name)
}

// others are the labels that are not the counter's own.
func others(labels model.Metric, own whose) model.LabelSet {
	set := model.LabelSet{}
	for l, v := range labels {
		if !own(l) {
			set[l] = v
		}
	}
	return set
}

// torn finds the last moment at which counters were read apart that should be read together: each is
// missing from a reading that has the other, and is there before and after. Those are two Envoys' that
// differ in a label which is the counters' own.
func (x *exposition) torn() (at time.Time) {
	missing := map[counter][]*reading{}
	seen := map[counter]int{}
	for i, r := range x.readings {
		for c := range r.values {
			if !c.counts() {
				continue
			}
			if last, known := seen[c]; known && last < i-1 {
				missing[c] = append(missing[c], x.readings[last+1:i]...)
			}
			seen[c] = i
		}
	}
	for c, without := range missing {
		for _, r := range without {
			for other := range r.values {
				apart := slices.ContainsFunc(missing[other], func(q *reading) bool { _, has := q.values[c]; return has })
				if apart && r.at.After(at) {
					at = r.at
				}
			}
		}
	}
	return at
}

// nameOf is what an instance is called: by job and instance, and by all its labels where another one
// is called so.
func nameOf(labels model.LabelSet, taken map[string]bool) string {
	name := string(labels[model.JobLabel]) + "/" + string(labels[model.InstanceLabel])
	if labels[model.InstanceLabel] == "" || taken[name] {
		return cmp.Or(labels.String(), name)
	}
	return name
}
