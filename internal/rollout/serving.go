package rollout

import (
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// returnWithin is how long weights wait after a restart for the Envoys from before it.
const returnWithin = 30 * time.Second

// Serving is what the Envoys have of the service: what they are given, what they took of it, and what
// they refuse. It holds at the end of every step that
//   - Given are the slots of State.Table, and Content is a hash of all that an Envoy can see of it;
//     Generation grows whenever that changes, and when a person asks for another try;
//   - if InForce, then Accepted is Given: what every Envoy serves that is connected and not lagging;
//   - Refused is empty, or one of it refuses what is decided. Then Given is the fall-back: no version but
//     the base gets more than it had in Accepted, nor more than is decided.
type Serving struct {
	Generation uint64    `json:"generation"`
	Content    string    `json:"content,omitempty"`
	Given      []Run     `json:"given,omitempty"`
	GivenAt    time.Time `json:"given_at,omitzero"`

	InForce     bool      `json:"in_force"`
	Accepted    []Run     `json:"accepted,omitempty"` // slots of the last table that was in force
	Taken       uint64    `json:"taken"`              // generation of Accepted
	Since       time.Time `json:"since,omitzero"`     // first in force: evidence counts from here
	Base        string    `json:"base,omitempty"`     // has what others may not have while a table is refused: who was stable in Accepted, or whom a person made stable since
	Subscribers int       `json:"subscribers"`
	Lagging     []string  `json:"lagging,omitempty"`

	Refused []Nack  `json:"refused,omitempty"`
	Borne   []Borne `json:"borne,omitempty"` // whose refusals hold nothing up any more

	Gone      int       `json:"gone,omitempty"`      // nodes that had a table and are not connected
	ResumedAt time.Time `json:"resumed_at,omitzero"` // the last start of canaryd

	Pinning bool `json:"pinning,omitempty"` // an earlier policy had sessions, and an Envoy may still have a table that pins them

	Crowds []Crowd `json:"crowds,omitempty"` // who serves what, Envoys that are away included: nothing that one of them has is stopped
}

// Served is the highest weight that an Envoy may be giving a version, those that are away included.
func (s *Serving) Served(version string) int {
	most := 0
	for _, c := range s.Crowds {
		most = max(most, slotsOf(c.Has, version))
	}
	return most
}

// strayed reports whether an Envoy without the present table may still send users to a version: because it
// gives it slots, or because nobody knows what it has, or because its table may pin sessions.
func (s *State) strayed(version string) bool {
	return slices.ContainsFunc(s.Crowds, func(c Crowd) bool {
		return !c.Present && (slotsOf(c.Has, version) > 0 || c.Has == nil || s.Policy.Sessions != nil || s.Pinning)
	})
}

// outdate notes that nobody has the present table yet.
func (s *Serving) outdate() {
	s.Crowds = slices.Clone(s.Crowds)
	for i := range s.Crowds {
		s.Crowds[i].Present = false
	}
}

// InForceAt reports whether the version's decided weight is what the Envoys serve.
func (s *State) InForceAt(name string) bool {
	return s.InForce && slotsOf(s.Accepted, name) == s.Weight(name)
}

// give brings what the Envoys are given up to date with what is decided.
func (m *machine) give() {
	t := m.decided()
	content := t.content(m.says)
	if m.refuses(content) {
		t = m.fallBack(t)
		given := t.content(m.says)
		m.Refused = slices.DeleteFunc(slices.Clone(m.Refused), func(n Nack) bool { return n.Content != content && n.Content != given })
		content = given
	} else {
		m.Refused = nil
	}
	if content != m.Content || m.retry {
		m.Generation++
		m.Content, m.Given, m.GivenAt, m.InForce = content, t.Slots, m.at, false
		m.outdate()
	}
}

// fallBack is the table to serve while what is decided is refused. A slot stays with the version that had
// it in the last accepted table where that is decided as well; the base gets the others.
func (s *State) fallBack(t Table) Table {
	if len(s.Accepted) == 0 || len(t.Slots) == 0 {
		return t
	}
	base := t.Stable
	if v := s.Version(s.Base); v != nil && v.is(kept) && t.Knows(v.Name) {
		base = v.Name
	}
	t.Slots = common(s.Accepted, t.Slots, base)
	return t
}

// common keeps the owner of each slot on which two tables agree, and gives the others to the base.
func common(a, b []Run, base string) []Run {
	a, b = slices.Clone(a), slices.Clone(b)
	var out []Run
	for len(a) > 0 && len(b) > 0 {
		n := min(a[0].Count, b[0].Count)
		owner := base
		if a[0].Version == b[0].Version {
			owner = a[0].Version
		}
		out = append(out, Run{owner, n})
		if a[0].Count -= n; a[0].Count == 0 {
			a = a[1:]
		}
		if b[0].Count -= n; b[0].Count == 0 {
			b = b[1:]
		}
	}
	return mergeRuns(out)
}

// applied notes how far the table is in force.
func (m *machine) applied(e Applied) {
	m.welcome(e)
	m.Crowds, m.Gone = e.Crowds, e.Gone
	for _, node := range e.Restarted { // what its former process refused says nothing
		m.Refused = slices.DeleteFunc(slices.Clone(m.Refused), func(n Nack) bool { return n.Node == node })
		m.Borne = slices.DeleteFunc(slices.Clone(m.Borne), func(b Borne) bool { return b.Node == node })
	}
	if e.Generation != m.Generation {
		m.outdate()
		return
	}
	inForce := e.InForce || e.Otherwise && !slices.ContainsFunc(e.Refusing, func(node string) bool { return !m.bears(node) })
	m.Subscribers, m.Lagging, m.InForce = e.Subscribers, slices.Concat(e.Lagging, e.Refusing), inForce
	m.Pinning = m.Pinning && slices.ContainsFunc(e.Crowds, func(c Crowd) bool { return !c.Present })
	m.Refused = slices.DeleteFunc(slices.Clone(m.Refused), func(n Nack) bool {
		return n.Content == m.Content && (inForce || slices.Contains(e.Accepted, n.Node))
	})
	if !inForce {
		return
	}
	if m.Taken != m.Generation {
		m.Accepted, m.Taken, m.Since = m.Given, m.Generation, m.at
	}
	if m.Nack() == nil { // else the fall-back is in force, with the base that it had
		m.Base = m.Stable
	}
	m.startClocks()
}

// startClocks begins the time of weights that are in force now. Evidence counts from here.
func (m *machine) startClocks() {
	for v := range m.each(func(v *Version) bool { return v.Phase.Live() || v.Leaving }) {
		if v.Leaving && m.InForce && m.Nack() == nil && slotsOf(m.Accepted, v.Name) == 0 {
			v.Leaving = false
			m.unasked(v)
		}
		if v.Name == m.Stable && v.TookOver.IsZero() && m.InForceAt(v.Name) {
			v.TookOver = m.at
			m.watchFrom(m.at)
		}
		if m.Weight(v.Name) == 0 || !v.WeightSince.IsZero() || !m.InForceAt(v.Name) {
			continue
		}
		v.WeightSince, m.Since = m.at, m.at
		if v.FirstWeight.IsZero() {
			v.FirstWeight = m.at
		}
		if v.is(ramped) && !v.paused() {
			m.verdict(v, analysis.Wait, analysis.Dwell, "%s is in force", share(m.Weight(v.Name)))
		}
	}
}
