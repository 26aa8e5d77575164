package rollout

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// answered is a second of a release with three endpoints, of which some answer so many of twenty requests to a class so.
func answered(s *State, at time.Time, class, code string, failed float64, endpoints ...string) Observed {
	cell := Cell{Slice: "edge-1", From: at.Add(-time.Second), To: at, Has: s.Accepted, HasSince: at.Add(-time.Hour),
		Counts: map[string]analysis.Counts{"v1": {Requests: 900}}, Endpoints: map[string][]analysis.Slice{}, Answers: map[string][]analysis.Answer{}}
	cell.Answers["v1"] = []analysis.Answer{{Class: "checkout", Code: "200", Endpoint: "10.0.0.1:80", Counts: analysis.Counts{Requests: 180}}, {Class: "rest", Code: "200", Endpoint: "10.0.0.1:80", Counts: analysis.Counts{Requests: 720}}}
	var sum analysis.Counts
	for _, e := range s.Version("v2").Endpoints {
		n := analysis.Counts{Requests: 33}
		for _, name := range endpoints {
			if name == e {
				n.Errors = failed
			}
		}
		as := []analysis.Answer{{Class: "rest", Code: "200", Endpoint: e, Counts: analysis.Counts{Requests: 13}}, {Class: "checkout", Code: "200", Endpoint: e, Counts: analysis.Counts{Requests: 20}}}
		for i := range as {
			if as[i].Class == class && n.Errors > 0 {
				as[i].Requests -= n.Errors
				if code != analysis.NoAnswer {
					as = append(as, analysis.Answer{Class: class, Code: code, Endpoint: e, Counts: analysis.Counts{Requests: n.Errors, Errors: n.Errors}})
				}
			}
		}
		cell.Answers["v2"] = append(cell.Answers["v2"], as...)
		cell.Endpoints["v2"] = append(cell.Endpoints["v2"], analysis.Slice{Name: e, Counts: n})
		sum = sum.Add(n)
	}
	cell.Counts["v2"] = sum
	return Observed{At: at, Batch: time.Second, Cells: []Cell{cell}}
}

func TestAVerdictNamesItsCause(t *testing.T) {
	all := []string{"10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"}
	for _, c := range []struct {
		name, class, code string
		failed            float64
		endpoints         []string
		said              string
		want              analysis.Cause
	}{
		{"one class", "checkout", "502", 20, all, "; POST /checkout answers 502 on all 3 endpoints; stable: never",
			analysis.Cause{Class: "checkout", Kind: "502", Endpoints: all, Envoys: []string{"edge-1"}, Share: 1, Excess: 1}},
		{"part of it, gRPC", "checkout", "grpc-14", 5, all, "; POST /checkout answers gRPC status 14 to 2",
			analysis.Cause{Class: "checkout", Kind: "grpc-14", Endpoints: all, Envoys: []string{"edge-1"}, Excess: 1}},
		{"one endpoint", "checkout", "503", 20, all[1:2], "of its requests on 10.0.0.3:80, one of its 3 endpoints: perhaps one bad instance, not the release; stable: never",
			analysis.Cause{Class: "checkout", Kind: "503", Endpoints: all[1:2], Envoys: []string{"edge-1"}, Excess: 1}},
		{"no answers", "rest", analysis.NoAnswer, 13, all, "; it gives no answer to ",
			analysis.Cause{Kind: analysis.NoAnswer, Endpoints: all, Envoys: []string{"edge-1"}, Excess: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, at := tenPercent(t)
			s.Version("v2").Told = []policy.Class{{Name: "checkout", Method: "POST", Path: "/checkout"}}
			s.Version("v2").Endpoints = all
			s.Version("v2").Failures, s.Version("v2").Envoys = analysis.Failures{}, nil
			var records []Record
			for n := 0; s.Version("v2").Phase != Failed; n++ {
				if n == 60 {
					t.Fatal("it is not cut")
				}
				at = at.Add(time.Second)
				s, records, _ = Step(s, answered(&s, at, c.class, c.code, c.failed, c.endpoints...))
				if v := s.Version("v2"); v.Phase != Failed && v.Verdict.Code == analysis.Holding && strings.HasPrefix(v.Verdict.Reason, "some evidence") != (v.Verdict.Cause != nil) {
					t.Fatalf("held with %v: %s", v.Verdict.Cause, v.Verdict.Reason)
				}
			}
			got := s.Version("v2").Verdict
			if !strings.Contains(got.Reason, c.said) || len(got.Cause) != 1 {
				t.Fatalf("%s: %+v", got.Reason, got.Cause)
			}
			if c.want.Share == 0 {
				c.want.Share = got.Cause[0].Share
			}
			if !reflect.DeepEqual(got.Cause[0], c.want) {
				t.Errorf("got  %+v\nwant %+v", got.Cause[0], c.want)
			}
			if last := records[len(records)-1]; last.Verdict == nil || !reflect.DeepEqual(last.Verdict.Cause, got.Cause) {
				t.Errorf("the history has %+v", last.Verdict)
			}
			s, _, _ = Step(s, answered(&s, at.Add(time.Second), c.class, c.code, c.failed, c.endpoints...))
			if old, stable := s.Version("v2"), s.Version("v1"); old.Failures.Requests+stable.Failures.Requests > 0 || old.Verdict.Cause == nil {
				t.Errorf("after the end there is %+v, %+v, %+v", old.Failures, stable.Failures, old.Verdict.Cause)
			}
		})
	}
}

// What is counted for the causes is stored and read again, or left out where it is no count.
func TestFailuresAreStored(t *testing.T) {
	s, at := tenPercent(t)
	at = at.Add(time.Second)
	s, _, _ = Step(s, answered(&s, at, "checkout", "502", 1, "10.0.0.2:80"))
	before := s.clone()
	raw, err := EncodeState(s)
	if err != nil {
		t.Fatal(err)
	}
	again, lost, err := DecodeState(raw)
	if err != nil || lost != nil || len(again.Version("v2").Failures.All) != 1 || !reflect.DeepEqual(again.Version("v2").Failures, s.Version("v2").Failures) {
		t.Fatalf("%v, %v, %+v", lost, err, again.Version("v2").Failures)
	}
	bad := bytes.Replace(raw, []byte(`"kind":"502","errors":`), []byte(`"kind":"502","errors":-`), 1)
	again, lost, err = DecodeState(bad)
	if err != nil || len(lost) != 1 || !strings.HasPrefix(lost[0], "the failures of v2: ") || again.Version("v2").Failures.All != nil {
		t.Fatalf("%v, %v, %+v", lost, err, again.Version("v2").Failures)
	}
	for range 3 {
		at = at.Add(time.Second)
		if _, _, err := Step(s, answered(&s, at, "checkout", "502", 1, "10.0.0.2:80")); err != nil || !reflect.DeepEqual(s.Version("v2").Failures, before.Version("v2").Failures) {
			t.Fatal("a step has changed the state that it began with")
		}
	}
}
