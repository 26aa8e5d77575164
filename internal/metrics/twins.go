package metrics

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// sameWithin is how far the moments of two readings of one counter may be out of order: clocks, slow
// scrapes and caches.
const sameWithin = time.Minute

// twinhood is what an instance knows for telling whether another one is the same Envoy, scraped by
// another job or by another Prometheus.
type twinhood struct {
	epoch   time.Time // the counters have only risen since, and were read all the time
	anchor  *reading  // an older one, to hold another's against
	next    *reading  // the anchor after that
	apart   map[*instance]bool
	counted *counted
}

// counted is how far an Envoy was counted, and from whose readings.
type counted struct {
	by *instance
	to *reading
}

func (tw *twinhood) begin(r *reading) { tw.epoch, tw.anchor, tw.next = r.at, nil, nil }

func (tw *twinhood) remembers(r *reading) {
	if tw.next == nil {
		tw.next = r
	} else if r.at.Sub(tw.next.at) >= sameWithin {
		tw.anchor, tw.next = tw.next, r
	}
}

// replica reports labels that say which Prometheus scraped, not whom.
func replica(name model.LabelName) bool {
	return strings.Contains(string(name), "replica") || name == "prometheus" || name == "monitor"
}

func scraper(name model.LabelName) bool { return name == model.JobLabel || replica(name) }

// mayBeOne reports that the labels of two instances may be those of one Envoy: they differ only in who
// scraped, and in labels that one of the scrapers does not add.
func mayBeOne(a, b model.LabelSet) bool {
	if a[model.InstanceLabel] != b[model.InstanceLabel] {
		return false
	}
	for name, v := range a {
		if w, there := b[name]; there && w != v && !scraper(name) {
			return false
		}
	}
	return true
}

// twins sorts the instances of a service into Envoys. Instances that may be one are one until their
// counters show otherwise: to count an Envoy twice would be worse than to miss some of it.
func twins(instances []*instance) [][]*instance {
	byName := map[model.LabelValue][]*instance{}
	for _, in := range instances {
		byName[in.labels[model.InstanceLabel]] = append(byName[in.labels[model.InstanceLabel]], in)
	}
	var envoys [][]*instance
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		var found [][]*instance
		for _, in := range byName[name] {
			i := slices.IndexFunc(found, func(envoy []*instance) bool {
				return !slices.ContainsFunc(envoy, func(o *instance) bool { return !one(in, o) })
			})
			if i < 0 {
				found = append(found, []*instance{in})
			} else {
				found[i] = append(found[i], in)
			}
		}
		envoys = append(envoys, found...)
	}
	return envoys
}

func one(a, b *instance) bool {
	if a.apart[b] || !mayBeOne(a.labels, b.labels) {
		return false
	}
	if differ(a, b) || differ(b, a) {
		for _, p := range [][2]*instance{{a, b}, {b, a}} {
			if p[0].apart == nil {
				p[0].apart = map[*instance]bool{}
			}
			p[0].apart[p[1]] = true
		}
		return false
	}
	return true
}

// differ reports that a counter of one is lower than the other's was long before, with no restart that
// could be why.
func differ(a, b *instance) bool {
	if a.last == nil || b.anchor == nil || a.last.at.Sub(b.anchor.at) < sameWithin || b.anchor.at.Sub(a.epoch) < sameWithin {
		return false
	}
	return !a.last.atLeast(b.anchor)
}

// chosen is the one of an Envoy's instances that counts: the one that counted before, unless it has
// stopped or another one is scraped twice as often; at first one with many readings.
func chosen(envoy []*instance) *instance {
	most := 0
	for _, in := range envoy {
		most = max(most, in.readings)
	}
	first := envoy[slices.IndexFunc(envoy, func(in *instance) bool { return 3*in.readings >= 2*most })]
	c := latest(envoy)
	if c == nil || c.by.last == nil || !slices.Contains(envoy, c.by) {
		return first
	}
	patience := 5 * c.by.distances.median() / 2
	for _, in := range envoy {
		if in.last == nil {
			continue
		}
		stopped := in.last.at.Sub(c.by.last.at) > patience
		rarer := len(in.distances) == distancesKept && 2*in.distances.median() < c.by.distances.median()
		if stopped || rarer {
			return in
		}
	}
	return c.by
}

// latest is how far any of them was counted.
func latest(envoy []*instance) (c *counted) {
	for _, in := range envoy {
		if in.counted != nil && (c == nil || in.counted.to.at.After(c.to.at)) {
			c = in.counted
		}
	}
	return c
}

// count lets one instance of an Envoy count, from where another one stopped if there was one.
func count(envoy []*instance, steps map[*instance][]step) (*instance, []step) {
	in, before := chosen(envoy), latest(envoy)
	if before != nil && !slices.Contains(envoy, before.by) {
		before = nil // of another Envoy, as it turned out
	}
	if before != nil && before.by != in {
		in.held = nil
	}
	var mine []step
	for _, s := range steps[in] {
		if before == nil || before.by == in || s.from.atLeast(before.to) || s.from.at.Sub(before.to.at) > longestGap {
			mine = append(mine, s)
			before = nil // from here on it is its own
		}
	}
	switch {
	case in.last == nil:
	case before == nil || before.by == in || in.last.atLeast(before.to) || in.last.at.Sub(before.to.at) > longestGap:
		before = &counted{by: in, to: in.last}
	}
	for _, o := range envoy {
		o.counted = before
	}
	return in, mine
}

// twice says which instances of an Envoy were left out.
func twice(envoy []*instance, in *instance) string {
	var others []string
	names := map[string]bool{}
	for _, o := range envoy {
		if o == in {
			continue
		}
		d := difference(o.labels, in.labels)
		for name := range d {
			names[string(name)] = true
		}
		others = append(others, d.String())
	}
	return fmt.Sprintf("Prometheus has one Envoy %s, under different values of the label %s: %s counts, %s does not; scrape it once, or choose with metrics.prometheus.match",
		times(len(envoy)), strings.Join(slices.Sorted(maps.Keys(names)), " and "), in.labels, someOf(others))
}

// difference are the labels of a that b does not have, or has with other values.
func difference(a, b model.LabelSet) model.LabelSet {
	d := model.LabelSet{}
	for name, v := range a {
		if b[name] != v {
			d[name] = v
		}
	}
	for name := range b {
		if _, there := a[name]; !there {
			d[name] = ""
		}
	}
	return d
}

func times(n int) string {
	if n == 2 {
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}
