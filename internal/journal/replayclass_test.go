package journal

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// serveClasses has one in a hundred requests be of a class of its own, which some versions never get and others fail wholly.
func (r *releases) serveClasses(seconds int, never, fails map[string]bool) {
	for n := range seconds {
		from := r.at
		r.at = r.at.Add(time.Second)
		c := rollout.Cell{Slice: "edge", From: from, To: r.at, Counts: map[string]analysis.Counts{}, Answers: map[string][]analysis.Answer{}, Has: r.s.Accepted, HasSince: r.s.Since}
		for v, w := range r.s.Weights() {
			requests := float64(w / 10)
			rare := float64(w*(n+1)/1000 - w*n/1000)
			if never[v] {
				rare = 0
			}
			checkout := analysis.Answer{Class: "checkout", Code: "200", Counts: analysis.Counts{Requests: rare}}
			if fails[v] {
				checkout.Code, checkout.Errors = "502", rare
			}
			c.Counts[v] = analysis.Counts{Requests: requests, Errors: checkout.Errors}
			c.Answers[v] = []analysis.Answer{{Class: "rest", Code: "200", Counts: analysis.Counts{Requests: requests - rare}}, checkout}
		}
		r.tell(rollout.Observed{At: r.at, Batch: time.Second, Cells: []rollout.Cell{c}})
		r.tell(rollout.Tick{At: r.at})
	}
}

