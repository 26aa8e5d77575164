package metrics

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/common/model"

	"github.com/canaryd/canaryd/internal/rollout"
)

// progress is how far a service's counters were read.
type progress struct {
	instances    map[string]*instance // by their labels
	names        map[string]bool      // of them
	scope        *scope
	tags         map[model.LabelName]bool
	fresh        time.Time // newest cell, by canaryd's clock
	since        time.Time
	tried        time.Time          // asked about last
	answered     time.Time          // the last time that there was an answer
	said         []string           // what is wrong with its labels
	dropped      map[string]float64 // by version, in the cells read last
	sorted       *sorting           // how requests are told apart by class; nil: they are not
	timed        *timing            // how it is told how long answers took; nil: it is not wanted
	hung         hung               // queries of its own
	bucketsAgain time.Time          // its query of buckets hung, and is not asked before
	bucketsWrong string             // what is wrong with that query

	atRest bool
}

func newProgress(now time.Time) *progress {
	return &progress{instances: map[string]*instance{}, names: map[string]bool{}, scope: &scope{}, tags: map[model.LabelName]bool{}, since: now}
}

// read takes in what a query answered, and returns what may be counted.
func (pr *progress) read(t Target, streams []stream) []rollout.Cell {
	if sc := scopeOf(t); !sc.equal(pr.scope) {
		pr.scope = sc
	}
	own := ownOfQueries
	if t.Queries == nil {
		maps.Copy(pr.tags, tags(streams))
		own = ownOfEnvoys(pr.tags)
	}
	steps := map[*instance][]step{}
	found := expositions(streams, own, pr.scope)
	for _, key := range slices.Sorted(maps.Keys(found)) {
		in := pr.instance(key, found[key].labels)
		if at := found[key].torn(); at.After(in.torn) {
			in.torn = at
		}
		steps[in] = in.take(found[key].readings, t.whole())
	}
	pr.forget(steps)
	pr.timed = newTiming(t)
	pr.sorted = nil
	if t.Queries != nil && t.Queries.Class != "" {
		pr.sorted = pr.sorting(t)
	}
	return pr.count(steps)
}

// whole are the versions of which a whole scrape shows the requests of one: Envoys show stable's. An application may be of one version only.
func (t Target) whole() []string {
	if t.Queries != nil {
		return t.Versions
	}
	return []string{t.Stable}
}

func scopeOf(t Target) *scope {
	sc := &scope{versions: slices.Clone(t.Versions), what: fmt.Sprint(t.Statuses)}
	if t.Queries != nil {
		sc.what = t.Queries.Requests + "\n" + t.Queries.Errors + "\n" + t.Queries.Class
	}
	return sc
}

func (pr *progress) instance(key string, labels model.LabelSet) *instance {
	in := pr.instances[key]
	if in == nil {
		in = &instance{labels: labels, named: named(labels), name: nameOf(labels, pr.names), first: first{after: !pr.newest().IsZero()}}
		pr.instances[key], pr.names[in.name] = in, true
	}
	return in
}

func (pr *progress) all() []*instance {
	all := make([]*instance, 0, len(pr.instances))
	for _, key := range slices.Sorted(maps.Keys(pr.instances)) {
		all = append(all, pr.instances[key])
	}
	return all
}

// newest is the moment of the newest reading of all.
func (pr *progress) newest() (at time.Time) {
	for _, in := range pr.instances {
		if in.last != nil && in.last.at.After(at) {
			at = in.last.at
		}
	}
	return at
}

// forget drops instances that are gone while others are there.
func (pr *progress) forget(heard map[*instance][]step) {
	newest := pr.newest()
	for key, in := range pr.instances {
		if _, there := heard[in]; there || in.last != nil && newest.Sub(in.last.at) <= longestGap {
			continue
		}
		delete(pr.instances, key)
		delete(pr.names, in.name)
		for _, o := range pr.instances {
			delete(o.apart, in)
		}
	}
}

// count makes cells of steps, each Envoy's once.
func (pr *progress) count(steps map[*instance][]step) (cells []rollout.Cell) {
	again := 0
	pr.said, pr.dropped = nil, map[string]float64{}
	for _, envoy := range twins(pr.all()) {
		in, mine := count(envoy, steps)
		if len(envoy) > 1 && len(pr.said) > 0 {
			again++
		} else if len(envoy) > 1 {
			pr.said = append(pr.said, twice(envoy, in))
		}
		for _, s := range mine {
			c := rollout.Cell{Slice: in.name, From: s.from.at, To: s.to.at, Counts: s.counts()}
			c.Answers, c.Times = pr.sorted.answers(s, c.Counts), pr.timed.times(s, c.Counts)
			cells = append(cells, c)
			for v, d := range s.drops() {
				pr.dropped[v] += d.requests
			}
		}
	}
	if again > 0 {
		pr.said[0] += fmt.Sprintf(" (so with %d more)", again)
	}
	return cells
}

// scrape is the interval in which the service's Envoys are scraped, the longest of them; 0 while none is
// known.
func (pr *progress) scrape() (d time.Duration) {
	for _, in := range pr.instances {
		d = max(d, in.distances.median())
	}
	return d
}
