package analysis

import (
	"cmp"
	"math"
	"slices"
)

const (
	explained  = 0.9  // part of the excess that causes have to explain
	few        = 0.05 // part that is no cause of its own
	causesMost = 5    // the last of which may be all the others together
	namedMost  = 3    // classes, endpoints or Envoys that are named; more are "all"
	apart      = 5.0  // times the rate of the others that makes some the culprits
	byChance   = 0.02 // chance that all errors fall on one though all are alike; on certain others together a tenth of it
)

// Cause is one way in which a version fails more often than stable does.
type Cause struct {
	Class       string   `json:"class"`               // of requests; empty: of all, or the source does not tell
	Kind        string   `json:"kind"`                // HTTP status, "grpc-14", NoAnswer or how that came about; empty: of several, or the source does not tell
	Endpoints   []string `json:"endpoints,omitempty"` // that fail so; none: not known, or too many
	Envoys      []string `json:"envoys,omitempty"`    // that counted it; none: too many
	Share       float64  `json:"share"`               // of the version's requests of the class (of all, without one) that fail so
	StableShare float64  `json:"stable_share"`        // the same of stable
	Excess      float64  `json:"excess"`              // part of the version's errors beyond stable's rate that it explains
}

// Finding is a cause, and whether its endpoints and Envoys stand out.
type Finding struct {
	Cause
	OnlyEndpoints float64 // part of these errors that its endpoints have, while the version's others are well; 0: they do not stand out
	OnlyEnvoys    float64 // and its Envoys, while it is well by way of the others
}

// spot is one class failing in one way: its errors, and those that stable's rate lets expect.
type spot struct {
	class, kind      string
	errors, expected float64
}

func (s spot) excess() float64 { return s.errors - s.expected }

// Why finds the smallest set of causes that explains nine tenths of a version's errors beyond stable's rate, the largest first,
// and last, where there are many, all that are small, without a class and a kind. Requests of the version by endpoint and by Envoy tell whether a few stand out. It is for people: nothing is decided by it.
func Why(version, stable *Failures, endpoints, envoys []Slice) []Finding {
	w := why{version: version, stable: stable, endpoints: endpoints, envoys: envoys, left: spots(version, stable)}
	w.total = w.excess(2)
	if w.total <= 0 {
		w.total = w.excess(0)
	}
	covered := 0.0
	for w.total > 0 && covered < explained*w.total && len(w.found) < causesMost-1 {
		whole := w.largest()
		if excessOf(whole.spots) <= few*w.total {
			break
		}
		parts := w.parts(whole)
		if len(w.found)+len(parts) > causesMost-1 {
			break
		}
		for _, p := range parts {
			covered += excessOf(p.spots)
			w.found = append(w.found, w.finding(p))
		}
		w.left = slices.DeleteFunc(w.left, func(s spot) bool { return slices.Contains(whole.spots, s) })
	}
	slices.SortStableFunc(w.found, func(a, b Finding) int { return cmp.Compare(b.Excess, a.Excess) })
	if covered < explained*w.total {
		w.found = append(w.found, w.finding(part{spots: w.left}))
	}
	return w.found
}

// why is the search.
type why struct {
	version, stable   *Failures
	endpoints, envoys []Slice
	left              []spot
	total             float64
	found             []Finding
}

// spots are all pairs of class and kind in which one of the two fails.
func spots(version, stable *Failures) []spot {
	var all []spot
	for _, x := range version.All {
		all = append(all, spot{x.Class, x.Kind, x.Errors, version.asked(x.Class) * stable.rate(x.Class, x.Kind)})
	}
	for _, x := range stable.All {
		if version.index(x.Class, x.Kind) < 0 {
			all = append(all, spot{x.Class, x.Kind, 0, version.asked(x.Class) * stable.rate(x.Class, x.Kind)})
		}
	}
	slices.SortFunc(all, func(a, b spot) int { return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.class, b.class)) })
	return all
}

func (f *Failures) rate(class, kind string) float64 {
	if i, n := f.index(class, kind), f.asked(class); i >= 0 && n > 0 {
		return min(1, f.All[i].Errors/n)
	}
	return 0
}

func spotKind(s spot) string  { return s.kind }
func spotClass(s spot) string { return s.class }

