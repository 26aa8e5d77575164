package rollout

import (
	"fmt"
	"math"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// shut is why a weight may not rise now. It is what the verdict says; the zero value: it may.
type shut struct {
	code    analysis.Code
	why     string
	seconds *float64 // expected until it may; nil: not known
}

// guard looks at a version that is to have more, and changes nothing. Cuts see no guard, nor does what a person
// promotes.
type guard func(v *Version, to int) shut

func because(code analysis.Code, format string, args ...any) shut {
	return shut{code: code, why: fmt.Sprintf(format, args...)}
}

// passes asks guards in their order. The first that says no is the verdict.
func (m *machine) passes(v *Version, to int, guards []guard) bool {
	for _, g := range guards {
		if s := g(v, to); s.code != "" {
			m.finds(v, analysis.Wait, s.code, s.why)
			v.Verdict.SecondsToDecide = s.seconds
			return false
		}
	}
	return true
}

// raise is the only way up: a version has more afterwards, if no guard says no. Others make way for it first.
func (m *machine) raise(v *Version, to int, guards []guard, makeWay func()) bool {
	if to < size(v.Slots) || !m.passes(v, to, guards) {
		return false
	}
	makeWay()
	m.setWeight(v, to)
	return true
}

// lower takes from a version what is above a weight.
func (m *machine) lower(v *Version, to int) { m.setWeight(v, min(to, size(v.Slots))) }

// beforeFirst are the guards of a version that has no weight yet.
func (m *machine) beforeFirst() []guard {
	return []guard{m.envoysAreBack, m.trafficIsKnown, m.firstStepFits}
}

// always are the guards of a canary that hold at any time, and say so at any time.
func (m *machine) always() []guard {
	return []guard{m.nobodyRefuses, m.isInForce, m.evidenceComes, m.isNotPaused, m.stableIsWell, m.looksClean, m.isNoSlower}
}

// beforeStep are the guards of the next step, once fresh evidence under the present weight was judged.
func (m *machine) beforeStep() []guard {
	return []guard{m.serviceStays, m.envoysAreBack, m.hasDwelt, m.isWithinBudget, m.isWithinCap, m.hasRoom}
}

// beforePromotion are those of the last one.
func (m *machine) beforePromotion() []guard {
	return []guard{m.serviceStays, m.envoysAreBack, m.hasDwelt, m.isProven, m.isTimed, m.isSwift, m.noClassSpeaks, m.isExercised, m.diskAnswers}
}

// firstStep gives a warming version its first weight.
func (m *machine) firstStep(v *Version) {
	if v.FirstWeight.IsZero() {
		v.Config.D1 = m.margin()
	}
	w := min(m.startWeight(), m.cap(v))
	if m.room() < w || !v.FirstWeight.IsZero() { // who comes back begins at the first step, whatever it had
		w = min(m.Policy.Ramp.First(), m.cap(v))
	}
	if m.room() < w {
		w = m.Policy.Ramp.First()
	}
	if !m.raise(v, w, m.beforeFirst(), func() { m.yield(v, w) }) {
		return
	}
	v.Phase, v.Held = Canary, false
	v.PinsUntil = at0 // there will be new sessions
	if !v.FirstWeight.IsZero() {
		v.EvidenceAt = m.at // without a weight it was not silent
	}
	m.verdict(v, analysis.Wait, analysis.NotInForce, "weight %s is on its way to the Envoys", share(w))
	m.record(v, KindStarted, System, "first step: %s", share(w))
}

// advance raises the weight of a canary, or promotes it. It is called only when fresh evidence under
// the present weight has just been judged.
func (m *machine) advance(v *Version) {
	w := m.Weight(v.Name)
	next := m.Policy.Ramp.Next(w)
	if next == policy.FullWeight {
		if m.passes(v, next, m.beforePromotion()) {
			m.verdict(v, analysis.Pass, analysis.Passed, "proven at %s: error rate below %g x stable's + %s%s%s%s", share(w), v.Config.R1, percent(v.Config.D1), v.took(m.at), m.unseen(v), m.unpacedOnPromotion(v))
			m.promote(v, System, "%s", v.Verdict.Reason)
		}
		return
	}
	m.raise(v, next, m.beforeStep(), func() {
		back, _ := m.inTheWay(v, next-w)
		for _, o := range back {
			m.requeue(o, "the older canary %s needs its weight", v.Name)
		}
		held := m.at.Sub(v.WeightSince).Round(time.Second)
		m.verdict(v, analysis.Pass, analysis.Passed, "clean at %s for %s: the next step is %s", share(w), held, share(next))
		m.record(v, KindAdvanced, System, "%s -> %s: no worse than tolerated (evidence %.2g of %.0f)", share(w), share(next), v.Judge.E(&v.Config), 1/v.Config.Alpha)
	})
}

// margin is what a release that begins now has to be proven within, by the traffic that stable usually has.
func (m *machine) margin() float64 {
	p := m.Policy.Judge.PromoteWithin
	return analysis.MarginByCost(float64(p.Margin), p.Cost, m.Usual.PerSecond())
}

func (m *machine) serviceStays(*Version, int) shut {
	if m.removing {
		return because(analysis.Holding, "the service is being removed: nothing is raised")
	}
	return shut{}
}

// envoysAreBack waits after a restart for the Envoys from before it: what they serve and refuse is not known yet.
func (m *machine) envoysAreBack(*Version, int) shut {
	if m.Gone == 0 || m.ResumedAt.IsZero() || m.at.Sub(m.ResumedAt) >= returnWithin {
		return shut{}
	}
	return because(analysis.NotInForce, "canaryd was restarted: waiting up to %s for the Envoys from before, %d of which are not back yet", returnWithin, m.Gone)
}

func (m *machine) trafficIsKnown(v *Version, _ int) shut {
	if !m.Policy.Ramp.Auto() || m.rated() || m.at.Sub(v.WarmingFrom) >= rateWaitMax {
		return shut{}
	}
	return because(analysis.Dwell, "measuring stable's traffic before the first step")
}

func (m *machine) firstStepFits(v *Version, to int) shut {
	if m.canYield(v, to) {
		return shut{}
	}
	return because(analysis.Holding, "no room for %s: stable must keep %s", share(to), share(minStable))
}

func (m *machine) nobodyRefuses(v *Version, to int) shut {
	if v.Refused != "" && to > m.Weight(v.Name) {
		return because(analysis.Nack, "%s", m.spurned(v))
	}
	if n := m.Nack(); n != nil {
		return because(analysis.Nack, "%s", m.halted(v, n.Node, n.Message))
	}
	return shut{}
}

func (m *machine) isInForce(v *Version, _ int) shut {
	if m.moved || !m.InForceAt(v.Name) || v.WeightSince.IsZero() {
		return because(analysis.NotInForce, "weight %s is not in force: %s", share(m.Weight(v.Name)), m.whyNotInForce())
	}
	return shut{}
}

func (m *machine) evidenceComes(*Version, int) shut {
	if m.Missing != nil {
		return because(m.Missing.Code, "%s", m.Missing.Reason)
	}
	return shut{}
}

func (m *machine) isNotPaused(v *Version, _ int) shut {
	if v.paused() {
		return because(analysis.Paused, "%s", m.frozen(v))
	}
	return shut{}
}

func (m *machine) stableIsWell(v *Version, _ int) shut {
	if v.Judge.Incident(v.seconds(m.at)) {
		return because(analysis.IncidentShared, "stable fails as well: waiting for it to recover")
	}
	return shut{}
}

func (m *machine) looksClean(v *Version, _ int) shut {
	if v.Judge.Suspicious(&v.Config) {
		return because(analysis.Holding, "some evidence against it, %.3g of the %.0f for a rollback: no step up meanwhile%s", v.Judge.E(&v.Config), 1/v.Config.Alpha, m.blame(v))
	}
	return shut{}
}

func (m *machine) hasDwelt(v *Version, _ int) shut {
	held, hold := m.at.Sub(v.WeightSince), m.Policy.Ramp.Hold.Std()
	if held < hold {
		return shut{code: analysis.Dwell, why: "at " + share(m.Weight(v.Name)) + " for " + held.Truncate(time.Second).String() + " of " + m.Policy.Ramp.Hold.String() + " (ramp.hold)"} // without fmt: said with nearly all evidence
	}
	return shut{}
}

func (m *machine) isWithinCap(v *Version, to int) shut {
	if lead := m.lead(); lead != nil && to > m.cap(v) {
		return because(analysis.Holding, "limited to %s until the older canary %s is decided", share(m.cap(v)), lead.Name)
	}
	return shut{}
}

func (m *machine) hasRoom(v *Version, to int) shut {
	if _, ok := m.inTheWay(v, to-m.Weight(v.Name)); !ok {
		return because(analysis.Holding, "no room for %s: stable must keep %s", share(to), share(minStable))
	}
	return shut{}
}

func (m *machine) isProven(v *Version, _ int) shut {
	if v.Judge.Proven(&v.Config) {
		return shut{}
	}
	w := m.Weight(v.Name)
	s := because(analysis.Holding, "gathering proof at %s: %.2g of %.0f%s", share(w), v.Judge.Promotion.E, 1/v.Config.Beta, m.inBursts(v))
	if m.Weight(m.Stable) == 0 {
		return s
	}
	usual := v.Judge.Exposure.Stable.Rate()
	t := analysis.TimeToPromote(&v.Config, m.Rate.PerSecond(), float64(w)/policy.FullWeight, usual, max(v.Judge.M, 1))
	if t *= v.Judge.Unproven(&v.Config); !math.IsInf(t, 1) {
		s.seconds = &t
	}
	return s
}

// diskAnswers: a promotion ends the judgement, and reaches no Envoy before it is stored.
func (m *machine) diskAnswers(v *Version, _ int) shut {
	if m.stuck {
		return because(analysis.Holding, "proven at %s: the promotion waits for the disk, and the rollback test goes on meanwhile", share(m.Weight(v.Name)))
	}
	return shut{}
}