// A release that is judged by class is replayed as it was: promoted, held for want of a class, or cut.
func TestReleasesByClassAreReplayed(t *testing.T) {
	text := strings.Replace(usual, "route: {probe: off}", "route: {probe: off, classes: [{name: checkout, path: /checkout}]}", 1)
	for name, c := range map[string]struct {
		never, fails bool
		decided      string
		code         analysis.Code
	}{
		"promoted":    {decided: "promoted", code: analysis.Passed},
		"unexercised": {never: true, decided: "undecided", code: analysis.Unexercised},
		"cut":         {fails: true, decided: "rolled_back", code: analysis.Worse},
	} {
		t.Run(name, func(t *testing.T) {
			r := &releases{t: t, at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
			d := document(t, text)
			r.tell(rollout.PolicyChanged{At: r.at, Policy: d.Policy, Hash: d.Hash, Secret: "s", By: "test"})
			never, fails := map[string]bool{"v2": c.never}, map[string]bool{"v2": c.fails}
			r.serveClasses(120, never, fails)
			r.tell(rollout.Announced{At: r.at, Version: "v2", Endpoints: []string{"10.0.0.2:80"}, Secret: "s", By: "ci"})
			for i := 0; i < 100 && r.s.Version("v2").Phase.Waiting(); i++ {
				r.serveClasses(10, never, fails)
			}
			v := r.s.Version("v2")
			if v.Verdict.Code != c.code || len(v.Classes) != 2 {
				t.Fatalf("v2 is judged by %d classes, and %+v", len(v.Classes), v.Verdict)
			}
			re := r.replayed(d)
			if len(re.Otherwise) > 0 || re.Same == 0 || re.Same != re.Decisions || len(re.Releases) != 1 {
				t.Fatalf("%d releases, %d of %d decisions came out: %+v", len(re.Releases), re.Same, re.Decisions, re.Otherwise)
			}
			if rel := re.Releases[0]; rel.Then.Decided != c.decided || rel.Would == nil || rel.Would.Decided != c.decided {
				t.Errorf("v2 was %+v, and would have been %+v", rel.Then, rel.Would)
			}
		})
	}
}

// serveRecorded has a fifth of the requests be of a class that v2 fails in some way, of which records tell.
func (r *releases) serveRecorded(seconds int, kind string) {
	for range seconds {
		from := r.at
		r.at = r.at.Add(time.Second)
		c := rollout.Cell{Slice: "edge", From: from, To: r.at, Counts: map[string]analysis.Counts{}, Answers: map[string][]analysis.Answer{}, Endpoints: map[string][]analysis.Slice{}, Has: r.s.Accepted, HasSince: r.s.Since}
		for v, w := range r.s.Weights() {
			n, fails := float64(w/10), 0.0
			if v == "v2" {
				fails = float64(w / 50)
				r.tell(rollout.Sampled{At: r.at, Failures: map[string][]analysis.Example{v: {{Class: "checkout", Kind: kind, N: fails}, {Class: "nobody's", Kind: analysis.Reset, N: 0.01}}}})
			}
			c.Counts[v] = analysis.Counts{Requests: n, Errors: fails}
			c.Endpoints[v] = []analysis.Slice{{Name: "10.0.0.2:80", Counts: c.Counts[v]}}
			c.Answers[v] = []analysis.Answer{{Class: "rest", Code: "200", Counts: analysis.Counts{Requests: n - n/5}}, {Class: "checkout", Code: "200", Counts: analysis.Counts{Requests: n/5 - fails}}}
			if fails > 0 && !analysis.Unanswered(kind) {
				c.Answers[v] = append(c.Answers[v], analysis.Answer{Class: "checkout", Code: kind, Endpoint: "10.0.0.2:80", Counts: analysis.Counts{Requests: fails, Errors: fails}})
			}
		}
		r.tell(rollout.Observed{At: r.at, Batch: time.Second, Cells: []rollout.Cell{c}})
		r.tell(rollout.Tick{At: r.at})
	}
}

// A whole release with access log records: announced, seen to fail, and cut. It is replayed byte for byte, its cause included, and decided
// under another policy, which finds the same cause.
func TestAReleaseWithRecordsIsReplayed(t *testing.T) {
	text := strings.Replace(usual, "route: {probe: off}", "route: {probe: off, classes: [{name: checkout, path: /checkout}]}", 1)
	stricter := strings.Replace(text, "clump: 1,", "clump: 1, false_rollback: 5%,", 1)
	for name, c := range map[string]struct{ kind, said, policy string }{
		"answered":                     {"502", "class checkout: ", text},
		"not answered":                 {analysis.TimedOut, "; /checkout gives no answer (timeout)", text},
		"answered, another policy":     {"502", "class checkout: ", stricter},
		"not answered, another policy": {analysis.TimedOut, "; /checkout gives no answer (timeout)", stricter},
	} {
		t.Run(name, func(t *testing.T) {
			r := &releases{t: t, at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
			d := document(t, text)
			r.tell(rollout.PolicyChanged{At: r.at, Policy: d.Policy, Hash: d.Hash, Secret: "s", By: "test"})
			r.serveRecorded(60, c.kind)
			r.tell(rollout.Announced{At: r.at, Version: "v2", Endpoints: []string{"10.0.0.2:80"}, Secret: "s", By: "ci"})
			for i := 0; i < 60 && r.s.Version("v2").Phase.Waiting(); i++ {
				r.serveRecorded(1, c.kind)
			}
			v := r.s.Version("v2").Verdict
			if v.Code != analysis.Worse || !strings.Contains(v.Reason, c.said) || len(v.Cause) != 1 || v.Cause[0].Class != "checkout" || v.Cause[0].Kind != c.kind {
				t.Fatalf("v2 is cut otherwise: %s: %+v", v.Reason, v.Cause)
			}
			want, err := rollout.EncodeState(r.s)
			if err != nil {
				t.Fatal(err)
			}
			re := r.replayed(document(t, c.policy))
			if len(re.Otherwise) > 0 || re.Same == 0 || re.Same != re.Decisions || len(re.Releases) != 1 {
				t.Fatalf("%d of %d decisions came out: %+v", re.Same, re.Decisions, re.Otherwise)
			}
			if got, err := rollout.EncodeState(re.state); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the state came out otherwise (%v):\n%s\n%s", err, got, want)
			}
			if rel := re.Releases[0]; rel.Then.Decided != "rolled_back" || rel.Would == nil || rel.Would.Decided != "rolled_back" || !strings.Contains(rel.Would.Reason, c.said) {
				t.Errorf("v2 would have been %+v", rel.Would)
			}
		})
	}
}
