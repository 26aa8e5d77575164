package rollout

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// Records say how it came about that there was no answer, and of which class; what decides, and when, is the same with and without.
func TestRecordsSayWhyThereIsNoAnswer(t *testing.T) {
	all := []string{"10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"}
	cut := func(shown ...analysis.Example) (verdict analysis.Verdict, ticks int) {
		s, at := tenPercent(t)
		s.Version("v2").Told = []policy.Class{{Name: "checkout", Method: "POST", Path: "/checkout"}}
		s.Version("v2").Endpoints = all
		s.Version("v2").Failures, s.Version("v2").Envoys = analysis.Failures{}, nil
		for ; s.Version("v2").Phase != Failed; ticks++ {
			if ticks == 60 {
				t.Fatal("it is not cut")
			}
			at = at.Add(time.Second)
			if ticks > 0 && shown != nil {
				before := s.Weights()
				var records []Record
				s, records, _ = Step(s, Sampled{At: at, Failures: map[string][]analysis.Example{"v2": shown, "nobody": shown}})
				if len(records) > 0 || !reflect.DeepEqual(before, s.Weights()) {
					t.Fatalf("records decide: %+v", records)
				}
			}
			s, _, _ = Step(s, answered(&s, at, "checkout", analysis.NoAnswer, 20, all...))
		}
		return s.Version("v2").Verdict, ticks
	}
	plain, after := cut()
	for _, c := range []struct {
		name        string
		shown       []analysis.Example
		class, kind string
		said        string
	}{
		{"one kind, one class", []analysis.Example{{Class: "checkout", Kind: analysis.TimedOut, N: 19}, {Class: "rest", Kind: analysis.Reset, N: 1}}, "checkout", analysis.TimedOut, "; POST /checkout gives no answer (timeout) on all 3 endpoints; stable: never"},
		{"one kind, any class", []analysis.Example{{Class: "checkout", Kind: analysis.Refused, N: 4}, {Class: "rest", Kind: analysis.Refused, N: 5}}, "", analysis.Refused, "; it gives no answer (connection refused) to "},
		{"a class that nobody knows", []analysis.Example{{Class: "lie", Kind: analysis.Closed, N: 9}}, "", analysis.Closed, "; it gives no answer (connection closed) to "},
		{"several kinds", []analysis.Example{{Kind: analysis.Reset, N: 5}, {Kind: analysis.TimedOut, N: 5}}, "", analysis.NoAnswer, "; it gives no answer to "},
		{"answers only", []analysis.Example{{Kind: "502", N: 50}}, "", analysis.NoAnswer, "; it gives no answer to "},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, ticks := cut(c.shown...)
			if ticks != after || len(v.Cause) != 1 || v.Cause[0].Class != c.class || v.Cause[0].Kind != c.kind || !strings.Contains(v.Reason, c.said) {
				t.Errorf("after %d and %d ticks: %s: %+v", ticks, after, v.Reason, v.Cause)
			}
			if whole := strings.SplitN(v.Reason, ";", 2)[0]; whole != strings.SplitN(plain.Reason, ";", 2)[0] {
				t.Errorf("%s, and without records %s", whole, plain.Reason)
			}
		})
	}
}

// Records that come twice leave the state of before as it is: the writer may be writing it.
func TestRecordsChangeNoStateThatTheyAreGiven(t *testing.T) {
	s, at := tenPercent(t)
	shown := Sampled{At: at.Add(time.Second), Failures: map[string][]analysis.Example{"v2": {{Kind: analysis.TimedOut, N: 3}}}}
	first, _, _ := Step(s, shown)
	was := mustEncode(t, first)
	if second, _, _ := Step(first, shown); string(mustEncode(t, second)) == string(was) {
		t.Fatal("nothing was remembered")
	}
	if string(mustEncode(t, first)) != string(was) {
		t.Error("a step changed the state that it was given")
	}
}
