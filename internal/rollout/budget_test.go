package rollout

import (
	"strings"
	"testing"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Who asks why a good release does not move is told about the clump bound only where it is the reason.
func TestWhatDelaysAReleaseIsNamed(t *testing.T) {
	const text = seedV1 + "ramp: {steps: [10%, 50%, 100%], hold: 1s}\n"
	for name, test := range map[string]struct {
		judge string
		code  analysis.Code
		says  []string
		not   string
	}{
		"the next step, by the clump bound": {"judge: {clump: 60}\n", analysis.Budget, []string{"; judge.clump says that errors arrive in bursts of up to 60, so each request counts for less", "s more if it stays clean"}, ""},
		"the next step, by the budget":      {"judge: {clump: 60, budget: 0.01}\n", analysis.Budget, []string{"judge.budget: 0.01"}, "judge.clump"},
		"the proof, by the clump bound":     {"judge: {clump: 60, budget: 1e9}\n", analysis.Holding, []string{"gathering proof at 50%", "; judge.clump says that errors arrive in bursts of up to 60"}, ""},
		"the proof, by what is not known":   {"judge: {budget: 1e9}\n", analysis.Holding, []string{"; few errors of v1 are known yet, so bursts of up to 4 are assumed"}, ""},
		"the proof, by its requests":        {"judge: {clump: 1, budget: 1e9}\n", analysis.Holding, []string{"gathering proof at 50%"}, "judge.clump"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, text+test.judge)
			r.announce("v2", "10.0.0.2:80")
			r.observe(20, counts("v1", 90, 0, "v2", 10, 0))
			got := r.s.Version("v2").Verdict
			if got.Code != test.code {
				t.Errorf("%s, want %s: %s", got.Code, test.code, got.Reason)
			}
			for _, part := range test.says {
				if !strings.Contains(got.Reason, part) {
					t.Errorf("%q does not say %q", got.Reason, part)
				}
			}
			if test.not != "" && strings.Contains(got.Reason, test.not) {
				t.Errorf("%q blames %q", got.Reason, test.not)
			}
		})
	}
}
