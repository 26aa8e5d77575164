package notify

import (
	"strings"
	"testing"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Whoever is told of a rollback is told what fails: in a sentence, and as JSON.
func TestACutIsToldWithItsCause(t *testing.T) {
	r := record(rollout.KindRolledBack, "error rate 4%; POST /checkout answers 502 on all 3 endpoints; stable: never")
	r.Verdict = &analysis.Verdict{Outcome: analysis.Fail, Code: analysis.Worse, Reason: r.Reason, Cause: []analysis.Cause{{Class: "checkout", Kind: "502", Endpoints: []string{"10.0.0.2:80"}, Share: 1, Excess: 1}}}
	for format, want := range map[string]string{
		Slack: "POST /checkout answers 502 on all 3 endpoints; stable: never (by canaryd)",
		JSON:  `"cause":[{"class":"checkout","kind":"502","endpoints":["10.0.0.2:80"],"share":1,"stable_share":0,"excess":1}]`,
	} {
		body, err := (&target{Target: Target{Format: format}}).body(r)
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s (%v)", format, body, err)
		}
	}
}
