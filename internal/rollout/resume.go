package rollout

import (
	"slices"
	"time"
)

// Resume prepares a stored state after a restart: nothing is in force until an Envoy says so, and
// downtime does not count as missing evidence. Where the clock was set back meanwhile, all
// that the state remembers moves back with it: a judge whose beginning lies ahead would be blind.
func Resume(s State, at time.Time) State {
	s, at = s.clone(), plain(at)
	if ahead := s.At.Sub(at); ahead > 0 {
		s.shift(-ahead)
	}
	s.InForce, s.Subscribers, s.Lagging = false, 0, nil
	s.outdate()
	s.ResumedAt, s.Gone = at, 0
	for _, c := range s.Crowds {
		s.Gone += len(c.Nodes)
	}
	s.Missing = nil
	for _, v := range s.Canaries() {
		if !v.paused() && !v.FirstWeight.IsZero() {
			v.EvidenceAt = at
		}
	}
	m := &machine{State: &s, at: at}
	m.give() // another build may see another table in the same state
	return s
}

// Withdrawn is what is said of a version whose promotion was withdrawn.
const Withdrawn = "its promotion, which was not stored, is withdrawn"

// Withdraw goes back to a state from before decisions that nobody has seen, as if they had not been taken: some versions
// were promoted by them. Its table is newer than the one of those decisions.
//
// What has ended since stays ended: it was cut, and the Envoys may have been told.
func Withdraw(before, decided State, promoted []string) State {
	s := before.clone()
	m := &machine{State: &s, at: decided.At}
	for _, d := range decided.Versions {
		v := s.Version(d.Name)
		switch {
		case v == nil || d.Name == s.Stable:
		case slices.Contains(promoted, d.Name):
			v.Verdict.Reason += "; " + Withdrawn
		case v.Attempt == d.Attempt && v.Phase.Live() && !d.Phase.Live():
			m.lower(v, 0)
			*v = *d
		}
	}
	m.give()
	if s.Generation <= decided.Generation {
		s.Generation, s.InForce = decided.Generation+1, false
		s.outdate()
	}
	return s
}

// moment is a time that a state holds: of something that happened, or that is planned.
type moment struct {
	at      *time.Time
	planned bool
}

// eachMoment calls f for every time in the state. A new field is named here, or a clock that was set back
// leaves it behind (TestEveryMomentIsShifted finds those).
func (s *State) eachMoment(f func(moment)) {
	past := func(ts ...*time.Time) {
		for _, t := range ts {
			f(moment{at: t})
		}
	}
	past(&s.At, &s.ResumedAt, &s.Since, &s.GivenAt, &s.SeenAt)
	for i := range s.Refused {
		past(&s.Refused[i].At)
	}
	if s.Watch != nil {
		f(moment{&s.Watch.Until, true})
	}
	for _, v := range s.Versions {
		past(&v.AnnouncedAt, &v.TurnAt, &v.ImageAt, &v.LaunchedAt, &v.RequestAt, &v.FirstWeight, &v.WeightSince, &v.WarmingFrom,
			&v.PausedAt, &v.EvidenceAt, &v.TookOver, &v.DrainedFrom, &v.EndedAt, &v.SlowerSince, &v.Verdict.At)
		f(moment{&v.Until, true})
		f(moment{&v.PinsUntil, true})
	}
}

// Moved is the state when the clock was set by so much: what it remembers moves with the clock, so that nothing has
// taken longer, or ended, because of that.
func (s State) Moved(by time.Duration) State {
	s = s.clone()
	s.shift(by)
	return s
}

// shift moves every time in the state. The judges' own clocks count from their first weight, and move
// with it.
func (s *State) shift(by time.Duration) {
	s.eachMoment(func(m moment) {
		if !m.at.IsZero() {
			*m.at = m.at.Add(by)
		}
	})
	s.Dispersion.Shift(by.Seconds())
	s.Usual.Shift(by.Seconds())
	s.Book.shift(by.Seconds())
	s.Pace.Shift(by.Seconds())
	s.Hang.shift(by.Seconds())
	for i := range s.Versions {
		s.Versions[i].Starts.Shift(by.Seconds())
	}
}
