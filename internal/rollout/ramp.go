package rollout

import (
	"math"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

const (
	minStable    = 1000 // what a step must leave to stable, of 10 000
	othersAtMost = 1000 // what a canary that is not the lead may have
	rateWait     = 10 * time.Second
	rateWaitMax  = 30 * time.Second
	rateFresh    = 30 * time.Second // a rate whose evidence is older, and three batches old, is not that of now
)

// lead is the oldest canary not past its deadline; where all of them are, the oldest.
func (s *State) lead() *Version {
	var late *Version
	for _, v := range s.Canaries() {
		if !v.Late {
			return v
		}
		if late == nil {
			late = v
		}
	}
	return late
}

// cap is the highest weight that a canary may have beside the others.
func (m *machine) cap(v *Version) int {
	lead := m.lead()
	if lead == nil || lead == v || lead.Seq >= v.Seq && !v.Late {
		return policy.FullWeight - minStable
	}
	return m.besides()
}

// besides is the most that a canary may have beside the lead.
func (m *machine) besides() int { return max(othersAtMost, m.Policy.Ramp.First()) }

// room is what the canaries may still take from stable.
func (m *machine) room() int { return m.Weight(m.Stable) - minStable }

// line lets waiting versions move up, in order of announcement; those past their deadline come last.
func (m *machine) line() {
	if m.Stable == "" || m.removing {
		return
	}
	for _, v := range m.queued() {
		if len(m.placed()) >= m.Policy.Ramp.Canaries || v.Late && len(m.with(counted)) >= m.Policy.Ramp.Canaries {
			break
		}
		if !m.canYield(v, min(m.Policy.Ramp.First(), m.cap(v))) || m.lingers(v) {
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
		if v.Phase == Warming { // nobody was promoted before its turn came
			m.start(v)
		}
	}
}

// lingers reports an attempt that begins while an Envoy may still have the one before: where that one was given something,
// the new one would get it, unjudged, as both are one cluster to an Envoy.
func (m *machine) lingers(v *Version) bool {
	if v.Attempt == 1 || !v.TurnAt.IsZero() || m.Subscribers == 0 || m.InForce && m.anew != v.Name {
		return false
	}
	m.verdict(v, analysis.Wait, analysis.NotInForce, "it begins when the Envoys no longer have its attempt %d: %s", v.Attempt-1, m.whyNotInForce())
	return true
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
	return v.Phase == Warming && !v.Reachable && len(v.Endpoints) > 0 && m.at.Sub(v.WarmingFrom) >= m.Policy.Judge.NoEvidence.For.Std()
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
	return slices.DeleteFunc(m.Canaries(), func(o *Version) bool { return o == v || !o.Late || o.Phase == Paused })
}

// yield makes room for a version's first weight, as far as canaries past their deadline can: they fall to what one
// may have beside the lead, and where that is not enough the oldest ones go back into the line.
func (m *machine) yield(v *Version, w int) bool {
	if !m.canYield(v, w) {
		return false
	}
	late := m.yielding(v)
	for _, o := range late {
		if m.Weight(o.Name) > m.besides() {
			m.setWeight(o, m.besides())
			m.record(o, KindSteppedBack, System, "it is past its deadline, and the lead passes to %s", v.Name)
		}
	}
	for _, o := range late {
		if m.room() < w {
			m.requeue(o, "it is past its deadline, and %s needs the room", v.Name)
		}
	}
	return true
}

// start gives a warming version its first weight.
func (m *machine) start(v *Version) {
	if !v.PausedAt.IsZero() && v.FirstWeight.IsZero() {
		v.Phase = Paused
		m.verdict(v, analysis.Wait, analysis.Paused, "paused by hand before its first weight: testers reach it, nobody else")
		return
	}
	if len(v.Endpoints) == 0 {
		if v.Verdict.Code != analysis.Unreachable {
			m.verdict(v, analysis.Wait, analysis.Unreachable, "its containers do not run yet")
		}
		return
	}
	if v.Wanted != "" {
		if v.Reachable {
			m.verdict(v, analysis.Pass, analysis.ByHand, "promoted by hand, now that its containers answer")
			m.promote(v, v.Wanted, "%s", v.Verdict.Reason)
		}
		return
	}
	if !v.Reachable {
		m.unanswered(v)
		return
	}
	if len(m.placed()) > m.Policy.Ramp.Canaries {
		m.requeue(v, "others took its place while none of its endpoints answered")
		return
	}
	if m.returning(v) {
		return
	}
	waited := m.at.Sub(v.WarmingFrom)
	if m.Policy.Ramp.Auto() && !m.rated() && waited < rateWaitMax {
		m.verdict(v, analysis.Wait, analysis.Dwell, "measuring stable's traffic before the first step")
		return
	}
	first := m.Policy.Ramp.First()
	w := min(m.startWeight(), m.cap(v))
	if m.room() < w {
		w = first
	}
	if !m.yield(v, w) {
		m.verdict(v, analysis.Wait, analysis.Holding, "no room for %s: stable must keep %s", share(w), share(minStable))
		return
	}
	v.Phase, v.Held = Canary, false
	if !v.PausedAt.IsZero() {
		v.Phase = Paused
	}
	v.PinsUntil = at0 // there will be new sessions
	if !v.FirstWeight.IsZero() {
		v.EvidenceAt = m.at // without a weight it was not silent
	}
	m.setWeight(v, w)
	m.verdict(v, analysis.Wait, analysis.NotInForce, "weight %s is on its way to the Envoys", share(w))
	m.record(v, KindStarted, System, "first step: %s", share(w))
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

// rated reports whether stable's traffic of now is known.
func (m *machine) rated() bool { return m.Rate.Seconds >= rateWait.Seconds() && m.rateIsFresh() }

func (m *machine) rateIsFresh() bool { return m.at.Sub(m.SeenAt) <= max(rateFresh, 3*m.Batch) }

// startWeight is the highest rung whose total failure costs no more than the budget before canaryd
// can react (STATISTICS.md 2.7), or the first of the listed steps.
func (m *machine) startWeight() int {
	first := m.Policy.Ramp.First()
	rate := m.Rate.PerSecond()
	if !m.Policy.Ramp.Auto() || rate <= 0 || !m.rateIsFresh() {
		return first
	}
	limit := min(m.Policy.Judge.Budget/(rate*m.reaction()), 0.25)
	best := first
	for _, w := range m.Policy.Ramp.Weights() {
		if float64(w)/policy.FullWeight <= limit {
			best = w
		}
	}
	return best
}

// reaction is the time in seconds from a failure to the cut: two batches and a second.
func (m *machine) reaction() float64 { return 2*max(m.Batch.Seconds(), 0.1) + 1 }

// advance raises the weight of a canary, or promotes it. It is called only when fresh evidence under
// the present weight has just been judged.
func (m *machine) advance(v *Version) {
	if m.removing {
		m.verdict(v, analysis.Wait, analysis.Holding, "the service is being removed: nothing is raised")
		return
	}
	if m.returning(v) {
		return
	}
	held := m.at.Sub(v.WeightSince)
	hold := m.Policy.Ramp.Hold.Std()
	w := m.Weight(v.Name)
	next := m.Policy.Ramp.Next(w)
	if held < hold {
		m.verdict(v, analysis.Wait, analysis.Dwell, "at %s for %s of %s", share(w), held.Round(time.Second), hold)
		return
	}
	if next == policy.FullWeight {
		m.tryPromote(v, w)
		return
	}
	cost := v.Judge.Exposure.Upper(&v.Config, max(v.Judge.M, 1)) * m.Rate.PerSecond() * float64(next) / policy.FullWeight * m.reaction()
	if cost > v.Config.Budget {
		m.verdict(v, analysis.Wait, analysis.Budget, "as far as the evidence goes, %s could cost up to %.0f failed requests before a cut; the budget is %g", share(next), cost, v.Config.Budget)
		return
	}
	if next > m.cap(v) {
		m.verdict(v, analysis.Wait, analysis.Holding, "%s is the most beside the older canary %s", share(m.cap(v)), m.leadName())
		return
	}
	if !m.makeRoom(v, next-w) {
		m.verdict(v, analysis.Wait, analysis.Holding, "no room for %s: stable must keep %s", share(next), share(minStable))
		return
	}
	m.verdict(v, analysis.Pass, analysis.Passed, "clean at %s for %s: the next step is %s", share(w), held.Round(time.Second), share(next))
	m.setWeight(v, next)
	m.record(v, KindAdvanced, System, "%s -> %s: no worse than tolerated (evidence %.2g of %.0f)", share(w), share(next), v.Judge.E(&v.Config), 1/v.Config.Alpha)
}

func (m *machine) tryPromote(v *Version, w int) {
	if v.Judge.Proven(&v.Config) {
		if m.stuck {
			m.verdict(v, analysis.Wait, analysis.Holding, "proven at %s: the promotion waits for the disk, and the rollback test goes on meanwhile", share(w))
			return
		}
		p := m.Policy.Judge.PromoteWithin
		m.verdict(v, analysis.Pass, analysis.Passed, "proven at %s: error rate below %g x stable's + %s%s", share(w), p.Ratio, p.Margin, v.took(m.at))
		m.promote(v, System, "%s", v.Verdict.Reason)
		return
	}
	m.verdict(v, analysis.Wait, analysis.Holding, "gathering proof at %s: %.2g of %.0f", share(w), v.Judge.Promotion.E, 1/v.Config.Beta)
	if m.Weight(m.Stable) > 0 {
		usual := v.Judge.Exposure.Stable.Rate()
		t := analysis.TimeToPromote(&v.Config, m.Rate.PerSecond(), float64(w)/policy.FullWeight, usual, max(v.Judge.M, 1))
		if t *= v.Judge.Unproven(&v.Config); !math.IsInf(t, 1) {
			v.Verdict.SecondsToDecide = &t
		}
	}
}

// makeRoom sends the youngest canaries back into the line for the lead's next step, if that gives it the room.
func (m *machine) makeRoom(v *Version, more int) bool {
	room := m.room()
	var back []*Version
	for _, o := range slices.Backward(m.Canaries()) {
		if room >= more || o == v {
			break
		}
		room, back = room+m.Weight(o.Name), append(back, o)
	}
	if room < more || len(back) > 0 && m.lead() != v {
		return false
	}
	for _, o := range back {
		m.requeue(o, "the lead %s needs the room", v.Name)
	}
	return true
}

func (m *machine) leadName() string {
	if l := m.lead(); l != nil {
		return l.Name
	}
	return "(none)"
}

func share(w int) string { return policy.Share(float64(w) / policy.FullWeight).String() }
