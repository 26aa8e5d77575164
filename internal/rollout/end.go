package rollout

import "github.com/canaryd/canaryd/internal/analysis"

// fate is how a version ends.
type fate struct {
	phase   Phase
	outcome analysis.Outcome
	code    analysis.Code
	kind    Kind
	by      string
	back    *Version // everything goes back to it; nil: only what the version had goes
}

// ends carries a fate out, and writes down why.
func (m *machine) ends(v *Version, f fate, format string, args ...any) {
	m.verdict(v, f.outcome, f.code, format, args...)
	if f.back != nil {
		m.goBack(v, f.back, f.phase)
	} else {
		m.end(v, f.phase)
	}
	m.record(v, f.kind, f.by, "%s", v.Verdict.Reason)
}

// fail cuts a version that was judged.
func (m *machine) fail(v *Version, code analysis.Code, format string, args ...any) {
	m.ends(v, fate{Failed, analysis.Fail, code, KindRolledBack, System, nil}, format, args...)
}

// aborts ends a version because a person says so.
func (m *machine) aborts(v *Version, by, format string, args ...any) {
	m.ends(v, fate{Aborted, analysis.Fail, analysis.Aborted, KindAborted, by, nil}, format, args...)
}

// supersede ends a version because another one took its place.
func (m *machine) supersede(v *Version, format string, args ...any) {
	m.ends(v, fate{Superseded, analysis.Wait, analysis.Superseded, KindSuperseded, System, nil}, format, args...)
}

// end takes a version out: weight 0 in the same step, no pins, no further judgement.
func (m *machine) end(v *Version, p Phase) {
	m.lower(v, 0)
	m.bind(v)
	v.Phase, v.EndedAt, v.Until, v.PinsUntil = p, m.at, at0, at0
	v.Judge, v.Wanted, v.Launching = nil, "", ""
	v.Failures = analysis.Failures{}
	v.Trusted = v.Trusted && !p.is(cut)
}
