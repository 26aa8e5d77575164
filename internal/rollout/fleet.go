package rollout

import (
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// applied notes how far the table is in force. Intervals of evidence begin here.
func (m *machine) applied(e Applied) {
	if e.Generation != m.Generation {
		return
	}
	m.Subscribers, m.Lagging = e.Subscribers, e.Lagging
	was := m.InForce
	m.InForce = e.InForce
	if !e.InForce || was {
		return
	}
	if m.Nack == nil {
		m.Accepted = m.runs()
	}
	started := m.Since.IsZero()
	for i := range m.Versions {
		v := &m.Versions[i]
		if m.Weight(v.Name) == 0 || !v.WeightSince.IsZero() || !m.InForceAt(v.Name) {
			continue
		}
		v.WeightSince, started = m.at, true
		if v.FirstWeight.IsZero() {
			v.FirstWeight = m.at
		}
		if v.Phase == Canary {
			m.verdict(v, analysis.Wait, analysis.Dwell, "%s is in force", share(m.Weight(v.Name)))
		}
	}
	if started || m.Judging != m.Generation {
		m.Since, m.Judging = m.at, m.Generation
	}
}

// rejected stops the ramp: the last table that all accepted is served, minus what was cut since.
func (m *machine) rejected(e Rejected) {
	if e.Generation != m.Generation || m.Nack != nil {
		return
	}
	m.Nack = &Nack{At: e.At, Node: e.Node, Message: e.Message, Served: m.Accepted}
	if m.Accepted != nil {
		m.touch()
	}
	m.record(nil, KindNack, e.Node, "Envoy %s refused the table: %s; the ramp stops and the last accepted table is served", e.Node, e.Message)
	for _, v := range m.Canaries() {
		m.verdict(v, analysis.Wait, analysis.Nack, "Envoy %s refused the table: %s; `canaryd resume` tries again", e.Node, e.Message)
	}
}

// probed notes whether a version's endpoints answer. A canary of which none answers gets nothing.
func (m *machine) probed(e Probed) {
	v := m.Version(e.Version)
	if v == nil || v.Reachable == e.Up || m.Policy.Route.Probe == policy.ProbeOff {
		return
	}
	v.Reachable = e.Up
	if e.Up {
		return // the line goes on by itself
	}
	if v.Phase != Canary && v.Phase != Paused {
		return
	}
	m.setWeight(v, 0)
	v.Phase, v.WarmingFrom = Warming, m.at
	m.touch()
	m.verdict(v, analysis.Wait, analysis.Unreachable, "none of its endpoints answered for 3 s: no traffic until one does")
	m.record(v, KindUnreachable, System, "%s", v.Verdict.Reason)
}

// silentFor is how long a draining version got no request, as far as the evidence goes: without
// evidence nobody is silent.
func (m *machine) silentFor(v *Version) time.Duration {
	from := v.DrainedFrom
	if v.RequestAt.After(from) {
		from = v.RequestAt
	}
	return m.SeenAt.Sub(from)
}

// tick lets time alone decide: ends of watches and drains, deadlines, silence.
func (m *machine) tick() {
	for _, v := range m.in(Warm) {
		if !v.Until.IsZero() && !m.at.Before(v.Until) {
			m.passWatch()
			break
		}
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
