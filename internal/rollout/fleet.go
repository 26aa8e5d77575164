package rollout

import (
	"fmt"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// probed notes whether a version's endpoints answer. A canary of which none answers gets nothing, and
// sessions on a version in line end. What comes late, of a version that nobody asks now, does not count.
func (m *machine) probed(e Probed) {
	v := m.Version(e.Version)
	if v == nil || !v.is(probed) || v.Reachable == e.Up || m.Policy.Route.Probe == policy.ProbeOff {
		return
	}
	v.Reachable = e.Up
	if e.Up {
		return // the line goes on by itself
	}
	hadSessions := !v.PinsUntil.IsZero()
	if v.is(inLine) {
		m.endSessions(v)
	}
	switch {
	case v.is(reserve) && m.Weight(v.Name) > 0:
		m.lower(v, 0)
		m.verdict(v, analysis.Wait, analysis.Unreachable, "none of its endpoints answered for 3 s: it gets no control share, and nothing goes back to it, until one does")
	case v.is(reserve):
		m.verdict(v, analysis.Wait, analysis.Unreachable, "none of its endpoints answered for 3 s: nothing goes back to it until one does")
		return
	case v.is(ramped):
		m.lower(v, 0)
		v.Phase, v.WarmingFrom = Warming, m.at
		until := "one does"
		if v.paused() {
			until += fmt.Sprintf(", and `canaryd resume %s %s` has ended its pause", m.Policy.Service, v.Name)
		}
		m.verdict(v, analysis.Wait, analysis.Unreachable, "none of its endpoints answered for 3 s: no traffic until %s", until)
	case hadSessions:
		m.verdict(v, analysis.Wait, analysis.Unreachable, "none of its endpoints answered for 3 s: the sessions on it end")
	default:
		return
	}
	m.record(v, KindUnreachable, System, "%s", v.Verdict.Reason)
}

// silentFor is how long a draining version got no request, as far as the evidence goes: no
// evidence does not count as silence.
func (m *machine) silentFor(v *Version) time.Duration {
	from := v.DrainedFrom
	if v.RequestAt.After(from) {
		from = v.RequestAt
	}
	return m.SeenAt.Sub(from)
}

// tick lets time alone decide: ends of watches and drains, deadlines, silence.
func (m *machine) tick() {
	m.bear()
	if v := m.Version(m.Stable); m.Watch != nil && !m.at.Before(m.Watch.Until) && (v == nil || !v.TookOver.IsZero()) {
		m.passWatch()
	}
	for _, v := range m.in(Draining) {
		quiet := m.Policy.Drain.Quiet
		switch {
		case !m.at.Before(v.Until):
			m.end(v, Retired)
			m.record(v, KindRetired, System, "its last session has expired")
		case quiet > 0 && m.silentFor(v) >= quiet.Std():
			m.end(v, Retired)
			m.record(v, KindRetired, System, "no request for %s (drain.quiet)", quiet)
		}
	}
	for _, v := range m.in(Warming) {
		m.startedTooSlowly(v)
	}
	m.stopIdle()
	for _, v := range m.Canaries() {
		m.decide(v, false)
	}
}
