package rollout

import (
	"fmt"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Shown is the verdict on a version as it is shown and recorded. While its fate is open, the bounds are worked out when somebody asks:
// each second there is a verdict, and they decide nothing.
func (v *Version) Shown() analysis.Verdict {
	d := v.Verdict
	if v.Phase.Waiting() && v.Judge != nil && d.Code != "" {
		v.Judge.Bounds(&v.Config, &d.Numbers)
	}
	return d
}

// verdict is what is found of a version at present.
func (m *machine) verdict(v *Version, o analysis.Outcome, code analysis.Code, format string, args ...any) {
	m.finds(v, o, code, fmt.Sprintf(format, args...))
	if v.Judge != nil {
		v.Judge.Bounds(&v.Config, &v.Verdict.Numbers)
	}
}

// finds is verdict for a reason that is written out, on a version that is still judged: what is only for people to look at is worked
// out when they do (Shown).
func (m *machine) finds(v *Version, o analysis.Outcome, code analysis.Code, reason string) {
	v.Verdict = analysis.Verdict{Outcome: o, Code: code, Reason: reason, At: m.at, Numbers: v.Verdict.Numbers}
	if v.Judge != nil {
		v.Verdict.Numbers, v.Verdict.Cause = v.Judge.Numbers(&v.Config), m.causes(v, code)
		v.Verdict.Slow, v.Verdict.Unpaced = v.Judge.Paces(&v.Config), m.unpaced(v)
	}
}
