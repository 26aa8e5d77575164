package metrics

import (
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// kind is what a counter counts.
type kind int

const (
	requests    kind = iota
	failures         // errors
	unavailable      // errors, of gRPC status UNAVAILABLE: Envoy's own answer to a dropped request is one
	took             // answers that took up to so long
	overflow         // dropped by a circuit breaker; Envoy counts them as requests and as failures, too
)

// counter is one of those that a version's requests and errors are summed from.
type counter struct {
	version string
	kind    kind
	name    string  // the metric and the labels of its own
	upTo    float64 // of what counts durations: seconds
	sort
}

// counts reports whether it counts requests, of which none may be missed or made up. Durations are used where they are there.
func (c counter) counts() bool { return c.kind != took }

// sort is what a counter says of the requests that it counts. Both may be empty: it does not say.
type sort struct{ class, code string }

// scope is what a reading was asked for: a counter outside it is not known to be 0.
type scope struct {
	versions []string
	what     string // which counters of a version
}

func (s *scope) has(version string) bool { return slices.Contains(s.versions, version) }

func (s *scope) equal(o *scope) bool { return s.what == o.what && slices.Equal(s.versions, o.versions) }

// reading is what one scrape of one Envoy showed of a service.
type reading struct {
	at     time.Time // by Prometheus' clock
	scope  *scope
	values map[counter]float64
}

// shows reports whether the requests of a version are among the counters.
func (r *reading) shows(version string) bool {
	for c := range r.values {
		if c.version == version && c.kind == requests {
			return true
		}
	}
	return false
}

// change is what became of counters from one reading to the next.
type change int

const (
	rose     change = iota // or stayed
	fell                   // at least one did
	vanished               // at least one did, and none fell
)

func (r *reading) change(later *reading) change {
	result := rose
	for c, v := range r.values {
		if !c.counts() {
			continue
		}
		switch w, there := later.values[c]; {
		case !there && later.scope.has(c.version):
			result = vanished
		case there && w < v:
			return fell
		}
	}
	return result
}

// atLeast reports that no counter which both have is below the other's.
func (r *reading) atLeast(other *reading) bool {
	for c, v := range other.values {
		if w, there := r.values[c]; there && w < v && c.counts() {
			return false
		}
	}
	return true
}

// step is what was counted from one reading of an Envoy to a later one.
type step struct{ from, to *reading }

func (s step) seconds() float64 { return s.to.at.Sub(s.from.at).Seconds() }

func (s step) requests() float64 {
	sum := 0.0
	for _, n := range s.counts() {
		sum += n.Requests
	}
	return sum
}

// counts are the increments by version, without what was dropped.
func (s step) counts() map[string]analysis.Counts {
	counts, drops := s.increments(), s.drops()
	for v, n := range counts { // a retry's answer may be scraped before its request is complete
		n.Requests = max(0, n.Requests-drops[v].requests)
		n.Errors = min(max(0, n.Errors-drops[v].errors), n.Requests)
		counts[v] = n
	}
	return counts
}

// drops are what circuit breakers dropped, and as how many errors that was counted.
func (s step) drops() map[string]struct{ requests, errors float64 } {
	drops := map[string]struct{ requests, errors float64 }{}
	for c, w := range s.to.values {
		if c.kind == overflow && s.from.scope.has(c.version) {
			d := drops[c.version]
			d.requests += w - s.from.values[c]
			d.errors = d.requests
			drops[c.version] = d
		}
	}
	for c, w := range s.to.values {
		if d, any := drops[c.version]; any && c.kind == unavailable {
			d.errors += min(d.requests, w-s.from.values[c])
			drops[c.version] = d
		}
	}
	return drops
}

// increments are what the counters say. One that was not there began at 0; of a version that was not asked
// for before, nothing is known to count from.
func (s step) increments() map[string]analysis.Counts {
	counts := map[string]analysis.Counts{}
	for _, v := range s.to.scope.versions {
		if s.from.scope.has(v) {
			counts[v] = analysis.Counts{}
		}
	}
	for c, w := range s.to.values {
		n, known := counts[c.version]
		if !known {
			continue
		}
		switch c.kind {
		case requests:
			n.Requests += w - s.from.values[c]
		case failures, unavailable:
			n.Errors += w - s.from.values[c]
		}
		counts[c.version] = n
	}
	return counts
}

// outgrown reports far more errors than requests. With a counter that appears it means that this one did not
// begin at 0 then: the reading before lacked it.
func (s step) outgrown() bool {
	for _, n := range s.increments() {
		if n.Errors > 2*n.Requests+10 {
			return true
		}
	}
	return false
}

// leaps reports counters that appear with far more than the others grew by: they did not begin at 0 just then.
func (s step) leaps() bool {
	appeared, grew := 0.0, 0.0
	for c, w := range s.to.values {
		if !c.counts() {
			continue
		}
		if v, there := s.from.values[c]; there {
			grew += w - v
		} else if s.from.scope.has(c.version) {
			appeared += w
		}
	}
	return appeared > 3*grew+50
}

// appears reports a counter that is not there in the first reading and above 0 in the second.
func (s step) appears() bool {
	for c, w := range s.to.values {
		if _, there := s.from.values[c]; !there && w > 0 && c.counts() && s.from.scope.has(c.version) {
			return true
		}
	}
	return false
}
