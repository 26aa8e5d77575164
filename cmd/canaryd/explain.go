package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/web"
)

func explainCommand() *cobra.Command {
	c := &cobra.Command{Use: "explain SERVICE [VERSION]", Short: "Why a version has the weight it has",
		Long: `Says in sentences why each version has its weight: what it waits for, what was counted, how much evidence there is for and against it,
by class of requests as well where it is judged by class, and what is wrong with the service.
docs/verdicts.md says what can be done about each verdict.`,
		Example: `  canaryd explain shop       # all versions
  canaryd explain shop v2`}
	cl, out := remote(c), output(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		s, err := cl.service(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		vs := s.Versions
		if len(args) == 2 {
			v := s.Find(args[1])
			if v == nil {
				return fmt.Errorf("service %s has no version %s: `canaryd status %s` lists them", args[0], args[1], args[0])
			}
			vs = []web.Version{*v}
		}
		if *out == "json" {
			s.Versions = vs
			return printJSON(cmd.OutOrStdout(), s)
		}
		return explain(cmd.OutOrStdout(), &s, vs)
	}
	return c
}

// explain writes what the verdicts on some versions rest on, and what is the matter with the service.
func explain(w io.Writer, s *web.Service, vs []web.Version) error {
	t := newTable(terminalWidth(w), time.Now())
	t.explain(s, vs)
	_, err := w.Write(t.buf.Bytes())
	return err
}

func (t *table) explain(s *web.Service, vs []web.Version) {
	for _, v := range vs {
		t.text("", headline(s, v, t.now))
		for _, line := range reasons(s, v) {
			t.text("  ", line)
		}
		t.classes(v)
		if d := v.Verdict; d != nil && d.Outcome != analysis.Pass {
			t.text("  ", "What to do: docs/verdicts.md#"+string(d.Code))
		}
	}
	for _, warning := range unsaid(s, vs) {
		t.text("! ", warning)
	}
}

// headline says where a version stands.
func headline(s *web.Service, v web.Version, now time.Time) string {
	line := fmt.Sprintf("%s %s: %s at %s", s.Service, v.Version, v.Phase, percent(v.Weight))
	if step := stepOf(v); step != "" {
		line += ", step " + step
	}
	switch {
	case !v.InForce:
		line += ", not in force yet"
	case v.StepSince != nil:
		line += ", in force for " + short(now.Sub(*v.StepSince))
	}
	return line
}

// reasons are the sentences below it.
func reasons(s *web.Service, v web.Version) (lines []string) {
	if v.Image != "" {
		lines = append(lines, fmt.Sprintf("image %s, attempt %d; containers at %s", strings.Join(append([]string{v.Image}, v.Digests...), " "), v.Attempt, cmp.Or(strings.Join(v.Endpoints, ", "), "no address yet")))
	}
	if reason := why(v); reason != "" {
		lines = append(lines, strings.Split(reason, "\n")...) // the last lines of a container stay lines
	}
	d := v.Verdict
	if d == nil {
		return lines
	}
	if d.Threshold > 0 {
		lines = append(lines, evidence(s, v, d)...)
		lines = append(lines, slowLines(d)...)
	}
	return lines
}

// evidence says what was counted lately, and what that proves.
func evidence(s *web.Service, v web.Version, d *analysis.Verdict) []string {
	if d.Requests+d.StableRequests == 0 {
		return []string{"Nothing was counted lately."}
	}
	stable := ""
	if s.Stable != nil && *s.Stable != v.Version {
		stable = " " + *s.Stable
	}
	lines := []string{
		fmt.Sprintf("Failed lately: %.0f of its %.0f requests, %.0f of the %.0f of stable%s.", d.Errors, d.Requests, d.StableErrors, d.StableRequests, stable),
		comparison(d),
		fmt.Sprintf("Evidence that it is worse: %.3g; at %.0f it is rolled back. Proof that it is good enough: %.3g; at %.0f it is promoted.", d.Evidence, d.Threshold, d.Promotion, d.PromoteAt),
	}
	for _, c := range d.Cause {
		lines = append(lines, causeLine(c))
	}
	if left := toGo(v); left != "" {
		lines = append(lines, fmt.Sprintf("If it is as good as stable, it can be promoted in about %s.", left))
	}
	switch {
	case d.Moments == 1:
		lines = append(lines, fmt.Sprintf("%.0f of its errors came together in one moment, and then no more: they count as one (judge.burst).", d.MomentErrors))
	case d.Moments > 1:
		lines = append(lines, fmt.Sprintf("%.0f of its errors came together in %d moments, and no more right after: each moment counts as one error (judge.burst).", d.MomentErrors, d.Moments))
	}
	switch {
	case d.Clump >= 1.5:
		lines = append(lines, fmt.Sprintf("Errors arrive in bursts of up to %.0f (judge.clump), so they count as less evidence, for and against.", math.Ceil(d.Clump)))
	case d.Clump > 0: // 0: nothing was judged yet
		lines = append(lines, "Errors arrive one by one, so each counts in full.")
	}
	return lines
}

// causeLine is one cause of a verdict, with the places that have no room in its reason.
func causeLine(c analysis.Cause) string {
	line := fmt.Sprintf("Cause of %s of what fails beyond stable's rate:", percent(c.Excess))
	if c.Class != "" {
		line += " class " + c.Class
	}
	of := "its requests"
	if c.Class != "" {
		of = "that class"
	}
	line += fmt.Sprintf(" %s, %s of %s (stable %s)", cmp.Or(c.Kind, "failures of several kinds, or of one that is not known"), rate(&c.Share), of, rate(&c.StableShare))
	if len(c.Endpoints) > 0 {
		line += "; on " + strings.Join(c.Endpoints, ", ")
	}
	if len(c.Envoys) > 0 {
		line += "; counted by " + strings.Join(c.Envoys, ", ")
	}
	return line + "."
}

// comparison says what is known of the error rate.
func comparison(d *analysis.Verdict) string {
	switch {
	case d.RatioAtMost == nil && d.RatioAtLeast < 0.005:
		return "That is too little to compare its error rate with stable's."
	case d.RatioAtMost == nil:
		return fmt.Sprintf("Its error rate is at least %.2g times stable's (95 %%).", d.RatioAtLeast)
	}
	line := fmt.Sprintf("Its error rate is %.2g to %.3g times stable's (95 %%)", d.RatioAtLeast, *d.RatioAtMost)
	if d.ExcessAtMost < 1 {
		line += fmt.Sprintf(", and exceeds what is tolerated by %s at most", rate(&d.ExcessAtMost))
	}
	return line + "."
}
