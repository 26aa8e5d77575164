package rollout

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// tallyFailures remembers what fails of the versions under test, and of stable beside them.
func (m *machine) tallyFailures(cells []Cell, seconds float64) {
	tested, kept := m.any(counted), math.Exp(-seconds/instanceMemory)
	for v := range m.each(func(v *Version) bool { return v.Phase.Live() || known(v.Failures) }) {
		if !tested || !v.is(counted) && v.Name != m.Stable {
			v.Failures = analysis.Failures{}
			continue
		}
		v.Failures.Fade(kept)
		for i := range cells {
			c := &cells[i]
			r := analysis.Report{Envoy: c.Slice, Counts: c.Counts[v.Name], Answers: c.Answers[v.Name]}
			if r.Counts.Errors > 0 {
				r.Endpoints, r.Codes = c.Endpoints[v.Name], c.tellsCodes()
			}
			v.Failures.Add(r)
		}
	}
}

// known reports whether anything is written of failures.
func known(f analysis.Failures) bool {
	return f.Requests != 0 || f.Asked != nil || f.All != nil || f.Examples != nil
}

// tellsCodes reports whether who has no answer in the cell got none: else the source does not tell.
func (c *Cell) tellsCodes() bool {
	for _, as := range c.Answers { // their order decides nothing
		if slices.ContainsFunc(as, func(a analysis.Answer) bool { return a.Code != "" }) {
			return true
		}
	}
	return false
}

// why are the causes of a version's errors beyond stable's rate that say more than that there are some. They are looked for once a step.
func (m *machine) why(v *Version) []analysis.Finding {
	if all, done := m.whys[v.Name]; done {
		return all
	}
	var stable analysis.Failures
	if s := m.Version(m.Stable); s != nil {
		stable = s.Failures
	}
	all := analysis.Why(&v.Failures, &stable, v.Instances, v.Envoys)
	analysis.Specify(all, &v.Failures, &stable, m.allShown())
	if len(all) == 1 && saysNothing(all[0]) {
		all = nil
	}
	if m.whys == nil {
		m.whys = map[string][]analysis.Finding{}
	}
	m.whys[v.Name] = all
	return all
}

// causes are what a verdict names: of a cut for its errors, and of a hold because of them.
func (m *machine) causes(v *Version, code analysis.Code) (all []analysis.Cause) {
	held := code == analysis.Holding && v.Judge.Suspicious(&v.Config)
	if code != analysis.Worse && code != analysis.CeilingPassed && !held {
		return nil
	}
	for _, f := range m.why(v) {
		all = append(all, f.Cause)
	}
	return all
}

const saidMost = 3 // causes in a sentence

// blame says the causes in a sentence's end; empty: there is nothing to say.
func (m *machine) blame(v *Version) string {
	var b strings.Builder
	for i, f := range m.why(v) {
		if i == saidMost || saysNothing(f) {
			b.WriteString("; and in other ways")
			break
		}
		b.WriteString("; " + m.said(v, f))
	}
	return b.String()
}

// said is one cause in words: what fails, how, how often, where, and how often it does on stable.
func (m *machine) said(v *Version, f analysis.Finding) string {
	if f.Class == "" && f.Kind == "" {
		return whose(v, f)
	}
	often := "never"
	if f.StableShare > 0 {
		often = roughly(f.StableShare)
	}
	return m.whatFails(f.Class) + " " + howItFails(f) + whereItFails(v, f) + "; stable: " + often
}

// saysNothing reports a cause that has no class, no kind and no place.
func saysNothing(f analysis.Finding) bool {
	return f.Class == "" && f.Kind == "" && f.OnlyEndpoints+f.OnlyEnvoys == 0
}

// whose is said where neither class nor kind is known: nearly all errors come from one of several endpoints, or by way of one of
// several Envoys. A sick instance or a broken path looks like a bad release, and a person should know.
func whose(v *Version, f analysis.Finding) string {
	if f.OnlyEndpoints > 0 {
		return fmt.Sprintf("%.0f%% of its errors come from %s%s", 100*f.OnlyEndpoints, someEndpoints(v, f), perhaps(f))
	}
	return fmt.Sprintf("%.0f%% of its errors were counted by %s%s", 100*f.OnlyEnvoys, someEnvoys(f), perhaps(f))
}

func (m *machine) whatFails(class string) string {
	if class == "" {
		return "it"
	}
	for _, c := range m.classes() {
		if c.Name == class {
			return strings.TrimLeft(c.Method+" ", " ") + matched(c)
		}
	}
	return "class " + class
}

// matched is which paths a class has, as its policy writes them.
func matched(c policy.Class) string {
	prefix := ""
	if c.Prefix != "" {
		prefix = c.Prefix + "*"
	}
	return cmp.Or(c.Path, prefix, c.Template, c.Regex, c.GRPC, "class "+c.Name)
}

func howItFails(f analysis.Finding) string {
	how, to := "answers "+f.Kind, "to"
	switch code, grpc := strings.CutPrefix(f.Kind, "grpc-"); {
	case f.Kind == "":
		how, to = "fails", "for"
	case f.Kind == analysis.NoAnswer:
		how = "gives no answer"
	case analysis.Unanswered(f.Kind):
		how = "gives no answer (" + f.Kind + ")"
	case grpc:
		how = "answers gRPC status " + code
	}
	if f.Share >= 0.9995 {
		return how
	}
	return fmt.Sprintf("%s %s %s of its requests", how, to, roughly(f.Share))
}

// roughly is a share as a sentence bears it.
func roughly(share float64) string { return fmt.Sprintf("%.3g%%", 100*share) }

func whereItFails(v *Version, f analysis.Finding) string {
	switch n := v.endpoints(); {
	case f.OnlyEndpoints > 0:
		return " on " + someEndpoints(v, f) + perhaps(f)
	case f.OnlyEnvoys > 0:
		return " by way of " + someEnvoys(f) + perhaps(f)
	case n > 1 && len(f.Endpoints) == n:
		return fmt.Sprintf(" on all %d endpoints", n)
	}
	return ""
}

func someEndpoints(v *Version, f analysis.Finding) string {
	return fmt.Sprintf("%s, %s of its %d endpoints", strings.Join(f.Endpoints, ", "), oneOr(f.Endpoints), v.endpoints())
}

func someEnvoys(f analysis.Finding) string {
	return fmt.Sprintf("%s, %s of several Envoys", strings.Join(f.Envoys, ", "), oneOr(f.Envoys))
}

func oneOr(names []string) string {
	if len(names) == 1 {
		return "one"
	}
	return strconv.Itoa(len(names))
}

// perhaps says what else than the release it may be.
func perhaps(f analysis.Finding) string {
	switch {
	case f.OnlyEndpoints > 0 && len(f.Endpoints) == 1:
		return ": perhaps one bad instance, not the release"
	case f.OnlyEndpoints > 0:
		return ": perhaps bad instances, not the release"
	case f.OnlyEnvoys > 0:
		return ": perhaps its path to the version, not the release"
	}
	return ""
}
