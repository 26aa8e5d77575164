package rollout

import (
	"reflect"
	"testing"
	"time"
)

// Whatever is shown of a verdict, the bounds are those of all evidence so far; who was promoted or cut keeps those of that moment, which
// the record has as well.
func TestBoundsAreWorkedOutWhereTheyAreShown(t *testing.T) {
	for name, end := range map[string]func(*State, time.Time) Event{
		"cut":     func(s *State, at time.Time) Event { return cellOf(at, "edge-1", s.Accepted, 100) },
		"aborted": func(_ *State, at time.Time) Event { return Commanded{At: at, Verb: "abort", Version: "v2", By: "ann"} },
		"promoted by ann": func(_ *State, at time.Time) Event {
			return Commanded{At: at, Verb: "promote", Version: "v2", Reachable: true, By: "ann"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, at := tenPercent(t)
			for range 3 {
				at = at.Add(time.Second)
				s, _, _ = Step(s, cellOf(at, "edge-1", s.Accepted, 1))
				v := s.Version("v2")
				want := v.Judge.Numbers(&v.Config)
				v.Judge.Bounds(&v.Config, &want)
				if d := v.Shown(); d.Code == "" || want.RatioAtLeast <= 0 || want.ExcessAtMost <= 0 || !reflect.DeepEqual(d.Numbers, want) {
					t.Fatalf("shown is\n%+v\nand known\n%+v", d.Numbers, want)
				}
			}
			before := s.Version("v2").Shown()
			at = at.Add(time.Second)
			next, records, err := Step(s, end(&s, at))
			if err != nil || len(records) == 0 {
				t.Fatalf("%v %v", records, err)
			}
			v, told := next.Version("v2"), records[len(records)-1].Verdict
			d := v.Shown()
			if v.Phase.Waiting() || told == nil || !reflect.DeepEqual(d.Numbers, told.Numbers) || d.RatioAtLeast < before.RatioAtLeast || d.ExcessAtMost <= 0 {
				t.Errorf("%s: shown is\n%+v\nrecorded\n%+v\nand before it was\n%+v", v.Phase, d, told, before)
			}
		})
	}
}
