package rollout

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// promote makes v the stable version; the old one stays warm, older canaries are superseded, newer
// ones keep their weight and their evidence.
func (m *machine) promote(v *Version, by, format string, args ...any) {
	old := m.Version(m.Stable)
	m.endWatch(v)
	limit := alarmLimit(v)
	m.bind(v)     // its judge goes
	m.lower(v, 0) // stable holds what no one else does
	m.becomeStable(v)
	v.EvidenceAt, v.Wanted, v.Refused = m.at, "", ""
	if by != System { // no refusal holds back what a person wants
		m.forgive()
		m.Base = v.Name
	}
	if v.FirstWeight.IsZero() {
		v.FirstWeight = m.at
	}
	for _, o := range m.with(open) {
		if o.Seq < v.Seq {
			m.supersede(o, "%s was promoted first", v.Name)
		} else {
			m.rebase(o)
		}
	}
	m.record(v, KindPromoted, by, format, args...)
	switch {
	case old == nil || old == v:
		v.Trusted = true
	case len(old.Endpoints) == 0:
		v.Trusted = true // nothing else ever ran
		m.supersede(old, "%s was promoted before it ran", v.Name)
	case by != System && old.age() > v.age(): // who goes back flees: no pin, no control share, no way to return
		m.aborts(old, by, "replaced by hand by the older version %s", v.Name)
	default:
		m.keepWarm(old, v, limit, by)
	}
}

// age orders versions by their first announcement: another attempt of an old one is no newer release.
func (v *Version) age() int { return cmp.Or(v.First, v.Seq) }

// keepWarm puts the old stable version beside the new one for the time of the watch.
func (m *machine) keepWarm(old, v *Version, limit float64, by string) {
	after := m.Policy.AfterPromotion
	old.Phase, old.Slots, old.Left = Warm, nil, by != System
	old.PinsUntil = m.at.Add(m.sessionLife())
	m.verdict(old, analysis.Pass, analysis.Superseded, "%s took its place", v.Name)
	if after.Watch <= 0 {
		v.Trusted = true
		m.drain(old)
		return
	}
	old.Until = m.at.Add(after.Watch.Std())
	m.Watch = &Watch{Until: old.Until, Limit: limit}
	j := analysis.NewJudge()
	v.Judge = &j
	if c := min(after.Control.Weight(), m.Weight(m.Stable)-minStable); c > 0 {
		m.raise(old, c, nil, func() {}) // a part of the promotion, which was decided
	}
}

// watchFrom begins the time of a watch when the promotion is in force: before, nothing can be seen of it.
func (m *machine) watchFrom(at time.Time) {
	if m.Watch == nil {
		return
	}
	m.Watch = &Watch{Until: at.Add(m.Policy.AfterPromotion.Watch.Std()), Limit: m.Watch.Limit}
	for _, o := range m.in(Warm) {
		o.Until = m.Watch.Until
	}
}

// alarmLimit is the error rate above which the new stable version raises the alarm, from what the
// old one did in the last ten minutes of the comparison. (STATISTICS.md 2.8)
func alarmLimit(v *Version) float64 {
	if v.Judge == nil || v.Judge.Exposure.Stable.Requests <= 0 {
		return 0
	}
	b, mm := v.Judge.Exposure.Stable, max(v.Judge.M, 1)
	return min(1, v.Config.R0*analysis.UpperCount(b.Errors/mm, math.Log(20))*mm/b.Requests+v.Config.D0)
}

func (m *machine) sessionLife() time.Duration {
	if m.Policy.Sessions == nil {
		return 0
	}
	return min(m.Policy.Sessions.TTL.Std(), m.Policy.Drain.AtMost.Std())
}

// goBack gives everything to the warm version in one step.
func (m *machine) goBack(bad, warm *Version, p Phase) {
	m.Watch = nil
	m.lower(warm, 0)
	m.becomeStable(warm)
	code := analysis.Passed
	if bad.Verdict.Code == analysis.Aborted {
		code = analysis.ByHand
	}
	m.verdict(warm, analysis.Pass, code, "stable again in the place of %s, which is %s", bad.Name, p)
	m.end(bad, p)
	for _, o := range m.in(Warm) { // it was the way back of the bad one
		m.drain(o)
	}
	for _, o := range m.with(open) {
		m.rebase(o)
	}
}

