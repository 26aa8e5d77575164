package rollout

import (
	"encoding/json"
	"slices"

	"github.com/canaryd/canaryd/internal/policy"
)

// classes are those that the Envoys tell requests apart by: of the oldest release under test those that the policy had when it
// was announced, else the policy's. So what is counted of a class is about the same requests from the beginning to the end of
// a judgement. A younger release that was announced after an edit is judged by what there is until the older one's fate is
// decided.
func (s *State) classes() []policy.Class {
	if v := s.eldest(); v != nil {
		return v.Told
	}
	return s.Policy.Route.Classes
}

// Classes are the names of those that requests are told apart by at present, the rest last; nil: they are not told apart.
func (s *State) Classes() []string { return (&policy.Route{Classes: s.classes()}).ClassNames() }

// served is the policy as the Envoys are to have it: what they measure is what the release under test is judged by.
func (s *State) served() *policy.Policy {
	told := s.classes()
	if slices.Equal(told, s.Policy.Route.Classes) && s.Timed() == (s.Policy.Judge.Slow != nil) {
		return &s.Policy
	}
	p := s.Policy
	p.Route.Classes = told
	if slow := s.pacings(); len(slow) > 0 {
		p.Judge.Slow = slow[0]
	}
	return &p
}

// ofMeasures is what a table has of what is measured, which may be another thing than what the policy says.
func (t *Table) ofMeasures() (b []byte) {
	if len(t.Policy.Route.Classes) > 0 {
		raw, err := json.Marshal(t.Policy.Route.Classes)
		if err != nil {
			return nil // text only: never
		}
		b = raw
	}
	if t.Policy.Judge.Slow != nil { // Envoys tell durations, wherever the edges are
		b = append(b, "slow"...)
	}
	return b
}
