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
	for i := range s.Versions {
		if v := &s.Versions[i]; v.Phase.Waiting() && v.Judge != nil {
			return v.Told
		}
	}
	return s.Policy.Route.Classes
}

// Classes are the names of those that requests are told apart by at present, the rest last; nil: they are not told apart.
func (s *State) Classes() []string { return (&policy.Route{Classes: s.classes()}).ClassNames() }

// served is the policy as the Envoys are to have it: with the classes of the release under test.
func (s *State) served() *policy.Policy {
	told := s.classes()
	if slices.Equal(told, s.Policy.Route.Classes) {
		return &s.Policy
	}
	p := s.Policy
	p.Route.Classes = told
	return &p
}

// ofClasses is what a table with other classes than those of the policy has beside what the policy says.
func (t *Table) ofClasses() []byte {
	if len(t.Policy.Route.Classes) == 0 {
		return nil
	}
	raw, err := json.Marshal(t.Policy.Route.Classes)
	if err != nil {
		return nil // text only: never
	}
	return raw
}
