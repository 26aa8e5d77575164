package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// Nack is the refusal of a table by an Envoy. It is remembered by the table's content: over a reload and
// a restart, until something else is decided, a person asks for another try, or the Envoy accepts it. It
// holds the ramp; it never holds back a cut, or what a person promotes.
type Nack struct {
	Content  string    `json:"content"`
	Node     string    `json:"node"`
	Type     string    `json:"type,omitempty"`     // of the resource, where known
	Resource string    `json:"resource,omitempty"` // its name, where known
	Message  string    `json:"message"`
	At       time.Time `json:"at"`
}

const (
	refusedFor  = 10 * time.Minute // how long an Envoy's refusal holds up the rollouts that there are
	takenWithin = time.Minute      // after so long without an answer to what is given nobody is waited for
)

// Borne is an Envoy that has refused for so long that the versions announced up to Seq go on without it.
type Borne struct {
	Node    string `json:"node"`
	Seq     int    `json:"seq"`
	Content string `json:"content,omitempty"` // that it refused then: who refuses it later holds it up no longer
	Message string `json:"message,omitempty"`
}

// Nack is the first refusal of what is decided, nil when nobody refuses it.
func (s *State) Nack() *Nack {
	if len(s.Refused) == 0 {
		return nil
	}
	return &s.Refused[0]
}

// refuses reports whether an Envoy refused a table of this content.
func (s *Serving) refuses(content string) bool {
	return slices.ContainsFunc(s.Refused, func(n Nack) bool { return n.Content == content })
}

// forgive lets what was refused be sent again.
func (m *machine) forgive() {
	m.retry = len(m.Refused) > 0
	m.Refused = nil
}

// rejected stops the ramp: what all had accepted is served, minus what was cut since.
func (m *machine) rejected(e Rejected) {
	if e.Generation != m.Generation || slices.ContainsFunc(m.Refused, func(n Nack) bool { return n.Content == m.Content && n.Node == e.Node }) {
		return
	}
	first := !m.refuses(m.Content)
	m.InForce = false
	if i := slices.IndexFunc(m.Borne, func(b Borne) bool { return b.Node == e.Node && m.holdsNothingUp(b) }); i >= 0 {
		m.Borne = slices.Clone(m.Borne)
		m.Borne[i].Message = e.Message
		return
	}
	if i := slices.IndexFunc(m.Borne, func(b Borne) bool { return b.Content == m.Content && m.holdsNothingUp(b) }); i >= 0 {
		m.Borne = append(slices.Clone(m.Borne), Borne{e.Node, m.Borne[i].Seq, m.Content, e.Message})
		m.record(nil, KindNack, e.Node, "Envoy %s refuses its new configuration as well: %s; the rollout does not wait for it", e.Node, e.Message)
		return
	}
	m.Refused = append(slices.Clone(m.Refused), Nack{m.Content, e.Node, e.Type, e.Resource, e.Message, m.at})
	if !first {
		return
	}
	m.record(nil, KindNack, e.Node, "Envoy %s refused its new configuration: %s; the rollout is halted, and this Envoy keeps its previous configuration, if it has one", e.Node, e.Message)
	for _, v := range m.Canaries() {
		m.verdict(v, analysis.Wait, analysis.Nack, "%s", m.halted(v, e.Node, e.Message))
	}
}

// bear ends what a refusal holds up after a while: those who accept it get what is decided.
func (m *machine) bear() {
	m.Borne = slices.DeleteFunc(slices.Clone(m.Borne), func(b Borne) bool { // nothing of then is left
		return !slices.ContainsFunc(m.with(open), func(v *Version) bool { return v.Seq <= b.Seq })
	})
	for _, n := range m.Refused {
		if m.at.Sub(n.At) < refusedFor {
			continue
		}
		m.Borne = slices.DeleteFunc(m.Borne, func(b Borne) bool { return b.Node == n.Node })
		m.Borne = append(m.Borne, Borne{n.Node, m.Seq, n.Content, n.Message})
		m.Refused = slices.DeleteFunc(slices.Clone(m.Refused), func(o Nack) bool { return o.Node == n.Node })
		m.record(nil, KindNack, System, "Envoy %s has refused its configuration for %s: the rollout no longer waits for it", n.Node, policy.Duration(refusedFor))
		return // one at a time: the next tick sees to the others
	}
	m.giveUp()
}

