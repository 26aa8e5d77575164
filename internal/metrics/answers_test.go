package metrics

import (
	"slices"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// measuring is a report of an Envoy that measures answers.
func measuring(to time.Time) Report {
	r := reported("a", to, 100)
	r.Counts["shop"]["v1"] = analysis.Counts{Requests: 100, Errors: 7}
	r.Answers = map[string]map[string]Answers{"shop": {"v1": {Issued: 104, Active: 4,
		Counted: []analysis.Answered{{Endpoint: "e1", Class: "rest", Code: "200", N: 50}, {Endpoint: "e1", Class: "checkout", Code: "503", N: 5}, {Endpoint: "e1", Class: "gone", Code: "200", N: 4}, {Endpoint: "e2", Class: "checkout", Code: "200", N: 30}, {Endpoint: "e2", Class: "-", Code: "404", N: 6}},
		Took:    []analysis.Took{{Endpoint: "e2", Millis: 12, N: 36}, {Endpoint: "e1", Millis: 0, N: 50}, {Endpoint: "e1", Millis: 700, N: 9}},
	}, "v0": {Issued: 7, Active: 7}}}
	return r
}

func cellOf(t *testing.T, target Target, r Report) rollout.Cell {
	t.Helper()
	s := &seen{Target: target}
	before := r
	before.Answers = map[string]map[string]Answers{target.Service: {"v1": {}}} // nothing was open before
	_, _ = s.cell(before)
	c, ok := s.cell(r)
	if !ok {
		t.Fatal("no cell")
	}
	return c
}

func TestAnswersAreSortedByWhatThePolicyKnows(t *testing.T) {
	target := shop
	target.Classes, target.Edges = []string{"checkout", "rest"}, []float64{0.7}
	c := cellOf(t, target, measuring(time.Now()))
	want := []analysis.Answer{{Class: "checkout", Code: "200", Endpoint: "e2", Counts: analysis.Counts{Requests: 30}}, {Class: "checkout", Code: "503", Endpoint: "e1", Counts: analysis.Counts{Requests: 5, Errors: 5}},
		{Class: "rest", Code: "200", Endpoint: "e1", Counts: analysis.Counts{Requests: 54}}, {Class: "rest", Code: "404", Endpoint: "e2", Counts: analysis.Counts{Requests: 6}}}
	if !slices.Equal(c.Answers["v1"], want) || len(c.Answers) != 1 {
		t.Errorf("%+v", c.Answers)
	}
	if c.Issued["v1"] != 104 || len(c.Issued) != 1 {
		t.Errorf("%v", c.Issued)
	}
	ts := c.Times["v1"]
	if len(ts) != 2 || ts[0].Name != "e1" || ts[1].Name != "e2" || ts[0].All() != 59 || ts[1].All() != 36 {
		t.Fatalf("%+v", ts)
	}
	later := 0.0
	for i, n := range ts[0].N {
		if i > slices.Index(ts[0].UpTo, 0.7) {
			later += n
		}
	}
	if later != 9 {
		t.Errorf("%g answers later than 0.7 s: %+v", later, ts[0])
	}
	// Without classes statuses are told all the same.
	if c := cellOf(t, shop, measuring(time.Now())); len(c.Answers["v1"]) != 4 || c.Answers["v1"][0] != (analysis.Answer{Code: "200", Endpoint: "e1", Counts: analysis.Counts{Requests: 54}}) {
		t.Errorf("%+v", c.Answers)
	}
	var joined rollout.Cell
	joined.Join(c)
	joined.Join(c)
	if joined.Answers["v1"][2].Requests != 108 || joined.Times["v1"][0].All() != 118 || joined.Issued["v1"] != 208 || c.Answers["v1"][2].Requests != 54 || c.Times["v1"][0].All() != 59 {
		t.Errorf("%+v", joined)
	}
}

// Of gRPC those statuses are errors that the policy names.
func TestGRPCAnswersFailByThePolicysStatuses(t *testing.T) {
	target := shop
	target.Statuses = []int{2, 14}
	r := measuring(time.Now())
	r.Answers["shop"]["v1"] = Answers{Counted: []analysis.Answered{{Endpoint: "e", Class: "m", Code: "grpc-0", N: 80}, {Endpoint: "e", Class: "m", Code: "grpc-5", N: 10}, {Endpoint: "e", Class: "m", Code: "grpc-14", N: 7}}}
	c := cellOf(t, target, r)
	failed := 0.0
	for _, a := range c.Answers["v1"] {
		if failed += a.Errors; a.Errors > 0 && a.Code != "grpc-14" {
			t.Errorf("%+v", a)
		}
	}
	if failed != 7 {
		t.Errorf("%+v", c.Answers)
	}
}

// Answers are parts of what is counted: those that the report is ahead with are left to the next one.
func TestAnswersAreNoMoreThanWhatIsCounted(t *testing.T) {
	r := measuring(time.Now())
	r.Counts["shop"]["v1"] = analysis.Counts{Requests: 90, Errors: 3}
	c := cellOf(t, shop, r)
	sum := analysis.Counts{}
	for _, a := range c.Answers["v1"] {
		sum = sum.Add(a.Counts)
	}
	if sum != (analysis.Counts{Requests: 90, Errors: 3}) {
		t.Errorf("%+v of %+v", sum, c.Counts["v1"])
	}
}

// What began is what ended, and what is open more than before: requests that clients gave up never end in Envoy's counts, and a report may
// be lost.
func TestRequestsThatBeganAreThoseThatAreOpenOrEnded(t *testing.T) {
	s, now := &seen{Target: shop}, time.Now()
	for i, c := range []struct {
		stream                         uint64
		issued, active, requests, want float64 // want < 0: not known
	}{
		{1, 100, 5, 95, -1}, {1, 100, 9, 90, 94}, {1, 100, 9, 100, 100}, {1, 100, 0, 100, 91}, {2, 100, 5, 95, -1}, {2, 100, 5, 80, 80}, {2, 0, 0, 0, -1}, {2, 0, 0, 0, 0},
	} {
		r := reported("a", now, c.requests)
		r.Stream, r.Answers = c.stream, map[string]map[string]Answers{"shop": {"v1": {Issued: c.issued, Active: c.active}}}
		r.Counts["shop"]["v1"] = analysis.Counts{Requests: c.requests}
		got, known := 0.0, false
		if cell, ok := s.cell(r); ok {
			got, known = cell.Issued["v1"], cell.Issued != nil
		}
		if known != (c.want >= 0) || known && got != c.want {
			t.Errorf("report %d: %g began (known: %t), want %g", i, got, known, c.want)
		}
	}
}

// Each connection of an Envoy lasts an hour or so: those that are gone take no room from those that come.
func TestOpenRequestsOfGoneConnectionsAreForgotten(t *testing.T) {
	s, now := &seen{Target: shop}, time.Now()
	report := func(stream uint64) bool {
		r := reported("a", now, 10)
		r.Stream, r.Answers = stream, map[string]map[string]Answers{"shop": {"v1": {Active: 1}}}
		c, _ := s.cell(r)
		return c.Issued != nil
	}
	for stream := range uint64(3 * reportersMost) {
		now = now.Add(time.Hour)
		report(stream)
		now = now.Add(time.Second)
		if !report(stream) {
			t.Fatalf("connection %d: nobody knows what began", stream)
		}
		if len(s.active) > 2 {
			t.Fatalf("%d connections are kept", len(s.active))
		}
	}
}