// rebase compares a version under test with another stable version from now on. It keeps its weight and
// the evidence against it; what speaks for it is gathered anew, from when that is in force.
func (m *machine) rebase(v *Version) {
	m.bind(v)
	v.WeightSince, v.FromZero = at0, false
	if v.ownJudge(nil); v.Judge != nil {
		v.Judge.Rebase()
	}
}

// passWatch ends a watch whose time is over: what raised no alarm is trusted from now on.
func (m *machine) passWatch() {
	if v := m.Version(m.Stable); v != nil && !v.Alarmed {
		v.Trusted = true
	}
	m.endWatch(nil)
}

// endWatch lets the warm versions go, but for one that is being promoted.
func (m *machine) endWatch(promoted *Version) {
	m.Watch = nil
	if v := m.Version(m.Stable); v != nil {
		v.Judge = nil
	}
	for _, v := range m.in(Warm) {
		if v != promoted {
			m.drain(v)
		}
	}
}

// drain takes no new sessions and ends when no pin can live.
func (m *machine) drain(v *Version) {
	if size(v.Slots) > 0 {
		v.PinsUntil = m.at.Add(m.sessionLife())
		m.lower(v, 0)
	}
	if m.Policy.Sessions == nil || !v.PinsUntil.After(m.at) {
		m.end(v, Retired)
		m.record(v, KindRetired, System, "out of service")
		return
	}
	v.Phase, v.Until, v.DrainedFrom = Draining, v.PinsUntil, m.at
	m.record(v, KindDraining, System, "keeps its pinned sessions until %s", v.Until.UTC().Format(time.RFC3339))
}

// watchStable judges the new stable version after its promotion: against the old one where that kept
// a control share, against the ceiling where there is one; else it can only raise the alarm.
func (m *machine) watchStable(kind Proxy, counts map[string]analysis.Counts) {
	v := m.Version(m.Stable)
	if m.Watch == nil || v == nil || v.Judge == nil || counts == nil {
		return
	}
	now := m.at.Sub(v.EvidenceAt).Seconds() // EvidenceAt: the promotion
	c := counts[v.Name]
	if warm := m.in(Warm); m.Policy.AfterPromotion.Control > 0 && len(warm) > 0 && m.Weight(warm[len(warm)-1].Name) > 0 {
		m.watchControl(v, warm[len(warm)-1], kind, counts, now)
		return
	}
	limit, reason := m.Watch.Limit, "alarm"
	if v.Config.Ceiling > 0 {
		limit, reason = v.Config.Ceiling, "ceiling"
	}
	v.Judge.Alone(&v.Config, c, limit, m.baseline(v, kind), now)
	if math.Log(v.Judge.Ceiling.E) < math.Log(1/v.Config.Alpha)-1e-9 {
		return
	}
	if reason == "ceiling" {
		m.leave(v, analysis.CeilingPassed, fmt.Sprintf("after its promotion the error rate is above max_error_rate %s", policy.Share(limit)))
	} else if !v.Alarmed {
		v.Alarmed = true
		m.record(v, KindAlarm, System, "after its promotion the error rate of %s exceeds %s, derived from the old version's; no traffic was moved (after_promotion.control or judge.max_error_rate would have it moved)", v.Name, percent(limit))
	}
}

func (m *machine) watchControl(v, old *Version, kind Proxy, counts map[string]analysis.Counts, now float64) {
	b := analysis.Batch{Canary: counts[v.Name], Stable: counts[old.Name]}
	if !v.Judge.Observe(&v.Config, b, m.baseline(v, kind), now) {
		return
	}
	if cut, _ := v.Judge.Worse(&v.Config); cut {
		m.leave(v, analysis.Worse, fmt.Sprintf("after its promotion %s is worse than %s, which kept a control share", v.Name, old.Name))
	}
}

// leave cuts a stable version that is known to be bad and goes back, if a trusted version answers; else it raises the
// alarm, once: errors are better than nothing at all.
func (m *machine) leave(bad *Version, code analysis.Code, why string) {
	back := m.wayBack()
	switch {
	case back != nil:
		m.ends(bad, fate{Failed, analysis.Fail, code, KindReturned, System, back}, "%s: everything goes back to %s", why, back.Name)
	case !bad.Alarmed:
		bad.Alarmed = true
		m.record(bad, KindAlarm, System, "%s; no traffic was moved: no trusted version answers%s", why, m.couldBe(bad))
	}
}