// bears reports whether a node's refusal holds up nothing of what the Envoys are to have.
func (m *machine) bears(node string) bool {
	return slices.ContainsFunc(m.Borne, func(b Borne) bool { return b.Node == node && m.holdsNothingUp(b) })
}

func (m *machine) holdsNothingUp(b Borne) bool {
	return !slices.ContainsFunc(m.with(counted), func(v *Version) bool { return v.Seq > b.Seq && len(v.Endpoints) > 0 })
}

// giveUp takes back what no Envoy takes: who accepts is not there, and who refuses is waited for no longer. Of the
// versions that were to have more it is the oldest, as it was refused before the younger ones came; the next time, the
// next one. So the others go on.
func (m *machine) giveUp() {
	i := slices.IndexFunc(m.Borne, m.holdsNothingUp)
	if i < 0 || m.InForce || m.Nack() != nil || m.Subscribers == 0 || m.at.Sub(m.GivenAt) < takenWithin {
		return
	}
	vs := m.with(counted)
	slices.SortStableFunc(vs, func(a, b *Version) int { return min(1, m.Weight(b.Name)) - min(1, m.Weight(a.Name)) }) // who has no weight comes last
	for _, v := range vs {
		had := slotsOf(m.Accepted, v.Name)
		if v.Wanted != "" || !v.FirstWeight.IsZero() && m.Weight(v.Name) <= had {
			continue
		}
		v.Refused = fmt.Sprintf("no Envoy accepts %s: %s refuses it: %s", share(m.Weight(v.Name)), m.Borne[i].Node, m.Borne[i].Message)
		if had == 0 { // what no Envoy has had nothing can be learnt of: a place is of no use to it
			m.requeue(v, "%s", v.Refused)
			m.endSessions(v)
		} else {
			m.lower(v, had)
		}
		m.verdict(v, analysis.Wait, analysis.Nack, "%s", m.spurned(v))
		m.record(v, KindHeld, System, "%s", v.Verdict.Reason)
		return
	}
}

// halted says which refusal holds a version up, and what helps.
func (m *machine) halted(v *Version, node, message string) string {
	return fmt.Sprintf("Envoy %s refused its new configuration: %s; `canaryd resume %s %s` tries again", node, message, m.Policy.Service, v.Name)
}

// spurned says of a version that no Envoy takes what helps.
func (m *machine) spurned(v *Version) string {
	return fmt.Sprintf("%s; `canaryd resume %s %s` tries again", v.Refused, m.Policy.Service, v.Name)
}

// welcome gives what no Envoy takes another try, now that one came that has not refused it: a new one, a new process, or one
// that could not answer then, and takes what it is given now.
func (m *machine) welcome(e Applied) {
	if !m.anyRefused() {
		return
	}
	known := func(node string) bool {
		return slices.ContainsFunc(m.Crowds, func(c Crowd) bool { return slices.Contains(c.Nodes, node) })
	}
	takes := func(node string) bool {
		return !slices.Contains(e.Away, node) && !slices.ContainsFunc(m.Borne, func(b Borne) bool { return b.Node == node })
	}
	if len(e.Restarted) > 0 || slices.ContainsFunc(e.Crowds, func(c Crowd) bool {
		return slices.ContainsFunc(c.Nodes, func(node string) bool {
			return !known(node) || c.Present && e.Generation == m.Generation && takes(node)
		})
	}) {
		m.tryAgain()
	}
}

// anyRefused reports whether no Envoy took some version.
func (s *State) anyRefused() bool {
	return slices.ContainsFunc(s.Versions, func(v *Version) bool { return v.Refused != "" })
}

// tryAgain lets versions that no Envoy took have their turn.
func (m *machine) tryAgain() {
	for v := range m.each(func(v *Version) bool { return v.Refused != "" }) {
		v.Refused = ""
	}
}
