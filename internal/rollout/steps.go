package rollout

import "github.com/canaryd/canaryd/internal/analysis"

// StepAt is the highest configured step that a version's weight reaches, counted from 1; 0 below the first one. The stable
// version is on the last one.
func (s *State) StepAt(v *Version) int {
	steps := s.Policy.Ramp.Weights()
	if v.Name == s.Stable {
		return len(steps)
	}
	at, w := 0, s.Weight(v.Name)
	for _, step := range steps {
		if v.is(open) && step <= w {
			at++
		}
	}
	return at
}

// NextStep is the weight that a version under test gets next; 0 where it is not under test. With automatic steps the
// first one may be a higher one.
func (s *State) NextStep(v *Version) int {
	if !v.is(open) {
		return 0
	}
	return s.Policy.Ramp.Next(s.Weight(v.Name))
}

// HeldBy is what a version under test is held for that only time or a person changes: a person paused it and it waits for
// its turn, or for an answer; its deadline is past; or for too long nothing has been learnt about it, for which this is
// the reason. Empty: it is not held.
func (s *State) HeldBy(v *Version) analysis.Code {
	switch {
	case !v.is(open):
		return ""
	case v.is(inLine) && v.paused(): // the phase does not say it
		return analysis.Paused
	case v.Refused != "":
		return analysis.Nack
	case v.Late:
		return analysis.DeadlinePassed
	case !v.Held:
		return ""
	case v.is(inLine):
		return analysis.Unreachable
	case s.Missing != nil:
		return s.Missing.Code
	}
	return analysis.NoTraffic
}
