package rollout

import (
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// trusted are the versions to which canaryd may go back by itself.
func trusted(s State) string {
	var names []string
	for _, v := range s.Versions {
		if v.Trusted {
			names = append(names, v.Name)
		}
	}
	return strings.Join(names, " ")
}

func TestWhoIsTrusted(t *testing.T) {
	text := seedV1 + "ramp: {steps: [50%, 100%], hold: 2s}\njudge: {clump: 1, promote_within: {ratio: 2, margin: 5%}}\nafter_promotion: {watch: 10m}\n"
	r := newRun(t, text)
	want := func(what, names string) {
		t.Helper()
		if got := trusted(r.s); got != names {
			t.Errorf("%s: trusted are %q, want %q", what, got, names)
		}
	}
	want("the first version", "v1")
	r.announce("v2", "10.0.0.2:80")
	r.observe(10, counts("v1", 500, 0, "v2", 500, 0))
	want("in the watch of v2", "v1")
	r.at = r.at.Add(11 * time.Minute)
	r.step(Tick{At: r.at})
	want("after the watch of v2", "v1 v2")

	r.announce("v3", "10.0.0.3:80")
	r.observe(10, counts("v2", 500, 0, "v3", 500, 0))
	r.observe(60, counts("v3", 1000, 500))
	if v := r.s.Version("v3"); v.Phase != Stable || !v.Alarmed {
		t.Fatalf("v3 is %s, alarm %v", v.Phase, v.Alarmed)
	}
	r.at = r.at.Add(11 * time.Minute)
	r.step(Tick{At: r.at})
	want("an alarm in the watch of v3", "v1 v2")

	r.step(Commanded{At: r.at, Verb: "promote", Version: "v2", Reachable: true, By: "ann"})
	want("v2 is back", "v1 v2")
	if v := r.s.Version("v3"); v.Phase != Aborted || v.Verdict.Code != analysis.Aborted {
		t.Errorf("v3, which a person left, is %s: %s", v.Phase, v.Verdict.Code)
	}
	_, _, err := Step(r.s, Commanded{At: r.at, Verb: "abort", Version: "v2", By: "ann"})
	if err == nil || !strings.Contains(err.Error(), "`canaryd promote shop v1` (retired, 10.0.0.1:80)") || strings.Contains(err.Error(), "v3") {
		t.Errorf("aborted, and nothing answers to take its place: %v", err)
	}

	r.policy(strings.ReplaceAll(text, "10m", "0s"))
	r.announce("v4", "10.0.0.4:80")
	r.observe(10, counts("v2", 500, 0, "v4", 500, 0))
	want("there is no watch", "v1 v2 v4")
}
