package rollout

import (
	"fmt"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// at0 is "not yet".
var at0 time.Time

// System is the author of canaryd's own decisions.
const System = "canaryd"

// machine is one step being taken.
type machine struct {
	*State
	at      time.Time
	records []Record
	earlier []*Version                    // the versions before the step
	stable  string                        // and who was stable then
	spare   *Spare                        // memory for copies; nil: there is none
	before  map[string]int                // the weights then, where somebody asked for them
	moved   bool                          // a weight has changed in this step: what else rests on what is in force waits for the next
	anew    string                        // a version that the Envoys have begins a new attempt in this step
	retry   bool                          // what is given is to be sent again, though it is the same
	stuck   bool                          // nothing is being stored: no promotion is decided
	lent    bool                          // the evidence was counted while other weights were in force
	covered [proxies]cover                // by the cells of each kind of proxies
	whys    map[string][]analysis.Finding // by version, of those that were looked for
	lists   []*Version                    // that were made in this step, one after the other: so many make garbage else
	shelf   [24]*Version                  // for these, as a rule
}

// Step takes one event in. On a Refusal the state is returned unchanged. What it makes of a state and an event as they are written
// (EncodeState, EncodeEvent) is the same, to the last digit: so what is journalled can be replayed.
func Step(old State, e Event) (State, []Record, error) {
	records, err := old.Take(e, nil) // of a copy
	return old, records, err
}

// Take is Step where nobody needs the state before: this one becomes the next. Copies of it, and what they share with it, stay as
// they are. What is made anew is made of spare memory, as long as there is some.
func (s *State) Take(e Event, spare *Spare) ([]Record, error) {
	e = Plain(e)
	if s.Passes(e) {
		return nil, nil
	}
	return s.move(e, spare)
}

// Passes takes in a plain tick that changes nothing but the time; false: nothing is done.
func (s *State) Passes(e Event) bool {
	t, ok := e.(Tick)
	if !ok || !s.uneventful(t.At) {
		return false
	}
	s.At = t.At
	return true
}

// move takes a plain event in, also one that changes nothing.
func (s *State) move(e Event, spare *Spare) ([]Record, error) {
	old := *s
	s.Versions = forked(old.Versions, spare)
	m := &machine{State: s, at: e.when(), earlier: old.Versions, stable: old.Stable, spare: spare}
	m.lists = m.shelf[:0]
	if err := m.take(e); err != nil {
		*s = old
		return nil, err
	}
	m.expire()
	m.line()
	m.forget()
	if len(s.Refused) > 0 || len(old.Refused) > 0 || !s.looksLike(&old) {
		m.give()
	}
	m.startClocks()
	s.At = m.at
	for i := range m.records {
		m.records[i].After = s.Weights()
	}
	return m.records, nil
}

func (m *machine) take(e Event) error {
	switch e := e.(type) {
	case Announced:
		return m.announced(e)
	case Commanded:
		return m.commanded(e)
	case Observed:
		m.observed(e)
	case Sampled:
		m.sampled(e)
	case Applied:
		m.applied(e)
	case Rejected:
		m.rejected(e)
	case Left:
		m.left(e)
	case Probed:
		m.probed(e)
	case Launched:
		m.launched(e)
	case PolicyChanged:
		m.policyChanged(e)
	case Orphaned:
		if !m.Orphaned {
			m.Orphaned = true
			m.record(nil, KindOrphaned, System, "no policy file names the service any more: it keeps its last policy; `canaryd remove %s` removes it", m.Policy.Service)
		}
	case Recalled:
		m.recalled(e)
	case Removing:
		m.remove(e)
	case Forgotten:
		m.forgotten(e)
	case Tick:
		m.tick()
	}
	return nil
}

func (m *machine) record(v *Version, k Kind, by, format string, args ...any) {
	r := Record{At: m.at, Service: m.Policy.Service, Kind: k, Reason: fmt.Sprintf(format, args...), By: by, Before: m.weightsBefore()}
	if r.By == "" {
		r.By = System
	}
	if v != nil {
		r.Version, r.Attempt = v.Name, v.Identity()
		if v.Verdict.Code != "" {
			m.bind(v)
			verdict := v.Verdict
			r.Verdict = &verdict
		}
		if k == KindPromoted || k == KindRolledBack || k == KindAborted || k == KindSuperseded {
			r.Receipt = v.Receipt()
		}
	}
	m.records = append(m.records, r)
}

func (m *machine) weightsBefore() map[string]int {
	if m.before == nil {
		was := State{Versions: m.earlier, Stable: m.stable}
		m.before = was.Weights()
	}
	return m.before
}

// JudgeConfig is what a policy says to the judge.
func JudgeConfig(p *policy.Policy) analysis.Config {
	j := p.Judge
	c := analysis.Config{
		Alpha: float64(j.FalseRollback), Beta: float64(j.FalsePromotion),
		R0: j.Tolerate.Ratio, D0: float64(j.Tolerate.Margin),
		R1: j.PromoteWithin.Ratio, D1: float64(j.PromoteWithin.Margin),
		Budget: j.Budget, Ceiling: float64(j.MaxErrorRate), Clump: float64(j.Clump),
		WarmUp: j.WarmUp.Std().Seconds(), Burst: j.Burst.Std().Seconds(), Exercise: float64(j.Exercise),
		Hang: time.Duration(j.Hang).Seconds(),
	}
	if s := j.Slow; s != nil {
		c.Slow = analysis.SlowConfig{R0: s.Tolerate.Ratio, D0: float64(s.Tolerate.Margin), Cuts: s.Then == policy.ThenRollback, WarmUp: s.WarmUp.Std().Seconds()}
		if w := j.PromoteWithin.Slow; w != nil {
			c.Slow.R1, c.Slow.D1 = w.Ratio, float64(w.Margin)
		}
	}
	return c
}
