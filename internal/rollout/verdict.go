package rollout

import (
	"fmt"
	"slices"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Shown is the verdict on a version as it is shown, stored and recorded, with its bounds. Each second there is a verdict, and they decide
// nothing: so they are worked out when somebody asks for them, or before the judge goes on without another verdict (bind).
func (v *Version) Shown() analysis.Verdict {
	d := v.Verdict
	if d.Unbound && v.Judge != nil {
		v.Judge.Bounds(&v.Config, &d.Numbers)
	}
	d.Unbound = false
	return d
}

// bind works the bounds of a version's verdict out.
func (m *machine) bind(v *Version) {
	if !v.Verdict.Unbound {
		return
	}
	of := v
	if i := slices.IndexFunc(m.earlier, func(o *Version) bool { return o.Seq == v.Seq }); i >= 0 {
		if o := m.earlier[i]; o.Verdict.Unbound && o.Verdict.At.Equal(v.Verdict.At) {
			of = o // the verdict from before this step, which the judge may have gone on from
		}
	}
	v.Verdict = of.Shown()
}

// bound is the state with the bounds of all verdicts, as it is stored.
func (s State) bound() State {
	unbound := func(v *Version) bool { return v.Verdict.Unbound }
	if !slices.ContainsFunc(s.Versions, unbound) {
		return s
	}
	s.Versions = slices.Clone(s.Versions)
	for i, v := range s.Versions {
		if unbound(v) {
			c := *v
			c.Verdict = v.Shown()
			s.Versions[i] = &c
		}
	}
	return s
}

// verdict is what is found of a version at present.
func (m *machine) verdict(v *Version, o analysis.Outcome, code analysis.Code, format string, args ...any) {
	m.finds(v, o, code, fmt.Sprintf(format, args...))
	v.Verdict = v.Shown()
}

// finds is verdict for a reason that is written out, without bounds.
func (m *machine) finds(v *Version, o analysis.Outcome, code analysis.Code, reason string) {
	v.Verdict = analysis.Verdict{Outcome: o, Code: code, Reason: reason, At: m.at, Numbers: v.Verdict.Numbers}
	if v.Judge != nil {
		v.Verdict.Numbers, v.Verdict.Cause = v.Judge.Numbers(&v.Config), m.causes(v, code)
		v.Verdict.Slow, v.Verdict.Unpaced, v.Verdict.Unbound = v.Judge.Paces(&v.Config), m.unpaced(v), true
	}
}
