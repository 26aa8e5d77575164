package rollout

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// A tick is uneventful where a canary goes on as it is, and not where time alone changes something.
func TestUneventful(t *testing.T) {
	for _, c := range []struct {
		name   string
		after  time.Duration
		change func(s *State, stable, canary *Version)
	}{
		{"it goes on", time.Second, nil},
		{"nobody reports for a minute", time.Minute, nil},
		{"no evidence for too long", 2 * time.Second, func(s *State, _, _ *Version) { s.Policy.Judge.NoEvidence.For = policy.Duration(time.Second) }},
		{"the deadline passes", time.Second, func(s *State, _, _ *Version) { s.Policy.Judge.Deadline.After = policy.Duration(2 * time.Second) }},
		{"the watch ends", time.Second, func(s *State, _, _ *Version) { s.Watch = &Watch{Until: s.At} }},
		{"evidence is missing", time.Second, func(s *State, _, _ *Version) { s.Missing = &Missing{analysis.SourceUnreachable, "away"} }},
		{"an Envoy refused something", time.Second, func(s *State, _, _ *Version) { s.Refused = []Nack{{Node: "n", Content: s.Content}} }},
		{"a refusal that nobody waits for", time.Second, func(s *State, _, _ *Version) { s.Borne = []Borne{{Node: "n", Seq: -1}} }},
		{"versions to forget", time.Second, func(s *State, _, _ *Version) {
			s.Versions = append(pastVersions(keepEnded+1, s.At.Add(-keepFor)), s.Versions...)
		}},
		{"containers are idle", time.Second, func(s *State, _, _ *Version) {
			s.Policy.Docker = &policy.Docker{StopIdleAfter: policy.Duration(time.Second)}
			s.Versions = append([]*Version{{Name: "v0", Phase: Aborted, Launch: Launch{Image: "x", LaunchedAt: s.At.Add(-time.Hour)}, EndedAt: s.At.Add(-time.Minute)}}, s.Versions...)
		}},
		{"one that has ended leaves", time.Second, func(s *State, _, _ *Version) {
			s.Versions = append([]*Version{{Name: "v0", Phase: Retired, Climb: Climb{Leaving: true}, EndedAt: s.At}}, s.Versions...)
		}},
		{"stable has taken over", time.Second, func(_ *State, stable, _ *Version) { stable.TookOver = at0 }},
		{"stable's weight is in force", time.Second, func(_ *State, stable, _ *Version) { stable.WeightSince = at0 }},
		{"the weight is in force", time.Second, func(_ *State, _, v *Version) { v.WeightSince = at0 }},
		{"the weight is not in force any more", time.Second, func(s *State, _, _ *Version) { s.InForce = false }},
		{"it is paused", time.Second, func(s *State, _, v *Version) { v.Phase, v.PausedAt = Paused, s.At }},
		{"it is paused, whatever its phase", time.Second, func(s *State, _, v *Version) { v.PausedAt = s.At }},
		{"no Envoy takes more of it", time.Second, func(_ *State, _, v *Version) { v.Refused = "no" }},
		{"it starves", time.Second, func(_ *State, _, v *Version) { v.Judge.Starving = 20 }},
		{"stable fails as well", time.Second, func(_ *State, _, v *Version) { v.Judge.IncidentUntil = 1e6 }},
		{"some evidence speaks against it", time.Second, func(_ *State, _, v *Version) { v.Judge.Relative.E = 50 }},
		{"it is slower", time.Second, func(_ *State, _, v *Version) {
			v.Judge.Slow = &analysis.Slow{E: 50, At: v.Judge.ObservedAt, Edges: []analysis.Edge{{After: 1}}}
		}},
		{"another one waits", time.Second, func(s *State, _, _ *Version) {
			s.Versions = append(s.Versions, &Version{Name: "v3", Phase: Queued, Endpoints: []string{"h:3"}})
		}},
		{"another one warms up", time.Second, func(s *State, _, _ *Version) {
			s.Versions = append(s.Versions, &Version{Name: "v3", Phase: Warming, Endpoints: []string{"h:3"}})
		}},
		{"another one drains", time.Second, func(s *State, _, _ *Version) {
			s.Versions = append(s.Versions, &Version{Name: "v0", Phase: Draining, Tenure: Tenure{Until: s.At}})
		}},
	} {
		states, at := climbing(1)
		s, _, _ := Step(states[0], Observed{At: plain(at.Add(time.Second)), Batch: time.Second, Cells: []Cell{{Slice: "edge", From: at, To: at.Add(time.Second),
			Counts: map[string]analysis.Counts{"v1": {Requests: 950}, "v2": {Requests: 50}}}}})
		if s = s.clone(); c.change != nil {
			c.change(&s, s.Version("v1"), s.Version("v2"))
		}
		next := plain(s.At.Add(c.after))
		got := s
		records, err := got.move(Tick{At: next}, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := s
		want.At, want.Borne, want.Refused, got.Borne, got.Refused = next, nil, nil, nil, nil // an empty list is none
		if same := len(records) == 0 && len(s.Refused)+len(s.Borne) == 0 && reflect.DeepEqual(got, want); same != s.uneventful(next) {
			t.Errorf("%s: uneventful %v, but the tick changes nothing: %v", c.name, s.uneventful(next), same)
		} else if same != (c.change == nil && c.after < time.Minute) {
			t.Errorf("%s: the tick changes nothing: %v", c.name, same)
		}
	}
}

// pastVersions are some that have ended.
func pastVersions(n int, at time.Time) (past []*Version) {
	for i := range n {
		past = append(past, &Version{Name: fmt.Sprint("v0.", i), Phase: Retired, EndedAt: at})
	}
	return past
}
