package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
)

// A bound of 96.3 is read as bursts of up to 97; before anything was judged nothing is said about how errors arrive.
func TestExplainSaysHowErrorsArrive(t *testing.T) {
	for clump, want := range map[float64]string{
		0:    "",
		1.08: "Errors arrive one by one, so each counts in full.",
		96.3: "Errors arrive in bursts of up to 97 (judge.clump), so they count as less evidence, for and against.",
	} {
		text := explained(t, analysis.Numbers{Threshold: 1000, PromoteAt: 100, Clump: clump, Requests: 1})
		if want == "" && strings.Contains(text, "Errors arrive") || !strings.Contains(text, want) {
			t.Errorf("clump bound %g: %s", clump, text)
		}
	}
}

// Errors that were counted as one are named: the evidence is lower than their number suggests.
func TestExplainSaysWhatCountsAsOne(t *testing.T) {
	for moments, want := range map[int]string{
		0: "",
		1: "12 of its errors came together in one moment, and then no more: they count as one (judge.burst).",
		2: "12 of its errors came together in 2 moments, and no more right after: each moment counts as one error (judge.burst).",
	} {
		text := explained(t, analysis.Numbers{Threshold: 1000, PromoteAt: 100, Requests: 100, Errors: 13, Moments: moments, MomentErrors: 12})
		if want == "" && strings.Contains(text, "came together") || !strings.Contains(text, want) {
			t.Errorf("%d moments: %s", moments, text)
		}
	}
}

// What is said of the error rate is what is known of it.
func TestExplainComparesErrorRates(t *testing.T) {
	most := 10.62
	for want, n := range map[string]analysis.Numbers{
		"Nothing was counted lately.":                                                                          {},
		"That is too little to compare its error rate with stable's.":                                          {Requests: 3, RatioAtLeast: 0.004, ExcessAtMost: 1},
		"Its error rate is at least 2.1 times stable's (95 %).":                                                {Requests: 30, RatioAtLeast: 2.1, ExcessAtMost: 1},
		"Its error rate is 0.8 to 10.6 times stable's (95 %), and exceeds what is tolerated by 0.21% at most.": {Requests: 30, RatioAtLeast: 0.8, RatioAtMost: &most, ExcessAtMost: 0.0021},
	} {
		n.Threshold = 1000
		if text := explained(t, n); !strings.Contains(text, "  "+want+"\n") {
			t.Errorf("want %q: %s", want, text)
		}
	}
}

// How long answers take has lines of its own, also where it is not judged.
func TestExplainSaysHowLongAnswersTake(t *testing.T) {
	d := analysis.Verdict{Numbers: analysis.Numbers{PromoteAt: 100}, Slow: []analysis.Paces{
		{Edge: 0.2, Requests: 1000, Slow: 51, StableRequests: 20000, StableSlow: 200, Evidence: 40, Clump: 3.1, Promotion: 0.5},
		{Edge: 1, StableRequests: 20000, Evidence: 1, Clump: 1},
	}}
	want := []string{
		"Longer than 200ms took lately: 5.1% of its 1000 answers, 1% of the 20000 of stable; evidence that it is slower: 40. Proof that it is no slower: 0.5; at 100 that is enough. One cause may make up to 4 answers slow, so they count as less evidence.",
		"Longer than 1s took lately: none of its 0 answers, 0% of the 20000 of stable; evidence that it is slower: 1.",
		"All edges together: evidence of 20.5 that its answers are slower; from 20 on it is held (judge.slow).",
	}
	if got := slowLines(&d); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	d = analysis.Verdict{Unpaced: "nobody has told yet"}
	if got := slowLines(&d); len(got) != 1 || got[0] != "How long its answers take is not judged: nobody has told yet." {
		t.Errorf("%q", got)
	}
}

