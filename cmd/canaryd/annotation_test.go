package main

import (
	"strings"
	"testing"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
)

func TestAJobShowsTheCauseOfItsRollback(t *testing.T) {
	v := web.Version{Version: "v2,b", Phase: rollout.Failed, Verdict: &analysis.Verdict{Code: analysis.Worse, Reason: "error rate 4%; POST /checkout answers 502\non all 3 endpoints"}}
	for _, c := range []struct {
		where string
		code  int
		want  string
	}{
		{"true", exitRolledBack, "::error title=shop v2%2Cb failed::worse: error rate 4%25; POST /checkout answers 502%0Aon all 3 endpoints\n"},
		{"true", exitUndecided, "::warning title=shop v2%2Cb failed::worse: error rate 4%25; POST /checkout answers 502%0Aon all 3 endpoints\n"},
		{"true", exitOK, ""},
		{"", exitRolledBack, ""},
	} {
		var b strings.Builder
		annotate(&b, func(name string) string { return map[string]string{"GITHUB_ACTIONS": c.where}[name] }, "shop", v, c.code)
		if b.String() != c.want {
			t.Errorf("%+v: %q", c, b.String())
		}
	}
}
