package rollout

import (
	"hash/fnv"
	"slices"

	"github.com/canaryd/canaryd/internal/analysis"
)

// causeSlices is the most slices that stable's counts are laid into, whatever the number of its endpoints.
const causeSlices = 16

// clumpBound is how many errors of a version one cause may have produced together. One cause is a moment in one
// instance: it is learnt from stable's instances, and one that gets more requests has more errors in such a moment.
// (STATISTICS-2.md 2.3)
func (m *machine) clumpBound(v *Version) float64 {
	if v.Config.Clump > 0 {
		return v.Config.Clump
	}
	return analysis.Loaded(max(m.Dispersion.Bound(), m.clumpOfHung()), m.load(v))
}

// load is how many times the requests of one of stable's instances one of a version's gets.
func (m *machine) load(v *Version) float64 {
	stable := m.Version(m.Stable)
	if stable == nil || stable == v || m.Weight(m.Stable) == 0 {
		return 1
	}
	return float64(m.Weight(v.Name)) / v.instances() / (float64(m.Weight(m.Stable)) / stable.instances())
}

// parts are the slices of stable that should be alike.
type parts struct {
	// causes are its endpoints, and its sum where it has one or the source does not say: what happens over time tells
	// clumps as well. Never the Envoys: all of them see the same instance fail.
	causes []analysis.Slice
	// placebos may be judged as if they were canaries: its endpoints, else the Envoys that counted them, or gRPC clients
	// where there is no Envoy.
	placebos []analysis.Slice
}

func (m *machine) partsOfStable(cells []Cell) parts {
	for kind := range proxies {
		var sum analysis.Slice
		var counters []analysis.Slice
		for _, c := range cells {
			if n, ok := c.Counts[m.Stable]; ok && c.Proxy == kind {
				sum.Counts, counters = sum.Add(n), append(counters, analysis.Slice{Name: c.Slice, Counts: n})
			}
		}
		if len(counters) == 0 {
			continue
		}
		if endpoints, known := m.stableEndpoints(cells, kind); known && len(endpoints) >= 2 {
			all := bucketed(endpoints)
			return parts{all, all}
		}
		return parts{[]analysis.Slice{sum}, counters}
	}
	return parts{}
}

// stableEndpoints are stable's counts by endpoint; known: every proxy of the kind tells them.
func (m *machine) stableEndpoints(cells []Cell, kind Proxy) (all []analysis.Slice, known bool) {
	for _, c := range cells {
		n := c.Counts[m.Stable]
		if c.Proxy != kind || n.Requests <= 0 {
			continue
		}
		if len(c.Endpoints[m.Stable]) == 0 {
			return nil, false
		}
		all = append(all, c.Endpoints[m.Stable]...)
	}
	return analysis.Join(nil, all), true
}

// bucketed lays many endpoints into few slices.
func bucketed(endpoints []analysis.Slice) []analysis.Slice {
	if len(endpoints) <= causeSlices {
		return endpoints
	}
	all := make([]analysis.Slice, causeSlices)
	for _, e := range endpoints {
		h := fnv.New32a()
		_, _ = h.Write([]byte(e.Name)) // a hash never fails
		n := h.Sum32() % causeSlices
		all[n].Name, all[n].Counts = string('a'+rune(n)), all[n].Add(e.Counts)
	}
	return slices.DeleteFunc(all, func(s analysis.Slice) bool { return s.Name == "" })
}