func explained(t *testing.T, n analysis.Numbers) string {
	var text strings.Builder
	v := web.Version{Version: "v2", Phase: rollout.Canary, Verdict: &analysis.Verdict{Outcome: analysis.Wait, Code: analysis.Dwell, Reason: "at 5% for 10s of 1m0s", Numbers: n}}
	if err := explain(&text, &web.Service{Service: "shop", Versions: []web.Version{v}}, []web.Version{v}); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// Each cause has its line: where it happens has no room in the reason.
func TestExplainNamesCausesAndPlaces(t *testing.T) {
	var text strings.Builder
	d := analysis.Verdict{Outcome: analysis.Fail, Code: analysis.Worse, Reason: "error rate 4%", Numbers: analysis.Numbers{Threshold: 1000, PromoteAt: 100, Requests: 100, Errors: 10}}
	d.Cause = []analysis.Cause{
		{Class: "checkout", Kind: "502", Endpoints: []string{"10.0.0.2:80", "10.0.0.3:80"}, Envoys: []string{"edge-1"}, Share: 0.5, StableShare: 0.0002, Excess: 0.7},
		{Kind: analysis.NoAnswer, Share: 0.01, Excess: 0.25},
		{Share: 0.001, Excess: 0.05},
	}
	v := web.Version{Version: "v2", Phase: rollout.Failed, Verdict: &d}
	if err := explain(&text, &web.Service{Service: "shop", Versions: []web.Version{v}}, []web.Version{v}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Cause of 70% of what fails beyond stable's rate: class checkout 502, 50% of that class (stable 0.02%); on 10.0.0.2:80, 10.0.0.3:80; counted by edge-1.",
		"Cause of 25% of what fails beyond stable's rate: no answer, 1% of its requests (stable 0%).",
		"Cause of 5% of what fails beyond stable's rate: failures of several kinds, or of one that is not known, 0.1% of its requests (stable 0%).",
	} {
		if !strings.Contains(text.String(), "  "+want+"\n") {
			t.Errorf("want %q:\n%s", want, text.String())
		}
	}
}

// The classes of a release, the worst first, on 80 columns: of one under test with as many as there may be, and of one that was cut.
func TestExplainShowsClasses(t *testing.T) {
	evidence := func(e float64) (*float64, *float64) { at := 50000.0; return &e, &at }
	number := func(n float64) *float64 { return &n }
	var under []web.Class
	for i, name := range []string{"checkout", "/api/v1/organizations/:id/invoices/:number", "search"} {
		c := web.Class{Class: name, Requests: []float64{12, 0, 1234567}[i], Errors: []float64{7, 0, 12}[i], Stable: analysis.Counts{Requests: []float64{1204, 40, 98765432}[i], Errors: []float64{0, 1, 1000}[i]}}
		c.Evidence, c.Threshold = evidence([]float64{4711, 1, 0.871}[i])
		c.Wanted, c.ToSee = number([]float64{0, 3, 0}[i]), []*float64{nil, number(95), nil}[i]
		under = append(under, c)
	}
	for i := range 17 {
		c := web.Class{Class: fmt.Sprint("class-", i+3), Requests: 40, Stable: analysis.Counts{Requests: 4000}}
		c.Evidence, c.Threshold = evidence(0.9)
		if i < 4 {
			c.Requests, c.Wanted = 1, number(2)
		}
		under = append(under, c)
	}
	cut := slices.Clone(under[:2])
	for i := range cut {
		cut[i].Evidence, cut[i].Threshold, cut[i].Wanted, cut[i].ToSee = nil, nil, nil, nil
	}
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	d := analysis.Verdict{Outcome: analysis.Wait, Code: analysis.Holding, Reason: "some evidence against it: no step up meanwhile", Numbers: analysis.Numbers{Threshold: 1000, PromoteAt: 100, Requests: 1234599, Errors: 22, StableRequests: 98770000, StableErrors: 1001, Evidence: 31.2, Promotion: 0.4, Clump: 1, RatioAtLeast: 1.2}}
	failed := d
	failed.Outcome, failed.Code, failed.Reason, failed.Evidence = analysis.Fail, analysis.Worse, "class checkout: 7 of 12 failed; stable: 0 of 1204: evidence 1e+03 reached 1000", 1000
	vs := []web.Version{
		{Version: "v2", Phase: rollout.Canary, Weight: 0.1, InForce: true, StepSince: &at, Errors: 22, Verdict: &d, Classes: under},
		{Version: "v1.9", Phase: rollout.Failed, InForce: true, Errors: 7, Verdict: &failed, Classes: cut},
		{Version: "v1", Phase: rollout.Stable, Weight: 0.9, InForce: true},
	}
	stable := "v1"
	for width, name := range map[int]string{80: "classes-80.txt", 0: "classes-wide.txt"} {
		table := newTable(width, at.Add(time.Minute))
		table.explain(&web.Service{Service: "shop", Stable: &stable, Versions: vs}, vs)
		golden(t, name, table.buf.String())
		for line := range strings.Lines(table.buf.String()) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 && width == 80 {
				t.Errorf("%d columns: %s", n, line)
			}
		}
	}
}
