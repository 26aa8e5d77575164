package web

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// A version under test has its classes in the answer about its service, as the document says.
func TestAServiceHasTheClassesOfItsReleases(t *testing.T) {
	docs, _ := policy.Parse("p", []byte("service: shop\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"h:1\"], stable: true}]\nramp: {steps: [10%, 100%], hold: 1h}\njudge: {queries: {requests: r_total, errors: e_total, class: handler}}\n"))
	at := time.Unix(1_800_000_000, 0).UTC()
	var s rollout.State
	tell := func(e rollout.Event) {
		t.Helper()
		next, _, err := rollout.Step(s, e)
		if err != nil {
			t.Fatal(err)
		}
		s = next
	}
	answer := func(versions ...string) {
		c := rollout.Cell{From: at, To: at.Add(time.Second), Counts: map[string]analysis.Counts{}, Answers: map[string][]analysis.Answer{}}
		for _, v := range versions {
			c.Counts[v] = analysis.Counts{Requests: 100}
			c.Answers[v] = []analysis.Answer{{Class: "home", Code: "200", Counts: analysis.Counts{Requests: 99}}, {Class: "checkout", Code: "200", Counts: analysis.Counts{Requests: 1}}}
		}
		at = c.To
		tell(rollout.Observed{At: at, Batch: time.Second, Cells: []rollout.Cell{c}})
	}
	accept := func() { tell(rollout.Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 1}) }
	tell(rollout.PolicyChanged{At: at, Policy: docs[0].Policy})
	accept()
	for range 60 {
		answer("v1")
	}
	tell(rollout.Announced{At: at, Version: "v2", Endpoints: []string{"h:2"}})
	accept()
	answer("v1", "v2")
	site := newSite(t)
	shown := viewClasses(&s, "v2")
	for _, c := range shown {
		raw, err := json.Marshal(c)
		var v any
		if err == nil {
			err = json.Unmarshal(raw, &v)
		}
		if err == nil {
			err = site.schemas["Class"].Validate(v)
		}
		if err != nil {
			t.Errorf("%s: %v", raw, err)
		}
		if c.Class == "checkout" && (c.Requests != 1 || c.Wanted == nil || *c.Wanted != 2 || c.ToSee == nil || c.Evidence == nil || c.Stable.Requests != 1) {
			t.Errorf("%s", raw)
		}
	}
	if len(shown) != 3 {
		t.Errorf("%d classes are shown", len(shown))
	}
}
