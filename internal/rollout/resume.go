package rollout

import "time"

// Resume prepares a stored state after a restart: nothing is in force until an Envoy says so, and the
// time in which nobody looked is no silence of the canary's.
func Resume(s State, at time.Time) State {
	s = s.clone()
	s.InForce, s.Subscribers, s.Lagging = false, 0, nil
	s.Missing = nil
	for _, v := range s.Canaries() {
		if v.PausedAt.IsZero() && !v.FirstWeight.IsZero() {
			v.EvidenceAt = at
		}
	}
	return s
}

// moment is a time that a state holds: of something that happened, or that is planned.
type moment struct {
	at      *time.Time
	planned bool
}

// eachMoment calls f for every time in the state.
func (s *State) eachMoment(f func(moment)) {
	past := func(ts ...*time.Time) {
		for _, t := range ts {
			f(moment{at: t})
		}
	}
	past(&s.At, &s.Since, &s.ChangedAt, &s.SeenAt)
	if s.Nack != nil {
		past(&s.Nack.At)
	}
	if s.Watch != nil {
		f(moment{&s.Watch.Until, true})
	}
	for i := range s.Versions {
		v := &s.Versions[i]
		past(&v.AnnouncedAt, &v.TurnAt, &v.ImageAt, &v.LaunchedAt, &v.RequestAt, &v.FirstWeight, &v.WeightSince, &v.WarmingFrom,
			&v.PausedAt, &v.EvidenceAt, &v.DrainedFrom, &v.EndedAt, &v.Verdict.At)
		f(moment{&v.Until, true})
		f(moment{&v.PinsUntil, true})
	}
}
