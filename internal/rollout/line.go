package rollout

import (
	"slices"

	"github.com/canaryd/canaryd/internal/analysis"
)

// line lets waiting versions move up, in order of announcement; those past their deadline come last.
func (m *machine) line() {
	if m.Stable == "" || m.removing {
		return
	}
	for _, v := range m.queued() {
		if s := m.mustWait(v); s.code != "" {
			if v.Verdict.Reason != s.why {
				m.verdict(v, analysis.Wait, s.code, "%s", s.why)
			}
			continue
		}
		v.Phase, v.WarmingFrom = Warming, m.at
		if v.TurnAt.IsZero() {
			v.TurnAt = m.at
		}
		if v.Idle {
			m.wake(v)
		}
	}
	for _, v := range m.in(Warming) {
		if v.is(awaited) { // nobody was promoted before its turn came
			m.start(v)
		}
	}
}

// mustWait says why it is not a version's turn.
func (m *machine) mustWait(v *Version) shut {
	if v.Refused != "" {
		return because(analysis.Nack, "%s", m.spurned(v))
	}
	placed, most := m.placed(), m.Policy.Ramp.Canaries
	if v.Late {
		placed = m.with(counted)
	}
	if len(placed) >= most && most > 0 {
		return because(analysis.Holding, "%d versions may be under test at once (ramp.canaries); the oldest of them is %s", most, placed[0].Name)
	}
	if w := min(m.Policy.Ramp.First(), m.cap(v)); !m.canYield(v, w) {
		return because(analysis.Holding, "no room for %s: stable must keep %s", share(w), share(minStable))
	}
	if m.lingers(v) {
		return because(analysis.NotInForce, "the Envoys still have its attempt %d: %s", v.Attempt-1, m.whyNotInForce())
	}
	return shut{}
}

// lingers reports an attempt that begins while an Envoy may still have the one before: where that one was given something,
// the new one would get it, unjudged, as both are one cluster to an Envoy.
func (m *machine) lingers(v *Version) bool {
	return v.Attempt > 1 && v.TurnAt.IsZero() && m.Subscribers > 0 && (!m.InForce || m.anew == v.Name)
}

// queued are the versions in line, in the order of their turns.
func (m *machine) queued() []*Version {
	vs := m.in(Queued)
	slices.SortStableFunc(vs, func(a, b *Version) int {
		switch {
		case a.Late == b.Late:
			return 0
		case a.Late:
			return 1
		}
		return -1
	})
	return vs
}

// placed are the versions that take one of the places of ramp.canaries. One past its deadline has had its time,
// and one that does not answer keeps nobody waiting.
func (m *machine) placed() []*Version {
	return slices.DeleteFunc(m.with(counted), func(v *Version) bool { return v.Late || m.silent(v) })
}

// silent reports a version that has waited for its endpoints to answer for as long as no_evidence allows.
func (m *machine) silent(v *Version) bool {
	return v.is(awaited) && !v.Reachable && m.at.Sub(v.WarmingFrom) >= m.Policy.Judge.NoEvidence.For.Std()
}

// canYield reports whether there is room for a weight, or would be if all canaries past their deadline went back
// into the line.
func (m *machine) canYield(v *Version, w int) bool {
	room := m.room()
	for _, o := range m.yielding(v) {
		room += m.Weight(o.Name)
	}
	return room >= w
}

// yielding are the canaries that make room for a version whose deadline is still to come.
func (m *machine) yielding(v *Version) []*Version {
	if v.Late {
		return nil
	}
	return slices.DeleteFunc(m.Canaries(), func(o *Version) bool { return o == v || !o.Late || o.paused() })
}

// yield makes room for a version's first weight, where canaries past their deadline can: they fall to what one may
// have beside the lead, and where that is not enough the oldest ones go back into the line.
func (m *machine) yield(v *Version, w int) {
	late := m.yielding(v)
	for _, o := range late {
		if m.Weight(o.Name) > m.besides() {
			m.lower(o, m.besides())
			m.record(o, KindSteppedBack, System, "it is past its deadline, so %s may go first", v.Name)
		}
	}
	for _, o := range late {
		if m.room() < w {
			m.requeue(o, "it is past its deadline, and %s needs its weight", v.Name)
		}
	}
}

// start gives a warming version its first weight, when its turn has come and it answers.
func (m *machine) start(v *Version) {
	switch {
	case v.paused() && v.FirstWeight.IsZero(): // testers may look at it as soon as it answers
		m.freeze(v)
	case len(v.Endpoints) == 0 && m.silent(v):
		m.unanswered(v)
	case len(v.Endpoints) == 0:
		if v.Verdict.Code != analysis.Unreachable {
			m.verdict(v, analysis.Wait, analysis.Unreachable, "its containers do not run yet")
		}
	case v.Wanted != "":
		if v.Reachable {
			m.verdict(v, analysis.Pass, analysis.ByHand, "promoted by hand, now that its containers answer")
			m.promote(v, v.Wanted, "%s", v.Verdict.Reason)
		}
	case !v.Reachable:
		m.unanswered(v)
	case len(m.placed()) > m.Policy.Ramp.Canaries:
		m.requeue(v, "other versions took its place while none of its endpoints answered")
	case v.paused():
		m.freeze(v)
	default:
		m.firstStep(v)
	}
}

// unanswered tells of a version whose endpoints do not answer: at first, and when it keeps nobody waiting any longer.
func (m *machine) unanswered(v *Version) {
	switch {
	case m.silent(v) && !v.Held:
		v.Held = true
		m.verdict(v, analysis.Wait, analysis.Unreachable, "none of its endpoints has answered for %s: others go first; it starts when one answers", m.Policy.Judge.NoEvidence.For)
		m.record(v, KindHeld, System, "%s", v.Verdict.Reason)
	case v.Verdict.Code != analysis.Unreachable:
		m.verdict(v, analysis.Wait, analysis.Unreachable, "it starts when one of its endpoints answers: none has yet")
	}
}

// inTheWay are the youngest canaries that would have to go back into the line for the lead's next step; ok is false
// where that would not do, and nobody has to move.
func (m *machine) inTheWay(v *Version, more int) (back []*Version, ok bool) {
	room := m.room()
	for _, o := range slices.Backward(m.Canaries()) {
		if room >= more || o == v {
			break
		}
		if o.paused() {
			continue // its weight and its place are frozen
		}
		room, back = room+m.Weight(o.Name), append(back, o)
	}
	return back, room >= more && (len(back) == 0 || m.lead() == v)
}
