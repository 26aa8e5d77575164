package rollout

import (
	"slices"
	"time"
)

// lineFromFormat1 says until when sessions live on versions that were sent back into the line, and forgets
// whether the others answered: nobody asked them.
func (s *State) lineFromFormat1() {
	m := &machine{State: s}
	for _, v := range s.in(Queued) {
		if life := m.sessionLife(); life > 0 && v.Reachable && !v.FirstWeight.IsZero() {
			v.PinsUntil = latest(s.SeenAt, v.FirstWeight, v.Verdict.At).Add(life)
		} else {
			m.endSessions(v)
		}
	}
}

// fromFormat1 fills in what states did not say before there were formats.
func (s *State) fromFormat1() {
	for _, v := range s.Versions {
		v.Trusted = v.Phase == Stable && s.Watch == nil || v.Phase == Warm
	}
	s.eachMoment(func(m moment) {
		if !m.planned && m.at.After(s.At) {
			s.At = *m.at
		}
	})
}

// flags are what a state said of the Envoys before there was Serving.
type flags struct {
	Generation  uint64    `json:"generation"`
	InForce     bool      `json:"in_force"`
	Since       time.Time `json:"since"`
	Judging     uint64    `json:"judging"`
	Subscribers int       `json:"subscribers"`
	Lagging     []string  `json:"lagging"`
	ChangedAt   time.Time `json:"changed_at"`
	Accepted    []Run     `json:"accepted"`
	Nack        *struct {
		At      time.Time `json:"at"`
		Node    string    `json:"node"`
		Message string    `json:"message"`
		Served  []Run     `json:"served"`
	} `json:"nack"`
}

// serving is what the flags meant: with a refusal the last accepted table was served, whatever was
// decided since.
func (f *flags) serving(s *State) Serving {
	decided := s.decided()
	was := decided.Slots
	s.Serving = Serving{Generation: f.Generation, GivenAt: f.ChangedAt, InForce: f.InForce, Accepted: f.Accepted, Taken: f.Judging, Since: f.Since,
		Base: s.Stable, Subscribers: f.Subscribers, Lagging: f.Lagging}
	if n := f.Nack; n != nil {
		s.Refused = []Nack{{Content: decided.content(s.says), Node: n.Node, Message: n.Message, At: n.At}}
		if n.Served != nil {
			s.Accepted, was = n.Served, decided.repair(n.Served)
		}
		for _, v := range s.in(Warm) {
			if slotsOf(s.Accepted, v.Name) > 0 { // it was stable in what was accepted
				s.Base = v.Name
			}
		}
	}
	given := s.Table()
	s.Given, s.Content = given.Slots, given.content(s.says)
	if !slices.Equal(was, s.Given) { // the Envoys were given more than was decided
		s.Generation++
	}
	s.InForce = f.InForce && slices.Equal(s.Accepted, s.Given) && s.Generation == f.Judging
	return s.Serving
}