// names are those of the classes, or of the kinds, in order.
func (w *why) names(of func(spot) string) (all []string) {
	for _, s := range w.left {
		all = append(all, of(s))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (w *why) where(of func(spot) string, name string) (group []spot) {
	for _, s := range w.left {
		if of(s) == name {
			group = append(group, s)
		}
	}
	return group
}

// excess is that of all kinds, each of which is so many standard deviations of chance above what was to be expected.
func (w *why) excess(deviations float64) (sum float64) {
	for _, kind := range w.names(spotKind) {
		group, expected := w.where(spotKind, kind), 0.0
		for _, s := range group {
			expected += s.expected
		}
		if x := excessOf(group); x > deviations*math.Sqrt(expected) {
			sum += x
		}
	}
	return sum
}

// part are failures that one cause may explain. Class and kind: theirs; empty: of several.
type part struct {
	class, kind string
	spots       []spot
}

// largest is the kind that explains most of what is left, or the class, where that explains more.
func (w *why) largest() (best part) {
	for _, kind := range w.names(spotKind) {
		if g := w.where(spotKind, kind); excessOf(g) > excessOf(best.spots) {
			best = part{kind: kind, spots: g}
		}
	}
	most := excessOf(best.spots) / explained
	for _, class := range w.names(spotClass) {
		if g := w.where(spotClass, class); excessOf(g) > most && w.standOut(g, excessOf(w.left)) {
			best, most = part{class: class, spots: g}, excessOf(g)
		}
	}
	return best
}

// parts are the few classes of a kind, or the few kinds of a class, that explain it; else it is one part.
func (w *why) parts(whole part) (all []part) {
	spots := slices.Clone(whole.spots)
	slices.SortStableFunc(spots, func(a, b spot) int { return cmp.Compare(b.excess(), a.excess()) })
	n := 1
	for n < len(spots) && excessOf(spots[:n]) < explained*excessOf(spots) {
		n++
	}
	if n > namedMost || whole.class != "" && n > 2 || whole.class == "" && !w.standOut(spots[:n], excessOf(spots)) {
		return []part{whole}
	}
	for _, s := range spots[:n] {
		all = append(all, part{s.class, s.kind, []spot{s}})
	}
	return all
}

// standOut reports whether the classes of some failures fail far more often than the others do, which have some of a sum of excess.
func (w *why) standOut(group []spot, sum float64) bool {
	asked, errors := 0.0, 0.0
	var classes []string
	for _, s := range group {
		if s.class == "" {
			return false
		}
		if errors += s.errors; !slices.Contains(classes, s.class) {
			asked, classes = asked+w.version.asked(s.class), append(classes, s.class)
		}
	}
	return culprits(Counts{asked, excessOf(group)}, Counts{w.version.Requests - asked, sum - excessOf(group)}, errors, len(classes), len(w.version.Asked))
}

// culprits reports whether n of some that are alike fail far more often than the others, and not by chance: the requests that failed
// are drawn from all.
func culprits(some, others Counts, errors float64, n, of int) bool {
	if others.Requests < some.Requests/10 || others.Rate() > some.Rate()/apart {
		return false
	}
	chance := 1.0
	for i := range n { // so many sets might have been
		chance *= float64(of-i) / float64(i+1)
	}
	if n > 1 { // which is less to be expected than that one is
		chance *= 10
	}
	for i := 0.0; i < min(errors, 1000) && chance > byChance; i++ {
		chance *= max(some.Requests-i, 0.1) / max(some.Requests+others.Requests-i, 1)
	}
	return chance <= byChance
}

// finding is the cause that some failures are.
func (w *why) finding(p part) Finding {
	f := Finding{Cause: Cause{Class: p.class, Kind: p.kind, Excess: fraction(excessOf(p.spots) / w.total)}}
	errors, expected := 0.0, 0.0
	var endpoints, envoys []Tally
	for _, s := range p.spots {
		errors, expected = errors+s.errors, expected+s.expected
		if i := w.version.index(s.class, s.kind); i >= 0 {
			x := &w.version.All[i]
			endpoints, envoys = joined(endpoints, x.Endpoints), joined(envoys, x.Envoys)
		}
	}
	if n := w.version.asked(f.Class); n > 0 {
		f.Share, f.StableShare = fraction(min(1, errors/n)), fraction(min(1, expected/n))
	}
	f.Endpoints, f.OnlyEndpoints = blamed(endpoints, w.endpoints, expected)
	f.Envoys, f.OnlyEnvoys = blamed(envoys, w.envoys, expected)
	if f.Class != "" { // one Envoy may get all requests of a class
		f.OnlyEnvoys = 0
	}
	return f
}

// blamed are those where failures happened: the few that stand out, or all.
func blamed(failed []Tally, all []Slice, expected float64) (names []string, only float64) {
	sum := Counts{}
	for _, s := range all {
		sum.Requests += s.Requests
	}
	var sites []site
	for _, t := range failed {
		s := site{name: t.Name, errors: t.N, excess: t.N}
		if i := slices.IndexFunc(all, func(s Slice) bool { return s.Name == t.Name }); i >= 0 && sum.Requests > 0 {
			s.requests = all[i].Requests
			s.excess -= expected * s.requests / sum.Requests
		}
		sum.Errors += max(0, s.excess)
		sites = append(sites, s)
	}
	slices.SortFunc(sites, func(a, b site) int { return cmp.Or(cmp.Compare(b.excess, a.excess), cmp.Compare(a.name, b.name)) })
	if few := standing(sites, sum, len(all)); few != nil {
		sites, only = few, errorsOf(few)/errorsOf(sites)
	}
	for _, s := range sites {
		if s.name == "" || len(sites) > endpointsOf {
			return nil, 0
		}
		names = append(names, s.name)
	}
	slices.Sort(names)
	return names, only
}

// site is where requests fail: an endpoint, or an Envoy.
type site struct {
	name                     string
	errors, excess, requests float64
}

// standing are the few sites that explain the excess while the others are well; nil: there are none.
func standing(sites []site, sum Counts, of int) []site {
	var some Counts
	errors := 0.0
	for i, s := range sites {
		if i == namedMost || i+1 >= of || s.name == "" || s.requests <= 0 {
			return nil
		}
		some, errors = some.Add(Counts{s.requests, s.excess}), errors+s.errors
		if some.Errors >= explained*sum.Errors {
			others := Counts{sum.Requests - some.Requests, sum.Errors - some.Errors}
			if errors < 3 || !culprits(some, others, errors, i+1, of) {
				return nil
			}
			return sites[:i+1]
		}
	}
	return nil
}

func errorsOf(sites []site) (sum float64) {
	for _, s := range sites {
		sum += s.errors
	}
	return sum
}

func joined(into, more []Tally) []Tally {
	for _, t := range more {
		into = tallied(into, math.MaxInt, t.Name, t.N)
	}
	return into
}

func excessOf(group []spot) (sum float64) {
	for _, s := range group {
		sum += s.excess()
	}
	return sum
}

func fraction(x float64) float64 { return math.Round(x*1e6) / 1e6 }
