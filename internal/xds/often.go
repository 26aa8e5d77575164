package xds

import (
	"cmp"
	"math"
	"time"
)

// How often Envoys report is a matter of what it costs canaryd to read: an Envoy is asked ten times a second where few of
// them have something under judgement, and once a second otherwise. (STATISTICS-2.md 3.4)

const (
	atRest = time.Second // how often what is not judged is reported
	// readable is how many rows a second may be read, of which reportRows are as dear as a report itself: a fifth of a core.
	readable, reportRows = 125_000, 200
)

// often is how often so many Envoys with something under judgement may report so many rows each.
func often(envoys, rows int) time.Duration {
	return cmp.Or(soonest(func(d time.Duration) bool { return float64(envoys*(reportRows+rows)) <= readable*d.Seconds() }), atRest)
}

// soonest is the first interval shorter than atRest that will do; 0: none will.
func soonest(does func(time.Duration) bool) time.Duration {
	for _, d := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond} {
		if does(d) {
			return d
		}
	}
	return 0
}

// reportBytes is about what a report of an Envoy weighs, whatever it counts: each has the whole node, with all extensions.
const reportBytes = 61 << 10

// fits is how often so many Envoys behind one address may report: who sends more than is read of an address is read ever
// later, what he says of weights too.
func fits(envoys, perSecond int) time.Duration {
	need := time.Duration(float64(envoys*reportBytes) / (0.75 * float64(perSecond)) * float64(time.Second)) // the rest is for resources
	return cmp.Or(soonest(func(d time.Duration) bool { return need <= d }), (need + time.Second - 1).Truncate(time.Second))
}

// crowd is how often a stream may report for all that come from its address. With l.mu held.
func (l *Loads) crowd(s *reporter) time.Duration {
	if l.fixed > 0 || !s.weighs() {
		return 0
	}
	return fits(l.hosts[s.host()], s.hub.Admission.Limits.BytesPerSecond)
}

// weighs reports whether what a stream sends is counted of its address, and much.
func (s *reporter) weighs() bool { return !s.client && s.node.line != nil && !s.node.line.account.free }

func (s *reporter) host() string { return hostOf(s.node.Peer) }

// joins counts one more Envoy of an address, or one less. Where that changes how often they may report, all of it hear so.
func (l *Loads) joins(s *reporter, more int) {
	if !s.weighs() {
		return
	}
	host, before := s.host(), l.crowd(s)
	if l.hosts[host] += more; l.hosts[host] <= 0 {
		delete(l.hosts, host)
	}
	if l.crowd(s) == before {
		return
	}
	for other := range l.streams {
		if other.host() == host {
			other.again()
		}
	}
	l.reckon()
}

// Often is how often what is under judgement is reported at present.
func (l *Loads) Often() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.judgedEvery
}

// note takes in whether a stream has something under judgement. Where that changes how often such streams report, all of
// them hear of it. With l.mu held.
func (l *Loads) note(s *reporter, judging bool, rows int) {
	if s.judging == judging && (s.rows == rows || !judging) {
		return
	}
	s.judging, s.rows = judging, rows
	l.reckon()
}

func (l *Loads) reckon() {
	n, most, least := 0, 0, time.Duration(math.MaxInt64) // where one reports, there is something to look at
	for s := range l.streams {
		if s.judging {
			n, most, least = n+1, max(most, s.rows), min(least, l.crowd(s))
		}
	}
	every := l.every(atRest)
	if n > 0 {
		every = l.every(max(often(n, most), least))
	}
	if every == l.judgedEvery {
		return
	}
	l.judgedEvery = every
	for s := range l.streams {
		if s.judging {
			s.again()
		}
	}
}

// everyOf is how often a stream reports. With l.mu held.
func (l *Loads) everyOf(s *reporter) time.Duration {
	every := l.every(atRest)
	if s.judging {
		every = l.judgedEvery
	}
	return max(every, l.crowd(s))
}

// every is an interval, unless one is configured.
func (l *Loads) every(auto time.Duration) time.Duration {
	if l.fixed > 0 {
		return l.fixed
	}
	return auto
}

// again has a stream told what it is to report.
func (s *reporter) again() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
