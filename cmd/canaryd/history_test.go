package main

import (
	"strings"
	"testing"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
)

// A bound of 96.3 is read as bursts of up to 97; before anything was judged nothing is said about how errors arrive.
func TestExplainSaysHowErrorsArrive(t *testing.T) {
	for clump, want := range map[float64]string{
		0:    "",
		1.08: "Errors of stable arrive one by one, so each counts in full.",
		96.3: "Errors of stable are taken to arrive in bursts of up to 97, so each counts as less evidence, for and against. `judge.clump` in the policy sets another bound.",
	} {
		text := explain(web.Version{Version: "v2", Phase: rollout.Canary, Verdict: &analysis.Verdict{
			Outcome: analysis.Wait, Code: analysis.Dwell, Reason: "at 5% for 10s of 1m0s", Numbers: analysis.Numbers{Threshold: 1000, PromoteAt: 100, Clump: clump}}})
		if want == "" && strings.Contains(text, "Errors of stable") || !strings.Contains(text, want) {
			t.Errorf("clump bound %g: %s", clump, text)
		}
	}
}
