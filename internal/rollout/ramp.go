package rollout

import (
	"math"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

const (
	minStable    = 1000 // what a step must leave to stable, of 10 000
	othersAtMost = 1000 // what a canary that is not the lead may have
	rateWait     = 10 * time.Second
	rateWaitMax  = 30 * time.Second
)

// lead is the oldest canary not past its deadline.
func (s *State) lead() *Version {
	for _, v := range s.Canaries() {
		if !v.Late {
			return v
		}
	}
	return nil
}

// cap is the highest weight that a canary may have beside the others.
func (m *machine) cap(v *Version) int {
	lead := m.lead()
	if lead == nil && !v.Late || lead != nil && lead.Seq >= v.Seq && !v.Late {
		return policy.FullWeight - minStable
	}
	return max(othersAtMost, m.Policy.Ramp.First())
}

// room is what the canaries may still take from stable.
func (m *machine) room() int { return m.Weight(m.Stable) - minStable }

// line lets waiting versions move up, in order of announcement.
func (m *machine) line() {
	if m.Stable == "" || m.removing {
		return
	}
	for _, v := range m.in(Queued) {
		if len(m.with(counted)) >= m.Policy.Ramp.Canaries {
			break
		}
		if m.room() < min(m.Policy.Ramp.First(), m.cap(v)) {
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

// start gives a warming version its first weight.
func (m *machine) start(v *Version) {
	if !v.PausedAt.IsZero() && v.FirstWeight.IsZero() {
		v.Phase = Paused
		m.verdict(v, analysis.Wait, analysis.Paused, "paused by hand before its first weight: testers reach it, nobody else")
		return
	}
	if len(v.Endpoints) == 0 {
		return // its containers do not run yet
	}
	if v.Wanted != "" {
		if v.Reachable {
			m.verdict(v, analysis.Pass, analysis.Passed, "promoted by hand, now that its containers answer")
			m.promote(v, v.Wanted, "%s", v.Verdict.Reason)
		}
		return
	}
	if !v.Reachable {
		if v.Verdict.Code != analysis.Unreachable {
			m.verdict(v, analysis.Wait, analysis.Unreachable, "none of its endpoints answers yet")
		}
		return
	}
	if m.returning(v) {
		return
	}
	waited := m.at.Sub(v.WarmingFrom)
	if m.Policy.Ramp.Auto() && m.Rate.Seconds < rateWait.Seconds() && waited < rateWaitMax {
		m.verdict(v, analysis.Wait, analysis.Dwell, "measuring stable's traffic before the first step")
		return
	}
	w := min(m.startWeight(), m.cap(v))
	if m.room() < w {
		w = m.Policy.Ramp.First()
	}
	if m.room() < w {
		return
	}
	v.Phase = Canary
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

// startWeight is the highest rung whose total failure costs no more than the budget before canaryd
// can react (STATISTICS.md 2.7), or the first of the listed steps.
func (m *machine) startWeight() int {
	first := m.Policy.Ramp.First()
	rate := m.Rate.PerSecond()
	if !m.Policy.Ramp.Auto() || rate <= 0 {
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
		if !math.IsInf(t, 1) {
			v.Verdict.SecondsToDecide = &t
		}
	}
}

// makeRoom sends the youngest canaries back into the line for the lead's next step.
func (m *machine) makeRoom(v *Version, more int) bool {
	for m.room() < more {
		others := m.Canaries()
		last := others[len(others)-1]
		if m.lead() != v || last == v {
			return false
		}
		m.requeue(last, "the lead %s needs the room", v.Name)
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
