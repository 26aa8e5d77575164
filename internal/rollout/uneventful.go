package rollout

import "time"

// uneventful reports whether a tick would change nothing but the time, as nearly all do: then nothing is copied for it. It may
// say no where nothing would change, and looks only at what is usual: stable versions, and canaries that go on as they are. For
// each of what a step does without an event (take, Tick; step) there is a line.
func (s *State) uneventful(at time.Time) bool {
	if s.Watch != nil || s.Missing != nil || len(s.Refused)+len(s.Borne) > 0 || s.mayForget(at) {
		return false
	}
	for _, v := range s.Versions {
		switch {
		case v.Leaving:
			return false
		case !v.Phase.Live():
			if v.mayIdle() {
				return false
			}
		case !v.is(timed):
			if v.WeightSince.IsZero() || v.TookOver.IsZero() {
				return false
			}
		case !v.is(ramped) || !s.goesOn(v, at):
			return false
		}
	}
	return true
}

// goesOn reports a canary of which decide says nothing new while no evidence comes, and whose clocks run.
func (s *State) goesOn(v *Version, at time.Time) bool {
	now := v.seconds(at)
	return !v.paused() && v.Refused == "" && !v.WeightSince.IsZero() && s.InForceAt(v.Name) &&
		!s.misses(v, at) && !s.hearsNothing(v, at) && !s.quiet(v, at) &&
		v.Judge.Starved(now) == 0 && !v.Judge.Incident(now) && !v.Judge.Suspicious(&v.Config) && !v.Judge.Slower(now)
}
